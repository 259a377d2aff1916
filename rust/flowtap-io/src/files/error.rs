//! What can be wrong with a capture file.

use std::fmt;
use std::io;

use super::{MAX_BLOCK_OCTETS, MAX_INTERFACES, MAX_RECORD_OCTETS};

/// A capture file that cannot be read or written (any further).
#[derive(Debug)]
#[non_exhaustive]
pub struct CaptureError {
    /// The file as the caller named it.
    pub path: String,
    /// Where the damaged record, block or header begins, in the decompressed stream; for a file being written, what
    /// had been written before.
    pub offset_octets: u64,
    /// What is wrong.
    pub kind: CaptureErrorKind,
}

/// What is wrong with a capture file.
#[derive(Debug)]
#[non_exhaustive]
pub enum CaptureErrorKind {
    /// There is not one octet in it.
    Empty,
    /// It begins like no format that is read here.
    NotACapture {
        /// Its first octets, at most four.
        beginning: Vec<u8>,
    },
    /// The "modified" pcap format, whose records have longer headers.
    ModifiedPcap,
    /// A version of the format that is not known.
    UnsupportedVersion {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The file ends inside its own header.
    TruncatedHeader {
        /// Octets of the header.
        needed: u64,
        /// Octets that are there.
        available: u64,
    },
    /// The file ends inside the fixed header of a record or block.
    TruncatedRecordHeader {
        /// Octets of the header.
        needed: u64,
        /// Octets that are there.
        available: u64,
    },
    /// The file ends inside a record or block.
    TruncatedRecord {
        /// Octets that were announced: of a pcap record without its header, of a pcapng block all.
        needed: u64,
        /// Octets of these that are there.
        available: u64,
    },
    /// A record announces more octets than a frame can have.
    RecordTooLong {
        /// Octets that were announced.
        length: u64,
    },
    /// A block that had to be understood is longer than what is taken into memory.
    BlockTooLong {
        /// Octets that were announced.
        length: u64,
    },
    /// A block's length is below what the block must hold, or no multiple of four.
    BlockLength {
        /// Octets that were announced.
        length: u64,
    },
    /// The length at a block's end is not the one at its start.
    BlockLengthMismatch {
        /// Length at the start.
        start: u32,
        /// Length at the end.
        end: u32,
    },
    /// A section header without the mark that tells the byte order.
    ByteOrder {
        /// What stands in its place.
        found: u32,
    },
    /// Something in a block reaches over the block's end.
    BlockContent {
        /// What.
        what: &'static str,
        /// Octets it says it has.
        announced: u64,
        /// Octets that are left for it.
        available: u64,
    },
    /// A packet of an interface that has not been described.
    UnknownInterface {
        /// Number of the interface in its section.
        interface: u32,
        /// How many the section has described.
        described: u32,
    },
    /// More interfaces than are kept.
    TooManyInterfaces,
    /// The compressed data cannot be decompressed any further.
    Compression {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A frame of another link type than the pcap file's only one.
    LinkType {
        /// Link type of the file.
        file: u16,
        /// Link type of the frame.
        frame: u16,
    },
    /// An interface of another link type than the frame filter was made for.
    FilterLinkType {
        /// Link type of the frames before.
        filter: u16,
        /// Link type of the interface.
        frames: u16,
    },
    /// The file to write is one of those to read.
    IsInput,
    /// Text that does not fit into the format's field.
    TextTooLong {
        /// What.
        what: &'static str,
        /// Octets it has.
        length: u64,
        /// Octets it may have.
        maximum: u64,
    },
    /// The system refused.
    Io {
        /// What was tried: `open`, `read`, `create`, `write`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl CaptureErrorKind {
    /// A name that does not change, for logs and programs.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotACapture { .. } => "not-a-capture",
            Self::ModifiedPcap => "modified-pcap",
            Self::UnsupportedVersion { .. } => "unsupported-version",
            Self::TruncatedHeader { .. } => "truncated-header",
            Self::TruncatedRecordHeader { .. } => "truncated-record-header",
            Self::TruncatedRecord { .. } => "truncated-record",
            Self::RecordTooLong { .. } => "record-too-long",
            Self::BlockTooLong { .. } => "block-too-long",
            Self::BlockLength { .. } => "block-length",
            Self::BlockLengthMismatch { .. } => "block-length-mismatch",
            Self::ByteOrder { .. } => "byte-order",
            Self::BlockContent { .. } => "block-content",
            Self::UnknownInterface { .. } => "unknown-interface",
            Self::TooManyInterfaces => "too-many-interfaces",
            Self::Compression { .. } => "compression",
            Self::LinkType { .. } => "link-type",
            Self::FilterLinkType { .. } => "filter-link-type",
            Self::IsInput => "is-input",
            Self::TextTooLong { .. } => "text-too-long",
            Self::Io { .. } => "io",
        }
    }
}

/// Octets as a person reads them in a message.
fn hexadecimal(octets: &[u8]) -> String {
    octets
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for CaptureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset_octets;
        write!(formatter, "{}: ", self.path)?;
        match &self.kind {
            CaptureErrorKind::Empty => {
                formatter.write_str("the file is empty; a capture without packets still has a header")
            }
            CaptureErrorKind::NotACapture { beginning } => write!(
                formatter,
                "not a capture file: it begins with {}; pcap or pcapng is expected, plain or compressed with gzip or zstd",
                hexadecimal(beginning)
            ),
            CaptureErrorKind::ModifiedPcap => formatter.write_str(
                "modified (Kuznetzov) pcap, magic a1b2cd34, is not read; convert it with `editcap -F pcap`",
            ),
            CaptureErrorKind::UnsupportedVersion { major, minor } => write!(
                formatter,
                "header at offset {at} has version {major}.{minor}; pcap 2.x and pcapng 1.x can be read"
            ),
            CaptureErrorKind::TruncatedHeader { needed, available } => {
                write!(formatter, "file header is cut off: it has {needed} octets, {available} are there")
            }
            CaptureErrorKind::TruncatedRecordHeader { needed, available } => write!(
                formatter,
                "record at offset {at} is cut off in its header: {needed} octets expected, {available} left in the file"
            ),
            CaptureErrorKind::TruncatedRecord { needed, available } => write!(
                formatter,
                "record at offset {at} is cut off: {needed} octets announced, {available} left in the file"
            ),
            CaptureErrorKind::RecordTooLong { length } => write!(
                formatter,
                "record at offset {at} announces {length} octets; a frame has at most {MAX_RECORD_OCTETS}"
            ),
            CaptureErrorKind::BlockTooLong { length } => write!(
                formatter,
                "block at offset {at} announces {length} octets; at most {MAX_BLOCK_OCTETS} are read"
            ),
            CaptureErrorKind::BlockLength { length } => write!(
                formatter,
                "block at offset {at} announces {length} octets, which is too short for it or no multiple of 4"
            ),
            CaptureErrorKind::BlockLengthMismatch { start, end } => write!(
                formatter,
                "block at offset {at} has {start} octets by its start and {end} by its end; both must be the same"
            ),
            CaptureErrorKind::ByteOrder { found } => write!(
                formatter,
                "section header at offset {at} has {found:08x} where the byte-order mark 1a2b3c4d belongs"
            ),
            CaptureErrorKind::BlockContent { what, announced, available } => write!(
                formatter,
                "block at offset {at}: {what} announces {announced} octets, {available} left in the block"
            ),
            CaptureErrorKind::UnknownInterface { interface, described } => write!(
                formatter,
                "packet at offset {at} is of interface {interface}; its section has described {described} so far"
            ),
            CaptureErrorKind::TooManyInterfaces => {
                write!(formatter, "block at offset {at} describes one interface more than the {MAX_INTERFACES} allowed")
            }
            CaptureErrorKind::Compression { format, reason } => write!(
                formatter,
                "{format} data is damaged, and what begins at offset {at} of the decompressed data cannot be read: {reason}"
            ),
            CaptureErrorKind::LinkType { file, frame } => write!(
                formatter,
                "a pcap file holds one link type, here {file}, and cannot take a frame of link type {frame}: \
                 give the file the name ending .pcapng"
            ),
            CaptureErrorKind::FilterLinkType { filter, frames } => write!(
                formatter,
                "frames of link type {frames} behind frames of link type {filter}: a frame filter is for one link type; \
                 take the frames apart first, or leave the filter's words to the criteria"
            ),
            CaptureErrorKind::IsInput => formatter.write_str(
                "is read and cannot be written as well; give the output a name of its own",
            ),
            CaptureErrorKind::TextTooLong { what, length, maximum } => {
                write!(formatter, "{what} has {length} octets; at most {maximum} can be written")
            }
            CaptureErrorKind::Io { action, source } => write!(formatter, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            CaptureErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
