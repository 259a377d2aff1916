//! pcapng: blocks in sections, each section with its own byte order and interfaces. [draft-ietf-opsawg-pcapng]

use flowtap_core::frame::{Direction, LinkType};

use super::buffer::Buffer;
use super::error::CaptureErrorKind;
use super::pcap::{octets, u16_at, u32_at};
use super::reader::{Interface, Located, Step, truncated};
use super::{MAX_BLOCK_OCTETS, MAX_INTERFACES, MAX_RECORD_OCTETS};

/// Section header block; the number reads the same in both byte orders.
pub(crate) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Interface description block.
pub(crate) const INTERFACE_DESCRIPTION: u32 = 1;
/// Packet block, not written since 2004.
const OBSOLETE_PACKET: u32 = 2;
/// Simple packet block.
const SIMPLE_PACKET: u32 = 3;
/// Interface statistics block.
pub(crate) const INTERFACE_STATISTICS: u32 = 5;
/// Enhanced packet block.
pub(crate) const ENHANCED_PACKET: u32 = 6;
/// Tells the byte order of a section.
pub(crate) const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Major version of the format.
pub(crate) const VERSION_MAJOR: u16 = 1;

/// Type and length of a block.
const BLOCK_HEADER_OCTETS: usize = 8;
/// The shortest block: type, length, and length again.
const LEAST_BLOCK_OCTETS: usize = 12;
/// The length at a block's end.
const TRAILER_OCTETS: usize = 4;

/// End of a block's options.
pub(crate) const OPTION_END: u16 = 0;
/// Flags of a packet, its direction among them.
pub(crate) const OPTION_PACKET_FLAGS: u16 = 2;
/// Those of the flags that tell the direction.
const FLAGS_DIRECTION: u32 = 0b11;
/// The packet was received.
pub(crate) const FLAG_INBOUND: u32 = 0b01;
/// The packet was sent.
pub(crate) const FLAG_OUTBOUND: u32 = 0b10;
/// Name of an interface.
pub(crate) const OPTION_NAME: u16 = 2;
/// Units of an interface's timestamps.
pub(crate) const OPTION_RESOLUTION: u16 = 9;
/// Seconds to add to an interface's timestamps.
const OPTION_OFFSET: u16 = 14;
/// A longer interface name is cut off: real ones are short, and a small compressed file could hold very many long ones.
const MAX_NAME_OCTETS: usize = 256;

const NANOSECONDS: u64 = 1_000_000_000;

/// How an interface's timestamps become nanoseconds.
#[derive(Clone, Copy, Debug)]
enum Units {
    /// So many nanoseconds each.
    Multiple(u64),
    /// So many to the nanosecond.
    Divided(u64),
    /// 2 to this power to the second.
    PowerOfTwo(u32),
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    units: Units,
    offset_s: i64,
}

impl Clock {
    /// The clock of an interface that says nothing: microseconds.
    const DEFAULT: Self = Self {
        units: Units::Multiple(1_000),
        offset_s: 0,
    };

    /// The units that `if_tsresol` stands for: a power of ten, or with the highest bit set a power of two.
    fn units(resolution: u8) -> Units {
        let exponent = u32::from(resolution & 0x7f);
        if resolution & 0x80 != 0 {
            return Units::PowerOfTwo(exponent);
        }
        match exponent.checked_sub(9) {
            None => Units::Multiple(10_u64.saturating_pow(9_u32.saturating_sub(exponent))),
            // Where one nanosecond is more units than 64 bits can count, no time is as long as that.
            Some(beyond) => 10_u64
                .checked_pow(beyond)
                .map_or(Units::Multiple(0), Units::Divided),
        }
    }

    /// Nanoseconds since 1970, kept within what 64 bits can say.
    #[inline]
    fn nanoseconds(self, ticks: u64) -> u64 {
        let plain = match self.units {
            Units::Multiple(factor) => ticks.saturating_mul(factor),
            Units::Divided(divisor) => ticks.checked_div(divisor).unwrap_or_default(),
            Units::PowerOfTwo(exponent) => {
                // At most 94 bits before the shift; the exponent has 7.
                let shifted = (u128::from(ticks) * u128::from(NANOSECONDS)).checked_shr(exponent);
                u64::try_from(shifted.unwrap_or_default()).unwrap_or(u64::MAX)
            }
        };
        if self.offset_s == 0 {
            plain
        } else {
            self.moved(plain)
        }
    }

