//! IPv6 and its extension headers (RFC 8200).

use super::{StopReason, u16_at, u32_at};

/// Octets of the fixed header.
pub const HEADER_OCTETS: usize = 40;
/// Extension headers followed in one packet. A sender has no use for more than eight (RFC 8200 §4.1).
pub const MAXIMUM_EXTENSION_HEADERS: usize = 16;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
/// "No next header".
const NONE: u8 = 59;

/// The fields of an IPv6 header that the decoder needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Payload length as written; 0 in jumbograms and where the writer left it to the hardware.
    pub payload_length_octets: u16,
    /// The first next header.
    pub next_header: u8,
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
}

impl Ipv6 {
    /// Reads the fixed header.
    ///
    /// # Errors
    /// Truncated; malformed for another version.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let Some((header, _)) = data.split_first_chunk::<HEADER_OCTETS>() else {
            return Err(match data.first() {
                Some(first) if first >> 4 != 6 => StopReason::Malformed,
                _ => StopReason::Truncated,
            });
        };
        let [first, _, _, _, l0, l1, next_header, _, addresses @ ..] = header;
        if first >> 4 != 6 {
            return Err(StopReason::Malformed);
        }
        let (Some(source), Some(destination)) =
            (addresses.first_chunk::<16>(), addresses.last_chunk::<16>())
        else {
            return Err(StopReason::Truncated);
        };
        Ok(Self {
            payload_length_octets: u16::from_be_bytes([*l0, *l1]),
            next_header: *next_header,
            source: u128::from_be_bytes(*source),
            destination: u128::from_be_bytes(*destination),
        })
    }

    /// Octets of the whole packet as the header says; None where it leaves that open.
    #[inline]
    pub fn total_length_octets(&self) -> Option<usize> {
        match self.payload_length_octets {
            0 if self.next_header == NONE => Some(HEADER_OCTETS),
            0 => None,
            length => Some(HEADER_OCTETS + usize::from(length)),
        }
    }
}

/// A fragment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Offset in octets.
    pub offset_octets: u32,
    /// More fragments follow.
    pub more: bool,
    /// Identification.
    pub identification: u32,
}

/// Where the chain of extension headers led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The upper-layer protocol, None where the chain could not be read to its end.
    pub protocol: Option<u8>,
    /// Where the upper layer begins, in octets from the start of the packet.
    pub upper_offset: usize,
    /// The fragment header, where there was one.
    pub fragment: Option<FragmentHeader>,
    /// Why the chain could not be read to its end.
    pub stop: Option<StopReason>,
}

impl Chain {
    /// Follows the extension headers of `packet`, which starts at the fixed header. In a later fragment nothing behind
    /// the fragment header is read, for it is data.
    pub fn follow(packet: &[u8], first: u8) -> Self {
        let mut chain = Self {
            protocol: Some(first),
            upper_offset: HEADER_OCTETS,
            fragment: None,
            stop: None,
        };
        let mut next = first;
        for _ in 0..=MAXIMUM_EXTENSION_HEADERS {
            let octets = match next {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                    packet
                        .get(chain.upper_offset + 1)
                        .map(|&length| (usize::from(length) + 1) * 8)
                }
                AUTHENTICATION => packet
                    .get(chain.upper_offset + 1)
                    .map(|&length| (usize::from(length) + 2) * 4),
                FRAGMENT => Some(8),
                _ => {
                    chain.protocol = Some(next);
                    return chain;
                }
            };
            let (Some(&following), Some(end)) = (
                packet.get(chain.upper_offset),
                octets
                    .map(|octets| chain.upper_offset + octets)
                    .filter(|&end| end <= packet.len()),
            ) else {
                return Self {
                    protocol: None,
                    stop: Some(StopReason::Truncated),
                    ..chain
                };
            };
            if next == FRAGMENT && chain.fragment.is_none() {
                let (Some(field), Some(identification)) = (
                    u16_at(packet, chain.upper_offset + 2),
                    u32_at(packet, chain.upper_offset + 4),
                ) else {
                    return Self {
                        protocol: None,
                        stop: Some(StopReason::Truncated),
                        ..chain
                    };
                };
                let offset_octets = u32::from(field & 0xfff8);
                chain.fragment = Some(FragmentHeader {
                    offset_octets,
                    more: field & 1 != 0,
                    identification,
                });
                if offset_octets != 0 {
                    chain.upper_offset = end;
                    // Behind the first fragment's further headers there is a protocol that this one does not name.
                    chain.protocol = Some(following).filter(|&header| !is_extension(header));
                    return chain;
                }
            }
            chain.upper_offset = end;
            next = following;
        }
        Self {
            protocol: None,
            stop: Some(StopReason::Limit),
            ..chain
        }
    }
}

/// Whether a next header value names an extension header that the chain follows.
const fn is_extension(header: u8) -> bool {
    matches!(
        header,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}
