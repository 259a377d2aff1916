//! Threads that take turns in the order of what they work on.

use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// The turn of nobody any more.
const CLOSED: u64 = u64::MAX;
/// How often a turn is looked at before its owner sleeps: it is about to come, most times.
const LOOKS: u32 = 2_000;

/// A turn that goes from number to number, from 0.
#[derive(Debug, Default)]
pub(super) struct Turn {
    number: AtomicU64,
    sleepers: Mutex<u32>,
    changed: Condvar,
}

impl Turn {
    /// Waits for the turn of `number`; false if it never comes.
    pub(super) fn wait(&self, number: u64) -> bool {
        for _ in 0..LOOKS {
            match self.number.load(Ordering::Acquire) {
                CLOSED => return false,
                now if now == number => return true,
                _ => hint::spin_loop(),
            }
        }
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        let is_this = loop {
            match self.number.load(Ordering::Acquire) {
                CLOSED => break false,
                now if now == number => break true,
                _ => {
                    sleepers = self
                        .changed
                        .wait(sleepers)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        *sleepers -= 1;
        is_this
    }

    /// Whether it is the turn of `number` now.
    pub(super) fn is_of(&self, number: u64) -> bool {
        self.number.load(Ordering::Acquire) == number
    }

    /// Ends the turn of `number`, unless there are no turns any more.
    pub(super) fn pass_on(&self, number: u64) {
        // Who sleeps has looked under the lock, or looks again.
        let sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let next = number.saturating_add(1);
        let done = self
            .number
            .compare_exchange(number, next, Ordering::AcqRel, Ordering::Acquire);
        if done.is_ok() && *sleepers > 0 {
            self.changed.notify_all();
        }
    }

    /// Ends all turns.
    pub(super) fn close(&self) {
        let _sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.number.store(CLOSED, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether there are no turns any more.
    pub(super) fn is_closed(&self) -> bool {
        self.number.load(Ordering::Acquire) == CLOSED
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn everybody_has_a_turn_in_order() {
        let (turn, seen) = (Turn::default(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for number in (0..20).rev() {
                let (turn, seen) = (&turn, &seen);
                scope.spawn(move || {
                    assert!(turn.wait(number));
                    // Long enough for the others to fall asleep.
                    thread::sleep(Duration::from_millis(1));
                    seen.lock().unwrap().push(number);
                    turn.pass_on(number);
                });
            }
        });
        assert_eq!(seen.into_inner().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_turns_that_are_closed_and_nobody_opens_them_again() {
        let turn = Turn::default();
        thread::scope(|scope| {
            let waits = scope.spawn(|| turn.wait(5));
            thread::sleep(Duration::from_millis(20));
            turn.close();
            assert!(!waits.join().unwrap());
        });
        turn.pass_on(0);
        assert!(turn.is_closed());
        assert!(!turn.wait(1));
    }
}
