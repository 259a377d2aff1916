//! Criteria by their addresses: found through the side that says more, told apart by the other where there are many.

use super::level::{Crowd, Find, Level};
use super::prefix::{Prefix, Wide, cover};
use super::register::Register;
use super::sketch::{Lengths, Sketch};
use super::trie::{Seek, Trie};
use super::upper::{Upper, UpperKey, anchor_side};
use crate::criteria::{Criteria, Side};

/// Prefixes that one criterion may have in the index that it is found through. A list of more is rounded, and its
/// criterion asked in vain where the rounding lets a packet through.
pub(super) const MAXIMUM_ANCHORS: usize = 2048;
/// Prefixes that one criterion may have below each of its anchors.
pub(super) const MAXIMUM_OTHERS: usize = 64;

/// An address of one family.
pub(super) trait Address: Lengths {
    /// Bits of an address.
    const WIDTH: u8;
    /// What an address is to others.
    type Number;
    fn number(self) -> Self::Number;
    /// The addresses of this family that a criterion allows.
    fn ranges(criteria: &Criteria, side: Side) -> Vec<(Self, Self)>;
}

impl Address for u32 {
    const WIDTH: u8 = 32;
    type Number = Self;

    fn number(self) -> Self {
        self
    }

    fn ranges(criteria: &Criteria, side: Side) -> Vec<(Self, Self)> {
        criteria.v4(side)
    }
}

impl Address for Wide {
    const WIDTH: u8 = 128;
    type Number = u128;

    fn number(self) -> u128 {
        self.into()
    }

    fn ranges(criteria: &Criteria, side: Side) -> Vec<(Self, Self)> {
        let ranges = criteria.v6(side).into_iter();
        ranges
            .map(|(first, last)| (first.into(), last.into()))
            .collect()
    }
}

/// What a look-up knows of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought<K> {
    pub(super) source: K,
    pub(super) destination: K,
    pub(super) upper: UpperKey,
}

/// Where a criterion is found: a side and the prefixes of that side.
pub(super) fn anchors<K: Address>(criteria: &Criteria) -> (Side, Vec<Prefix<K>>) {
    let source = cover(&K::ranges(criteria, Side::Source), MAXIMUM_ANCHORS);
    let destination = cover(&K::ranges(criteria, Side::Destination), MAXIMUM_ANCHORS);
    match anchor_side(&source, &destination) {
        Side::Source => (Side::Source, source),
        Side::Destination => (Side::Destination, destination),
    }
}

/// The criteria that are found through one side.
#[derive(Clone, Debug)]
pub(super) struct Anchored<K> {
    trie: Trie<K, Level<OtherAddress<K>>>,
    /// How many prefixes there are.
    count: usize,
    /// Looked at first.
    sketch: Sketch,
}

impl<K> Default for Anchored<K> {
    fn default() -> Self {
        Self {
            trie: Trie::default(),
            count: 0,
            sketch: Sketch::default(),
        }
    }
}

impl<K: Address> Anchored<K> {
    fn add(&mut self, prefix: Prefix<K>, slot: u32, other: Side, register: &Register) {
        let Some(level) = self.trie.entry(prefix) else {
            return;
        };
        let is_new = level.is_empty();
        level.add(slot, other, register);
        if !is_new {
            return;
        }
        self.count += 1;
        if !self.sketch.add(prefix) {
            self.renew();
        }
    }

    fn remove(&mut self, prefix: Prefix<K>, slot: u32, other: Side, register: &Register) {
        let mut is_gone = false;
        self.trie.reduce(prefix, |level| {
            is_gone = level.remove(slot, other, register);
            is_gone
        });
        self.count = self.count.saturating_sub(is_gone.into());
    }

    /// Makes the sketch anew.
    fn renew(&mut self) {
        self.sketch = Sketch::of(self.count, self.trie.iter().map(|(prefix, _)| prefix));
    }

    #[inline]
    fn visit<F: Find>(&self, key: K, other: K, upper: UpperKey, find: &mut F) {
        if self.sketch.may_hold(key, find) {
            self.trie.walk(key, find, |level, find| {
                level.visit((other, upper), find);
            });
        }
    }

