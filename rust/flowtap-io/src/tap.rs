//! The running data plane: sources, engines and exporters on threads of their own.

mod batches;
mod exclusion;
mod filters;
mod life;
mod live;
mod output;
mod play;
mod station;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flowtap_core::counters::Stats;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::own::{OwnTraffic, OwnTunnel};
use flowtap_core::table::FilterTable;

pub use self::batches::CaptureBatches;
use self::life::Life;
use self::live::Live;
pub use self::live::{CaptureCount, LiveOptions};
pub use self::output::OutputOptions;
pub use self::station::Clock;
use crate::broker::Broker;
use crate::export::{ExportCount, Spools};
use crate::packet::{InterfaceWatch, PacketError, Waker};
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
    /// Tunnels whose inner packets criteria are matched against as well.
    pub inner: InnerTunnels,
    /// Tunnels of the tap, which are never tapped.
    pub tunnels: Vec<OwnTunnel>,
    /// Begin again after the last one.
    pub looped: bool,
    /// Begin when the table has so many criteria; what nobody asked for yet is not played away.
    pub wait_for_criteria: usize,
    /// Send the copies; otherwise they are counted only.
    pub export: bool,
    /// Opens sockets that this process may not open.
    pub broker: Option<Arc<Broker>>,
    /// The gates of tunnels, and what waits behind them.
    pub spools: Option<Arc<Spools>>,
    /// The engine's time.
    pub clock: Clock,
}

/// The account of a tap.
#[derive(Clone, Debug, Default)]
pub struct TapStats {
    /// The account of all engines together.
    pub engine: Stats,
    /// What became of the copies; None where none were to be sent.
    pub exported: Option<Vec<ExportCount>>,
    /// The generation that the account belongs to.
    pub generation: u64,
    /// What each interface has counted.
    pub captures: Vec<CaptureCount>,
    /// Matched frames that were written to a file; those that are gathered for it still are no part of it.
    pub written: u64,
}

/// The account of one worker.
#[derive(Clone, Debug, Default)]
struct WorkerStats {
    engine: Stats,
    exported: Option<Vec<ExportCount>>,
    /// What the spools, which all workers share, had counted just before, and when that was done.
    spooled: Option<(Instant, Vec<ExportCount>)>,
    generation: u64,
}

/// A data plane that cannot begin or go on, or did not answer.
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
    /// The process may not capture.
    #[error("{operation} needs the right {right}, which this process does not have")]
    PermissionMissing {
        /// The right.
        right: &'static str,
        /// What it is needed for.
        operation: &'static str,
    },
    /// An interface cannot be captured.
    #[error("{message}")]
    Capture {
        /// Which one, and why.
        message: String,
    },
    /// The file for matched frames cannot be made.
    #[error("{message}")]
    Output {
        /// Which one, and why.
        message: String,
    },
    /// The tap's own traffic would be tapped.
    #[error("{message}")]
    NotExcluded {
        /// What of it.
        message: String,
    },
    /// The tap was stopped before.
    #[error("the tap was stopped; make a new one")]
    Stopped,
}

impl From<PacketError> for TapError {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::PermissionMissing { right, operation } => {
                Self::PermissionMissing { right, operation }
            }
            other => Self::Capture {
                message: other.to_string(),
            },
        }
    }
}

/// What a worker and its owner share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Accounts asked for and given, so that an answer is never older than its question.
    asked: u64,
    given: u64,
    stats: WorkerStats,
    finished: bool,
    ended: bool,
    error: Option<String>,
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a worker; a panic is caught, recorded and reported.
    fn work(&self, work: impl FnOnce() -> WorkerStats) {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        let mut state = self.lock();
        match outcome {
            Ok(stats) => state.stats = stats,
            Err(panic) => {
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "it gave no reason".to_owned());
                state.failure = Some(message);
            }
        }
        state.ended = true;
        drop(state);
        self.answered.notify_all();
    }
}

