//! What the kernel counted of a capture.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::sys;

/// What the kernel counted of one capture, from its opening on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that passed the filter and were written into the ring.
    pub received: u64,
    /// Frames that passed the filter and found no room in the ring, that were in it when it was closed, or that the kernel
    /// could not describe: super-frames of other protocols than TCP and UDP.
    pub dropped: u64,
    /// How often the kernel found its next block still unread and stopped until it was returned.
    pub freezes: u64,
}

#[derive(Debug)]
struct State {
    /// Closed captures keep their sums.
    socket: Option<Arc<OwnedFd>>,
    sums: Statistics,
}

impl State {
    /// Adds what was counted since the last time: the kernel starts again from zero at each reading.
    fn add(&mut self) {
        let Some(counted) = self
            .socket
            .as_ref()
            .and_then(|socket| sys::statistics(socket.as_fd()).ok())
        else {
            return;
        };
        let dropped = u64::from(counted.tp_drops);
        // The kernel's number of packets includes those that it dropped.
        self.sums.received += u64::from(counted.tp_packets).saturating_sub(dropped);
        self.sums.dropped += dropped;
        self.sums.freezes += u64::from(counted.tp_freeze_q_cnt);
    }
}

/// Reads the statistics of a capture at any time, from any thread.
#[derive(Clone, Debug)]
pub struct StatisticsReader {
    state: Arc<Mutex<State>>,
}

impl StatisticsReader {
    pub(super) fn new(socket: Arc<OwnedFd>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                socket: Some(socket),
                sums: Statistics::default(),
            })),
        }
    }

    /// The counts of this moment.
    pub fn read(&self) -> Statistics {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add();
        state.sums
    }

    /// Goes over to another socket, or to none, and keeps the sums.
    pub(super) fn follow(&self, socket: Option<Arc<OwnedFd>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add();
        state.socket = socket;
    }

    /// Counts received frames as dropped, all but the first `taken`.
    pub(super) fn lose_all_but(&self, taken: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add();
        let lost = state.sums.received.saturating_sub(taken);
        state.sums.received -= lost;
        state.sums.dropped += lost;
    }
}