    /// Whether some criterion is found through exactly this prefix.
    pub(super) fn has(&self, prefix: Prefix<K>) -> bool {
        self.trie.get(prefix).is_some()
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix<K>> {
        self.trie.iter().map(|(prefix, _)| prefix)
    }

    pub(super) fn differences(&self, other: &Self, each: &mut impl FnMut(Prefix<K>)) {
        self.trie.differences(&other.trie, each);
    }

    fn heap_octets(&self) -> usize {
        self.trie.heap_octets(Level::heap_octets) + self.sketch.heap_octets()
    }
}

/// Criteria of one family, found through the source or through the destination.
#[derive(Clone, Debug)]
pub(super) struct Addresses<K> {
    pub(super) by_source: Anchored<K>,
    pub(super) by_destination: Anchored<K>,
}

impl<K> Default for Addresses<K> {
    fn default() -> Self {
        Self {
            by_source: Anchored::default(),
            by_destination: Anchored::default(),
        }
    }
}

impl<K: Address> Addresses<K> {
    pub(super) const fn is_empty(&self) -> bool {
        self.by_source.trie.is_empty() && self.by_destination.trie.is_empty()
    }

    const fn side(&mut self, side: Side) -> &mut Anchored<K> {
        match side {
            Side::Source => &mut self.by_source,
            Side::Destination => &mut self.by_destination,
        }
    }

    pub(super) fn add(&mut self, slot: u32, criteria: &Criteria, register: &Register) {
        let (side, prefixes) = anchors(criteria);
        for prefix in prefixes {
            self.side(side).add(prefix, slot, side.other(), register);
        }
    }

    pub(super) fn remove(&mut self, slot: u32, criteria: &Criteria, register: &Register) {
        let (side, prefixes) = anchors(criteria);
        for prefix in prefixes {
            self.side(side).remove(prefix, slot, side.other(), register);
        }
    }

    /// Makes the sketches anew from the prefixes that are left.
    pub(super) fn renew(&mut self) {
        self.by_source.renew();
        self.by_destination.renew();
    }

    /// Whether some criterion is found through one of the two addresses.
    #[inline]
    pub(super) fn may_hold<S: Seek>(&self, source: K, destination: K, seek: &mut S) -> bool {
        self.by_source.sketch.may_hold(source, seek)
            || self.by_destination.sketch.may_hold(destination, seek)
    }

    #[inline]
    pub(super) fn visit<F: Find>(&self, sought: &Sought<K>, find: &mut F) {
        let &Sought {
            source,
            destination,
            upper,
        } = sought;
        self.by_source.visit(source, destination, upper, find);
        self.by_destination.visit(destination, source, upper, find);
    }

    pub(super) fn heap_octets(&self) -> usize {
        self.by_source.heap_octets() + self.by_destination.heap_octets()
    }
}

/// Criteria that have the prefix of one side in common, told apart by the other side.
#[derive(Clone, Debug)]
pub(super) struct OtherAddress<K> {
    other: Trie<K, Level<Upper>>,
    count: usize,
}

impl<K> Default for OtherAddress<K> {
    fn default() -> Self {
        Self {
            other: Trie::default(),
            count: 0,
        }
    }
}

impl<K: Address> OtherAddress<K> {
    fn pieces(slot: u32, side: Side, register: &Register) -> Vec<Prefix<K>> {
        register
            .cut(slot)
            .map_or_else(Vec::new, |(criteria, fineness)| {
                cover(&K::ranges(criteria, side), fineness.others())
            })
    }
}

impl<K: Address> Crowd for OtherAddress<K> {
    type Field = Side;
    type Key = (K, UpperKey);

    fn add(&mut self, slot: u32, field: Side, register: &Register) {
        self.count += 1;
        for piece in Self::pieces(slot, field, register) {
            if let Some(level) = self.other.entry(piece) {
                level.add(slot, (), register);
            }
        }
    }

    fn remove(&mut self, slot: u32, field: Side, register: &Register) {
        self.count = self.count.saturating_sub(1);
        for piece in Self::pieces(slot, field, register) {
            self.other
                .reduce(piece, |level| level.remove(slot, (), register));
        }
    }

    fn len(&self) -> usize {
        self.count
    }

    fn members(&self) -> Vec<u32> {
        self.other
            .iter()
            .flat_map(|(_, level)| level.members())
            .collect()
    }

    #[inline]
    fn visit<F: Find>(&self, (other, upper): (K, UpperKey), find: &mut F) {
        self.other
            .walk(other, find, |level, find| level.visit(upper, find));
    }

    fn heap_octets(&self) -> usize {
        self.other.heap_octets(Level::heap_octets)
    }
}
