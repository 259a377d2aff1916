//! A memory of packets that were just seen, for mirror ports that show the same packet twice.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;

use crate::decode::IpPacket;

/// Places for one packet.
const WAYS: usize = 4;
/// Octets of a packet that tell it from others, counted from its IP header.
const LOOK_OCTETS: usize = 192;
/// Bits of a place that hold the time, in milliseconds.
const TIME_BITS: u32 = 20;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// The longest memory: half of what the time can tell.
const LONGEST_MS: u64 = TIME_MASK / 2;
const MILLISECOND_NS: u64 = 1_000_000;

/// A bounded memory, shared by all engines of a tap. What differs on the way (time to live, checksums of the IP header,
/// the link's headers) does not count.
#[derive(Debug)]
pub struct Duplicates {
    window_ms: u64,
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Duplicates {
    /// A memory of `window_ms` milliseconds (at most about nine minutes) for at least `packets` packets.
    pub fn new(window_ms: u64, packets: usize) -> Self {
        let count = packets.next_power_of_two().max(WAYS);
        Self {
            window_ms: window_ms.min(LONGEST_MS),
            places: (0..count).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::default(),
        }
    }

    /// Whether the packet was seen less than the window ago; remembers it where it was not.
    pub fn was_seen(&self, packet: &IpPacket<'_>, now_ns: u64) -> bool {
        let hash = self.hash(packet);
        let now_ms = (now_ns / MILLISECOND_NS) & TIME_MASK;
        // Never 0, which is an empty place.
        let fresh = (hash & !TIME_MASK | now_ms) | 1 << 63;
        let tag = fresh & !TIME_MASK;
        let groups = self.places.len() / WAYS;
        let group = usize::try_from(hash & TIME_MASK).unwrap_or(0) % groups;
        let places = self
            .places
            .get(group * WAYS..(group + 1) * WAYS)
            .unwrap_or_default();
        let age_ms = |value: u64| now_ms.wrapping_sub(value & TIME_MASK) & TIME_MASK;
        loop {
            let mut oldest: Option<(&AtomicU64, u64)> = None;
            for place in places {
                let value = place.load(Ordering::Relaxed);
                if value & !TIME_MASK == tag && age_ms(value) < self.window_ms {
                    return true;
                }
                let is_older = oldest.is_none_or(|(_, other)| {
                    value == 0 || (other != 0 && age_ms(value) > age_ms(other))
                });
                if is_older {
                    oldest = Some((place, value));
                }
            }
            let Some((place, value)) = oldest else {
                return false;
            };
            // Where another engine was quicker it may have been with this very packet.
            let exchanged =
                place.compare_exchange(value, fresh, Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                return false;
            }
        }
    }

    fn hash(&self, packet: &IpPacket<'_>) -> u64 {
        let octets = packet.octets;
        let octets = octets.get(..LOOK_OCTETS).unwrap_or(octets);
        // The fields that stay the same from hop to hop [RFC 791 §3.1, RFC 8200 §3].
        let (front, back) = if octets.first().is_some_and(|first| first >> 4 == 4) {
            let protocol = octets.get(9).copied();
            ((octets.get(2..8), protocol), octets.get(12..))
        } else {
            ((octets.get(4..7), None), octets.get(8..))
        };
        self.hasher.hash_one((front, back))
    }
}
