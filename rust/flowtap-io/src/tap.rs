//! The running data plane: a source, an engine and an exporter on a thread of their own.

mod batches;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flowtap_core::counters::Stats;
use flowtap_core::table::FilterTable;

pub use self::batches::CaptureBatches;
use crate::broker::Broker;
use crate::export::ExportCount;
use crate::swap::TableCell;

/// How fast recorded captures are played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As they were recorded.
    Recorded,
    /// As fast as possible.
    Fast,
    /// So many packets a second.
    PacketsPerSecond(f64),
}

/// What a tap plays, and how.
#[derive(Clone, Debug)]
pub struct PlayOptions {
    /// Captures in their order.
    pub files: Vec<String>,
    /// How fast.
    pub pace: Pace,
    /// The interface of frames whose capture names none.
    pub interface: Option<String>,
    /// Begin again after the last one.
    pub looped: bool,
    /// Begin when the table has so many criteria; what nobody asked for yet is not played away.
    pub wait_for_criteria: usize,
    /// Send the copies; otherwise they are counted only.
    pub export: bool,
    /// Opens sockets that this process may not open.
    pub broker: Option<Arc<Broker>>,
    /// What the caller's monotonic clock shows now, in nanoseconds: the engine's time goes on from there.
    pub monotonic_ns: u64,
}

/// The account of a tap.
#[derive(Clone, Debug, Default)]
pub struct TapStats {
    /// The engine's account.
    pub engine: Stats,
    /// What became of the copies; None where none were to be sent.
    pub exported: Option<Vec<ExportCount>>,
    /// The generation that the account belongs to.
    pub generation: u64,
}

/// A data plane that cannot go on, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The worker panicked: a defect, reported with what it said.
    #[error("the data plane failed: {message}")]
    Failed {
        /// What the panic said.
        message: String,
    },
    /// The worker did not answer in time.
    #[error("the data plane did not answer within {waited_ms} ms")]
    Silent {
        /// How long the caller waited.
        waited_ms: u128,
    },
    /// The thread could not be started.
    #[error("no thread for the data plane: {message}")]
    NoThread {
        /// What the system said.
        message: String,
    },
    /// The tap was stopped before.
    #[error("the tap was stopped; make a new one")]
    Stopped,
}

/// What the worker and its owner share.
#[derive(Debug)]
struct Shared {
    cell: Arc<TableCell>,
    stop: AtomicBool,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Accounts asked for and given, so that an answer is never older than its question.
    asked: u64,
    given: u64,
    stats: TapStats,
    finished: bool,
    ended: bool,
    error: Option<String>,
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running tap over recorded captures.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How long an account may take: a worker looks up at least every few milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a caller looks whether an old table is still in use.
const RELEASE_POLL: Duration = Duration::from_micros(200);

impl Tap {
    /// Starts to play captures through `table`.
    ///
    /// # Errors
    /// [`TapError::NoThread`].
    pub fn play(table: Arc<FilterTable>, options: PlayOptions) -> Result<Self, TapError> {
        let shared = Arc::new(Shared {
            cell: Arc::new(TableCell::new(table)),
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            answered: Condvar::new(),
        });
        let in_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("flowtap-worker".to_owned())
            .spawn(move || worker::run(&in_thread, &options))
            .map_err(|error| TapError::NoThread {
                message: error.to_string(),
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Makes `table` the active one; returns its generation when no worker uses an older table any more.
    ///
    /// # Errors
    /// [`TapError::Failed`] or [`TapError::Silent`]; the new table is active all the same.
    pub fn install(&self, table: Arc<FilterTable>) -> Result<u64, TapError> {
        let generation = self.shared.cell.install(table);
        let began = Instant::now();
        self.wake();
        while !self.shared.cell.is_released(generation) {
            if let Some(message) = self.shared.lock().failure.clone() {
                return Err(TapError::Failed { message });
            }
            let waited = began.elapsed();
            if waited > ANSWER_TIMEOUT {
                return Err(TapError::Silent {
                    waited_ms: waited.as_millis(),
                });
            }
            std::thread::sleep(RELEASE_POLL);
        }
        self.shared
            .lock()
            .failure
            .clone()
            .map_or(Ok(generation), |message| Err(TapError::Failed { message }))
    }

    /// The account of this moment.
    ///
    /// # Errors
    /// [`TapError::Failed`] or [`TapError::Silent`].
    pub fn stats(&self) -> Result<TapStats, TapError> {
        let began = Instant::now();
        let mut state = self.shared.lock();
        state.asked += 1;
        let question = state.asked;
        self.wake();
        loop {
            if let Some(message) = state.failure.clone() {
                return Err(TapError::Failed { message });
            }
            if state.given >= question || state.ended {
                return Ok(state.stats.clone());
            }
            let waited = began.elapsed();
            let Some(left) = ANSWER_TIMEOUT.checked_sub(waited) else {
                return Err(TapError::Silent {
                    waited_ms: waited.as_millis(),
                });
            };
            state = self
                .shared
                .answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether every capture was played to its end; false for ever where they are looped.
    pub fn is_finished(&self) -> bool {
        self.shared.lock().finished
    }

    /// What ended the playing early, such as a damaged capture.
    pub fn error(&self) -> Option<String> {
        self.shared.lock().error.clone()
    }

    /// Ends the worker and returns the last account.
    ///
    /// # Errors
    /// [`TapError::Stopped`] the second time; [`TapError::Silent`] where the worker did not end in time (it is left to
    /// itself); [`TapError::Failed`].
    pub fn stop(&mut self, timeout: Duration) -> Result<TapStats, TapError> {
        let thread = self.thread.take().ok_or(TapError::Stopped)?;
        self.shared.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        let began = Instant::now();
        let mut state = self.shared.lock();
        while !state.ended {
            let waited = began.elapsed();
            let Some(left) = timeout.checked_sub(waited) else {
                return Err(TapError::Silent {
                    waited_ms: waited.as_millis(),
                });
            };
            state = self
                .shared
                .answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.failure.clone().map_or_else(
            || Ok(state.stats.clone()),
            |message| Err(TapError::Failed { message }),
        )
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A worker looks up every few milliseconds; its panic was recorded.
            drop(thread.join());
        }
    }
}
