//! Threads on one file in chunks, with the outcome of reading it from front to back.
//!
//! A thread claims the next chunk of the file, reads it, and when the chunk before it has been walked, walks it. What
//! can be said of its frames by themselves it says without waiting for anybody. Then, in the order of the chunks, what is
//! left goes through the one engine: frames that match, with the criteria that they match, and those that depend on
//! others. So lifetimes, rates, fragments, accounts and output are the same for any number of threads, whatever is in the
//! file.
//!
//! A thread has one chunk at a time, so that memory does not grow with the file.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use flowtap_core::bpf::Program;
use flowtap_core::engine::{Screen, Screened, ScreenedCount};
use flowtap_core::frame::Frame;

use super::turns::Turn;
use super::{Pass, ReplayControl};
use crate::files::{CaptureError, Chunk, ChunkedFile, Walked};

/// Slots that are remembered of the frames of one chunk; the engine finds those of further frames itself.
const MAXIMUM_SLOTS: usize = 1 << 16;

/// Frames that nobody has to see again, between two others.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: ScreenedCount,
    filtered_out: u64,
    last_ns: u64,
}

/// A frame for the engine.
struct Candidate {
    /// The frames between the candidate before and this one.
    before: Tally,
    record: u32,
    /// Which of the chunk's slots match; None where the engine has to find out.
    slots: Option<Range<usize>>,
}

/// What can be said of a chunk by itself.
#[derive(Default)]
struct Sifted {
    candidates: Vec<Candidate>,
    slots: Vec<u32>,
    after: Tally,
}

impl Sifted {
    fn sift(
        &mut self,
        file: &ChunkedFile,
        chunk: &Chunk,
        screen: &mut Screen,
        program: Option<&Program>,
    ) {
        self.candidates.clear();
        self.slots.clear();
        let mut tally = Tally::default();
        for (record, frame) in file.frames(chunk) {
            if program
                .is_some_and(|program| program.run(frame.data, frame.original_length_octets) == 0)
            {
                tally.filtered_out += 1;
                continue;
            }
            let slots = match screen.look(&frame) {
                seen @ (Screened::Missed | Screened::Undecodable) => {
                    if tally.count.frames == 0 {
                        tally.count.first_ns = frame.timestamp_ns;
                    }
                    tally.count.latest_ns = tally.count.latest_ns.max(frame.timestamp_ns);
                    tally.count.frames += 1;
                    tally.count.octets += u64::try_from(frame.data.len()).unwrap_or(u64::MAX);
                    tally.count.undecodable += u64::from(seen == Screened::Undecodable);
                    tally.last_ns = frame.timestamp_ns;
                    continue;
                }
                Screened::Matching(slots) if slots.len() <= MAXIMUM_SLOTS - self.slots.len() => {
                    let begin = self.slots.len();
                    self.slots.extend_from_slice(slots);
                    Some(begin..self.slots.len())
                }
                Screened::Matching(_) | Screened::Open => None,
            };
            self.candidates.push(Candidate {
                before: std::mem::take(&mut tally),
                record,
                slots,
            });
        }
        self.after = tally;
    }
}

impl Pass<'_> {
    /// Takes the frames between two others, which are those of the chunk in this range.
    fn take_tally(
        &mut self,
        file: &ChunkedFile,
        chunk: &Chunk,
        tally: &Tally,
        range: Range<u32>,
    ) -> Result<(), CaptureError> {
        if self.engine.decides_among(&tally.count) {
            // What is decided on the way may be what the output does not take, and the pass ends there and no later.
            return self.take_each(file.frames_of(chunk, range));
        }
        self.frames += tally.filtered_out + tally.count.frames;
        self.filtered_out += tally.filtered_out;
        if tally.count.frames > 0 {
            self.last_ns = tally.last_ns;
            self.output.count(self.first_interface, tally.count.frames);
            let (batch, output) = (&mut self.batch, &mut self.output);
            self.engine.count_screened(&tally.count, batch, output);
        }
        Ok(())
    }

    /// Takes frames of which nothing has been said.
    fn take_each<'a>(
        &mut self,
        frames: impl Iterator<Item = (u32, Frame<'a>)>,
    ) -> Result<(), CaptureError> {
        for (_, frame) in frames {
            self.frame(&frame);
            if let Some(error) = self.output.error.take() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes what is left of a chunk.
    fn take_sifted(
        &mut self,
        file: &ChunkedFile,
        chunk: &Chunk,
        sifted: &Sifted,
    ) -> Result<(), CaptureError> {
        let mut from = 0;
        for candidate in &sifted.candidates {
            self.take_tally(file, chunk, &candidate.before, from..candidate.record)?;
            from = candidate.record.saturating_add(1);
            let Some(frame) = file.frame(chunk, candidate.record) else {
                continue;
            };
            let slots = candidate.slots.clone();
            self.frames += 1;
            self.process(&frame, slots.and_then(|slots| sifted.slots.get(slots)));
            if let Some(error) = self.output.error.take() {
                return Err(error);
            }
        }
        self.take_tally(file, chunk, &sifted.after, from..u32::MAX)
    }
}

/// The pass, and how the file ended.
struct Ordered<'a, 'b> {
    pass: &'a mut Pass<'b>,
    /// Whether the file's interface is known to the pass: with its first frame.
    is_met: bool,
    read_octets: u64,
    end: Option<Result<(), CaptureError>>,
}

/// What the threads have in common.
struct Work<'a, 'b> {
    file: &'a ChunkedFile,
    screen: &'a Screen,
    program: Option<&'a Program>,
    control: &'a ReplayControl,
    read_before: u64,
    /// The next chunk that nobody has.
    next: AtomicU64,
    /// Whose turn it is to walk.
    walk: Turn,
    /// Where the first record of that chunk begins.
    first_record: AtomicU64,
    /// Whose turn it is with the engine.
    order: Turn,
    ordered: Mutex<Ordered<'a, 'b>>,
}

/// Ends all turns when its thread panics, so that nobody waits for it.
struct Alarm<'a>(&'a Turn, &'a Turn);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
            self.1.close();
        }
    }
}

