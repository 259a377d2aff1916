//! MPLS label stack entries (RFC 3032).

use super::{StopReason, u32_at};

/// Octets of one entry.
pub const ENTRY_OCTETS: usize = 4;

/// One label stack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelStackEntry {
    /// The label, 20 bits.
    pub label: u32,
    /// Whether this is the last entry.
    pub bottom: bool,
}

impl LabelStackEntry {
    /// Reads the entry.
    ///
    /// # Errors
    /// Truncated.
    #[inline]
    pub fn parse(data: &[u8]) -> Result<Self, StopReason> {
        let entry = u32_at(data, 0).ok_or(StopReason::Truncated)?;
        Ok(Self {
            label: entry >> 12,
            bottom: entry & 0x100 != 0,
        })
    }
}
