//! GRE (RFC 2784, RFC 2890).

use super::{StopReason, u16_at};

/// One GRE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// Octets of the header with its optional fields.
    pub header_octets: usize,
    /// EtherType of the payload.
    pub ether_type: u16,
}

impl Gre {
    /// Reads the header.
    ///
    /// # Errors
    /// Truncated; unknown for source routing (RFC 1701) and for version 1 (PPTP).
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let (Some(flags), Some(ether_type)) = (u16_at(data, 0), u16_at(data, 2)) else {
            return Err(StopReason::Truncated);
        };
        if flags & 0x4007 != 0 {
            return Err(StopReason::Unknown);
        }
        // Checksum, key and sequence number take four octets each.
        let optional = [0x8000, 0x2000, 0x1000]
            .iter()
            .filter(|&&bit| flags & bit != 0)
            .count();
        let header_octets = 4 + 4 * optional;
        if data.len() < header_octets {
            return Err(StopReason::Truncated);
        }
        Ok(Self {
            header_octets,
            ether_type,
        })
    }
}
