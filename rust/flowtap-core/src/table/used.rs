//! What a criterion with a budget has used, shared by every engine that has the table.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Lifetime;

/// Counts of one criterion, over all engines and, where they are kept in a file, over all runs.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Used {
    /// Matched packets.
    pub packets: AtomicU64,
    /// Matched octets (IP total length).
    pub octets: AtomicU64,
    /// The last match, on the engines' clock; 0 for none.
    pub last_match_ns: AtomicU64,
}

/// A place where what was used is kept.
pub trait UsedPlace: fmt::Debug + Send + Sync {
    /// The counts.
    fn used(&self) -> &Used;
}

impl UsedPlace for Used {
    fn used(&self) -> &Used {
        self
    }
}

impl Used {
    /// The last match.
    pub fn last_match_ns(&self) -> Option<u64> {
        Some(self.last_match_ns.load(Ordering::Relaxed)).filter(|&last_ns| last_ns > 0)
    }

    /// Goes on from counts of the same criterion, where these are higher.
    pub fn raise(&self, packets: u64, octets: u64, last_match_ns: Option<u64>) {
        self.packets.fetch_max(packets, Ordering::Relaxed);
        self.octets.fetch_max(octets, Ordering::Relaxed);
        self.last_match_ns
            .fetch_max(last_match_ns.unwrap_or(0), Ordering::Relaxed);
    }

    /// The packets, octets and last match so far.
    pub fn counts(&self) -> (u64, u64, Option<u64>) {
        (
            self.packets.load(Ordering::Relaxed),
            self.octets.load(Ordering::Relaxed),
            self.last_match_ns(),
        )
    }

    /// Whether a budget is used up.
    pub fn is_spent(&self, lifetime: &Lifetime) -> bool {
        let reached = |count: &AtomicU64, limit: Option<u64>| {
            limit.is_some_and(|limit| count.load(Ordering::Relaxed) >= limit)
        };
        reached(&self.packets, lifetime.packets) || reached(&self.octets, lifetime.octets)
    }

    /// Takes one packet from the budget; false where another engine has taken what was left.
    pub fn take(&self, lifetime: &Lifetime, octets: u64, now_ns: u64) -> bool {
        let packets_before = self.packets.fetch_add(1, Ordering::Relaxed);
        let octets_before = self.octets.fetch_add(octets, Ordering::Relaxed);
        let is_within = |before: u64, limit: Option<u64>| limit.is_none_or(|limit| before < limit);
        if is_within(packets_before, lifetime.packets) && is_within(octets_before, lifetime.octets)
        {
            self.last_match_ns.fetch_max(now_ns, Ordering::Relaxed);
            return true;
        }
        self.packets.fetch_sub(1, Ordering::Relaxed);
        self.octets.fetch_sub(octets, Ordering::Relaxed);
        false
    }
}
