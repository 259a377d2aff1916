//! One pass over capture files: match, count, write matched frames, send copies.

#[cfg(test)]
mod tests;
mod turns;
mod workers;

use std::fs;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::bpf::Program;
use flowtap_core::counters::Stats;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing, MatchSink};
use flowtap_core::frame::{Frame, LinkType};
use flowtap_core::table::FilterTable;

use crate::export::{ExportCount, ExportOptions, Exporter};
use crate::files::{
    CaptureError, CaptureErrorKind, CaptureReader, CaptureWriter, ChunkedFile, Format, Interface,
    MAX_INTERFACES, WriterOptions, names,
};

/// Frames between two looks at the outside: progress, cancellation.
const FRAMES_PER_LOOK: u32 = 4096;
/// Copies that are sent together.
const BATCH_RECORDS: usize = 1024;
/// Octets of copies that are sent together.
const BATCH_OCTETS: usize = 1 << 20;
/// More threads are of no use: the octets of a file come through one memory. It also bounds that of chunks, which is half
/// a mebibyte a thread, and three times that where every frame matches and is as short as can be.
const MAXIMUM_THREADS: usize = 32;

/// What a pass does.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// Captures in their order; `-` is standard input.
    pub files: Vec<String>,
    /// Where matched frames go; `-` is standard output. The name's ending decides the format.
    pub write: Option<String>,
    /// Comment for a pcapng file.
    pub write_comment: Option<String>,
    /// Send the copies.
    pub export: bool,
    /// A further frame filter in front of everything.
    pub program: Option<Arc<Program>>,
    /// Tunnels whose inner packets criteria are matched against as well.
    pub inner: InnerTunnels,
    /// The most threads that work on a file; None for as many as there are processors. The outcome is the same for any
    /// number.
    pub threads: Option<NonZero<usize>>,
}

/// How files are divided.
#[derive(Clone, Copy)]
struct Division {
    chunk_octets: usize,
    /// Shorter files are read from front to back, by one thread.
    least_octets: u64,
}

impl Default for Division {
    fn default() -> Self {
        Self {
            // Small enough to stay in a core's second-level cache.
            chunk_octets: 256 << 10,
            least_octets: 1 << 20,
        }
    }
}

/// What others may see of a running pass, and how they end it.
#[derive(Debug, Default)]
pub struct ReplayControl {
    cancelled: AtomicBool,
    frames: AtomicU64,
    read_octets: AtomicU64,
}

impl ReplayControl {
    /// Ends the pass soon; what was read by then is accounted and written.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn show(&self, frames: u64, read_octets: u64) {
        self.frames.store(frames, Ordering::Relaxed);
        self.read_octets.store(read_octets, Ordering::Relaxed);
    }

    /// Frames read so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Octets read so far, decompressed.
    pub fn read_octets(&self) -> u64 {
        self.read_octets.load(Ordering::Relaxed)
    }
}

/// What a pass did.
#[derive(Debug)]
pub struct ReplayReport {
    /// The engine's account.
    pub stats: Stats,
    /// What became of the copies; None where none were to be sent.
    pub exported: Option<Vec<ExportCount>>,
    /// From the first octet read to the last octet written.
    pub elapsed: Duration,
    /// Frames that the frame filter kept away.
    pub filtered_out: u64,
    /// Frames that the system has taken.
    pub written: u64,
    /// What ended the pass early.
    pub error: Option<CaptureError>,
    /// Whether [`ReplayControl::cancel`] ended it.
    pub interrupted: bool,
    /// How many threads worked on one file, at most.
    pub threads: usize,
}

/// Writes matched frames; the first failure ends it.
struct Output {
    writer: Option<CaptureWriter>,
    /// Frames read of each interface, written or not: for the file's own statistics.
    received: Vec<u64>,
    error: Option<CaptureError>,
}

impl Output {
    /// Gives the output the name that the input has for an interface.
    fn name_interface(&mut self, number: u32, name: &str) -> Result<(), CaptureError> {
        match &mut self.writer {
            Some(writer) => writer.name_interface(number, name),
            None => Ok(()),
        }
    }

    fn count(&mut self, interface: u32, frames: u64) {
        if self.writer.is_none() {
            return;
        }
        let Ok(at) = usize::try_from(interface) else {
            return;
        };
        if at >= self.received.len() && at < MAX_INTERFACES {
            self.received.resize(at + 1, 0);
        }
        if let Some(count) = self.received.get_mut(at) {
            *count += frames;
        }
    }
}

