//! Criteria that agree in everything an index has looked at so far: a few are asked one by one, many are told apart
//! by the next field.

use std::sync::Arc;

use super::register::Register;
use super::trie::{ARC_OCTETS, Seek};

/// Criteria that one place of an index asks one by one rather than telling them apart further: an index costs about as
/// much as asking so many.
pub const MAXIMUM_IN_VAIN: usize = 8;

/// Receives what a look-up finds.
pub(super) trait Find: Seek {
    /// Criteria that the index cannot rule out.
    fn ask(&mut self, slots: &[u32]);
    /// Some criterion matches as far as a later fragment tells, and needs the first to decide.
    fn wait(&mut self);
}

/// An index of many criteria by one more field.
pub(super) trait Crowd: Clone + Default {
    /// What the field is, where the same index serves several.
    type Field: Copy;
    /// What a packet has in this field and in those behind it.
    type Key: Copy;
    fn add(&mut self, slot: u32, field: Self::Field, register: &Register);
    fn remove(&mut self, slot: u32, field: Self::Field, register: &Register);
    /// How many criteria there are.
    fn len(&self) -> usize;
    /// All of them, some perhaps more than once.
    fn members(&self) -> Vec<u32>;
    fn visit<F: Find>(&self, key: Self::Key, find: &mut F);
    fn heap_octets(&self) -> usize;
}

/// A handful of slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Few {
    count: usize,
    slots: [u32; MAXIMUM_IN_VAIN],
}

impl Few {
    fn as_slice(&self) -> &[u32] {
        self.slots.get(..self.count).unwrap_or_default()
    }

    /// Takes one more; false where there is no room.
    fn push(&mut self, slot: u32) -> bool {
        let place = self.slots.get_mut(self.count);
        let has_room = place.is_some();
        if let Some(place) = place {
            *place = slot;
            self.count += 1;
        }
        has_room
    }
}

/// The criteria in one place of an index. Its form depends on their number alone.
#[derive(Clone, Debug, Default)]
pub(super) enum Level<C> {
    #[default]
    Empty,
    One([u32; 1]),
    Two([u32; 2]),
    Three([u32; 3]),
    Few(Arc<Few>),
    Many(Arc<C>),
}

impl<C: Crowd> Level<C> {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn add(&mut self, slot: u32, field: C::Field, register: &Register) {
        match self {
            Self::Empty => *self = Self::One([slot]),
            &mut Self::One([a]) => *self = Self::Two([a, slot]),
            &mut Self::Two([a, b]) => *self = Self::Three([a, b, slot]),
            &mut Self::Three([a, b, c]) => *self = Self::few(&[a, b, c, slot]),
            Self::Few(few) => {
                if few.as_slice().len() == MAXIMUM_IN_VAIN {
                    let mut crowd = C::default();
                    for &slot in few.as_slice().iter().chain([&slot]) {
                        crowd.add(slot, field, register);
                    }
                    *self = Self::Many(Arc::new(crowd));
                } else {
                    Arc::make_mut(few).push(slot);
                }
            }
            Self::Many(crowd) => Arc::make_mut(crowd).add(slot, field, register),
        }
    }

    /// Takes a criterion away; true where none is left.
    pub(super) fn remove(&mut self, slot: u32, field: C::Field, register: &Register) -> bool {
        if let Self::Many(crowd) = self {
            let crowd = Arc::make_mut(crowd);
            crowd.remove(slot, field, register);
            if crowd.len() <= MAXIMUM_IN_VAIN {
                let mut members = crowd.members();
                members.sort_unstable();
                members.dedup();
                *self = Self::few(&members);
            }
        } else {
            let mut members = self.members();
            members.retain(|&other| other != slot);
            *self = Self::few(&members);
        }
        self.is_empty()
    }

    /// At most [`MAXIMUM_IN_VAIN`] slots in their form.
    fn few(slots: &[u32]) -> Self {
        match *slots {
            [] => Self::Empty,
            [a] => Self::One([a]),
            [a, b] => Self::Two([a, b]),
            [a, b, c] => Self::Three([a, b, c]),
            _ => {
                let mut few = Few::default();
                for &slot in slots {
                    few.push(slot);
                }
                Self::Few(Arc::new(few))
            }
        }
    }

    /// The slots that are asked one by one; None where they are told apart further.
    #[inline]
    fn as_few(&self) -> Option<&[u32]> {
        match self {
            Self::Empty => Some(&[]),
            Self::One(slots) => Some(slots),
            Self::Two(slots) => Some(slots),
            Self::Three(slots) => Some(slots),
            Self::Few(few) => Some(few.as_slice()),
            Self::Many(_) => None,
        }
    }

    #[inline]
    pub(super) fn visit<F: Find>(&self, key: C::Key, find: &mut F) {
        match self {
            Self::Many(crowd) => crowd.visit(key, find),
            _ => find.ask(self.as_few().unwrap_or_default()),
        }
    }

    pub(super) fn members(&self) -> Vec<u32> {
        match self {
            Self::Many(crowd) => crowd.members(),
            _ => self.as_few().unwrap_or_default().to_vec(),
        }
    }

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Empty | Self::One(_) | Self::Two(_) | Self::Three(_) => 0,
            Self::Few(_) => ARC_OCTETS + size_of::<Few>(),
            Self::Many(crowd) => ARC_OCTETS + size_of::<C>() + crowd.heap_octets(),
        }
    }
}

/// Criteria that no field tells apart any more: where a packet comes as far as this, most of them match it.
#[derive(Clone, Debug, Default)]
pub(super) struct Alike(Vec<u32>);

impl Crowd for Alike {
    type Field = ();
    type Key = ();

    fn add(&mut self, slot: u32, _field: (), _register: &Register) {
        self.0.push(slot);
    }

    fn remove(&mut self, slot: u32, _field: (), _register: &Register) {
        self.0.retain(|&other| other != slot);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn members(&self) -> Vec<u32> {
        self.0.clone()
    }

    fn visit<F: Find>(&self, _key: (), find: &mut F) {
        find.ask(&self.0);
    }

    fn heap_octets(&self) -> usize {
        self.0.capacity() * size_of::<u32>()
    }
}
