//! PPPoE sessions (RFC 2516) with the PPP protocol field (RFC 1661).

use super::{StopReason, ether_type, u16_at};

/// Octets of the PPPoE header and the PPP protocol field.
pub const HEADER_OCTETS: usize = 8;
/// Version 1, type 1.
const VERSION_AND_TYPE: u8 = 0x11;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;

/// One session-stage header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pppoe {
    /// The EtherType that the PPP protocol stands for.
    pub ether_type: u16,
    /// Octets of the payload behind the PPP protocol field, as the header says.
    pub payload_octets: usize,
}

impl Pppoe {
    /// Reads the headers.
    ///
    /// # Errors
    /// Truncated; malformed for another version, type or code, or a length without room for the protocol field;
    /// unknown for PPP's own control protocols.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let (Some(&[version_and_type, code]), Some(length), Some(protocol)) =
            (data.first_chunk::<2>(), u16_at(data, 4), u16_at(data, 6))
        else {
            return Err(StopReason::Truncated);
        };
        if version_and_type != VERSION_AND_TYPE || code != 0 {
            return Err(StopReason::Malformed);
        }
        let payload_octets = usize::from(length)
            .checked_sub(2)
            .ok_or(StopReason::Malformed)?;
        let ether_type = match protocol {
            PPP_IPV4 => ether_type::IPV4,
            PPP_IPV6 => ether_type::IPV6,
            PPP_MPLS => ether_type::MPLS,
            _ => return Err(StopReason::Unknown),
        };
        Ok(Self {
            ether_type,
            payload_octets,
        })
    }
}
