//! Checksums that a host leaves to its network card: what is captured on the way there is not finished.

use crate::decode::Outer;
use crate::frame::Frame;
use crate::packet::Address;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{Chain, Ipv6};
use crate::wire::protocol;

/// Where SCTP keeps its checksum (RFC 9260 §3.1). No protocol with an Internet checksum keeps it there.
const SCTP_OFFSET: usize = 8;
/// The polynomial of CRC32c, bits reversed (RFC 9260, appendix A).
const CRC32C: u32 = 0x82f6_3b78;

/// A checksum that the sender left to the hardware: the field holds the sum of the pseudo-header (nothing for SCTP),
/// and what is to be summed runs to the end of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfinishedChecksum {
    /// Where the summed octets begin: the transport header.
    pub start: usize,
    /// Where the field is, from `start` on.
    pub offset: usize,
}

impl UnfinishedChecksum {
    /// Finds the field by decoding, for sources that only say that the checksum is not finished. None for a fragment,
    /// or where the outermost IP packet carries neither TCP nor UDP nor SCTP.
    pub fn locate(frame: &Frame<'_>) -> Option<Self> {
        let outer = Outer::of(frame)?;
        let (upper, protocol) = transport_of(&outer)?;
        let offset = match protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            protocol::SCTP => SCTP_OFFSET,
            _ => return None,
        };
        Some(Self {
            start: outer.offset + upper,
            offset,
        })
    }

    /// The same field after so many octets were put in front of the frame.
    #[must_use]
    pub const fn moved(self, octets: usize) -> Self {
        Self {
            start: self.start.saturating_add(octets),
            offset: self.offset,
        }
    }

    /// Writes the checksum into a whole frame, as the kernel would in place of the hardware. False, and nothing is
    /// changed, where the field lies outside.
    pub fn complete(self, octets: &mut [u8]) -> bool {
        let Some(summed) = octets.get_mut(self.start..) else {
            return false;
        };
        if self.offset == SCTP_OFFSET {
            return complete_sctp(summed);
        }
        let checksum = Sum::new().octets(summed).finish();
        // In UDP a zero says that there is no checksum (RFC 768); for the others both zeros mean the same.
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        match field(summed, self.offset) {
            Some(field) => {
                *field = checksum.to_be_bytes();
                true
            }
            None => false,
        }
    }
}

/// The two octets at `offset`, to be written.
fn field(octets: &mut [u8], offset: usize) -> Option<&mut [u8; 2]> {
    octets.get_mut(offset..)?.first_chunk_mut()
}

/// Where the transport header begins in an IP packet that is no fragment, and of which protocol it is.
pub(crate) fn transport_of(outer: &Outer<'_>) -> Option<(usize, u8)> {
    match outer.source {
        Address::V4(_) => {
            let header = Ipv4::parse(outer.octets).ok()?;
            let is_whole = !header.more_fragments && header.fragment_offset_octets == 0;
            is_whole.then_some((header.header_octets, header.protocol))
        }
        Address::V6(_) => {
            let header = Ipv6::parse(outer.octets).ok()?;
            let chain = Chain::follow(outer.octets, header.next_header);
            let protocol = chain.protocol?;
            chain
                .fragment
                .is_none()
                .then_some((chain.upper_offset, protocol))
        }
    }
}

fn complete_sctp(packet: &mut [u8]) -> bool {
    let Some(field) = packet
        .get_mut(SCTP_OFFSET..)
        .and_then(<[u8]>::first_chunk_mut::<4>)
    else {
        return false;
    };
    *field = [0; 4];
    let checksum = crc32c(packet);
    if let Some(field) = packet
        .get_mut(SCTP_OFFSET..)
        .and_then(<[u8]>::first_chunk_mut::<4>)
    {
        *field = checksum.to_le_bytes();
    }
    true
}

/// Bit by bit: a host's own SCTP is too rare for a table.
fn crc32c(octets: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for &octet in octets {
        remainder ^= u32::from(octet);
        for _ in 0..8 {
            let feedback = if remainder & 1 == 0 { 0 } else { CRC32C };
            remainder = (remainder >> 1) ^ feedback;
        }
    }
    !remainder
}

/// Writes a 16-bit field; nothing happens where the octets end before it.
pub(crate) fn write_word(octets: &mut [u8], offset: usize, value: u16) {
    if let Some(field) = field(octets, offset) {
        *field = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_usual_digits() {
        // The check value of CRC-32/ISCSI, which is this polynomial.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
