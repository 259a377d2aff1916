//! The compiled criteria: by slot, and slots by id.

use std::sync::Arc;

use super::fineness::Fineness;
use super::prefix::Prefix;
use super::trie::{ARC_OCTETS, Iter, Trie};
use super::{Slot, Special};
use crate::criteria::Criteria;

/// Elements of one chunk, and chunks of one bundle.
const CHUNK: usize = 64;
const CHUNK_BITS: u32 = 6;

type Chunk<T> = Arc<[T; CHUNK]>;
type Bundle<T> = Arc<[Option<Chunk<T>>; CHUNK]>;

/// A growing array that shares with its copies what was not changed: a change copies one chunk and one bundle.
#[derive(Clone, Debug)]
pub(super) struct Shared<T> {
    bundles: Vec<Bundle<T>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            bundles: Vec::new(),
        }
    }
}

/// Bundle, chunk and element of an index.
#[inline]
fn split(index: u32) -> (usize, usize, usize) {
    let place = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let mask = (1 << CHUNK_BITS) - 1;
    (
        place(index >> (2 * CHUNK_BITS)),
        place(index >> CHUNK_BITS & mask),
        place(index & mask),
    )
}

impl<T> Shared<T> {
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let (bundle, chunk, element) = split(index);
        self.bundles.get(bundle)?.get(chunk)?.as_ref()?.get(element)
    }

    /// Octets on the heap, without those of the elements' own.
    pub(super) fn heap_octets(&self) -> usize {
        let chunks = self
            .bundles
            .iter()
            .flat_map(|bundle| bundle.iter())
            .flatten()
            .count();
        self.bundles.capacity() * size_of::<Bundle<T>>()
            + self.bundles.len() * (ARC_OCTETS + size_of::<[Option<Chunk<T>>; CHUNK]>())
            + chunks * (ARC_OCTETS.max(align_of::<T>()) + size_of::<[T; CHUNK]>())
    }

    /// Hands every index to `each` whose chunk is not shared with `other`.
    pub(super) fn differences(&self, other: &Self, mut each: impl FnMut(u32)) {
        let count = self.bundles.len().max(other.bundles.len());
        for (at, first) in (0..count).zip((0_u32..).step_by(CHUNK * CHUNK)) {
            let (left, right) = (self.bundles.get(at), other.bundles.get(at));
            if let (Some(left), Some(right)) = (left, right)
                && Arc::ptr_eq(left, right)
            {
                continue;
            }
            for (at, first) in (0..CHUNK).zip((first..).step_by(CHUNK)) {
                let chunk = |bundle: Option<&Bundle<T>>| bundle?.get(at)?.as_ref().map(Arc::as_ptr);
                if chunk(left) != chunk(right) {
                    (first..).take(CHUNK).for_each(&mut each);
                }
            }
        }
    }
}

impl<T: Clone + Default> Shared<T> {
    /// An element to change; the array grows to hold it. None never comes.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (bundle, chunk, element) = split(index);
        while self.bundles.len() <= bundle {
            self.bundles.push(Arc::new(std::array::from_fn(|_| None)));
        }
        let bundle = Arc::make_mut(self.bundles.get_mut(bundle)?);
        let chunk = bundle
            .get_mut(chunk)?
            .get_or_insert_with(|| Arc::new(std::array::from_fn(|_| T::default())));
        Arc::make_mut(chunk).get_mut(element)
    }
}

/// What is in a slot.
#[derive(Clone, Debug)]
enum Place {
    /// Nothing; the next one that is vacant.
    Vacant(Option<u32>),
    Taken(Slot),
}

/// A slot's place in memory: one cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Line(Place);

const _: () = assert!(size_of::<Line>() == 64);

impl Default for Line {
    fn default() -> Self {
        Self(Place::Vacant(None))
    }
}

/// The criteria of a table.
#[derive(Clone, Debug)]
pub(super) struct Register {
    places: Shared<Line>,
    by_id: Trie<u64, u32>,
    count: usize,
    /// Slots that were ever taken.
    end: u32,
    /// The first slot to take again.
    vacant: Option<u32>,
    /// Slots ascend with the ids.
    is_ordered: bool,
    /// The highest id that a slot was ever taken for.
    highest: Option<u64>,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            places: Shared::default(),
            by_id: Trie::default(),
            count: 0,
            end: 0,
            vacant: None,
            is_ordered: true,
            highest: None,
        }
    }
}