/// The owner's wish that the workers end.
#[derive(Debug, Default)]
struct Stop {
    is_wanted: AtomicBool,
    /// Until when they may send what still waits; None for not at all.
    drain_until: Mutex<Option<Instant>>,
}

impl Stop {
    fn want(&self, drain_until: Option<Instant>) {
        *self.lock() = drain_until;
        self.is_wanted.store(true, Ordering::Release);
    }

    fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.drain_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker, as its owner sees it.
#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    waker: Option<Waker>,
}

impl Worker {
    /// Ends its wait.
    fn wake(&self) {
        self.thread.thread().unpark();
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    fn failure(&self) -> Option<TapError> {
        let message = self.shared.lock().failure.clone()?;
        Some(TapError::Failed { message })
    }

    /// What is wrong with it, in words.
    fn error(&self) -> Option<String> {
        self.failure()
            .map(|failure| failure.to_string())
            .or_else(|| self.shared.lock().error.clone())
    }

    /// The account that it gives after `question`, or has given before.
    fn answer(&self, question: u64, began: Instant) -> Result<WorkerStats, TapError> {
        self.wait(began, ANSWER_TIMEOUT, |state| {
            state.given >= question || state.ended
        })
    }

    /// Waits until the state is as wanted.
    fn wait(
        &self,
        began: Instant,
        timeout: Duration,
        is_there: impl Fn(&State) -> bool,
    ) -> Result<WorkerStats, TapError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(message) = state.failure.clone() {
                return Err(TapError::Failed { message });
            }
            if is_there(&state) {
                return Ok(state.stats.clone());
            }
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
    }
}

/// A running tap.
#[derive(Debug)]
pub struct Tap {
    cell: Arc<TableCell>,
    stop: Arc<Stop>,
    spools: Option<Arc<Spools>>,
    workers: Vec<Worker>,
    /// One change at a time: filter, table, filter.
    installing: Mutex<()>,
    live: Option<(Arc<Live>, Life)>,
    /// What is never tapped, where there is anything.
    own: Option<OwnTraffic>,
    inner: InnerTunnels,
    /// What was wrong with the workers when they were stopped.
    last_error: Option<String>,
}

/// How long an account may take: a worker looks up at least every few milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What is left of an owner's time to stop when no more copies are sent.
const DRAIN_MARGIN: Duration = Duration::from_millis(250);
/// How often a caller looks whether an old table is still in use.
const RELEASE_POLL: Duration = Duration::from_micros(200);
/// A worker that was only waiting answers within this; pauses double up to [`RELEASE_POLL`].
const RELEASE_FIRST_POLL: Duration = Duration::from_micros(10);

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, TapError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| TapError::NoThread {
            message: error.to_string(),
        })
}

impl Tap {
    fn new(table: Arc<FilterTable>, spools: Option<Arc<Spools>>) -> Self {
        Self {
            cell: Arc::new(TableCell::new(table)),
            stop: Arc::default(),
            spools,
            workers: Vec::new(),
            installing: Mutex::default(),
            live: None,
            own: None,
            inner: InnerTunnels::default(),
            last_error: None,
        }
    }

    /// Starts to play captures through `table`.
    ///
    /// # Errors
    /// [`TapError::NoThread`].
    pub fn play(table: Arc<FilterTable>, options: PlayOptions) -> Result<Self, TapError> {
        let mut tap = Self::new(table, options.spools.clone());
        tap.own = options.own_traffic();
        tap.inner = options.inner;
        let shared = Arc::new(Shared::default());
        let (in_thread, cell, stop) = (
            Arc::clone(&shared),
            Arc::clone(&tap.cell),
            Arc::clone(&tap.stop),
        );
        let thread = spawn("flowtap-player", move || {
            in_thread.work(|| play::run(&in_thread, &cell, &stop, &options));
        })?;
        tap.workers.push(Worker {
            shared,
            thread,
            waker: None,
        });
        Ok(tap)
    }