    #[cold]
    fn moved(self, plain: u64) -> u64 {
        let offset = i128::from(self.offset_s) * i128::from(NANOSECONDS);
        let moved = i128::from(plain) + offset;
        u64::try_from(moved.max(0)).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy)]
struct Described {
    link_type: LinkType,
    clock: Clock,
    snapshot_octets: u32,
}

/// Where reading stands among a file's sections.
pub(crate) struct Sections {
    big_endian: bool,
    /// All interfaces of the file; those of the present section begin at `first`.
    described: Vec<Described>,
    first: usize,
}

/// A block's type and length, checked.
struct Head {
    kind: u32,
    length: usize,
}

impl Head {
    /// Compares the length at the block's end with the one at its start.
    #[inline]
    fn same(&self, end: u32) -> Result<(), Step> {
        if octets(end) == self.length {
            return Ok(());
        }
        let start = u32::try_from(self.length).unwrap_or(u32::MAX);
        Err(CaptureErrorKind::BlockLengthMismatch { start, end }.into())
    }
}

/// Why reading does not go on, behind the offset of the block that it is about.
type Failure = (u64, Step);

impl Sections {
    /// Reads the first section header.
    pub(crate) fn open(buffer: &mut Buffer) -> Result<Self, Step> {
        let mut sections = Self {
            big_endian: false,
            described: Vec::new(),
            first: 0,
        };
        let head = match sections.head(buffer) {
            Ok(Some(head)) => head,
            Ok(None) => return Err(CaptureErrorKind::Empty.into()),
            Err(step) => return Err(in_header(step)),
        };
        sections.whole(buffer, &head).map_err(in_header)?;
        sections.section(buffer)?;
        buffer.consume(head.length);
        Ok(sections)
    }

    fn u32_at(&self, block: &[u8], at: usize) -> u32 {
        u32_at(block, at, self.big_endian)
    }

    fn u16_at(&self, block: &[u8], at: usize) -> u16 {
        u16_at(block, at, self.big_endian)
    }

    /// Type and length of the block at the buffer's front; None at a proper end. A section header sets the byte order.
    fn head(&mut self, buffer: &mut Buffer) -> Result<Option<Head>, Step> {
        let seen = buffer.fill(LEAST_BLOCK_OCTETS).map_err(Step::Input)?;
        if seen == 0 {
            return Ok(None);
        }
        let cut = |needed: usize| {
            truncated(needed, seen, |needed, available| {
                CaptureErrorKind::TruncatedRecordHeader { needed, available }
            })
        };
        if seen < BLOCK_HEADER_OCTETS {
            return Err(cut(BLOCK_HEADER_OCTETS));
        }
        let block = buffer.unread();
        let kind = self.u32_at(block, 0);
        if kind == SECTION_HEADER {
            if seen < LEAST_BLOCK_OCTETS {
                return Err(cut(LEAST_BLOCK_OCTETS));
            }
            let found = u32_at(block, 8, false);
            self.big_endian = match found {
                BYTE_ORDER => false,
                _ if found.swap_bytes() == BYTE_ORDER => true,
                _ => return Err(CaptureErrorKind::ByteOrder { found }.into()),
            };
        }
        let length = self.u32_at(block, 4);
        let least = match kind {
            SECTION_HEADER => 28,
            INTERFACE_DESCRIPTION => 20,
            ENHANCED_PACKET | OBSOLETE_PACKET => 32,
            SIMPLE_PACKET => 16,
            _ => 12,
        };
        if length < least || !length.is_multiple_of(4) {
            return Err(CaptureErrorKind::BlockLength {
                length: u64::from(length),
            }
            .into());
        }
        Ok(Some(Head {
            kind,
            length: octets(length),
        }))
    }

    /// Brings a whole block into the buffer and compares its two lengths.
    #[inline]
    fn whole(&self, buffer: &mut Buffer, head: &Head) -> Result<(), Step> {
        if head.length > MAX_BLOCK_OCTETS {
            return Err(too_long(head.length));
        }
        let seen = buffer.fill(head.length).map_err(Step::Input)?;
        if seen < head.length {
            return Err(cut_off(head.length, seen));
        }
        head.same(self.u32_at(buffer.unread(), head.length.saturating_sub(TRAILER_OCTETS)))
    }

