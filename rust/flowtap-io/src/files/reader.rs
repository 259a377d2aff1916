//! Reading capture files, whatever their format.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use flowtap_core::frame::{Direction, Frame, LinkType};

use super::STANDARD_INPUT;
use super::buffer::Buffer;
use super::error::{CaptureError, CaptureErrorKind};
use super::input::{Input, InputError, standard_input};
use super::pcap::{self, Opening};
use super::pcapng;

/// A frame's place in the buffer, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) link_type: LinkType,
    pub(crate) timestamp_ns: u64,
    pub(crate) original_length_octets: u32,
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
}

impl Located {
    /// The frame itself.
    #[inline]
    pub(crate) fn frame(self, data: &[u8]) -> Frame<'_> {
        Frame {
            data: data.get(self.start..self.end).unwrap_or_default(),
            link_type: self.link_type,
            timestamp_ns: self.timestamp_ns,
            original_length_octets: self.original_length_octets,
            interface: self.interface,
            direction: self.direction,
        }
    }
}

/// Why reading does not go on, before path and offset are known.
pub(crate) enum Step {
    /// The capture's own structure.
    Kind(Box<CaptureErrorKind>),
    /// What it comes out of.
    Input(InputError),
}

impl From<CaptureErrorKind> for Step {
    fn from(kind: CaptureErrorKind) -> Self {
        Self::Kind(Box::new(kind))
    }
}

/// The error for something that is cut off.
#[cold]
pub(crate) fn truncated(
    needed: usize,
    available: usize,
    kind: impl FnOnce(u64, u64) -> CaptureErrorKind,
) -> Step {
    let octets = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    kind(octets(needed), octets(available)).into()
}

/// An interface that a capture file describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, where the file gives one.
    pub name: Option<String>,
    /// How its frames start.
    pub link_type: LinkType,
    /// The most octets of a frame that were to be captured, 0 for no limit.
    pub snapshot_octets: u32,
}

/// The names of interfaces, for an engine; `unnamed` stands for those that the file does not name.
pub fn names(interfaces: &[Interface], unnamed: Option<&str>) -> Vec<Option<String>> {
    let name = |interface: &Interface| {
        interface
            .name
            .clone()
            .or_else(|| unnamed.map(str::to_owned))
    };
    interfaces.iter().map(name).collect()
}

enum Format {
    Pcap(pcap::Layout),
    Pcapng(Box<pcapng::Sections>),
}

/// A capture file being read: pcap or pcapng, plain or compressed.
///
/// Frames are borrowed from the reader's own buffer, so each one lives until the next is asked for:
///
/// ```no_run
/// use flowtap_io::files::CaptureReader;
///
/// let mut reader = CaptureReader::open("in.pcap")?;
/// let mut octets = 0;
/// while let Some(frame) = reader.next_frame()? {
///     octets += frame.data.len();
/// }
/// # Ok::<(), flowtap_io::files::CaptureError>(())
/// ```
pub struct CaptureReader {
    buffer: Buffer,
    format: Format,
    interfaces: Vec<Interface>,
    path: String,
    /// An error has been reported: nothing more comes.
    failed: bool,
}

impl fmt::Debug for CaptureReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CaptureReader")
            .field("path", &self.path)
            .field("offset_octets", &self.offset_octets())
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

/// The error, once path and offset are known.
pub(crate) fn error(path: &str, offset_octets: u64, step: Step) -> CaptureError {
    let kind = match step {
        Step::Kind(kind) => *kind,
        Step::Input(InputError::Io(source)) => CaptureErrorKind::Io {
            action: "read",
            source,
        },
        Step::Input(InputError::Damaged { format, reason }) => {
            CaptureErrorKind::Compression { format, reason }
        }
    };
    CaptureError {
        path: path.to_owned(),
        offset_octets,
        kind,
    }
}

