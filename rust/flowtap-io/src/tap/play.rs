//! Plays capture files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::station::Station;
use super::{Pace, PlayOptions, Shared, Stop, WorkerStats};
use crate::export::ExportOptions;
use crate::files::{CaptureError, CaptureReader, names};
use crate::swap::TableCell;

/// Frames between two looks at the owner while frames come without a pause.
const FRAMES_PER_LOOK: u32 = 1024;
/// Longest sleep between two looks; an owner wakes the worker anyway.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Pauses shorter than this are not worth a sleep.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

/// How long one batch may wait on a slow way, in milliseconds; well below what an owner waits for its player.
const PATIENCE_MS: u64 = 100;

/// Why the player left its loop.
enum Left {
    Stopped,
    Ended,
    Damaged(CaptureError),
}

/// Plays until the owner stops it.
pub(super) fn run(
    shared: &Shared,
    cell: &Arc<TableCell>,
    stop: &Stop,
    options: &PlayOptions,
) -> WorkerStats {
    let export = options.export.then(|| ExportOptions {
        broker: options.broker.clone(),
        spools: options.spools.clone(),
        // The owner wants an answer in time, too.
        ..ExportOptions::patient(PATIENCE_MS)
    });
    let mut player = Player {
        shared,
        options,
        station: Station::new(shared, cell, stop, export, options.inner, options.clock),
    };
    if let Some(own) = options.own_traffic() {
        player.station.engine.set_own_traffic(own);
    }
    player.play_all();
    player.idle();
    player.station.drain();
    player.station.account()
}

struct Player<'a> {
    shared: &'a Shared,
    options: &'a PlayOptions,
    station: Station<'a>,
}

impl Player<'_> {
    /// Waits until `due`; true if the worker is to stop.
    fn wait_until(&mut self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left < SHORTEST_SLEEP {
                return false;
            }
            self.station.send();
            if self.station.look(&mut ()) {
                return true;
            }
            std::thread::park_timeout(left.min(self.station.wait(LONGEST_SLEEP)));
        }
    }

    /// Serves the owner until it stops the worker.
    fn idle(&mut self) {
        while !self.station.look(&mut ()) {
            std::thread::park_timeout(self.station.wait(LONGEST_SLEEP));
        }
    }

    /// Waits for the first criteria, where that is asked for; true if the worker is to stop.
    fn wait_for_criteria(&mut self) -> bool {
        loop {
            if self.station.look(&mut ()) {
                return true;
            }
            if self.station.engine.table().slots().len() >= self.options.wait_for_criteria {
                return false;
            }
            std::thread::park_timeout(self.station.wait(LONGEST_SLEEP));
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
        let now_ns = self.station.now_ns();
        let Station { engine, batch, .. } = &mut self.station;
        engine.flush(now_ns, batch, &mut ());
        self.station.send();
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
                            self.station
                                .engine
                                .name_interfaces(names(interfaces, unnamed));
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
                let now_ns = self.station.now_ns();
                self.station
                    .engine
                    .process(&frame, now_ns, &mut self.station.batch, &mut ());
                until_look -= 1;
                self.station.send_if_full();
                if until_look == 0 {
                    until_look = FRAMES_PER_LOOK;
                    if self.station.look(&mut ()) {
                        return (Left::Stopped, frames);
                    }
                }
            }
        }
        self.station.send();
        if self.station.look(&mut ()) {
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
