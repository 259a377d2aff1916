//! What copies must pass through, and where they wait while it is not there. Plain data: who sends obeys it.

use std::time::Duration;

/// Where copies wait that may not leave yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SpoolKind {
    /// Nowhere: they are dropped.
    #[default]
    None,
    /// In memory.
    Memory,
    /// On disk, encrypted.
    Disk,
}

/// The tunnel that a destination is reached through, never in another way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// Name of the tunnel.
    pub tunnel: String,
    /// Where copies wait while the tunnel is down.
    pub spool: SpoolKind,
    /// Room for those that wait and those that are kept together.
    pub spool_octets: u64,
    /// How long what was sent is kept, to be sent again where the tunnel was lost.
    pub resend: Duration,
}
