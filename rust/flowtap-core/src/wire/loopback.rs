//! BSD loopback captures (link types 0 and 108): an address family in front of the packet.

use super::{StopReason, ether_type, u32_at};

/// Octets of the address family.
pub const HEADER_OCTETS: usize = 4;

/// The EtherType that the address family stands for. `AF_INET` is 2 everywhere; `AF_INET6` is 10 on Linux, 24 on
/// NetBSD and OpenBSD, 28 on FreeBSD, 30 on macOS. The number is in the byte order of the machine that wrote it
/// (link type 0) or big-endian (108); families are small, so the order shows.
///
/// # Errors
/// Truncated; unknown for every other family.
pub fn ether_type_of(data: &[u8]) -> Result<u16, StopReason> {
    let family = u32_at(data, 0).ok_or(StopReason::Truncated)?;
    let family = if family > 0xffff {
        family.swap_bytes()
    } else {
        family
    };
    match family {
        2 => Ok(ether_type::IPV4),
        10 | 24 | 28 | 30 => Ok(ether_type::IPV6),
        _ => Err(StopReason::Unknown),
    }
}
