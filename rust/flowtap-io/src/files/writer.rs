//! Writing capture files, in classic pcap or pcapng.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flowtap_core::frame::{Direction, Frame, LinkType};

use super::error::{CaptureError, CaptureErrorKind};
use super::{MAX_RECORD_OCTETS, STANDARD_OUTPUT, pcap, pcapng};

/// Octets gathered before the system is asked to write.
const BUFFER_OCTETS: usize = 256 << 10;
/// What one pcapng option can hold: its length has 16 bits, and text is padded to a multiple of four.
const MAX_OPTION_OCTETS: usize = 65_532;
/// The longest comment: it goes into the section header, and readers bound a block at 16 MiB.
const MAX_COMMENT_OCTETS: usize = 8 << 20;
/// In both formats a field of 32 bits.
const SNAPSHOT_OCTETS: u32 = 262_144;

const OPTION_COMMENT: u16 = 1;
const OPTION_PROGRAM: u16 = 4;
const OPTION_RECEIVED: u16 = 4;
const OPTION_DROPPED: u16 = 5;

/// The program's name and version as files carry it.
const PROGRAM: &str = concat!("flowtap ", env!("CARGO_PKG_VERSION"));

/// The format of a file to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Classic pcap: one link type, no names, no comments.
    Pcap,
    /// pcapng, which carries everything.
    #[default]
    Pcapng,
}

impl Format {
    /// The format that a file name asks for: `.pcapng` gives pcapng, anything else pcap.
    pub fn from_path(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("pcapng") => Self::Pcapng,
            _ => Self::Pcap,
        }
    }
}

/// What a file says about itself.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Name of all interfaces that have not been named with [`CaptureWriter::name_interface`]; pcapng only.
    pub interface_name: Option<String>,
    /// Comment on the whole file; pcapng only. A long one becomes several comment options.
    pub comment: Option<String>,
    /// pcap: nanoseconds (the default) rather than microseconds. pcapng always has nanoseconds.
    pub nanosecond: bool,
    /// Link type of a file without frames.
    pub link_type: LinkType,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            interface_name: None,
            comment: None,
            nanosecond: true,
            link_type: LinkType::Ethernet,
        }
    }
}

/// A capture file being written.
///
/// What is gathered goes to the file on [`flush`](Self::flush), [`finish`](Self::finish) and, without a word about
/// errors, when the writer is dropped.
pub struct CaptureWriter {
    sink: Box<dyn Write + Send>,
    path: String,
    format: Format,
    options: WriterOptions,
    buffer: Vec<u8>,
    /// Octets that have left the buffer.
    written: u64,
    /// Frames that have left the buffer, and those in it.
    frames_written: u64,
    frames_gathered: u64,
    /// pcap: the link type in the file's header, once that has been written.
    link_type: Option<LinkType>,
    /// pcapng: number in the file of each (link type, interface of the source).
    interfaces: HashMap<(u16, u32), u32>,
    /// The one of these that was used last.
    latest: Option<((u16, u32), u32)>,
    names: BTreeMap<u32, String>,
    statistics: BTreeMap<u32, (u64, u64)>,
    latest_timestamp_ns: u64,
    finished: bool,
    /// The first failure: nothing that follows could be right.
    failed: Option<(io::ErrorKind, Option<i32>)>,
}

impl fmt::Debug for CaptureWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CaptureWriter")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Standard output without the standard library's line buffer in between.
fn standard_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// A file of which others may read nothing: what comes into it is the content of communications. One that is there already
/// keeps the rights that its owner gave it.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Appends an option of a pcapng block, padded to a multiple of four.
fn option(buffer: &mut Vec<u8>, code: u16, value: &[u8]) {
    buffer.extend_from_slice(&code.to_le_bytes());
    buffer.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    buffer.extend_from_slice(value);
    pad(buffer, value.len());
}

/// Appends the zeros that bring `length` to a multiple of four.
fn pad(buffer: &mut Vec<u8>, length: usize) {
    let zeros = length.next_multiple_of(4).saturating_sub(length);
    buffer.extend_from_slice([0; 4].get(..zeros).unwrap_or_default());
}

/// Appends a block whose content `content` writes.
fn block(buffer: &mut Vec<u8>, kind: u32, content: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&kind.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    content(buffer);
    let length = buffer.len().saturating_sub(start).saturating_add(4);
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    buffer.extend_from_slice(&length);
    if let Some(place) = buffer
        .get_mut(start.saturating_add(4)..)
        .and_then(<[u8]>::first_chunk_mut)
    {
        *place = length;
    }
}

