//! The prefixes of a trie in a few cache lines: a blocked Bloom filter.
//!
//! A prefix enters it at one of a few lengths, the longest that is not longer than the prefix, so that a look-up asks a
//! few times however many lengths there are. Prefixes that are shorter than all of these enter a set of networks. "No" is
//! certain. Prefixes that went stay until the sketch is made anew. The seed differs from sketch to sketch, so that nobody
//! can prepare addresses that pass.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::prefix::{Bits, Prefix, Wide};
use super::reach::{Network, Networks};
use super::trie::{ARC_OCTETS, Seek};

/// Prefixes that a word may carry on average when a sketch is made: 16 bits a prefix make about one false "yes" in a
/// hundred.
const PREFIXES_PER_WORD: usize = 4;
/// Prefixes that a word may carry when there is no more room.
const MAXIMUM_PER_WORD: usize = 6;
/// Words that are copied together.
const PAGE_WORDS: usize = 512;

/// The lengths at which prefixes enter a sketch.
pub(super) trait Lengths: Bits + Network {
    /// Bits behind the prefix, ascending from none.
    const HOST_BITS: &'static [u8];
    /// Prefix and length in one number.
    fn hashed(self, host_bits: u8) -> impl Hash;
}

impl Lengths for u32 {
    const HOST_BITS: &'static [u8] = &[0, 8, 16];

    #[inline]
    fn hashed(self, host_bits: u8) -> impl Hash {
        u64::from(self.above(host_bits.into())) | u64::from(host_bits) << 32
    }
}

impl Lengths for Wide {
    const HOST_BITS: &'static [u8] = &[0, 64, 80, 96];

    #[inline]
    fn hashed(self, host_bits: u8) -> impl Hash {
        (self.above(host_bits.into()), host_bits)
    }
}

/// Which word of which page, and which bits in it.
struct Place {
    page: usize,
    word: usize,
    bits: u64,
}

/// The prefixes of a trie, roughly.
#[derive(Clone, Debug, Default)]
pub(super) struct Sketch {
    hasher: RandomState,
    /// None, or a power of two.
    pages: Vec<Arc<[u64; PAGE_WORDS]>>,
    /// Prefixes that there is room for.
    room: usize,
    /// Which lengths occur, one bit each; the bit behind them is for shorter prefixes.
    lengths: u8,
    /// Where the prefixes lie that are shorter than all lengths.
    short: Networks,
}

impl Sketch {
    /// A sketch of some prefixes.
    pub(super) fn of<K: Lengths>(count: usize, prefixes: impl Iterator<Item = Prefix<K>>) -> Self {
        let pages = count
            .div_ceil(PREFIXES_PER_WORD * PAGE_WORDS)
            .next_power_of_two();
        let mut sketch = Self {
            pages: (0..pages).map(|_| Arc::new([0; PAGE_WORDS])).collect(),
            room: pages * PAGE_WORDS * MAXIMUM_PER_WORD,
            ..Self::default()
        };
        for prefix in prefixes {
            sketch.add(prefix);
        }
        sketch
    }

    /// Adds a prefix; false where there is no room for it.
    pub(super) fn add<K: Lengths>(&mut self, prefix: Prefix<K>) -> bool {
        let Some(room) = self.room.checked_sub(1) else {
            return false;
        };
        self.room = room;
        let number = K::HOST_BITS.partition_point(|&host_bits| host_bits < prefix.host_bits);
        self.lengths |= 1 << number;
        if let Some(&host_bits) = K::HOST_BITS.get(number) {
            let place = self.place(prefix.bits.hashed(host_bits));
            if let Some(page) = self.pages.get_mut(place.page)
                && let Some(word) = Arc::make_mut(page).get_mut(place.word)
            {
                *word |= place.bits;
            }
        } else {
            self.short.include(K::networks(&[prefix.range()]));
        }
        true
    }

    #[inline]
    fn place(&self, hashed: impl Hash) -> Place {
        let hash = self.hasher.hash_one(hashed);
        let part = |shift: u32| usize::try_from(hash >> shift).unwrap_or(0);
        Place {
            page: part(32) & self.pages.len().wrapping_sub(1),
            word: part(20) & (PAGE_WORDS - 1),
            bits: (1 << (hash & 63)) | (1 << ((hash >> 6) & 63)) | (1 << ((hash >> 12) & 63)),
        }
    }

    /// Whether some prefix could hold `key`.
    #[inline]
    pub(super) fn may_hold<K: Lengths, S: Seek>(&self, key: K, seek: &mut S) -> bool {
        (0..).zip(K::HOST_BITS).any(|(number, &host_bits)| {
            self.lengths >> number & 1 == 1 && {
                seek.probe();
                let place = self.place(key.hashed(host_bits));
                self.pages
                    .get(place.page)
                    .and_then(|page| page.get(place.word))
                    .is_some_and(|word| word & place.bits == place.bits)
            }
        }) || (self.lengths >> K::HOST_BITS.len() == 1 && self.short.contains(key.network()))
    }

    pub(super) fn heap_octets(&self) -> usize {
        let page = ARC_OCTETS + size_of::<[u64; PAGE_WORDS]>();
        self.pages.capacity() * size_of::<Arc<[u64; PAGE_WORDS]>>() + self.pages.len() * page
    }
}
