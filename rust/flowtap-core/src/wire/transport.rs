//! What criteria see of TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792) and ICMPv6 (RFC 4443).

use super::{protocol, u16_at};
use crate::packet::Transport;

/// Octets of a UDP header.
pub const UDP_HEADER_OCTETS: usize = 8;

/// Octets that a whole header has at least, None for a protocol without fields that criteria can name.
pub const fn minimum_octets(protocol: u8, is_ipv6: bool) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(20),
        protocol::UDP => Some(UDP_HEADER_OCTETS),
        protocol::SCTP => Some(12),
        protocol::ICMP if !is_ipv6 => Some(8),
        protocol::ICMPV6 if is_ipv6 => Some(4),
        _ => None,
    }
}

/// Reads ports, or ICMP type and code; both need only the first four (two) octets, so a cut header will do.
#[inline]
pub fn parse(data: &[u8], protocol: u8, is_ipv6: bool) -> Transport {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            match (u16_at(data, 0), u16_at(data, 2)) {
                (Some(source), Some(destination)) => Transport::Ports {
                    source,
                    destination,
                },
                _ => Transport::None,
            }
        }
        protocol::ICMP if !is_ipv6 => icmp(data),
        protocol::ICMPV6 if is_ipv6 => icmp(data),
        _ => Transport::None,
    }
}

fn icmp(data: &[u8]) -> Transport {
    match data.first_chunk() {
        Some(&[kind, code]) => Transport::Icmp { kind, code },
        None => Transport::None,
    }
}