/// `text` in pieces that fit into an option, cut between characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = (0..=MAX_OPTION_OCTETS.min(rest.len()))
            .rev()
            .find(|&end| rest.is_char_boundary(end))?;
        let (piece, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(piece)
    })
}

impl CaptureWriter {
    /// Creates the file, which nobody else may read, or empties one that exists; `-` writes to standard output.
    ///
    /// # Errors
    /// Where the file cannot be created, or a name or comment is too long for the format.
    pub fn create(
        path: &Path,
        format: Format,
        options: WriterOptions,
    ) -> Result<Self, CaptureError> {
        let (file, name) = if path.as_os_str() == "-" {
            (standard_output(), STANDARD_OUTPUT.to_owned())
        } else {
            (private_file(path), path.display().to_string())
        };
        match file {
            Ok(file) => Self::new(Box::new(file), format, options, name),
            Err(source) => {
                let kind = CaptureErrorKind::Io {
                    action: "create",
                    source,
                };
                Err(CaptureError {
                    path: name,
                    offset_octets: 0,
                    kind,
                })
            }
        }
    }

    /// Writes into anything; the writer buffers enough by itself.
    ///
    /// # Errors
    /// Where a name or comment is too long for the format.
    pub fn from_write(
        sink: Box<dyn Write + Send>,
        format: Format,
        options: WriterOptions,
    ) -> Result<Self, CaptureError> {
        Self::new(sink, format, options, "capture".to_owned())
    }

    fn new(
        sink: Box<dyn Write + Send>,
        format: Format,
        options: WriterOptions,
        path: String,
    ) -> Result<Self, CaptureError> {
        let mut writer = Self {
            sink,
            path,
            format,
            options,
            buffer: Vec::with_capacity(BUFFER_OCTETS),
            written: 0,
            frames_written: 0,
            frames_gathered: 0,
            link_type: None,
            interfaces: HashMap::new(),
            latest: None,
            names: BTreeMap::new(),
            statistics: BTreeMap::new(),
            latest_timestamp_ns: 0,
            finished: false,
            failed: None,
        };
        if format == Format::Pcapng
            && let Err(error) = writer.section()
        {
            writer.finished = true;
            return Err(error);
        }
        Ok(writer)
    }

    fn error(&self, kind: CaptureErrorKind) -> CaptureError {
        CaptureError {
            path: self.path.clone(),
            offset_octets: self.written,
            kind,
        }
    }

    fn check_text(
        &self,
        what: &'static str,
        text: Option<&str>,
        maximum: usize,
    ) -> Result<(), CaptureError> {
        match text.map(str::len).filter(|&length| length > maximum) {
            None => Ok(()),
            Some(length) => {
                let octets = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
                Err(self.error(CaptureErrorKind::TextTooLong {
                    what,
                    length: octets(length),
                    maximum: octets(maximum),
                }))
            }
        }
    }

    /// The section header of a pcapng file.
    fn section(&mut self) -> Result<(), CaptureError> {
        self.check_text(
            "the interface name",
            self.options.interface_name.as_deref(),
            MAX_OPTION_OCTETS,
        )?;
        self.check_text(
            "the comment",
            self.options.comment.as_deref(),
            MAX_COMMENT_OCTETS,
        )?;
        let comment = self.options.comment.as_deref().unwrap_or_default();
        block(&mut self.buffer, pcapng::SECTION_HEADER, |buffer| {
            buffer.extend_from_slice(&pcapng::BYTE_ORDER.to_le_bytes());
            buffer.extend_from_slice(&pcapng::VERSION_MAJOR.to_le_bytes());
            buffer.extend_from_slice(&0_u16.to_le_bytes());
            // The length of the section is not known in advance.
            buffer.extend_from_slice(&u64::MAX.to_le_bytes());
            for piece in pieces(comment) {
                option(buffer, OPTION_COMMENT, piece.as_bytes());
            }
            option(buffer, OPTION_PROGRAM, PROGRAM.as_bytes());
            option(buffer, pcapng::OPTION_END, &[]);
        });
        Ok(())
    }

    /// Gives an interface of the source its name in the file, if it is done before its first frame; pcapng only.
    ///
    /// # Errors
    /// Where the name is too long for the format.
    pub fn name_interface(&mut self, interface: u32, name: &str) -> Result<(), CaptureError> {
        self.check_text("the interface name", Some(name), MAX_OPTION_OCTETS)?;
        self.names.insert(interface, name.to_owned());
        Ok(())
    }

    /// What an interface of the source had counted in the end; `finish` writes it down. pcapng only.
    pub fn statistics(&mut self, interface: u32, received: u64, dropped: u64) {
        self.statistics.insert(interface, (received, dropped));
    }

