//! Copies that wait, in order.

use std::collections::VecDeque;

use super::HeldCopy;

/// Copies that wait until they may leave.
#[derive(Default)]
pub(super) struct Queue {
    copies: VecDeque<HeldCopy>,
    octets: u64,
    /// Those that were not sent before.
    unsent: u64,
}

impl Queue {
    /// What it holds, and what that takes.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// How many wait that were never sent.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    fn count(&mut self, copy: &HeldCopy) {
        self.octets = self.octets.saturating_add(copy.octets());
        self.unsent = self.unsent.saturating_add(u64::from(!copy.was_sent));
    }

    /// Adds a copy behind all others.
    pub(super) fn push(&mut self, copy: HeldCopy) {
        self.count(&copy);
        self.copies.push_back(copy);
    }

    /// Puts a copy in front of all others.
    pub(super) fn put_back(&mut self, copy: HeldCopy) {
        self.count(&copy);
        self.copies.push_front(copy);
    }

    /// Takes out the first copy.
    pub(super) fn pop(&mut self) -> Option<HeldCopy> {
        let copy = self.copies.pop_front()?;
        self.octets = self.octets.saturating_sub(copy.octets());
        self.unsent = self.unsent.saturating_sub(u64::from(!copy.was_sent));
        Some(copy)
    }
}