impl CaptureReader {
    /// Opens a file, `-` for standard input, and reads its header.
    ///
    /// # Errors
    /// Where the file cannot be opened, is empty, or is no capture file.
    pub fn open(path: &str) -> Result<Self, CaptureError> {
        let (file, name) = if path == "-" {
            (standard_input(), STANDARD_INPUT)
        } else {
            (File::open(path), path)
        };
        let file = file.map_err(|source| {
            let kind = CaptureErrorKind::Io {
                action: "open",
                source,
            };
            CaptureError {
                path: name.to_owned(),
                offset_octets: 0,
                kind,
            }
        })?;
        Self::from_read(Box::new(file), name)
    }

    /// Reads from anything; `name` stands for the path in messages. The reader buffers enough by itself.
    ///
    /// # Errors
    /// Where the source fails, is empty, or is no capture.
    pub fn from_read(source: Box<dyn Read + Send>, name: &str) -> Result<Self, CaptureError> {
        let input = Input::new(source)
            .map_err(|source| error(name, 0, Step::Input(InputError::Io(source))))?;
        let mut buffer = Buffer::new(input);
        let mut interfaces = Vec::new();
        let format = match pcap::open(&mut buffer).map_err(|step| error(name, 0, step))? {
            Opening::Pcap(layout) => {
                interfaces.push(Interface {
                    name: None,
                    link_type: layout.link_type,
                    snapshot_octets: layout.snapshot_octets,
                });
                Format::Pcap(layout)
            }
            Opening::Pcapng => {
                let sections =
                    pcapng::Sections::open(&mut buffer).map_err(|step| error(name, 0, step))?;
                Format::Pcapng(Box::new(sections))
            }
        };
        Ok(Self {
            buffer,
            format,
            interfaces,
            path: name.to_owned(),
            failed: false,
        })
    }

    /// The next frame; None at the end of the file.
    ///
    /// Frames without a time of their own (pcapng simple packet blocks) have the timestamp 0.
    ///
    /// # Errors
    /// Where the file is damaged, after all frames before the damage have been returned. The error comes once;
    /// after it the file is at its end.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        Ok(self.next_with_interfaces()?.map(|(frame, _)| frame))
    }

    /// The next frame, with the interfaces that are known by then; see [`CaptureReader::interfaces`].
    ///
    /// # Errors
    /// As for [`CaptureReader::next_frame`].
    #[inline]
    pub fn next_with_interfaces(
        &mut self,
    ) -> Result<Option<(Frame<'_>, &[Interface])>, CaptureError> {
        let buffered = match &self.format {
            Format::Pcap(layout) => layout.buffered(&mut self.buffer),
            Format::Pcapng(_) => None,
        };
        let located = match buffered {
            Some(located) => located,
            None => match self.read_next()? {
                Some(located) => located,
                None => return Ok(None),
            },
        };
        Ok(Some((located.frame(&self.buffer.data), &self.interfaces)))
    }

    /// What is not in the buffer, or not a plain record.
    #[inline(never)]
    fn read_next(&mut self) -> Result<Option<Located>, CaptureError> {
        if self.failed {
            return Ok(None);
        }
        let next = match &mut self.format {
            Format::Pcap(layout) => layout
                .next(&mut self.buffer)
                .map_err(|step| (self.buffer.position(), step)),
            Format::Pcapng(sections) => sections.next(&mut self.buffer, &mut self.interfaces),
        };
        next.map_err(|(offset_octets, step)| {
            self.failed = true;
            error(&self.path, offset_octets, step)
        })
    }

    /// Where in the decompressed stream the next record or block begins: octets read so far, for a progress bar.
    pub fn offset_octets(&self) -> u64 {
        self.buffer.position()
    }

    /// The interfaces described so far, of all sections; [`Frame::interface`] counts in this list. A classic pcap
    /// file has one without a name. Those of a pcapng file come as reading goes on.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The file as messages name it.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// So that errors of the operating system can be told from damage.
impl CaptureError {
    /// The operating system's error, where there was one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.kind {
            CaptureErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