    /// Appends a frame; pcap has no place for its direction.
    ///
    /// # Errors
    /// Where the system cannot write, the frame is longer than [`MAX_RECORD_OCTETS`], or a pcap file would get a second
    /// link type.
    #[inline]
    pub fn write_frame(&mut self, frame: &Frame<'_>) -> Result<(), CaptureError> {
        if self.failed.is_some() || self.finished {
            return Err(self.earlier());
        }
        let captured = match u32::try_from(frame.data.len()) {
            Ok(captured) if frame.data.len() <= MAX_RECORD_OCTETS => captured,
            _ => {
                let length = u64::try_from(frame.data.len()).unwrap_or(u64::MAX);
                return Err(self.error(CaptureErrorKind::RecordTooLong { length }));
            }
        };
        let original = frame.original_length_octets.max(captured);
        self.latest_timestamp_ns = frame.timestamp_ns;
        match self.format {
            Format::Pcap => self.record(frame, captured, original)?,
            Format::Pcapng => self.packet(frame, captured, original),
        }
        self.frames_gathered += 1;
        if self.buffer.len() >= BUFFER_OCTETS {
            self.drain()
        } else {
            Ok(())
        }
    }

    fn record(
        &mut self,
        frame: &Frame<'_>,
        captured: u32,
        original: u32,
    ) -> Result<(), CaptureError> {
        match self.link_type {
            Some(link_type) if link_type == frame.link_type => {}
            Some(link_type) => {
                return Err(self.error(CaptureErrorKind::LinkType {
                    file: link_type.number(),
                    frame: frame.link_type.number(),
                }));
            }
            None => self.header(frame.link_type),
        }
        let seconds = frame.timestamp_ns / 1_000_000_000;
        let fraction = frame.timestamp_ns % 1_000_000_000;
        let fraction = if self.options.nanosecond {
            fraction
        } else {
            fraction / 1_000
        };
        // Until 2106; the format has no more.
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let fraction = u32::try_from(fraction).unwrap_or(u32::MAX);
        let mut header = [0; pcap::RECORD_HEADER_OCTETS];
        for (place, value) in header
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip([seconds, fraction, captured, original])
        {
            *place = value.to_le_bytes();
        }
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(frame.data);
        Ok(())
    }

