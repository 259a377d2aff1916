//! Classic pcap: a 24-octet file header, then records of a 16-octet header and the frame's octets.
//! [draft-ietf-opsawg-pcap]

use flowtap_core::frame::{Direction, LinkType};

use super::buffer::Buffer;
use super::error::CaptureErrorKind;
use super::reader::{Located, Step, truncated};
use super::{MAX_RECORD_OCTETS, pcapng};

/// Octets of the file header.
pub(crate) const FILE_HEADER_OCTETS: usize = 24;
/// Octets of a record's header.
pub(crate) const RECORD_HEADER_OCTETS: usize = 16;
/// Magic number of files with microseconds.
pub(crate) const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Magic number of files with nanoseconds.
pub(crate) const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Magic number of Kuznetzov's modified format.
const MAGIC_MODIFIED: u32 = 0xa1b2_cd34;
/// Major version, the same since 1987.
pub(crate) const VERSION_MAJOR: u16 = 2;
/// Minor version of what is written today.
pub(crate) const VERSION_MINOR: u16 = 4;
/// The last minor version whose programs wrote a record's two lengths in either order.
const VERSION_MINOR_SWAPPED: u16 = 3;

const NANOSECONDS: u64 = 1_000_000_000;

/// How the records of one file are to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    big_endian: bool,
    nanoseconds_per_unit: u64,
    lengths_swapped: bool,
    pub(crate) link_type: LinkType,
    pub(crate) snapshot_octets: u32,
}

/// What a file's first octets say.
pub(crate) enum Opening {
    /// A classic pcap file.
    Pcap(Layout),
    /// A pcapng file, whose first block is still unread.
    Pcapng,
}

/// A number of `bytes`, 0 where it would reach over the end.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let octets = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u32::from_be_bytes(octets)
    } else {
        u32::from_le_bytes(octets)
    }
}

/// As [`u32_at`].
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let octets = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u16::from_be_bytes(octets)
    } else {
        u16::from_le_bytes(octets)
    }
}

/// Tells the format; takes a pcap file's header off the buffer.
pub(crate) fn open(buffer: &mut Buffer) -> Result<Opening, Step> {
    let seen = buffer.fill(FILE_HEADER_OCTETS).map_err(Step::Input)?;
    let header = buffer.unread();
    if header.is_empty() {
        return Err(CaptureErrorKind::Empty.into());
    }
    let not_a_capture = |header: &[u8]| {
        let beginning = header.iter().take(4).copied().collect();
        Step::from(CaptureErrorKind::NotACapture { beginning })
    };
    let Some(magic) = header.first_chunk().copied() else {
        return Err(not_a_capture(header));
    };
    let (little, big) = (u32::from_le_bytes(magic), u32::from_be_bytes(magic));
    let (big_endian, nanoseconds_per_unit) = match (little, big) {
        (pcapng::SECTION_HEADER, _) => return Ok(Opening::Pcapng),
        (MAGIC_MICROSECONDS, _) => (false, 1_000),
        (MAGIC_NANOSECONDS, _) => (false, 1),
        (_, MAGIC_MICROSECONDS) => (true, 1_000),
        (_, MAGIC_NANOSECONDS) => (true, 1),
        (MAGIC_MODIFIED, _) | (_, MAGIC_MODIFIED) => {
            return Err(CaptureErrorKind::ModifiedPcap.into());
        }
        _ => return Err(not_a_capture(header)),
    };
    if seen < FILE_HEADER_OCTETS {
        return Err(truncated(FILE_HEADER_OCTETS, seen, |needed, available| {
            CaptureErrorKind::TruncatedHeader { needed, available }
        }));
    }
    let (major, minor) = (u16_at(header, 4, big_endian), u16_at(header, 6, big_endian));
    if major != VERSION_MAJOR {
        return Err(CaptureErrorKind::UnsupportedVersion { major, minor }.into());
    }
    // Above the 16 bits of the link type stand the length of a frame check sequence and reserved bits.
    let link_type =
        LinkType::from_number(u16_at(header, if big_endian { 22 } else { 20 }, big_endian));
    let layout = Layout {
        big_endian,
        nanoseconds_per_unit,
        lengths_swapped: minor <= VERSION_MINOR_SWAPPED,
        link_type,
        snapshot_octets: u32_at(header, 16, big_endian),
    };
    buffer.consume(FILE_HEADER_OCTETS);
    Ok(Opening::Pcap(layout))
}

