//! The first look at a packet: which pairs of networks, and which ports, criteria can be about at all.
//!
//! Both answers are supersets. Criteria that come enter at once; what those that went have left behind stays until a
//! new reach is made, which the table does when it is worth it.

use std::sync::Arc;

use super::prefix::{Prefix, Wide};
use super::trie::{ARC_OCTETS, Seek};
use super::upper::{MAXIMUM_PIECES, Pieces, UpperKey, anchor_side};
use crate::criteria::{Criteria, Side};

/// Networks that a [`Reach`] tells apart on either side.
const NETWORKS: u32 = 256;
/// Pairs of networks above which a criterion is open: a sixteenth of all.
const OPEN_PAIRS: u32 = NETWORKS * NETWORKS / 16;
/// Words of a bitmap of 2^16 bits.
const WORDS: usize = 1024;

/// A set of networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks([u64; 4]);

impl Networks {
    const ALL: Self = Self([u64::MAX; 4]);

    /// Adds the networks from `first` to `last`.
    fn add(&mut self, first: u8, last: u8) {
        for (word, bits) in words(first.into(), last.into()) {
            if let Some(word) = self.0.get_mut(word) {
                *word |= bits;
            }
        }
    }

    pub(super) fn include(&mut self, other: Self) {
        for (word, bits) in self.0.iter_mut().zip(other.0) {
            *word |= bits;
        }
    }

    #[inline]
    pub(super) fn contains(&self, network: u8) -> bool {
        self.0
            .get(usize::from(network / 64))
            .is_some_and(|word| word >> (network % 64) & 1 == 1)
    }

    fn count(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn iter(self) -> impl Iterator<Item = usize> + Clone {
        let words = (0..).step_by(64).zip(self.0);
        words.flat_map(|(first, mut left)| {
            std::iter::from_fn(move || {
                let bit = left.checked_ilog2()?;
                left ^= 1 << bit;
                Some(first + usize::try_from(bit).unwrap_or(usize::MAX))
            })
        })
    }
}

/// The words of a bitmap that hold the bits from `first` to `last`, and these bits.
fn words(first: u32, last: u32) -> impl Iterator<Item = (usize, u64)> + Clone {
    (first / 64..=last / 64).map(move |word| {
        let from = first.saturating_sub(word * 64);
        let to = (last - word * 64).min(63);
        let bits = (u64::MAX >> (63 - to)) & (u64::MAX << from);
        (usize::try_from(word).unwrap_or(usize::MAX), bits)
    })
}

/// How an address is put into one of 256 networks.
pub(super) trait Network: Copy {
    fn network(self) -> u8;
    fn networks(ranges: &[(Self, Self)]) -> Networks;
}

/// The first octet.
impl Network for u32 {
    #[inline]
    fn network(self) -> u8 {
        let [first, _, _, _] = self.to_be_bytes();
        first
    }

    fn networks(ranges: &[(Self, Self)]) -> Networks {
        let mut found = Networks::default();
        for &(first, last) in ranges {
            found.add(first.network(), last.network());
        }
        found
    }
}

/// A mixture of the first 32 bits: registries give networks of about this size to providers, and the first octets are
/// the same for all of them.
impl Network for Wide {
    #[inline]
    fn network(self) -> u8 {
        mixed(provider(self))
    }

