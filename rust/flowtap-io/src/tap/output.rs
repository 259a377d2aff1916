//! The file that matched frames of a live capture are written to, and their number.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flowtap_core::engine::MatchSink;
use flowtap_core::frame::Frame;

use crate::files::{CaptureError, CaptureWriter, Format, WriterOptions};

/// Where matched frames of a live capture go.
#[derive(Clone, Debug)]
pub struct OutputOptions {
    /// The file; `-` is standard output.
    pub path: String,
    /// Comment on the whole file; pcapng only.
    pub comment: Option<String>,
    /// Longer frames are cut.
    pub snapshot_octets: usize,
}

/// The file and the number, shared by all workers.
#[derive(Debug)]
pub(super) struct Output {
    writer: Option<Mutex<CaptureWriter>>,
    snapshot_octets: usize,
    /// Frames that may still come; the last one ends the capture.
    left: Option<AtomicU64>,
    is_done: AtomicBool,
    written: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Output {
    /// Opens the file, if there is to be one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn new(
        options: Option<&OutputOptions>,
        frames_max: Option<u64>,
        interfaces: &[String],
    ) -> Result<Self, CaptureError> {
        let writer = options
            .map(|options| {
                let path = Path::new(&options.path);
                let writer_options = WriterOptions {
                    comment: options.comment.clone(),
                    ..WriterOptions::default()
                };
                let format = Format::from_path(path);
                let mut writer = CaptureWriter::create(path, format, writer_options)?;
                for (number, name) in (0..).zip(interfaces) {
                    writer.name_interface(number, name)?;
                }
                Ok(Mutex::new(writer))
            })
            .transpose()?;
        Ok(Self {
            writer,
            snapshot_octets: options.map_or(usize::MAX, |options| options.snapshot_octets),
            left: frames_max.map(AtomicU64::new),
            is_done: AtomicBool::new(frames_max == Some(0)),
            written: AtomicU64::new(0),
            failure: Mutex::default(),
        })
    }

    /// Whether nothing more is wanted, or can be written.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Relaxed)
    }

    /// Frames that the system has taken, as of the last time that it was given any.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Why writing ended early.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how far the file has come.
    fn note(&self, writer: &CaptureWriter) {
        let written = writer.frames_written();
        self.written.store(written, Ordering::Relaxed);
    }

    fn fail(&self, error: &CaptureError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.to_string());
        self.is_done.store(true, Ordering::Relaxed);
    }

    /// Brings what was gathered to the file, so that whoever reads along sees it.
    pub(super) fn flush(&self) {
        if let Some(writer) = &self.writer {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writer.flush() {
                self.fail(&error);
            }
            self.note(&writer);
        }
    }

    /// Ends the file, with what each interface had counted: received and dropped.
    pub(super) fn finish(&self, counts: impl Iterator<Item = (u32, u64, u64)>) {
        if let Some(writer) = &self.writer {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            for (interface, received, dropped) in counts {
                writer.statistics(interface, received, dropped);
            }
            if let Err(error) = writer.finish() {
                self.fail(&error);
            }
            self.note(&writer);
        }
    }
}

impl MatchSink for &Output {
    #[inline]
    fn matched(&mut self, frame: &Frame<'_>) {
        if let Some(left) = &self.left {
            let one_less = |left: u64| left.checked_sub(1);
            match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
                Ok(1) => self.is_done.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(_none_left) => return,
            }
        }
        let Some(writer) = &self.writer else {
            return;
        };
        let data = frame.data.get(..self.snapshot_octets).unwrap_or(frame.data);
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write_frame(&Frame { data, ..*frame }) {
            self.fail(&error);
        }
        self.note(&writer);
    }
}
