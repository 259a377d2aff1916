//! Capture files made octet by octet, so that the reader is not tested with the writer's own mistakes.

use std::io::{Cursor, Read};

use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_io::files::{CaptureError, CaptureReader};

/// A frame that can be kept and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) data: Vec<u8>,
    pub(crate) link_type: LinkType,
    pub(crate) timestamp_ns: u64,
    pub(crate) original_length_octets: u32,
    pub(crate) interface: u32,
    pub(crate) direction: Direction,
}

impl From<Frame<'_>> for Owned {
    fn from(frame: Frame<'_>) -> Self {
        Self {
            data: frame.data.to_vec(),
            link_type: frame.link_type,
            timestamp_ns: frame.timestamp_ns,
            original_length_octets: frame.original_length_octets,
            interface: frame.interface,
            direction: frame.direction,
        }
    }
}

impl Owned {
    pub(crate) fn new(data: &[u8], timestamp_ns: u64) -> Self {
        Self {
            data: data.to_vec(),
            link_type: LinkType::Ethernet,
            timestamp_ns,
            original_length_octets: u32::try_from(data.len()).unwrap(),
            interface: 0,
            direction: Direction::Unknown,
        }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame {
            data: &self.data,
            link_type: self.link_type,
            timestamp_ns: self.timestamp_ns,
            original_length_octets: self.original_length_octets,
            interface: self.interface,
            direction: self.direction,
        }
    }
}

/// Numbers in one of the two byte orders.
#[derive(Clone, Debug)]
pub(crate) struct Octets {
    pub(crate) big_endian: bool,
    pub(crate) octets: Vec<u8>,
}

impl Octets {
    pub(crate) fn new(big_endian: bool) -> Self {
        Self {
            big_endian,
            octets: Vec::new(),
        }
    }

    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.octets.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.octets.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.octets.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
        self
    }

    pub(crate) fn raw(mut self, octets: &[u8]) -> Self {
        self.octets.extend_from_slice(octets);
        self
    }

    /// A pcapng option, padded.
    pub(crate) fn option(self, code: u16, value: &[u8]) -> Self {
        let padding = value.len().next_multiple_of(4) - value.len();
        self.u16(code)
            .u16(u16::try_from(value.len()).unwrap())
            .raw(value)
            .raw(&vec![0; padding])
    }

    /// A pcapng block around `content`, padded.
    pub(crate) fn block(self, kind: u32, content: &[u8]) -> Self {
        let padding = content.len().next_multiple_of(4) - content.len();
        let length = u32::try_from(content.len() + padding + 12).unwrap();
        self.u32(kind)
            .u32(length)
            .raw(content)
            .raw(&vec![0; padding])
            .u32(length)
    }

    pub(crate) fn section(self) -> Self {
        let content = Self::new(self.big_endian)
            .u32(0x1a2b_3c4d)
            .u16(1)
            .u16(0)
            .u64(u64::MAX)
            .octets;
        self.block(0x0a0d_0d0a, &content)
    }

    /// An interface description; `options` is appended as it is.
    pub(crate) fn interface(self, link_type: u16, snapshot_octets: u32, options: &[u8]) -> Self {
        let content = Self::new(self.big_endian)
            .u16(link_type)
            .u16(0)
            .u32(snapshot_octets)
            .raw(options)
            .octets;
        self.block(1, &content)
    }

    pub(crate) fn enhanced(self, interface: u32, ticks: u64, original: u32, data: &[u8]) -> Self {
        let content = Self::new(self.big_endian)
            .u32(interface)
            .u32(u32::try_from(ticks >> 32).unwrap())
            .u32(u32::try_from(ticks & 0xffff_ffff).unwrap())
            .u32(u32::try_from(data.len()).unwrap())
            .u32(original)
            .raw(data)
            .octets;
        self.block(6, &content)
    }

    pub(crate) fn pcap_header(self, magic: u32, link_type: u32) -> Self {
        self.u32(magic)
            .u16(2)
            .u16(4)
            .u32(0)
            .u32(0)
            .u32(262_144)
            .u32(link_type)
    }

    pub(crate) fn record(self, seconds: u32, fraction: u32, original: u32, data: &[u8]) -> Self {
        let captured = u32::try_from(data.len()).unwrap();
        self.u32(seconds)
            .u32(fraction)
            .u32(captured)
            .u32(original)
            .raw(data)
    }
}

/// Gives its octets in pieces of one size, like a slow pipe.
struct Pieces {
    octets: Cursor<Vec<u8>>,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.piece);
        self.octets.read(&mut buffer[..length])
    }
}

pub(crate) fn open(octets: &[u8]) -> Result<CaptureReader, CaptureError> {
    CaptureReader::from_read(Box::new(Cursor::new(octets.to_vec())), "in.pcap")
}

fn drain(reader: Result<CaptureReader, CaptureError>) -> (Vec<Owned>, Option<CaptureError>) {
    let mut frames = Vec::new();
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return (frames, Some(error)),
    };
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame.into()),
            Ok(None) => return (frames, None),
            Err(error) => {
                assert!(
                    matches!(reader.next_frame(), Ok(None)),
                    "an error must be the end"
                );
                return (frames, Some(error));
            }
        }
    }
}

/// All frames, and the error that ended them.
pub(crate) fn read(octets: &[u8]) -> (Vec<Owned>, Option<CaptureError>) {
    drain(open(octets))
}

/// As [`read`], with a source that gives at most `piece` octets at once.
pub(crate) fn read_in_pieces(octets: &[u8], piece: usize) -> (Vec<Owned>, Option<CaptureError>) {
    let source = Pieces {
        octets: Cursor::new(octets.to_vec()),
        piece,
    };
    drain(CaptureReader::from_read(Box::new(source), "in.pcap"))
}

/// All frames of a file that is in order.
pub(crate) fn frames(octets: &[u8]) -> Vec<Owned> {
    let (frames, error) = read(octets);
    assert!(error.is_none(), "{}", error.unwrap());
    frames
}
