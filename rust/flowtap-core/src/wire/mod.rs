//! Borrowed views of protocol headers, one file per protocol.
//!
//! Every `parse` takes the octets from the header's start on, returns what the decoder needs of it, and is
//! total: any octets give a header or a [`StopReason`].

pub mod checksum;
pub mod cooked;
pub mod ethernet;
pub mod gre;
pub mod gtpu;
pub mod ipv4;
pub mod ipv6;
pub mod loopback;
pub mod mpls;
pub mod pppoe;
pub mod transport;
pub mod vxlan;

/// Why a decoder went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The octets end inside a header.
    Truncated,
    /// A protocol that flowtap does not decode; not an error.
    Unknown,
    /// A field contradicts its protocol.
    Malformed,
    /// More headers of one kind than flowtap follows.
    Limit,
}

impl StopReason {
    /// The stable name, as `explain` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
            Self::Limit => "limit",
        }
    }
}

/// EtherTypes that the decoder follows (IEEE registry).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Service tag as switches wrote it before 802.1ad.
    pub const OLD_SERVICE_VLAN: u16 = 0x9100;
    /// The other old service tag.
    pub const OLD_SERVICE_VLAN_2: u16 = 0x9200;
    /// MPLS unicast.
    pub const MPLS: u16 = 0x8847;
    /// MPLS with an upstream-assigned label (RFC 5332).
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    /// PPPoE session stage (RFC 2516).
    pub const PPPOE_SESSION: u16 = 0x8864;
    /// Transparent Ethernet bridging, in GRE.
    pub const ETHERNET: u16 = 0x6558;
}

/// IP protocol numbers that the decoder follows (IANA registry).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// The two octets at `offset`, as the network wrote them.
#[inline]
pub(crate) fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    data.get(offset..)?
        .first_chunk()
        .map(|octets| u16::from_be_bytes(*octets))
}

/// The four octets at `offset`, as the network wrote them.
#[inline]
pub(crate) fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    data.get(offset..)?
        .first_chunk()
        .map(|octets| u32::from_be_bytes(*octets))
}
