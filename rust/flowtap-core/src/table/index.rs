//! Which criteria could match an address: hash maps of prefixes, one for every prefix length that occurs.
//!
//! A range that is no prefix is cut into prefixes, so every look-up is by equality. In front of the maps stands a
//! blocked Bloom filter: most packets are nobody's, and for them it touches one cache line a prefix length instead of a
//! large map.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// An address as a number, IPv4 or IPv6.
pub(super) trait Bits: Copy + Eq + std::hash::Hash {
    /// Bits of an address.
    const WIDTH: u32;
    fn to_u128(self) -> u128;
    /// The address without its host bits.
    fn masked(self, prefix_length: u32) -> Self;
    fn from_low(bits: u128) -> Self;
}

impl Bits for u32 {
    const WIDTH: Self = 32;
    fn to_u128(self) -> u128 {
        self.into()
    }
    #[inline]
    fn masked(self, prefix_length: u32) -> Self {
        self & !Self::MAX.checked_shr(prefix_length).unwrap_or(0)
    }
    fn from_low(bits: u128) -> Self {
        // Only values that came from this type are handed in.
        Self::try_from(bits).unwrap_or(Self::MAX)
    }
}

impl Bits for u128 {
    const WIDTH: u32 = 128;
    fn to_u128(self) -> u128 {
        self
    }
    #[inline]
    fn masked(self, prefix_length: u32) -> Self {
        self & !Self::MAX.checked_shr(prefix_length).unwrap_or(0)
    }
    fn from_low(bits: u128) -> Self {
        bits
    }
}

/// A prefix: the masked address and its length.
pub(super) type Prefix<T> = (T, u32);

/// Cuts inclusive ranges into prefixes; None where that makes more than `limit`.
pub(super) fn prefixes<T: Bits>(ranges: &[(T, T)], limit: usize) -> Option<Vec<Prefix<T>>> {
    let mut found = Vec::new();
    for &(first, last) in ranges {
        let (mut at, last) = (first.to_u128(), last.to_u128());
        loop {
            if found.len() == limit {
                return None;
            }
            // The largest block that begins here: by alignment, and by what is left.
            let aligned = at.trailing_zeros().min(T::WIDTH);
            let left = (last - at).checked_add(1).map_or(128, u128::ilog2);
            let host_bits = aligned.min(left);
            found.push((T::from_low(at), T::WIDTH - host_bits));
            let Some(next) = 1_u128
                .checked_shl(host_bits)
                .and_then(|size| at.checked_add(size))
            else {
                break;
            };
            if next > last {
                break;
            }
            at = next;
        }
    }
    Some(found)
}

/// A slice of the posting list.
#[derive(Clone, Copy, Debug)]
struct Postings {
    start: u32,
    count: u32,
}

/// All prefixes of one length.
#[derive(Debug)]
struct Length<T> {
    prefix_length: u32,
    postings: HashMap<T, Postings, RandomState>,
}

/// The criteria anchored on one address field, in one family.
#[derive(Debug)]
pub(super) struct AddressIndex<T> {
    lengths: Vec<Length<T>>,
    slots: Vec<u32>,
    bloom: Bloom,
}

impl<T: Bits> AddressIndex<T> {
    /// Builds the index from (prefix, slot) pairs.
    pub(super) fn build(mut pairs: Vec<(Prefix<T>, u32)>, hasher: &RandomState) -> Self {
        pairs.sort_unstable_by_key(|&((bits, length), slot)| (length, bits.to_u128(), slot));
        let mut slots = Vec::with_capacity(pairs.len());
        let mut lengths: Vec<Length<T>> = Vec::new();
        let mut bloom = Bloom::for_keys(pairs.len());
        for run in pairs.chunk_by(|left, right| left.0.1 == right.0.1) {
            let Some(&((_, prefix_length), _)) = run.first() else {
                continue;
            };
            let groups = run.chunk_by(|left, right| left.0 == right.0);
            let mut postings =
                HashMap::with_capacity_and_hasher(groups.clone().count(), hasher.clone());
            for group in groups {
                let Some(&((bits, _), _)) = group.first() else {
                    continue;
                };
                // Slots number less than 2^32, and so do the pairs of a table that fits into memory.
                let start = u32::try_from(slots.len()).unwrap_or(u32::MAX);
                let count = u32::try_from(group.len()).unwrap_or(u32::MAX);
                slots.extend(group.iter().map(|&(_, slot)| slot));
                postings.insert(bits, Postings { start, count });
                bloom.insert(hasher.hash_one((bits, prefix_length)));
            }
            lengths.push(Length {
                prefix_length,
                postings,
            });
        }
        Self {
            lengths,
            slots,
            bloom,
        }
    }

