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
    buffer.fill(FILE_HEADER_OCTETS).map_err(Step::Input)?;
    let opening = opening(buffer.unread())?;
    if matches!(opening, Opening::Pcap(_)) {
        buffer.consume(FILE_HEADER_OCTETS);
    }
    Ok(opening)
}

/// Tells the format by a file's first octets; [`FILE_HEADER_OCTETS`] are enough.
pub(crate) fn opening(header: &[u8]) -> Result<Opening, Step> {
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
    if header.len() < FILE_HEADER_OCTETS {
        return Err(truncated(
            FILE_HEADER_OCTETS,
            header.len(),
            |needed, available| CaptureErrorKind::TruncatedHeader { needed, available },
        ));
    }
    let (major, minor) = (u16_at(header, 4, big_endian), u16_at(header, 6, big_endian));
    if major != VERSION_MAJOR {
        return Err(CaptureErrorKind::UnsupportedVersion { major, minor }.into());
    }
    // Above the 16 bits of the link type stand the length of a frame check sequence and reserved bits.
    let link_type =
        LinkType::from_number(u16_at(header, if big_endian { 22 } else { 20 }, big_endian));
    Ok(Opening::Pcap(Layout {
        big_endian,
        nanoseconds_per_unit,
        lengths_swapped: minor <= VERSION_MINOR_SWAPPED,
        link_type,
        snapshot_octets: u32_at(header, 16, big_endian),
    }))
}

impl Layout {
    /// The record at the buffer's front, if all of it is in the buffer.
    #[inline]
    pub(crate) fn buffered(&self, buffer: &mut Buffer) -> Option<Located> {
        let located = self.located(buffer.unread(), buffer.start)?;
        buffer.start = located.end;
        Some(located)
    }

    /// The record that `unread` begins with, if all of it is there; `at` is where that is in the buffer. The hot path,
    /// which is a header's four numbers and three comparisons.
    #[inline]
    pub(crate) fn located(&self, unread: &[u8], at: usize) -> Option<Located> {
        let (header, rest) = unread.split_first_chunk::<RECORD_HEADER_OCTETS>()?;
        let (captured, original) = self.lengths(header);
        if captured > rest.len().min(MAX_RECORD_OCTETS) {
            return None;
        }
        let seconds = u64::from(u32_at(header, 0, self.big_endian));
        let fraction = u64::from(u32_at(header, 4, self.big_endian));
        let start = at.saturating_add(RECORD_HEADER_OCTETS);
        Some(Located {
            start,
            end: start.saturating_add(captured),
            link_type: self.link_type,
            // Below 2^63 even for a fraction of more than a second.
            timestamp_ns: seconds * NANOSECONDS + fraction * self.nanoseconds_per_unit,
            original_length_octets: original,
            interface: 0,
            direction: Direction::Unknown,
        })
    }

    /// Octets of the record that `unread` begins with and of its header, if all of it is there.
    #[inline]
    pub(crate) fn record_octets(&self, unread: &[u8]) -> Option<usize> {
        let (header, rest) = unread.split_first_chunk::<RECORD_HEADER_OCTETS>()?;
        let (captured, _) = self.lengths(header);
        (captured <= rest.len().min(MAX_RECORD_OCTETS))
            .then(|| captured.saturating_add(RECORD_HEADER_OCTETS))
    }

    /// How many octets must be seen of what `unread` begins with: those of a header, and if it is there of all the record.
    pub(crate) fn needed_octets(&self, unread: &[u8]) -> Result<usize, Step> {
        let Some(header) = unread.first_chunk::<RECORD_HEADER_OCTETS>() else {
            return Ok(RECORD_HEADER_OCTETS);
        };
        let (captured, _) = self.lengths(header);
        if captured > MAX_RECORD_OCTETS {
            let length = u64::try_from(captured).unwrap_or(u64::MAX);
            return Err(CaptureErrorKind::RecordTooLong { length }.into());
        }
        Ok(captured.saturating_add(RECORD_HEADER_OCTETS))
    }

    /// What is wrong at the end of a file that has only `rest` of a record; None at a proper end.
    pub(crate) fn cut_off(&self, rest: &[u8]) -> Option<Step> {
        if rest.is_empty() {
            return None;
        }
        Some(match rest.split_first_chunk::<RECORD_HEADER_OCTETS>() {
            None => truncated(RECORD_HEADER_OCTETS, rest.len(), |needed, available| {
                CaptureErrorKind::TruncatedRecordHeader { needed, available }
            }),
            Some((header, rest)) => {
                truncated(self.lengths(header).0, rest.len(), |needed, available| {
                    CaptureErrorKind::TruncatedRecord { needed, available }
                })
            }
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
        buffer.fill(RECORD_HEADER_OCTETS).map_err(Step::Input)?;
        let needed = self.needed_octets(buffer.unread())?;
        buffer.fill(needed).map_err(Step::Input)?;
        match self.buffered(buffer) {
            Some(located) => Ok(Some(located)),
            None => self.cut_off(buffer.unread()).map_or(Ok(None), Err),
        }
    }
}

/// A 32-bit length as a length in memory.
#[inline]
pub(crate) fn octets(length: u32) -> usize {
    // Where memory is smaller than the number, no such length can be there anyway.
    usize::try_from(length).unwrap_or(usize::MAX)
}
