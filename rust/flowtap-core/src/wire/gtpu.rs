//! GTP version 1, user plane (3GPP TS 29.281).

use super::StopReason;

/// The UDP port.
pub const PORT: u16 = 2152;
const GPDU: u8 = 255;
/// Extension headers followed in one message.
const MAXIMUM_EXTENSION_HEADERS: usize = 8;

/// Octets in front of the user's packet.
///
/// # Errors
/// Truncated; malformed for another version or GTP'; unknown for messages that carry no user packet; limit.
pub fn header_octets(data: &[u8]) -> Result<usize, StopReason> {
    let (Some(&[flags, kind]), true) = (data.first_chunk::<2>(), data.len() >= 8) else {
        return Err(StopReason::Truncated);
    };
    if flags >> 5 != 1 || flags & 0x10 == 0 {
        return Err(StopReason::Malformed);
    }
    if kind != GPDU {
        return Err(StopReason::Unknown);
    }
    // Any of the flags E, S and PN brings all three optional fields.
    let any_option = [0x04, 0x02, 0x01].iter().any(|bit| flags & bit != 0);
    if !any_option {
        return Ok(8);
    }
    let mut offset = 12;
    let mut next = *data.get(11).ok_or(StopReason::Truncated)?;
    if flags & 0x04 == 0 {
        return Ok(offset);
    }
    for _ in 0..MAXIMUM_EXTENSION_HEADERS {
        if next == 0 {
            return Ok(offset);
        }
        let octets = usize::from(*data.get(offset).ok_or(StopReason::Truncated)?) * 4;
        if octets == 0 {
            return Err(StopReason::Malformed);
        }
        offset += octets;
        next = *data.get(offset - 1).ok_or(StopReason::Truncated)?;
    }
    Err(StopReason::Limit)
}