    /// Starts to capture interfaces through `table`.
    ///
    /// # Errors
    /// [`TapError::PermissionMissing`], [`TapError::Capture`], [`TapError::Output`], [`TapError::NoThread`].
    pub fn live(table: Arc<FilterTable>, options: LiveOptions) -> Result<Self, TapError> {
        let export = options.export.as_ref();
        let mut tap = Self::new(table, export.and_then(|export| export.spools.clone()));
        // Before the captures, so that nothing that happens to their interfaces is missed.
        let watch = InterfaceWatch::open_with_addresses(&options.interfaces)?;
        let own = options.own_traffic()?;
        tap.own = Some(own.clone());
        tap.inner = options.inner;
        let (live, prepared) = live::prepare(&tap.cell, &options, own)?;
        let wakers = prepared.iter().map(live::Prepared::waker).collect();
        let life = Life::begin(watch, Arc::clone(&live), wakers)?;
        let options = Arc::new(options);
        let duplicates = live::duplicates(&options);
        for each in prepared {
            let shared = Arc::new(Shared::default());
            let waker = Some(each.waker());
            let (in_thread, cell, stop) = (
                Arc::clone(&shared),
                Arc::clone(&tap.cell),
                Arc::clone(&tap.stop),
            );
            let (live, options, duplicates) =
                (Arc::clone(&live), Arc::clone(&options), duplicates.clone());
            let thread = spawn("flowtap-capture", move || {
                in_thread.work(|| {
                    let task = live::Task {
                        shared: &in_thread,
                        cell: &cell,
                        stop: &stop,
                        live: &live,
                        options: &options,
                        duplicates,
                    };
                    live::run(task, each)
                });
            })?;
            tap.workers.push(Worker {
                shared,
                thread,
                waker,
            });
        }
        tap.live = Some((live, life));
        Ok(tap)
    }