impl Layout {
    /// The record at the buffer's front, if all of it is in the buffer: the hot path, which is a header's four
    /// numbers and three comparisons.
    #[inline]
    pub(crate) fn buffered(&self, buffer: &mut Buffer) -> Option<Located> {
        let (header, rest) = buffer
            .unread()
            .split_first_chunk::<RECORD_HEADER_OCTETS>()?;
        let (captured, original) = self.lengths(header);
        if captured > rest.len().min(MAX_RECORD_OCTETS) {
            return None;
        }
        let seconds = u64::from(u32_at(header, 0, self.big_endian));
        let fraction = u64::from(u32_at(header, 4, self.big_endian));
        let start = buffer.start.saturating_add(RECORD_HEADER_OCTETS);
        let end = start.saturating_add(captured);
        buffer.start = end;
        Some(Located {
            start,
            end,
            link_type: self.link_type,
            // Below 2^63 even for a fraction of more than a second.
            timestamp_ns: seconds * NANOSECONDS + fraction * self.nanoseconds_per_unit,
            original_length_octets: original,
            interface: 0,
            direction: Direction::Unknown,
        })
    }

    /// Captured and original length.
    #[inline]
    fn lengths(&self, header: &[u8; RECORD_HEADER_OCTETS]) -> (usize, u32) {
        let captured = u32_at(header, 8, self.big_endian);
        let original = u32_at(header, 12, self.big_endian);
        if captured > original {
            self.odd_lengths(captured, original)
        } else {
            (octets(captured), original)
        }
    }

    /// A frame cannot be shorter on the wire than in the file: an old program swapped the two, or a program lied.
    #[cold]
    fn odd_lengths(&self, captured: u32, original: u32) -> (usize, u32) {
        if self.lengths_swapped {
            (octets(original), captured)
        } else {
            (octets(captured), captured)
        }
    }

    /// The next record, read if necessary; None at a proper end.
    pub(crate) fn next(&self, buffer: &mut Buffer) -> Result<Option<Located>, Step> {
        let seen = buffer.fill(RECORD_HEADER_OCTETS).map_err(Step::Input)?;
        let Some(header) = buffer.unread().first_chunk::<RECORD_HEADER_OCTETS>() else {
            if seen == 0 {
                return Ok(None);
            }
            return Err(truncated(
                RECORD_HEADER_OCTETS,
                seen,
                |needed, available| CaptureErrorKind::TruncatedRecordHeader { needed, available },
            ));
        };
        let (captured, _) = self.lengths(header);
        if captured > MAX_RECORD_OCTETS {
            let length = u64::try_from(captured).unwrap_or(u64::MAX);
            return Err(CaptureErrorKind::RecordTooLong { length }.into());
        }
        let seen = buffer
            .fill(captured.saturating_add(RECORD_HEADER_OCTETS))
            .map_err(Step::Input)?;
        self.buffered(buffer).map(Some).ok_or_else(|| {
            truncated(
                captured,
                seen.saturating_sub(RECORD_HEADER_OCTETS),
                |needed, available| CaptureErrorKind::TruncatedRecord { needed, available },
            )
        })
    }
}

/// A 32-bit length as a length in memory.
#[inline]
pub(crate) fn octets(length: u32) -> usize {
    // Where memory is smaller than the number, no such length can be there anyway.
    usize::try_from(length).unwrap_or(usize::MAX)
}
