//! The worker's loop: frame, engine, exporter, and a look at what its owner wants.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::engine::{Engine, EngineOptions, Framing};
use flowtap_core::table::FilterTable;

use super::{Pace, PlayOptions, Shared, TapStats};
use crate::export::{ExportOptions, Exporter};
use crate::files::{CaptureError, CaptureReader, names};
use crate::swap::TableReader;

/// Frames between two looks at the owner while frames come without a pause.
const FRAMES_PER_LOOK: u32 = 1024;
/// Longest sleep between two looks; an owner wakes the worker anyway.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Copies that are sent together.
const BATCH_RECORDS: usize = 512;
/// Pauses shorter than this are not worth a sleep.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

/// Why the worker left its loop.
enum Left {
    Stopped,
    Ended,
    Damaged(CaptureError),
}

/// Runs until the owner stops it; a panic is caught, recorded and reported.
pub(super) fn run(shared: &Shared, options: &PlayOptions) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (reader, table) = shared.cell.reader();
        let mut worker = Worker::new(shared, options, reader, table);
        worker.play_all();
        worker.idle();
        worker.account()
    }));
    let mut state = shared.lock();
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
    shared.answered.notify_all();
}

struct Worker<'a> {
    shared: &'a Shared,
    options: &'a PlayOptions,
    tables: TableReader,
    engine: Engine,
    exporter: Option<Exporter>,
    batch: CopyBatch,
    began: Instant,
    generation: u64,
}

impl<'a> Worker<'a> {
    fn new(
        shared: &'a Shared,
        options: &'a PlayOptions,
        tables: TableReader,
        table: Arc<FilterTable>,
    ) -> Self {
        let framing = if options.export {
            Framing::Payload
        } else {
            Framing::Count
        };
        let engine_options = EngineOptions {
            framing,
            ..EngineOptions::default()
        };
        let export_options = ExportOptions {
            broker: options.broker.clone(),
            ..ExportOptions::default()
        };
        Self {
            shared,
            options,
            tables,
            exporter: options
                .export
                .then(|| Exporter::new(Arc::clone(&table), export_options)),
            engine: Engine::new(table, engine_options),
            batch: CopyBatch::new(),
            began: Instant::now(),
            generation: 1,
        }
    }

    fn now_ns(&self) -> u64 {
        let elapsed = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.options.monotonic_ns.saturating_add(elapsed)
    }

    fn send(&mut self) {
        if let Some(exporter) = &mut self.exporter
            && !self.batch.is_empty()
        {
            exporter.send(&self.batch);
        }
        self.batch.clear();
    }

    fn account(&self) -> TapStats {
        TapStats {
            engine: self.engine.stats(),
            exported: self.exporter.as_ref().map(Exporter::counters),
            generation: self.generation,
        }
    }

    /// Looks at what the owner wants; true if the worker is to stop.
    fn look(&mut self) -> bool {
        if let Some(table) = self.tables.changed() {
            // Copies of the old table leave before the new one rules.
            self.send();
            if let Some(exporter) = &mut self.exporter {
                exporter.install(Arc::clone(&table));
            }
            self.engine.install(table);
            self.generation = self.shared.cell.generation();
            self.tables.release();
        }
        let asked = {
            let state = self.shared.lock();
            (state.asked > state.given).then_some(state.asked)
        };
        if let Some(asked) = asked {
            self.send();
            let stats = self.account();
            let mut state = self.shared.lock();
            state.stats = stats;
            state.given = asked;
            drop(state);
            self.shared.answered.notify_all();
        }
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Waits until `due`; true if the worker is to stop.
    fn wait_until(&mut self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left < SHORTEST_SLEEP {
                return false;
            }
            self.send();
            if self.look() {
                return true;
            }
            std::thread::park_timeout(left.min(LONGEST_SLEEP));
        }
    }

    /// Serves the owner until it stops the worker.
    fn idle(&mut self) {
        while !self.look() {
            std::thread::park_timeout(LONGEST_SLEEP);
        }
    }

    /// Waits for the first criteria, where that is asked for; true if the worker is to stop.
    fn wait_for_criteria(&mut self) -> bool {
        loop {
            if self.look() {
                return true;
            }
            if self.engine.table().slots().len() >= self.options.wait_for_criteria {
                return false;
            }
            std::thread::park_timeout(LONGEST_SLEEP);
        }
    }

    /// Plays all files, once or for ever.
    fn play_all(&mut self) {
        if self.wait_for_criteria() {
            return;
        }
        let left = loop {
            match self.play_once() {
                (Left::Ended, frames) if self.options.looped && frames > 0 => {}
                (left, _) => break left,
            }
        };
        let now_ns = self.now_ns();
        self.engine.flush(now_ns, &mut self.batch, &mut ());
        self.send();
        let mut state = self.shared.lock();
        match left {
            Left::Stopped => {}
            Left::Ended => state.finished = true,
            Left::Damaged(error) => {
                state.finished = true;
                state.error = Some(error.to_string());
            }
        }
    }

    /// Plays all files once; also says how many frames they had.
    fn play_once(&mut self) -> (Left, u64) {
        let mut pacer = Pacer::new(self.options.pace);
        let mut frames = 0;
        for path in &self.options.files {
            let mut reader = match CaptureReader::open(path) {
                Ok(reader) => reader,
                Err(error) => return (Left::Damaged(error), frames),
            };
            let mut until_look = FRAMES_PER_LOOK;
            let mut named = 0;
            loop {
                let frame = match reader.next_with_interfaces() {
                    Ok(Some((frame, interfaces))) => {
                        if interfaces.len() != named {
                            named = interfaces.len();
                            let unnamed = self.options.interface.as_deref();
                            self.engine.name_interfaces(names(interfaces, unnamed));
                        }
                        frame
                    }
                    Ok(None) => break,
                    Err(error) => return (Left::Damaged(error), frames),
                };
                frames += 1;
                if let Some(due) = pacer.due(frame.timestamp_ns)
                    && self.wait_until(due)
                {
                    return (Left::Stopped, frames);
                }
                let now_ns = self.now_ns();
                self.engine
                    .process(&frame, now_ns, &mut self.batch, &mut ());
                until_look -= 1;
                if self.batch.len() >= BATCH_RECORDS {
                    self.send();
                }
                if until_look == 0 {
                    until_look = FRAMES_PER_LOOK;
                    if self.look() {
                        return (Left::Stopped, frames);
                    }
                }
            }
        }
        self.send();
        if self.look() {
            (Left::Stopped, frames)
        } else {
            (Left::Ended, frames)
        }
    }
}

/// Says when a frame is due.
struct Pacer {
    pace: Pace,
    began: Instant,
    first_ns: Option<u64>,
    frames: u32,
}

impl Pacer {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            began: Instant::now(),
            first_ns: None,
            frames: 0,
        }
    }

    /// When the next frame is due, None for at once.
    fn due(&mut self, timestamp_ns: u64) -> Option<Instant> {
        let after = match self.pace {
            Pace::Fast => return None,
            Pace::Recorded => {
                let first_ns = *self.first_ns.get_or_insert(timestamp_ns);
                Duration::from_nanos(timestamp_ns.saturating_sub(first_ns))
            }
            Pace::PacketsPerSecond(rate) => {
                if self.frames == u32::MAX {
                    (self.began, self.frames) = (Instant::now(), 0);
                }
                let after = Duration::try_from_secs_f64(f64::from(self.frames) / rate)
                    .unwrap_or(Duration::MAX);
                self.frames += 1;
                after
            }
        };
        // A time that no clock can show is a damaged time stamp: the frame comes at once.
        self.began.checked_add(after)
    }
}
