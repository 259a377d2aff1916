//! IPv4 (RFC 791).

use super::StopReason;

/// Octets of a header without options.
pub const MINIMUM_HEADER_OCTETS: usize = 20;

/// The fields of an IPv4 header that the decoder needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Octets of the header with its options.
    pub header_octets: usize,
    /// Total length as written; 0 where the writer left it to the hardware.
    pub total_length_octets: u16,
    /// Identification.
    pub identification: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Fragment offset in octets.
    pub fragment_offset_octets: u32,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

impl Ipv4 {
    /// Reads the fixed header. Options may be cut off.
    ///
    /// # Errors
    /// Truncated; malformed for another version, a header length below 5 words, or a total length below the header.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let Some(header) = data.first_chunk::<MINIMUM_HEADER_OCTETS>() else {
            return Err(match data.first() {
                Some(first) if first >> 4 != 4 => StopReason::Malformed,
                _ => StopReason::Truncated,
            });
        };
        let [
            first,
            _,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let header_octets = usize::from(first & 0x0f) * 4;
        let total_length_octets = u16::from_be_bytes([l0, l1]);
        if first >> 4 != 4
            || header_octets < MINIMUM_HEADER_OCTETS
            || (total_length_octets != 0 && usize::from(total_length_octets) < header_octets)
        {
            return Err(StopReason::Malformed);
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        Ok(Self {
            header_octets,
            total_length_octets,
            identification: u16::from_be_bytes([i0, i1]),
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset_octets: u32::from(fragment & 0x1fff) * 8,
            protocol,
            source: u32::from_be_bytes([s0, s1, s2, s3]),
            destination: u32::from_be_bytes([d0, d1, d2, d3]),
        })
    }
}