impl MatchSink for Output {
    fn matched(&mut self, frame: &Frame<'_>) {
        let Some(writer) = self.writer.as_mut().filter(|_| self.error.is_none()) else {
            return;
        };
        if let Err(error) = writer.write_frame(frame) {
            self.error = Some(error);
        }
    }
}

struct Pass<'a> {
    engine: Engine,
    exporter: Option<Exporter>,
    batch: CopyBatch,
    output: Output,
    program: Option<&'a Program>,
    /// Of the frames that the program is for.
    program_link_type: Option<LinkType>,
    /// Interfaces of the files before this one. Frames are numbered over all files, because a fragment of one may wait for
    /// its first in the next.
    first_interface: u32,
    /// The names of these and of the present file's.
    interfaces: Vec<Option<String>>,
    filtered_out: u64,
    frames: u64,
    last_ns: u64,
    control: &'a ReplayControl,
    threads: usize,
    threads_used: usize,
    division: Division,
}

impl Pass<'_> {
    /// Sends what the batch holds.
    fn send(&mut self) {
        if let Some(exporter) = &mut self.exporter {
            exporter.send(&self.batch);
        }
        self.batch.clear();
    }

    /// Reads one file to its end; true if the pass was cancelled.
    fn file(&mut self, path: &str, read_before: &mut u64) -> Result<bool, CaptureError> {
        let Division {
            chunk_octets,
            least_octets,
        } = self.division;
        if path != "-"
            && let Some(screen) = self.engine.screen()
            && let Some(file) = ChunkedFile::open(path, chunk_octets, least_octets)
        {
            let result = self.file_in_chunks(&file, &screen, read_before);
            self.first_interface = self.first_interface.saturating_add(1);
            return result;
        }
        let mut reader = CaptureReader::open(path)?;
        let mut named = 0;
        let result = loop {
            match self.frames(path, &mut reader, &mut named) {
                Ok(true) => {}
                Ok(false) => break Ok(false),
                Err(error) => break Err(error),
            }
            let read = read_before.saturating_add(reader.offset_octets());
            self.control.show(self.frames, read);
            if self.control.is_cancelled() {
                break Ok(true);
            }
        };
        *read_before = read_before.saturating_add(reader.offset_octets());
        self.control.show(self.frames, *read_before);
        let interfaces = u32::try_from(reader.interfaces().len()).unwrap_or(u32::MAX);
        self.first_interface = self.first_interface.saturating_add(interfaces.max(1));
        result
    }

    /// Takes notice of a file's interfaces behind the first `known`.
    fn meet(
        &mut self,
        path: &str,
        interfaces: &[Interface],
        known: usize,
    ) -> Result<(), CaptureError> {
        let new = interfaces.get(known..).unwrap_or_default();
        let first = usize::try_from(self.first_interface).unwrap_or(usize::MAX);
        self.interfaces.resize(first.saturating_add(known), None);
        self.interfaces.extend(names(new, None));
        self.engine.name_interfaces(self.interfaces.clone());
        let numbers = self.first_interface..;
        for (number, interface) in numbers.zip(interfaces).skip(known) {
            if let Some(name) = &interface.name {
                self.output.name_interface(number, name)?;
            }
            let expected = *self.program_link_type.get_or_insert(interface.link_type);
            if self.program.is_some() && interface.link_type != expected {
                return Err(CaptureError {
                    path: path.to_owned(),
                    offset_octets: 0,
                    kind: CaptureErrorKind::FilterLinkType {
                        filter: expected.number(),
                        frames: interface.link_type.number(),
                    },
                });
            }
        }
        Ok(())
    }

    /// Reads some frames; false at the end of the file.
    fn frames(
        &mut self,
        path: &str,
        reader: &mut CaptureReader,
        named: &mut usize,
    ) -> Result<bool, CaptureError> {
        for _ in 0..FRAMES_PER_LOOK {
            let Some((frame, interfaces)) = reader.next_with_interfaces()? else {
                return Ok(false);
            };
            if interfaces.len() > *named {
                self.meet(path, interfaces, *named)?;
                *named = interfaces.len();
            }
            self.frame(&frame);
            if self.output.error.is_some() {
                break;
            }
        }
        self.output.error.take().map_or(Ok(true), Err)
    }

    /// Takes the next frame.
    #[inline]
    fn frame(&mut self, frame: &Frame<'_>) {
        self.frames += 1;
        if self
            .program
            .is_some_and(|program| program.run(frame.data, frame.original_length_octets) == 0)
        {
            self.filtered_out += 1;
        } else {
            self.process(frame, None);
        }
    }

    /// Gives a frame to the engine, with the slots that match where they are known.
    #[inline]
    fn process(&mut self, frame: &Frame<'_>, matching: Option<&[u32]>) {
        let frame = &Frame {
            interface: self.first_interface.saturating_add(frame.interface),
            ..*frame
        };
        self.output.count(frame.interface, 1);
        let now_ns = frame.timestamp_ns;
        self.last_ns = now_ns;
        let (engine, batch, output) = (&mut self.engine, &mut self.batch, &mut self.output);
        match matching {
            None => engine.process(frame, now_ns, batch, output),
            Some(slots) => engine.process_matching(frame, slots, now_ns, batch, output),
        };
        if self.batch.len() >= BATCH_RECORDS || self.batch.bytes().len() >= BATCH_OCTETS {
            self.send();
        }
    }
}