impl Work<'_, '_> {
    fn close(&self) {
        self.walk.close();
        self.order.close();
    }

    /// One thread's part.
    fn work(&self) {
        let _alarm = Alarm(&self.walk, &self.order);
        let mut chunk = self.file.chunk();
        let mut screen = self.screen.clone();
        let mut sifted = Sifted::default();
        while !self.walk.is_closed() && !self.control.is_cancelled() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            self.file.read(number, &mut chunk);
            if !self.walk.wait(number) {
                break;
            }
            let first = self.first_record.load(Ordering::Acquire);
            let walked = self.file.walk(&mut chunk, first);
            if let Walked::On(next) = walked {
                self.first_record.store(next, Ordering::Release);
                self.walk.pass_on(number);
            } else {
                self.walk.close();
            }
            // Whose turn has come already saves what sifting costs.
            let is_whole = self.order.is_of(number);
            if !is_whole {
                sifted.sift(self.file, &chunk, &mut screen, self.program);
                if !self.order.wait(number) {
                    break;
                }
            }
            if self.take(&chunk, (!is_whole).then_some(&sifted), walked) {
                self.order.pass_on(number);
            } else {
                self.close();
            }
        }
    }

    /// Takes the chunk whose turn it is, or what is left of it; whether there is more to come.
    fn take(&self, chunk: &Chunk, sifted: Option<&Sifted>, walked: Walked) -> bool {
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        ordered.read_octets = walked.offset_octets();
        let is_new = !ordered.is_met && chunk.has_records();
        ordered.is_met |= is_new;
        let met = if is_new {
            let interface = std::slice::from_ref(self.file.interface());
            ordered.pass.meet(self.file.path(), interface, 0)
        } else {
            Ok(())
        };
        let taken = met.and_then(|()| match sifted {
            None => ordered.pass.take_each(self.file.frames(chunk)),
            Some(sifted) => ordered.pass.take_sifted(self.file, chunk, sifted),
        });
        let read = self.read_before.saturating_add(ordered.read_octets);
        self.control.show(ordered.pass.frames, read);
        ordered.end = match (taken, walked) {
            (Err(error), _) | (Ok(()), Walked::Damaged(error)) => Some(Err(error)),
            (Ok(()), Walked::End(_)) => Some(Ok(())),
            (Ok(()), Walked::On(_)) => None,
        };
        ordered.end.is_none()
    }
}

impl Pass<'_> {
    /// Reads one file to its end in chunks; true if the pass was cancelled.
    pub(super) fn file_in_chunks(
        &mut self,
        file: &ChunkedFile,
        screen: &Screen,
        read_before: &mut u64,
    ) -> Result<bool, CaptureError> {
        let threads = self.threads;
        let work = Work {
            file,
            screen,
            program: self.program,
            control: self.control,
            read_before: *read_before,
            next: AtomicU64::new(0),
            walk: Turn::default(),
            first_record: AtomicU64::new(ChunkedFile::first_record()),
            order: Turn::default(),
            ordered: Mutex::new(Ordered {
                pass: self,
                is_met: false,
                read_octets: 0,
                end: None,
            }),
        };
        let used = thread::scope(|scope| {
            // Where the system has no more threads, fewer do the work.
            let others = (1..threads).map_while(|_| {
                let thread = thread::Builder::new().name("flowtap-replay".to_owned());
                thread.spawn_scoped(scope, || work.work()).ok()
            });
            let used = 1 + others.count();
            work.work();
            used
        });
        let ordered = work
            .ordered
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        *read_before = read_before.saturating_add(ordered.read_octets);
        ordered.pass.threads_used = ordered.pass.threads_used.max(used);
        match ordered.end {
            Some(end) => end.map(|()| false),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_lets_nobody_wait() {
        let (walk, order) = (Turn::default(), Turn::default());
        thread::scope(|scope| {
            let waits = scope.spawn(|| (walk.wait(1), order.wait(1)));
            let panics = scope.spawn(|| {
                let _alarm = Alarm(&walk, &order);
                panic!("as a defect would");
            });
            assert!(panics.join().is_err());
            assert_eq!(waits.join().unwrap(), (false, false));
        });
    }
}