    /// Whether some criterion could be anchored on a prefix of `address`; false is certain.
    #[inline]
    pub(super) fn may_hold(&self, address: T, hasher: &RandomState) -> bool {
        self.lengths.iter().any(|length| {
            let masked = address.masked(length.prefix_length);
            self.bloom
                .may_hold(hasher.hash_one((masked, length.prefix_length)))
        })
    }

    /// Hands every slot anchored on a prefix of `address` to `found`.
    #[inline]
    pub(super) fn candidates(&self, address: T, mut found: impl FnMut(u32)) {
        for length in &self.lengths {
            if let Some(postings) = length.postings.get(&address.masked(length.prefix_length)) {
                let start = usize::try_from(postings.start).unwrap_or(usize::MAX);
                let slots = self.slots.get(start..).unwrap_or_default();
                let count = usize::try_from(postings.count).unwrap_or(usize::MAX);
                for &slot in slots.iter().take(count) {
                    found(slot);
                }
            }
        }
    }

    pub(super) fn memory_octets(&self) -> usize {
        let maps: usize = self
            .lengths
            .iter()
            .map(|length| length.postings.allocation_size())
            .sum();
        maps + self.slots.capacity() * size_of::<u32>()
            + self.lengths.capacity() * size_of::<Length<T>>()
            + self.bloom.words.capacity() * size_of::<u64>()
    }
}

/// A blocked Bloom filter: three bits in one 64-bit word a key.
#[derive(Debug)]
struct Bloom {
    words: Vec<u64>,
}

/// Keys a word may carry on average: 16 bits a key make about one false positive in a hundred.
const KEYS_PER_WORD: usize = 4;

impl Bloom {
    fn for_keys(keys: usize) -> Self {
        Self {
            words: vec![0; keys.div_ceil(KEYS_PER_WORD).next_power_of_two()],
        }
    }

    /// Which word, and which bits in it.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let bits = (1 << (hash & 63)) | (1 << ((hash >> 6) & 63)) | (1 << ((hash >> 12) & 63));
        let word = usize::try_from(hash >> 24).unwrap_or(0) & (self.words.len() - 1);
        (word, bits)
    }

    fn insert(&mut self, hash: u64) {
        let (word, bits) = self.place(hash);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bits;
        }
    }

    #[inline]
    fn may_hold(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        self.words.get(word).is_some_and(|word| word & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        assert_eq!(prefixes(&[(0_u32, u32::MAX)], 1), Some(vec![(0, 0)]));
        assert_eq!(prefixes(&[(0_u128, u128::MAX)], 1), Some(vec![(0, 0)]));
        assert_eq!(prefixes(&[(7_u32, 7)], 1), Some(vec![(7, 32)]));
        assert_eq!(
            prefixes(&[(1_u32, 6)], 9),
            Some(vec![(1, 32), (2, 31), (4, 31), (6, 32)])
        );
        assert_eq!(
            prefixes(&[(1_u32, u32::MAX - 1)], 62).map(|found| found.len()),
            Some(62)
        );
        assert_eq!(prefixes(&[(1_u32, u32::MAX - 1)], 61), None);
        assert_eq!(
            prefixes(&[(1_u128, u128::MAX - 1)], 254).map(|found| found.len()),
            Some(254)
        );
        assert_eq!(
            prefixes(&[(u128::MAX, u128::MAX)], 1),
            Some(vec![(u128::MAX, 128)])
        );
    }

    proptest::proptest! {
        #[test]
        fn prefixes_cover_exactly_their_range(first in 0_u32..5000, count in 0_u32..5000, at in 0_u32..12000) {
            let last = first + count;
            let cover = prefixes(&[(first, last)], 100).unwrap();
            let inside = cover.iter().filter(|(bits, length)| at.masked(*length) == *bits).count();
            proptest::prop_assert_eq!(inside, usize::from(first <= at && at <= last));
        }
    }
}