impl Register {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// One more than the highest slot that was ever taken.
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    pub(super) const fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Slot> {
        match &self.places.get(slot)?.0 {
            Place::Taken(slot) => Some(slot),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn criteria(&self, slot: u32) -> Option<&Criteria> {
        self.get(slot).map(Slot::criteria)
    }

    /// A criterion's filter, and how finely it is cut.
    pub(super) fn cut(&self, slot: u32) -> Option<(&Criteria, Fineness)> {
        self.get(slot).map(|slot| (&slot.criteria, slot.fineness))
    }

    pub(super) fn slot_of(&self, id: u64) -> Option<u32> {
        self.by_id.get(Prefix::one(id)).copied()
    }

    /// Puts a criterion with a new id into a slot; None where there is no more.
    pub(super) fn take(&mut self, slot: Slot) -> Option<u32> {
        let id = slot.id();
        let number = if let Some(number) = self.vacant {
            if let Some(&Line(Place::Vacant(next))) = self.places.get(number) {
                self.vacant = next;
            }
            self.is_ordered = false;
            number
        } else {
            let number = self.end;
            self.end = self.end.checked_add(1)?;
            self.is_ordered &= self.highest.is_none_or(|highest| highest < id);
            number
        };
        self.highest = self.highest.max(Some(id));
        *self.places.get_mut(number)? = Line(Place::Taken(slot));
        *self.by_id.entry(Prefix::one(id))? = number;
        self.count += 1;
        Some(number)
    }

    /// Empties a slot.
    pub(super) fn vacate(&mut self, number: u32) {
        let Some(id) = self.get(number).map(Slot::id) else {
            return;
        };
        if let Some(place) = self.places.get_mut(number) {
            *place = Line(Place::Vacant(self.vacant));
            self.vacant = Some(number);
            self.count = self.count.saturating_sub(1);
        }
        self.by_id.reduce(Prefix::one(id), |_| true);
    }

    /// The criteria with their slots, in the order of their ids.
    pub(super) fn iter(&self) -> Slots<'_> {
        Slots {
            register: self,
            ids: self.by_id.iter(),
            left: self.count,
        }
    }

    /// Hands every slot to `each` that may hold another criterion in `other`.
    pub(super) fn differences(&self, other: &Self, each: impl FnMut(u32)) {
        self.places.differences(&other.places, each);
    }

    pub(super) fn heap_octets(&self) -> usize {
        let slots: usize = self
            .iter()
            .map(|slot| {
                let special = slot.special.as_ref();
                slot.criteria.heap_octets()
                    + special.map_or(0, |special| {
                        let scope = special.scope.as_deref();
                        size_of::<Special>()
                            + size_of_val::<[_]>(&special.destinations)
                            + scope.map_or(0, |scope| size_of_val(scope) + scope.heap_octets())
                    })
            })
            .sum();
        self.places.heap_octets() + self.by_id.heap_octets(|_| 0) + slots
    }
}

/// The criteria of a table, in the order of their ids.
#[derive(Debug)]
pub struct Slots<'a> {
    register: &'a Register,
    ids: Iter<'a, u64, u32>,
    left: usize,
}

impl<'a> Slots<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.left
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// With each criterion the number of its slot.
    pub fn numbered(mut self) -> impl Iterator<Item = (u32, &'a Slot)> {
        std::iter::from_fn(move || self.next_numbered())
    }

    fn next_numbered(&mut self) -> Option<(u32, &'a Slot)> {
        let (_, &number) = self.ids.next()?;
        self.left = self.left.saturating_sub(1);
        Some((number, self.register.get(number)?))
    }
}

impl<'a> Iterator for Slots<'a> {
    type Item = &'a Slot;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_numbered().map(|(_, slot)| slot)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Slots<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_was_not_changed() {
        let mut first: Shared<u32> = Shared::default();
        for index in 0..10_000 {
            *first.get_mut(index).unwrap() = index * 3;
        }
        let mut second = first.clone();
        *second.get_mut(5000).unwrap() = 1;
        *second.get_mut(10_300).unwrap() = 2;
        assert_eq!(
            (first.get(5000), second.get(5000)),
            (Some(&15_000), Some(&1))
        );
        assert_eq!(second.get(9999), Some(&29_997));
        assert_eq!(second.get(20_000), None);
        let mut different = Vec::new();
        first.differences(&second, |index| different.push(index));
        assert!(different.contains(&5000) && different.contains(&10_300));
        assert_eq!(different.len(), 2 * CHUNK);
        different.clear();
        first.differences(&first.clone(), |index| different.push(index));
        assert!(different.is_empty());
    }
}
