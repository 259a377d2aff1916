//! Ethernet II, 802.3 with SNAP, 802.1Q and 802.1ad tags.

use super::{StopReason, u16_at};

/// Octets of both addresses and the type field.
pub const HEADER_OCTETS: usize = 14;
/// Octets of one tag: control information and the type that follows.
pub const TAG_OCTETS: usize = 4;
/// Type fields below this are 802.3 lengths.
const FIRST_TYPE: u16 = 0x0600;
/// LLC and SNAP in front of an EtherType: DSAP, SSAP, control, organisation 0.
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];

/// What follows an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Octets in front of the payload.
    pub header_octets: usize,
    /// Type of the payload.
    pub ether_type: u16,
}

impl Ethernet {
    /// Reads the header.
    ///
    /// # Errors
    /// Truncated; unknown for 802.3 frames that carry no SNAP header with an EtherType.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let ether_type = u16_at(data, 12).ok_or(StopReason::Truncated)?;
        if ether_type >= FIRST_TYPE {
            return Ok(Self {
                header_octets: HEADER_OCTETS,
                ether_type,
            });
        }
        let llc = data.get(HEADER_OCTETS..).unwrap_or_default();
        if !llc.starts_with(&SNAP) {
            return Err(if llc.len() < SNAP.len() {
                StopReason::Truncated
            } else {
                StopReason::Unknown
            });
        }
        let ether_type = u16_at(llc, SNAP.len()).ok_or(StopReason::Truncated)?;
        Ok(Self {
            header_octets: HEADER_OCTETS + SNAP.len() + 2,
            ether_type,
        })
    }
}

/// One VLAN tag, from the octets behind the tag's own EtherType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// VLAN identifier, 0 to 4095.
    pub vlan_id: u16,
    /// Type of what follows.
    pub ether_type: u16,
}

impl Tag {
    /// Reads the tag.
    ///
    /// # Errors
    /// Truncated.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        match (u16_at(data, 0), u16_at(data, 2)) {
            (Some(control), Some(ether_type)) => Ok(Self {
                vlan_id: control & 0x0fff,
                ether_type,
            }),
            _ => Err(StopReason::Truncated),
        }
    }
}