    fn wake(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    fn failure(&self) -> Option<TapError> {
        self.workers.iter().find_map(Worker::failure)
    }

    /// Makes `table` the active one; returns its generation when no worker uses an older table any more.
    ///
    /// # Errors
    /// [`TapError::Failed`] or [`TapError::Silent`]; the new table is active all the same.
    pub fn install(&self, table: &Arc<FilterTable>) -> Result<u64, TapError> {
        let _one = self
            .installing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earlier = self.cell.table();
        let filters = self.live.as_ref().map(|(live, _)| &live.filters);
        if let Some(filters) = filters {
            filters.widen(&earlier, table);
        }
        let generation = self.cell.install(Arc::clone(table));
        let began = Instant::now();
        self.wake();
        let mut pause = RELEASE_FIRST_POLL;
        while !self.cell.is_released(generation) {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            let waited = began.elapsed();
            if waited > ANSWER_TIMEOUT {
                return Err(TapError::Silent {
                    waited_ms: waited.as_millis(),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RELEASE_POLL);
        }
        if let Some(filters) = filters {
            filters.narrow(&earlier, table);
        }
        self.failure().map_or(Ok(generation), Err)
    }

    fn merged(&self, mut stats: Vec<WorkerStats>) -> TapStats {
        let generation = stats.iter().map(|each| each.generation).min().unwrap_or(0);
        let is_sent = stats.iter().any(|each| each.exported.is_some());
        // The spools' counts that were complete before any engine's: whatever they know of was copied.
        let spooled = stats.iter_mut().filter_map(|each| each.spooled.take());
        let spooled = spooled.min_by_key(|&(taken, _)| taken);
        let spooled = spooled.map_or_else(Vec::new, |(_, counts)| counts);
        let (engines, exports): (Vec<Stats>, Vec<Option<Vec<ExportCount>>>) = stats
            .into_iter()
            .map(|each| (each.engine, each.exported))
            .unzip();
        let captures = self.live.as_ref();
        TapStats {
            engine: match <[Stats; 1]>::try_from(engines) {
                Ok([only]) => only,
                Err(engines) => Stats::merged(&engines),
            },
            exported: is_sent.then(|| {
                ExportCount::merged(exports.into_iter().flatten().flatten().chain(spooled))
            }),
            generation,
            captures: captures.map_or_else(Vec::new, |(live, _)| live.counts()),
            written: captures.map_or(0, |(live, _)| live.output.written()),
        }
    }

    /// The account of this moment.
    ///
    /// # Errors
    /// [`TapError::Failed`] or [`TapError::Silent`].
    pub fn stats(&self) -> Result<TapStats, TapError> {
        let began = Instant::now();
        let asked: Vec<u64> = self
            .workers
            .iter()
            .map(|worker| {
                let mut state = worker.shared.lock();
                state.asked += 1;
                state.asked
            })
            .collect();
        self.wake();
        let answers = self.workers.iter().zip(asked);
        let stats = answers
            .map(|(worker, question)| worker.answer(question, began))
            .collect::<Result<Vec<WorkerStats>, TapError>>()?;
        Ok(self.merged(stats))
    }

    /// Whether every capture file was played to its end, as many frames came as were wanted, or a worker failed; false for
    /// ever where files are looped or frames are not counted, and nothing fails.
    pub fn is_finished(&self) -> bool {
        self.failure().is_some()
            || self
                .workers
                .iter()
                .all(|worker| worker.shared.lock().finished)
    }

    /// What ended the playing or the writing early, what is wrong with an interface, or how a worker failed; after the end
    /// as well.
    pub fn error(&self) -> Option<String> {
        let written = self.live.as_ref().map(|(live, _)| &live.output);
        written
            .and_then(output::Output::failure)
            .or_else(|| self.workers.iter().find_map(Worker::error))
            .or_else(|| self.last_error.clone())
    }

    /// What has happened to the interfaces and to spools on disk since this was asked for last, in words.
    pub fn events(&self) -> Vec<String> {
        let live = self.live.as_ref();
        let mut events = live.map_or_else(Vec::new, |(_, life)| life.events());
        if let Some(spools) = &self.spools {
            events.extend(spools.notices());
        }
        events
    }

    /// Ends the workers and returns the last account.
    ///
    /// # Errors
    /// [`TapError::Stopped`] the second time; [`TapError::Silent`] where a worker did not end in time (it is left to
    /// itself); [`TapError::Failed`].
    pub fn stop(&mut self, timeout: Duration) -> Result<TapStats, TapError> {
        if self.workers.is_empty() {
            return Err(TapError::Stopped);
        }
        let began = Instant::now();
        // The workers send what may leave, and are back before the owner loses patience.
        let drain = timeout.saturating_sub(DRAIN_MARGIN.min(timeout / 4));
        self.stop.want(began.checked_add(drain));
        self.wake();
        let workers = std::mem::take(&mut self.workers);
        let answers: Vec<Result<WorkerStats, TapError>> = workers
            .iter()
            .map(|worker| worker.wait(began, timeout, |state| state.ended))
            .collect();
        let is_silent = |answer| matches!(answer, &Err(TapError::Silent { .. }));
        // Whoever is silent may be writing, or sending.
        if !answers.iter().any(is_silent) {
            if let Some((live, _)) = &self.live {
                live.finish();
            }
            if let Some(spools) = &self.spools {
                spools.finish();
            }
        }
        self.last_error = workers.iter().find_map(Worker::error);
        let mut stats = answers
            .into_iter()
            .collect::<Result<Vec<WorkerStats>, TapError>>()?;
        let spooled = self.spools.as_ref().map(|spools| spools.counts());
        for each in &mut stats {
            each.spooled = spooled.clone().map(|counts| (began, counts));
        }
        Ok(self.merged(stats))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.want(None);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker looks up every few milliseconds; its panic was recorded.
            drop(worker.thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
