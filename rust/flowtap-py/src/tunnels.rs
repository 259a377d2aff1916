//! Tunnels of one's own, as Python gives them.

use std::net::IpAddr;

use flowtap_core::criteria::AddressSpace;
use flowtap_core::own::OwnTunnel;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A tunnel: local gateway, remote gateway, local networks, remote networks. Networks are texts, or objects that are one
/// when they are printed.
pub(crate) type GivenTunnel<'py> = (
    IpAddr,
    IpAddr,
    Vec<Bound<'py, PyAny>>,
    Vec<Bound<'py, PyAny>>,
);

/// One side of a tunnel.
fn side(name: &str, networks: &[Bound<'_, PyAny>]) -> PyResult<AddressSpace> {
    let texts = networks
        .iter()
        .map(|network| Ok(network.str()?.to_string()))
        .collect::<PyResult<Vec<_>>>()?;
    AddressSpace::parse(&texts.join(",")).map_err(|error| {
        // It is read as the list of a filter's sources.
        let message = error.to_string();
        let reason = message.strip_prefix("source: ").unwrap_or(&message);
        PyValueError::new_err(format!("{name}: {reason}"))
    })
}

/// Reads tunnels.
pub(crate) fn own_tunnels(given: Vec<GivenTunnel<'_>>) -> PyResult<Vec<OwnTunnel>> {
    given
        .into_iter()
        .map(|(local_gateway, remote_gateway, local, remote)| {
            Ok(OwnTunnel {
                local_gateway: local_gateway.into(),
                remote_gateway: remote_gateway.into(),
                local_networks: side("local_networks", &local)?,
                remote_networks: side("remote_networks", &remote)?,
            })
        })
        .collect()
}
