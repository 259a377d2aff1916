//! The most that a control source may have copied, shared by all its criteria and by every engine.

use std::sync::atomic::{AtomicU64, Ordering};

const SECOND_NS: u64 = 1_000_000_000;
/// How far traffic may run ahead of its rate.
const BURST_NS: u64 = 100_000_000;

/// One rate: when what was let through so far would have come at exactly that rate (the generic cell rate algorithm of
/// ITU-T I.371).
#[derive(Debug, Default)]
struct Pace {
    /// The most a second; 0 for any.
    limit: AtomicU64,
    due_ns: AtomicU64,
}

impl Pace {
    fn cost_ns(&self, amount: u64) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        u128::from(amount)
            .checked_mul(SECOND_NS.into())
            .and_then(|product| product.checked_div(limit.into()))
            .map_or(0, |cost| u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// Whether so much may pass now.
    fn has_room(&self, now_ns: u64) -> bool {
        self.limit.load(Ordering::Relaxed) == 0
            || self.due_ns.load(Ordering::Relaxed) <= now_ns.saturating_add(BURST_NS)
    }

    fn take(&self, amount: u64, now_ns: u64) {
        let cost_ns = self.cost_ns(amount);
        if cost_ns > 0 {
            let next = |due_ns: u64| Some(due_ns.max(now_ns).saturating_add(cost_ns));
            // The closure always gives a value.
            let _was = self
                .due_ns
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        }
    }
}

/// What may be copied a second.
#[derive(Debug, Default)]
pub struct Rate {
    packets: Pace,
    bits: Pace,
}

impl Rate {
    /// A rate of so many packets and bits a second; 0 for any number.
    pub fn new(packets_per_s: u64, bits_per_s: u64) -> Self {
        let rate = Self::default();
        rate.set(packets_per_s, bits_per_s);
        rate
    }

    /// Changes it from now on.
    pub fn set(&self, packets_per_s: u64, bits_per_s: u64) {
        self.packets.limit.store(packets_per_s, Ordering::Relaxed);
        self.bits.limit.store(bits_per_s, Ordering::Relaxed);
    }

    /// Whether a packet of so many octets may be copied now; it counts if it may.
    pub fn admit(&self, octets: u64, now_ns: u64) -> bool {
        let has_room = self.packets.has_room(now_ns) && self.bits.has_room(now_ns);
        if has_room {
            self.packets.take(1, now_ns);
            self.bits.take(octets.saturating_mul(8), now_ns);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many packets of 1,000 octets pass in `seconds`, of one each `step_ns`.
    fn admitted(rate: &Rate, seconds: u64, step_ns: u64) -> u64 {
        let moments = (0..seconds * SECOND_NS).step_by(usize::try_from(step_ns).unwrap());
        let passed = moments.filter(|&now_ns| rate.admit(1_000, now_ns));
        u64::try_from(passed.count()).unwrap()
    }

    #[test]
    fn no_more_than_the_rate_and_a_tenth_of_a_second_passes() {
        for (packets, bits, expected) in [(500, 0, 500), (0, 4_000_000, 500), (500, 800_000, 100)] {
            let rate = Rate::new(packets, bits);
            let passed = admitted(&rate, 10, 100_000);
            let wanted = 10 * expected;
            assert!(
                (wanted..=wanted + expected / 10 + 2).contains(&passed),
                "{passed} of {wanted}"
            );
        }
        assert_eq!(admitted(&Rate::default(), 1, 1_000_000), 1_000);
        assert_eq!(admitted(&Rate::new(2_000, 0), 1, 1_000_000), 1_000);
    }

    #[test]
    fn a_packet_larger_than_a_second_s_worth_passes_now_and_then() {
        let rate = Rate::new(0, 1_000);
        assert_eq!(admitted(&rate, 20, 100_000_000), 3);
    }

    #[test]
    fn a_change_rules_from_then_on() {
        let rate = Rate::new(1, 0);
        assert!(rate.admit(1, 0) && !rate.admit(1, 1));
        rate.set(0, 0);
        assert!(rate.admit(1, 2));
    }
}
