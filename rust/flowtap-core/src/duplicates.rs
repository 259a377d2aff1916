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
/// The longest memory: a third of what the time can tell.
const LONGEST_MS: u64 = TIME_MASK / 3;
/// How often old places are looked for, and how long it takes until all have been looked at. A place that was not is
/// at most the longest memory and one such round old: far from where the time begins anew.
const SWEEP_EVERY_MS: u64 = 1 << 10;
const ROUND_MS: u64 = 1 << 16;
/// Clocks of several engines may differ by this: what is younger by less than it is not old.
const SLACK_MS: u64 = 1 << 14;
const MILLISECOND_NS: u64 = 1_000_000;

/// A bounded memory, shared by all engines of a tap. What differs on the way (time to live, checksums of the IP header,
/// the link's headers) does not count.
#[derive(Debug)]
pub struct Duplicates {
    window_ms: u64,
    places: Box<[AtomicU64]>,
    /// Until when, in milliseconds that do not begin anew, old places have been looked for.
    swept_ms: AtomicU64,
    hasher: RandomState,
}

/// How old a place is, as far as its time can tell.
fn age_ms(value: u64, now_ms: u64) -> u64 {
    now_ms.wrapping_sub(value & TIME_MASK) & TIME_MASK
}

impl Duplicates {
    /// A memory of `window_ms` milliseconds (at most about five minutes) for at least `packets` packets.
    pub fn new(window_ms: u64, packets: usize) -> Self {
        let count = packets.next_power_of_two().max(WAYS);
        Self {
            window_ms: window_ms.min(LONGEST_MS),
            places: (0..count).map(|_| AtomicU64::new(0)).collect(),
            swept_ms: AtomicU64::new(0),
            hasher: RandomState::default(),
        }
    }

    /// Empties places whose packet is long forgotten, before their time looks like a new one.
    fn sweep(&self, now_ms: u64, swept_ms: u64) {
        let taken =
            self.swept_ms
                .compare_exchange(swept_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_err() {
            // Another engine does it.
            return;
        }
        let elapsed_ms = now_ms.saturating_sub(swept_ms);
        if elapsed_ms >= LONGEST_MS + SLACK_MS {
            for place in &self.places {
                place.store(0, Ordering::Relaxed);
            }
            return;
        }
        // As large a part of the places as of the round has gone by since.
        let count = u64::try_from(self.places.len()).unwrap_or(u64::MAX);
        let at = |ms: u64| usize::try_from(ms.saturating_mul(count) / ROUND_MS).unwrap_or(0);
        let (first, last) = (
            at(swept_ms % ROUND_MS),
            at(swept_ms % ROUND_MS + elapsed_ms),
        );
        let places = self.places.iter().cycle().skip(first);
        for place in places.take((last - first).min(self.places.len())) {
            let value = place.load(Ordering::Relaxed);
            let age_ms = age_ms(value, now_ms);
            if value != 0 && age_ms >= self.window_ms && age_ms < TIME_MASK - SLACK_MS {
                // Whoever has just put another there is right.
                let _taken = place.compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Whether the packet was seen less than the window ago; remembers it where it was not.
    pub fn was_seen(&self, packet: &IpPacket<'_>, now_ns: u64) -> bool {
        let hash = self.hash(packet);
        let now_ms = now_ns / MILLISECOND_NS;
        let swept_ms = self.swept_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(swept_ms) >= SWEEP_EVERY_MS {
            self.sweep(now_ms, swept_ms);
        }
        let now_ms = now_ms & TIME_MASK;
        // Never 0, which is an empty place.
        let fresh = (hash & !TIME_MASK | now_ms) | 1 << 63;
        let tag = fresh & !TIME_MASK;
        let groups = self.places.len() / WAYS;
        let group = usize::try_from(hash & TIME_MASK).unwrap_or(0) % groups;
        let places = self
            .places
            .get(group * WAYS..(group + 1) * WAYS)
            .unwrap_or_default();
        let age_ms = |value| age_ms(value, now_ms);
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