/// Makes one pass over the files.
///
/// A damaged capture, or an output that takes no more, ends the pass; everything before it is accounted, written and
/// sent, and the report says where it ended.
///
/// # Errors
/// Only when the output cannot be created, or is one of the files.
pub fn replay(
    table: Arc<FilterTable>,
    options: &ReplayOptions,
    control: &ReplayControl,
) -> Result<ReplayReport, CaptureError> {
    pass(table, options, control, Division::default())
}

/// Refuses to write into a file that is to be read: that would empty it before.
fn refuse_input(path: &str, files: &[String]) -> Result<(), CaptureError> {
    let identity = |path: &str| {
        let metadata = fs::metadata(path).ok()?;
        let is_file = path != "-" && metadata.is_file();
        is_file.then(|| (metadata.dev(), metadata.ino()))
    };
    let Some(written) = identity(path) else {
        return Ok(());
    };
    if files.iter().any(|read| identity(read) == Some(written)) {
        return Err(CaptureError {
            path: path.to_owned(),
            offset_octets: 0,
            kind: CaptureErrorKind::IsInput,
        });
    }
    Ok(())
}

fn pass(
    table: Arc<FilterTable>,
    options: &ReplayOptions,
    control: &ReplayControl,
    division: Division,
) -> Result<ReplayReport, CaptureError> {
    let began = Instant::now();
    if let Some(path) = options.write.as_deref() {
        refuse_input(path, &options.files)?;
    }
    let writer = options
        .write
        .as_deref()
        .map(|path| {
            let path = Path::new(path);
            let writer_options = WriterOptions {
                comment: options.write_comment.clone(),
                ..WriterOptions::default()
            };
            CaptureWriter::create(path, Format::from_path(path), writer_options)
        })
        .transpose()?;
    let framing = if options.export {
        Framing::Payload
    } else {
        Framing::Count
    };
    let engine_options = EngineOptions {
        framing,
        inner: options.inner,
        ..EngineOptions::default()
    };
    let mut pass = Pass {
        exporter: options
            .export
            .then(|| Exporter::new(Arc::clone(&table), ExportOptions::patient(u64::MAX))),
        engine: Engine::new(table, engine_options),
        batch: CopyBatch::with_capacity(if options.export { BATCH_OCTETS } else { 0 }),
        output: Output {
            writer,
            received: Vec::new(),
            error: None,
        },
        program: options.program.as_deref(),
        program_link_type: None,
        first_interface: 0,
        interfaces: Vec::new(),
        filtered_out: 0,
        frames: 0,
        last_ns: 0,
        control,
        threads: options
            .threads
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZero::get)
            .min(MAXIMUM_THREADS),
        threads_used: 1,
        division,
    };
    let mut error = None;
    let mut interrupted = false;
    let mut read_octets = 0;
    for path in &options.files {
        match pass.file(path, &mut read_octets) {
            Ok(cancelled) => interrupted = cancelled,
            Err(failure) => error = Some(failure),
        }
        if interrupted || error.is_some() {
            break;
        }
    }
    let last_ns = pass.last_ns;
    pass.engine
        .flush(last_ns, &mut pass.batch, &mut pass.output);
    pass.send();
    error = error.or(pass.output.error.take());
    if let Some(writer) = &mut pass.output.writer {
        for (interface, &received) in (0_u32..).zip(&pass.output.received) {
            writer.statistics(interface, received, 0);
        }
        if let Err(failure) = writer.finish() {
            error = error.or(Some(failure));
        }
    }
    Ok(ReplayReport {
        stats: pass.engine.stats(),
        exported: pass.exporter.map(|exporter| exporter.counters()),
        elapsed: began.elapsed(),
        filtered_out: pass.filtered_out,
        written: pass
            .output
            .writer
            .as_ref()
            .map_or(0, CaptureWriter::frames_written),
        error,
        interrupted,
        threads: pass.threads_used,
    })
}
