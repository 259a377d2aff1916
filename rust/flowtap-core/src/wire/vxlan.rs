//! VXLAN (RFC 7348).

use super::StopReason;

/// The UDP destination port.
pub const PORT: u16 = 4789;
/// Octets of the header; an Ethernet frame follows.
pub const HEADER_OCTETS: usize = 8;

/// Checks the header.
///
/// # Errors
/// Truncated; malformed where the flag of a valid network identifier is missing.
pub fn check(data: &[u8]) -> Result<(), StopReason> {
    match data.first_chunk::<HEADER_OCTETS>() {
        Some([flags, ..]) if flags & 0x08 != 0 => Ok(()),
        Some(_) => Err(StopReason::Malformed),
        None => Err(StopReason::Truncated),
    }
}