    /// The next packet; None at a proper end.
    pub(crate) fn next(
        &mut self,
        buffer: &mut Buffer,
        interfaces: &mut Vec<Interface>,
    ) -> Result<Option<Located>, Failure> {
        loop {
            let at = buffer.position();
            let fail = |step: Step| (at, step);
            let Some(head) = self.head(buffer).map_err(fail)? else {
                return Ok(None);
            };
            match head.kind {
                ENHANCED_PACKET | OBSOLETE_PACKET | SIMPLE_PACKET => {
                    self.whole(buffer, &head).map_err(fail)?;
                    let located = self.packet(buffer, &head).map_err(fail)?;
                    buffer.consume(head.length);
                    return Ok(Some(located));
                }
                SECTION_HEADER => {
                    self.whole(buffer, &head).map_err(fail)?;
                    self.section(buffer).map_err(fail)?;
                    buffer.consume(head.length);
                }
                INTERFACE_DESCRIPTION => {
                    self.whole(buffer, &head).map_err(fail)?;
                    let interface = self.interface(buffer, &head).map_err(fail)?;
                    interfaces.push(interface);
                    buffer.consume(head.length);
                }
                _ => self.pass_over(buffer, &head).map_err(fail)?,
            }
        }
    }

    /// Passes over a block of any length without keeping it.
    fn pass_over(&self, buffer: &mut Buffer, head: &Head) -> Result<(), Step> {
        let content = head.length.saturating_sub(TRAILER_OCTETS);
        let length = u64::try_from(content).unwrap_or(u64::MAX);
        let skipped = buffer.skip(length).map_err(Step::Input)?;
        let seen = buffer.fill(TRAILER_OCTETS).map_err(Step::Input)?;
        if skipped < length || seen < TRAILER_OCTETS {
            let there = usize::try_from(skipped)
                .unwrap_or(usize::MAX)
                .saturating_add(seen);
            return Err(cut_off(head.length, there));
        }
        head.same(self.u32_at(buffer.unread(), 0))?;
        buffer.consume(TRAILER_OCTETS);
        Ok(())
    }

    /// A section header: its interfaces are counted from 0 again.
    fn section(&mut self, buffer: &Buffer) -> Result<(), Step> {
        let block = buffer.unread();
        let (major, minor) = (self.u16_at(block, 12), self.u16_at(block, 14));
        if major != VERSION_MAJOR {
            return Err(CaptureErrorKind::UnsupportedVersion { major, minor }.into());
        }
        self.first = self.described.len();
        Ok(())
    }

