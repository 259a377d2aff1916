//! What was sent lately: how much, for when a part of it turns out to be in doubt, and the copies themselves where they
//! are to be sent again then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::HeldCopy;

/// Sends within this are counted together.
const FINE: Duration = Duration::from_millis(100);
/// And within this when they are no longer the last ones.
const COARSE: Duration = Duration::from_secs(10);
/// A minute of fine slots, an hour of coarse ones; what is older is counted in one.
const FINE_MAX: usize = 600;
const COARSE_MAX: usize = 360;

/// Datagrams that were sent from one moment to another.
#[derive(Clone, Copy, Debug)]
struct Slot {
    first: Instant,
    last: Instant,
    count: u64,
}

impl Slot {
    fn add(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }
}

/// Adds to the last slot where that is not too old, and makes a new one otherwise.
fn append(slots: &mut VecDeque<Slot>, slot: Slot, span: Duration) {
    match slots.back_mut() {
        Some(last) if slot.last.saturating_duration_since(last.first) < span => last.add(slot),
        _ => slots.push_back(slot),
    }
}

/// How many datagrams were sent when, in slots: what is asked for is rounded outward, never inward.
#[derive(Debug, Default)]
pub(super) struct SentCounts {
    fine: VecDeque<Slot>,
    coarse: VecDeque<Slot>,
    older: Option<Slot>,
}

impl SentCounts {
    /// Counts what was sent now; `now` never goes back.
    pub(super) fn add(&mut self, now: Instant, count: u64) {
        let slot = Slot {
            first: now,
            last: now,
            count,
        };
        append(&mut self.fine, slot, FINE);
        while self.fine.len() > FINE_MAX {
            if let Some(slot) = self.fine.pop_front() {
                append(&mut self.coarse, slot, COARSE);
            }
        }
        while self.coarse.len() > COARSE_MAX {
            if let Some(slot) = self.coarse.pop_front() {
                match &mut self.older {
                    Some(older) => older.add(slot),
                    None => self.older = Some(slot),
                }
            }
        }
    }

    /// Takes out what may have been sent since a moment, and from when on everything was taken; None where nothing was
    /// sent since.
    pub(super) fn take_since(&mut self, since: Instant) -> Option<(u64, Instant)> {
        let mut taken: Option<Slot> = None;
        let mut take = |slot: Slot| match &mut taken {
            Some(all) => all.add(slot),
            None => taken = Some(slot),
        };
        for slots in [&mut self.fine, &mut self.coarse] {
            while slots.back().is_some_and(|slot| slot.last >= since) {
                slots.pop_back().map(&mut take);
            }
        }
        if let Some(slot) = self.older.take_if(|slot| slot.last >= since) {
            take(slot);
        }
        taken.map(|all| (all.count, all.first))
    }

    /// When something was sent last.
    pub(super) fn last(&self) -> Option<Instant> {
        let slots = self.fine.back().or(self.coarse.back());
        slots.or(self.older.as_ref()).map(|slot| slot.last)
    }
}

/// Copies that were sent and may have to be sent again.
#[derive(Default)]
pub(super) struct Kept {
    copies: VecDeque<(Instant, HeldCopy)>,
    octets: u64,
}

impl Kept {
    /// What it holds, and what that takes.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    pub(super) fn push(&mut self, now: Instant, copy: HeldCopy) {
        self.octets = self.octets.saturating_add(copy.octets());
        self.copies.push_back((now, copy));
    }

    /// Forgets the oldest; false where there is none.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let Some((_, copy)) = self.copies.pop_front() else {
            return false;
        };
        self.octets = self.octets.saturating_sub(copy.octets());
        true
    }

    /// Forgets what was sent before a moment.
    pub(super) fn forget_before(&mut self, moment: Instant) {
        while self.copies.front().is_some_and(|(sent, _)| *sent < moment) {
            self.forget_oldest();
        }
    }

    /// Takes out what was sent since a moment, the last first.
    pub(super) fn take_since(&mut self, since: Instant) -> impl Iterator<Item = HeldCopy> {
        std::iter::from_fn(move || {
            self.copies.back().filter(|(sent, _)| *sent >= since)?;
            let (_, copy) = self.copies.pop_back()?;
            self.octets = self.octets.saturating_sub(copy.octets());
            Some(copy)
        })
    }
}