    fn networks(ranges: &[(Self, Self)]) -> Networks {
        let mut found = Networks::default();
        for &(first, last) in ranges {
            let (first, last) = (provider(first), provider(last));
            if last - first >= NETWORKS {
                return Networks::ALL;
            }
            for network in (first..=last).map(mixed) {
                found.add(network, network);
            }
        }
        found
    }
}

/// The first 32 bits of an IPv6 address.
#[inline]
fn provider(address: Wide) -> u32 {
    u32::try_from(u128::from(address) >> 96).unwrap_or(u32::MAX)
}

#[inline]
fn mixed(provider: u32) -> u8 {
    // Multiplication by the golden ratio spreads neighbours over the highest bits.
    let [first, _, _, _] = provider.wrapping_mul(0x9e37_79b9).to_be_bytes();
    first
}

/// 2^16 bits, made when the first is set.
#[derive(Clone, Debug, Default)]
struct Bitmap(Option<Arc<[u64; WORDS]>>);

impl Bitmap {
    #[inline]
    fn holds(&self, bit: u32) -> bool {
        let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
        self.0
            .as_ref()
            .and_then(|words| words.get(word))
            .is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Sets bits; a copy is made only where something changes.
    fn set(&mut self, words: impl Iterator<Item = (usize, u64)> + Clone) {
        let has = |(word, bits): (usize, u64)| {
            let words = self.0.as_ref();
            words
                .and_then(|words| words.get(word))
                .is_some_and(|word| word & bits == bits)
        };
        if words.clone().all(has) {
            return;
        }
        let bitmap = Arc::make_mut(self.0.get_or_insert_with(|| Arc::new([0; WORDS])));
        for (word, bits) in words {
            if let Some(word) = bitmap.get_mut(word) {
                *word |= bits;
            }
        }
    }

    fn heap_octets(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |_| ARC_OCTETS + size_of::<[u64; WORDS]>())
    }
}

/// Which pairs of networks criteria are about.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach(Bitmap);

impl Reach {
    /// Whether a criterion of these networks is open: about so much traffic that addresses hardly tell it from others.
    pub(super) fn is_open(source: Networks, destination: Networks) -> bool {
        source.count() * destination.count() > OPEN_PAIRS
    }

    pub(super) fn add(&mut self, source: Networks, destination: Networks) {
        let words = source.iter().flat_map(|source| {
            let row = source * destination.0.len();
            (row..).zip(destination.0)
        });
        self.0.set(words);
    }

    #[inline]
    pub(super) fn holds<K: Network, S: Seek>(
        &self,
        source: K,
        destination: K,
        seek: &mut S,
    ) -> bool {
        seek.probe();
        self.0.holds(pair(source.network(), destination.network()))
    }

    pub(super) fn heap_octets(&self) -> usize {
        self.0.heap_octets()
    }
}

#[inline]
fn pair(source: u8, destination: u8) -> u32 {
    u32::from(u16::from_be_bytes([source, destination]))
}

/// Which protocols and ports criteria are about.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    protocols: [u64; 4],
    source: Bitmap,
    destination: Bitmap,
}

/// Ports that share a bit, as a power of two: 18 bits of key become 16.
const SHARED_BITS: u32 = 2;

impl Ports {
    pub(super) fn add(&mut self, criteria: &Criteria) {
        match Pieces::of(criteria, MAXIMUM_PIECES) {
            Pieces::Protocols(pieces) => {
                for number in 0..=u8::MAX {
                    if pieces.iter().any(|piece| piece.holds(number.into()))
                        && let Some(word) = self.protocols.get_mut(usize::from(number / 64))
                    {
                        *word |= 1 << (number % 64);
                    }
                }
            }
            Pieces::Transport {
                source,
                destination,
                ..
            } => {
                let (bitmap, pieces) = match anchor_side(&source, &destination) {
                    Side::Source => (&mut self.source, source),
                    Side::Destination => (&mut self.destination, destination),
                };
                for Prefix { bits, host_bits } in pieces {
                    let last = bits | !u32::MAX.checked_shl(host_bits.into()).unwrap_or(0);
                    bitmap.set(words(bits >> SHARED_BITS, last >> SHARED_BITS));
                }
            }
        }
    }

    /// Whether some criterion could be about this; true where the first fragment would have to say it.
    #[inline]
    pub(super) fn holds<S: Seek>(&self, key: UpperKey, seek: &mut S) -> bool {
        seek.probe();
        let by_protocol = match key.protocol() {
            None => self.protocols != [0; 4],
            Some(number) => self
                .protocols
                .get(usize::from(number / 64))
                .is_some_and(|word| word >> (number % 64) & 1 == 1),
        };
        by_protocol
            || key.is_elsewhere()
            || key.transport().is_some_and(|(source, destination)| {
                seek.probe();
                seek.probe();
                self.destination.holds(destination >> SHARED_BITS)
                    || self.source.holds(source >> SHARED_BITS)
            })
    }

    pub(super) fn heap_octets(&self) -> usize {
        self.source.heap_octets() + self.destination.heap_octets()
    }
}