    fn interface(&mut self, buffer: &Buffer, head: &Head) -> Result<Interface, Step> {
        if self.described.len() >= MAX_INTERFACES {
            return Err(CaptureErrorKind::TooManyInterfaces.into());
        }
        let block = buffer
            .unread()
            .get(..head.length.saturating_sub(TRAILER_OCTETS))
            .unwrap_or_default();
        let link_type = LinkType::from_number(self.u16_at(block, 8));
        let snapshot_octets = self.u32_at(block, 12);
        let mut clock = Clock::DEFAULT;
        let mut name = None;
        let mut options = block.get(16..).unwrap_or_default();
        while let Some((option, rest)) = options.split_first_chunk::<4>() {
            let (code, length) = (self.u16_at(option, 0), usize::from(self.u16_at(option, 2)));
            if code == OPTION_END {
                break;
            }
            let Some(value) = rest.get(..length) else {
                return Err(content("an option", length, rest.len()));
            };
            match code {
                OPTION_NAME => {
                    let kept = value.get(..MAX_NAME_OCTETS).unwrap_or(value);
                    name = Some(
                        String::from_utf8_lossy(kept)
                            .trim_end_matches('\0')
                            .to_owned(),
                    );
                }
                OPTION_RESOLUTION => match value {
                    [resolution] => clock.units = Clock::units(*resolution),
                    _ => return Err(content("if_tsresol, which has 1 octet,", length, 1)),
                },
                OPTION_OFFSET => {
                    let Some(octets) = value.first_chunk().filter(|_| length == 8).copied() else {
                        return Err(content("if_tsoffset, which has 8 octets,", length, 8));
                    };
                    clock.offset_s = if self.big_endian {
                        i64::from_be_bytes(octets)
                    } else {
                        i64::from_le_bytes(octets)
                    };
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.described.push(Described {
            link_type,
            clock,
            snapshot_octets,
        });
        Ok(Interface {
            name,
            link_type,
            snapshot_octets,
        })
    }

    /// What a packet block says of its frame.
    #[inline]
    fn packet(&self, buffer: &Buffer, head: &Head) -> Result<Located, Step> {
        let block = buffer.unread();
        let (interface, header) = match head.kind {
            ENHANCED_PACKET => (self.u32_at(block, 8), 28),
            OBSOLETE_PACKET => (u32::from(self.u16_at(block, 8)), 28),
            // Of the section's first interface, without a time.
            _ => (0, 12),
        };
        let index = self.first.saturating_add(octets(interface));
        let Some(described) = self.described.get(index) else {
            let described =
                u32::try_from(self.described.len().saturating_sub(self.first)).unwrap_or(u32::MAX);
            return Err(CaptureErrorKind::UnknownInterface {
                interface,
                described,
            }
            .into());
        };
        let room = head.length.saturating_sub(header + TRAILER_OCTETS);
        let (captured, original, timestamp_ns) = if head.kind == SIMPLE_PACKET {
            let original = self.u32_at(block, 8);
            let limit = if described.snapshot_octets == 0 {
                u32::MAX
            } else {
                described.snapshot_octets
            };
            (octets(original.min(limit)), original, 0)
        } else {
            let ticks = u64::from(self.u32_at(block, 12)) << 32 | u64::from(self.u32_at(block, 16));
            (
                octets(self.u32_at(block, 20)),
                self.u32_at(block, 24),
                described.clock.nanoseconds(ticks),
            )
        };
        if captured > room {
            return Err(content("its packet", captured, room));
        }
        if captured > MAX_RECORD_OCTETS {
            let length = u64::try_from(captured).unwrap_or(u64::MAX);
            return Err(CaptureErrorKind::RecordTooLong { length }.into());
        }
        let start = buffer.start.saturating_add(header);
        Ok(Located {
            start,
            end: start.saturating_add(captured),
            link_type: described.link_type,
            timestamp_ns,
            original_length_octets: original.max(u32::try_from(captured).unwrap_or(u32::MAX)),
            interface: u32::try_from(index).unwrap_or(u32::MAX),
            direction: if head.kind == ENHANCED_PACKET && room >= captured.saturating_add(8) {
                let options = header.saturating_add(captured.next_multiple_of(4));
                let end = head.length.saturating_sub(TRAILER_OCTETS);
                self.direction(block.get(options..end).unwrap_or_default())
            } else {
                Direction::Unknown
            },
        })
    }

    /// The direction that a packet's options tell. What is wrong with them does not concern its frame.
    fn direction(&self, mut options: &[u8]) -> Direction {
        while let Some((option, rest)) = options.split_first_chunk::<4>() {
            let (code, length) = (self.u16_at(option, 0), usize::from(self.u16_at(option, 2)));
            if code == OPTION_PACKET_FLAGS && length == 4 {
                return match self.u32_at(rest, 0) & FLAGS_DIRECTION {
                    FLAG_INBOUND => Direction::Inbound,
                    FLAG_OUTBOUND => Direction::Outbound,
                    _ => Direction::Unknown,
                };
            }
            if code == OPTION_END {
                break;
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Direction::Unknown
    }
}

/// The first block is the file's header.
fn in_header(step: Step) -> Step {
    match step {
        Step::Kind(kind) => match *kind {
            CaptureErrorKind::TruncatedRecordHeader { needed, available }
            | CaptureErrorKind::TruncatedRecord { needed, available } => {
                CaptureErrorKind::TruncatedHeader { needed, available }.into()
            }
            other => other.into(),
        },
        Step::Input(_) => step,
    }
}

#[cold]
fn cut_off(needed: usize, available: usize) -> Step {
    truncated(needed, available, |needed, available| {
        CaptureErrorKind::TruncatedRecord { needed, available }
    })
}

#[cold]
fn too_long(length: usize) -> Step {
    CaptureErrorKind::BlockTooLong {
        length: u64::try_from(length).unwrap_or(u64::MAX),
    }
    .into()
}

#[cold]
fn content(what: &'static str, announced: usize, available: usize) -> Step {
    truncated(announced, available, |announced, available| {
        CaptureErrorKind::BlockContent {
            what,
            announced,
            available,
        }
    })
}
