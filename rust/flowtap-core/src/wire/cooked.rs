//! Linux "cooked" captures (link types 113 and 276).

use super::{StopReason, u16_at};

/// Octets of the first version's header.
pub const V1_OCTETS: usize = 16;
/// Octets of the second version's header.
pub const V2_OCTETS: usize = 20;

/// The EtherType in a version 1 header.
///
/// # Errors
/// Truncated.
pub fn v1_ether_type(data: &[u8]) -> Result<u16, StopReason> {
    u16_at(data, 14).ok_or(StopReason::Truncated)
}

/// The EtherType in a version 2 header.
///
/// # Errors
/// Truncated.
pub fn v2_ether_type(data: &[u8]) -> Result<u16, StopReason> {
    if data.len() < V2_OCTETS {
        return Err(StopReason::Truncated);
    }
    u16_at(data, 0).ok_or(StopReason::Truncated)
}
