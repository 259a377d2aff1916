//! The gate of a tunnel: copies for what lies behind it leave while it is open, and at no other time.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// Losses of the tunnel that are remembered one by one; older ones are remembered as one.
const LOSSES_MAX: usize = 64;
/// What waits leaves at this rate where nothing else is wanted: who receives with the system's usual buffer (212,992
/// octets, some 277 small datagrams or 92 large ones) must then be given the processor every 18 ms.
pub const DRAIN_PPS: NonZeroU32 = NonZeroU32::new(5_000).unwrap();

/// Whether copies may leave through a tunnel, as whoever watches the tunnel has said. Shut at first.
pub struct Gate {
    tunnel: String,
    drain_pps: NonZeroU32,
    made: Instant,
    /// What [`Gate::is_open`] and [`Gate::losses`] say, to be read without a lock.
    is_open: AtomicBool,
    losses: AtomicU64,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    is_open: bool,
    losses: u64,
    /// Since when copies are in doubt, for the last losses.
    since: VecDeque<Instant>,
    /// The same for all losses before them.
    since_earlier: Option<Instant>,
}

/// As long as it is held the gate is open: whoever shuts it waits.
pub(super) struct Passage<'a> {
    _state: RwLockReadGuard<'a, State>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Gate")
            .field("tunnel", &self.tunnel)
            .field("is_open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// The gate of a tunnel, shut. What waits for it to open leaves with [`DRAIN_PPS`] copies in a second.
    pub fn new(tunnel: &str) -> Self {
        Self::with_drain(tunnel, DRAIN_PPS)
    }

    /// The same with another rate. Nobody answers that a copy has arrived, and what overruns a buffer on the way is lost
    /// silently.
    pub fn with_drain(tunnel: &str, drain_pps: NonZeroU32) -> Self {
        Self {
            tunnel: tunnel.to_owned(),
            drain_pps,
            made: Instant::now(),
            is_open: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            state: RwLock::default(),
        }
    }

    /// The name of the tunnel.
    pub fn tunnel(&self) -> &str {
        &self.tunnel
    }

    /// How many copies that waited leave in a second, beyond what comes in meanwhile.
    pub fn drain_pps(&self) -> NonZeroU32 {
        self.drain_pps
    }

    /// Whether copies may leave.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Lets copies leave.
    pub fn open(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.is_open = true;
        self.is_open.store(true, Ordering::Release);
    }

    /// Lets nothing leave any more: when this returns, the last copy has. The tunnel may have been lost for `in_doubt`
    /// before that was noticed, and with it what was sent meanwhile. On a gate that is shut this changes nothing.
    pub fn shut(&self, in_doubt: Duration) {
        // The doubt counts from the call: whoever calls does not know how long this waits.
        let since = Instant::now().checked_sub(in_doubt);
        let since = since.unwrap_or(self.made).max(self.made);
        // Nobody begins to send any more, and whoever waits for the lock below waits for those who have begun.
        self.is_open.store(false, Ordering::Release);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have opened it since.
        self.is_open.store(false, Ordering::Release);
        if !state.is_open {
            return;
        }
        state.is_open = false;
        if in_doubt.is_zero() {
            return;
        }
        state.since.push_back(since);
        if state.since.len() > LOSSES_MAX {
            let earlier = state.since.pop_front();
            state.since_earlier = state.since_earlier.min(earlier).or(earlier);
        }
        state.losses = state.losses.saturating_add(1);
        self.losses.store(state.losses, Ordering::Release);
    }

    /// How often the tunnel was lost and copies were in doubt.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Since when copies are in doubt, after the losses beyond the first `known`, and how many losses there were; None
    /// where there were no others.
    pub(super) fn lost_beyond(&self, known: u64) -> Option<(Instant, u64)> {
        if self.losses() <= known {
            return None;
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = usize::try_from(state.losses.saturating_sub(known)).unwrap_or(usize::MAX);
        let earlier = state.since_earlier.filter(|_| unknown > state.since.len());
        let recent = state.since.iter().rev().take(unknown);
        let since = recent.copied().chain(earlier).min()?;
        Some((since, state.losses))
    }

    /// The right to send; None while the gate is shut.
    pub(super) fn pass(&self) -> Option<Passage<'_>> {
        if !self.is_open() {
            return None;
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.is_open.then_some(Passage { _state: state })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_gate_is_shut_at_first_and_opens_and_shuts() {
        let gate = Gate::new("ttp");
        assert!(!gate.is_open() && gate.pass().is_none());
        gate.open();
        assert!(gate.is_open() && gate.pass().is_some());
        gate.shut(Duration::ZERO);
        assert!(!gate.is_open() && gate.pass().is_none());
        assert_eq!(gate.losses(), 0);
        assert_eq!(
            format!("{gate:?}"),
            r#"Gate { tunnel: "ttp", is_open: false, .. }"#
        );
    }

    #[test]
    fn a_loss_is_one_only_where_the_gate_was_open() {
        let gate = Gate::new("ttp");
        gate.shut(Duration::from_secs(1));
        assert_eq!(gate.lost_beyond(0), None);
        gate.open();
        let before = Instant::now();
        gate.shut(Duration::from_millis(1));
        gate.shut(Duration::from_secs(9));
        gate.shut(Duration::ZERO);
        let (since, losses) = gate.lost_beyond(0).unwrap();
        assert_eq!(losses, 1);
        assert!(since <= Instant::now() && since + Duration::from_millis(1) >= before);
        assert_eq!(gate.lost_beyond(1), None);
    }

    #[test]
    fn however_many_losses_were_missed_the_earliest_is_known() {
        let gate = Gate::new("ttp");
        let mut earliest = None;
        for round in 0..200_u64 {
            gate.open();
            std::thread::sleep(Duration::from_micros(50));
            // The gate is not older than it is.
            gate.shut(
                Duration::from_secs(if round == 3 { 3_600 } else { 0 }) + Duration::from_nanos(1),
            );
            earliest = earliest.or(gate.lost_beyond(3).map(|(since, _)| since));
        }
        assert_eq!(gate.lost_beyond(0), Some((gate.made, 200)));
        assert_eq!(gate.lost_beyond(3), Some((gate.made, 200)));
        let (since, _) = gate.lost_beyond(199).unwrap();
        assert!(since > gate.made);
        assert_eq!(earliest, Some(gate.made));
    }

    #[test]
    fn shutting_waits_for_who_is_sending() {
        let gate = Arc::new(Gate::new("ttp"));
        gate.open();
        let passage = gate.pass().unwrap();
        let in_thread = Arc::clone(&gate);
        let shutter = std::thread::spawn(move || {
            in_thread.shut(Duration::ZERO);
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!gate.is_open());
        let released = Instant::now();
        drop(passage);
        assert!(shutter.join().unwrap() >= released);
    }

    #[test]
    fn waiting_for_who_is_sending_makes_nothing_less_doubtful() {
        let gate = Arc::new(Gate::new("ttp"));
        std::thread::sleep(Duration::from_millis(30));
        gate.open();
        let passage = gate.pass().unwrap();
        let (in_thread, in_doubt) = (Arc::clone(&gate), Duration::from_millis(20));
        let shutter = std::thread::spawn(move || {
            let called = Instant::now();
            in_thread.shut(in_doubt);
            called
        });
        std::thread::sleep(Duration::from_millis(300));
        drop(passage);
        let called = shutter.join().unwrap();
        let (since, _) = gate.lost_beyond(0).unwrap();
        // The clock is read a moment after the call, and not when the other one has sent.
        assert!(since + in_doubt <= called + Duration::from_millis(150));
    }
}