    /// The header of a pcap file.
    #[cold]
    fn header(&mut self, link_type: LinkType) {
        let magic = if self.options.nanosecond {
            pcap::MAGIC_NANOSECONDS
        } else {
            pcap::MAGIC_MICROSECONDS
        };
        self.buffer.extend_from_slice(&magic.to_le_bytes());
        self.buffer
            .extend_from_slice(&pcap::VERSION_MAJOR.to_le_bytes());
        self.buffer
            .extend_from_slice(&pcap::VERSION_MINOR.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer
            .extend_from_slice(&SNAPSHOT_OCTETS.to_le_bytes());
        self.buffer
            .extend_from_slice(&u32::from(link_type.number()).to_le_bytes());
        self.link_type = Some(link_type);
    }

    fn packet(&mut self, frame: &Frame<'_>, captured: u32, original: u32) {
        let key = (frame.link_type.number(), frame.interface);
        let number = match self.latest {
            Some((latest, number)) if latest == key => number,
            _ => self.interface(key),
        };
        let padded = captured.next_multiple_of(4);
        let flags: u32 = match frame.direction {
            Direction::Unknown => 0,
            Direction::Inbound => pcapng::FLAG_INBOUND,
            Direction::Outbound => pcapng::FLAG_OUTBOUND,
        };
        let length = padded.saturating_add(if flags == 0 { 32 } else { 44 });
        // The timestamp's upper half stands before its lower half.
        let timestamp = frame.timestamp_ns.rotate_left(32).to_le_bytes();
        for value in [pcapng::ENHANCED_PACKET, length, number] {
            self.buffer.extend_from_slice(&value.to_le_bytes());
        }
        self.buffer.extend_from_slice(&timestamp);
        self.buffer.extend_from_slice(&captured.to_le_bytes());
        self.buffer.extend_from_slice(&original.to_le_bytes());
        self.buffer.extend_from_slice(frame.data);
        pad(&mut self.buffer, frame.data.len());
        if flags != 0 {
            option(
                &mut self.buffer,
                pcapng::OPTION_PACKET_FLAGS,
                &flags.to_le_bytes(),
            );
            option(&mut self.buffer, pcapng::OPTION_END, &[]);
        }
        self.buffer.extend_from_slice(&length.to_le_bytes());
    }

    /// The number in the file of an interface of the source, which is described first if it is new.
    #[cold]
    fn interface(&mut self, key: (u16, u32)) -> u32 {
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let number = if let Some(&number) = self.interfaces.get(&key) {
            number
        } else {
            let (link_type, interface) = key;
            let name = self
                .names
                .get(&interface)
                .or(self.options.interface_name.as_ref());
            block(&mut self.buffer, pcapng::INTERFACE_DESCRIPTION, |buffer| {
                buffer.extend_from_slice(&u32::from(link_type).to_le_bytes());
                buffer.extend_from_slice(&SNAPSHOT_OCTETS.to_le_bytes());
                if let Some(name) = name {
                    option(buffer, pcapng::OPTION_NAME, name.as_bytes());
                }
                option(buffer, pcapng::OPTION_RESOLUTION, &[9]);
                option(buffer, pcapng::OPTION_END, &[]);
            });
            self.interfaces.insert(key, next);
            next
        };
        self.latest = Some((key, number));
        number
    }

    /// Frames that the system has taken whole; those that are gathered still are no part of it.
    pub const fn frames_written(&self) -> u64 {
        self.frames_written
    }

    /// Hands what is gathered to the system.
    fn drain(&mut self) -> Result<(), CaptureError> {
        if self.failed.is_some() {
            return Err(self.earlier());
        }
        match self.sink.write_all(&self.buffer) {
            Ok(()) => {
                self.written = self
                    .written
                    .saturating_add(u64::try_from(self.buffer.len()).unwrap_or(0));
                self.frames_written += mem::take(&mut self.frames_gathered);
                self.buffer.clear();
                Ok(())
            }
            Err(source) => Err(self.fail(source)),
        }
    }

    /// Remembers a failure.
    fn fail(&mut self, source: io::Error) -> CaptureError {
        self.failed = Some((source.kind(), source.raw_os_error()));
        self.buffer.clear();
        self.error(CaptureErrorKind::Io {
            action: "write",
            source,
        })
    }

    /// The error for every call after a failure, or after the end.
    #[cold]
    fn earlier(&self) -> CaptureError {
        let source = match self.failed {
            Some((_, Some(code))) => io::Error::from_raw_os_error(code),
            Some((kind, None)) => kind.into(),
            None => io::Error::other("the file has been completed"),
        };
        self.error(CaptureErrorKind::Io {
            action: "write",
            source,
        })
    }

    /// Hands everything so far to the system, so that other programs see it.
    ///
    /// # Errors
    /// Where the system cannot write.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        self.drain()?;
        self.sink.flush().map_err(|source| self.fail(source))
    }

    /// Completes the file: a header where there were no frames, statistics where they were given. Calling it again does
    /// nothing.
    ///
    /// # Errors
    /// Where the system cannot write.
    pub fn finish(&mut self) -> Result<(), CaptureError> {
        if self.finished {
            return Ok(());
        }
        self.complete();
        self.finished = true;
        self.flush()
    }

    fn complete(&mut self) {
        match self.format {
            Format::Pcap if self.link_type.is_none() => self.header(self.options.link_type),
            Format::Pcap => {}
            Format::Pcapng => {
                if self.interfaces.is_empty() {
                    // Some readers refuse a file that describes no interface.
                    let interface = self.statistics.keys().next().copied().unwrap_or(0);
                    self.interface((self.options.link_type.number(), interface));
                }
                for (&interface, &(received, dropped)) in &self.statistics {
                    // An interface with several link types is described several times, but has counted only once.
                    let of_this = self
                        .interfaces
                        .iter()
                        .filter(|((_, source), _)| *source == interface);
                    let Some(number) = of_this.map(|(_, &number)| number).min() else {
                        continue;
                    };
                    let timestamp = self.latest_timestamp_ns.rotate_left(32);
                    block(&mut self.buffer, pcapng::INTERFACE_STATISTICS, |buffer| {
                        buffer.extend_from_slice(&number.to_le_bytes());
                        buffer.extend_from_slice(&timestamp.to_le_bytes());
                        option(buffer, OPTION_RECEIVED, &received.to_le_bytes());
                        option(buffer, OPTION_DROPPED, &dropped.to_le_bytes());
                        option(buffer, pcapng::OPTION_END, &[]);
                    });
                }
            }
        }
    }
}

impl Drop for CaptureWriter {
    fn drop(&mut self) {
        if !self.finished && self.failed.is_none() {
            // Whoever wants to know of an error calls `finish`.
            drop(self.finish());
        }
    }
}
