//! One captured frame as the sources hand it over.

/// The link types flowtap can decode, numbered as in the registry of the capture file formats
/// (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// BSD loopback: a 4-octet address family in the byte order of the writing host (0).
    Null,
    /// Ethernet II and 802.3 (1).
    Ethernet,
    /// Bare IPv4 or IPv6, told apart by the version nibble (101, and 12 and 14 as some systems wrote it).
    Raw,
    /// OpenBSD loopback: a 4-octet address family, always big-endian (108).
    Loop,
    /// Linux "cooked" capture, version 1 (113).
    LinuxCooked,
    /// Linux "cooked" capture, version 2 (276).
    LinuxCooked2,
    /// Bare IPv4 (228).
    Ipv4,
    /// Bare IPv6 (229).
    Ipv6,
    /// Anything else: such frames can be carried and counted, not decoded.
    Other(u16),
}

impl LinkType {
    /// The link type for a number from a capture file.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::Raw,
            108 => Self::Loop,
            113 => Self::LinuxCooked,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::LinuxCooked2,
            other => Self::Other(other),
        }
    }

    /// The number to write into a capture file.
    pub const fn number(self) -> u16 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Raw => 101,
            Self::Loop => 108,
            Self::LinuxCooked => 113,
            Self::Ipv4 => 228,
            Self::Ipv6 => 229,
            Self::LinuxCooked2 => 276,
            Self::Other(number) => number,
        }
    }
}

/// Which way a frame crossed its interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The source does not say.
    #[default]
    Unknown,
    /// It came in, whomever it was for.
    Inbound,
    /// This host sent it.
    Outbound,
}

/// One captured frame, borrowed from a file buffer or from kernel memory.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The octets that were captured.
    pub data: &'a [u8],
    /// How `data` starts.
    pub link_type: LinkType,
    /// Capture time in nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// Length on the wire in octets; at least `data.len()` unless the source lied.
    pub original_length_octets: u32,
    /// Index of the interface within its source (0 where the source has only one).
    pub interface: u32,
    /// Which way it crossed that interface.
    pub direction: Direction,
}
