//! What a tap never taps because it is the tap's own, and the proof that it does not.

use std::sync::Arc;

use flowtap_core::own::{OwnTraffic, Unproven, prove};
use flowtap_core::table::FilterTable;

use super::live::LiveOptions;
use super::{PlayOptions, Tap, TapError};
use crate::export::source_of;
use crate::local::local_addresses;

impl From<Unproven> for TapError {
    fn from(error: Unproven) -> Self {
        Self::NotExcluded {
            message: error.to_string(),
        }
    }
}

impl LiveOptions {
    /// What belongs to a tap like this.
    pub(super) fn own_traffic(&self) -> Result<OwnTraffic, TapError> {
        let own = OwnTraffic::new(self.own.clone()).through(self.tunnels.clone());
        let socket = self
            .export
            .as_ref()
            .and_then(|export| export.socket.as_ref());
        let Some(socket) = socket else {
            return Ok(own);
        };
        let source = source_of(socket).map_err(|error| TapError::Capture {
            message: format!("the socket for copies cannot be used: {error}"),
        })?;
        Ok(own.sent_from(source))
    }

    /// Proves, before the start, that nothing of a tap like this would be tapped; returns how many frames were tried.
    ///
    /// # Errors
    /// [`TapError::NotExcluded`]; [`TapError::Capture`] for a socket that cannot be used.
    pub fn prove_exclusion(&self, table: &FilterTable) -> Result<usize, TapError> {
        let local = Arc::new(local_addresses());
        Ok(prove(
            &self.own_traffic()?,
            table,
            Some(&local),
            self.inner,
        )?)
    }
}

impl PlayOptions {
    /// What belongs to a tap like this; None where it has no tunnel, because captures hold none of its copies.
    pub(super) fn own_traffic(&self) -> Option<OwnTraffic> {
        let has_tunnels = !self.tunnels.is_empty();
        has_tunnels.then(|| OwnTraffic::default().through(self.tunnels.clone()))
    }

    /// Proves, before the start, that nothing of a tap like this would be tapped; returns how many frames were tried.
    ///
    /// # Errors
    /// [`TapError::NotExcluded`].
    pub fn prove_exclusion(&self, table: &FilterTable) -> Result<usize, TapError> {
        let Some(own) = self.own_traffic() else {
            return Ok(0);
        };
        Ok(prove(&own, table, None, self.inner)?)
    }
}

impl Tap {
    /// Proves that nothing of the tap's own is tapped, with the present table; returns how many frames were tried.
    ///
    /// # Errors
    /// [`TapError::NotExcluded`].
    pub fn prove_exclusion(&self) -> Result<usize, TapError> {
        let Some(own) = &self.own else {
            return Ok(0);
        };
        let local = self.live.as_ref().map(|(live, _)| live.local.load_full());
        let table = self.cell.table();
        Ok(prove(own, &table, local.as_ref(), self.inner)?)
    }
}
