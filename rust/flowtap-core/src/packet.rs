//! What criteria see of a packet.

use std::net::IpAddr;

/// An IP address as a number, most significant octet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6(u128),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6(v6.to_bits()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bits) => Self::V4(bits.into()),
            Address::V6(bits) => Self::V6(bits.into()),
        }
    }
}

/// The transport fields that criteria can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Not readable from this packet: another protocol, truncated, or a later fragment.
    None,
    /// TCP, UDP or SCTP ports. (Criteria with ports match TCP and UDP only.)
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6 type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// Everything of the outermost IP packet that criteria can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketKey {
    /// Source address of the outermost IP header.
    pub source: Address,
    /// Destination address; always of the same family as `source`.
    pub destination: Address,
    /// IPv4: the protocol field. IPv6: the upper-layer protocol after the extension headers.
    /// None where an IPv6 extension header chain could not be read to its end.
    pub protocol: Option<u8>,
    /// Transport fields, where readable.
    pub transport: Transport,
}
