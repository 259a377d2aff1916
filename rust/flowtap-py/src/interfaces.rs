//! The network interfaces of this host.

use std::net::IpAddr;

use flowtap_io::local;
use flowtap_io::packet::Interface;
use pyo3::prelude::*;

use crate::errors;
use crate::link_type::LinkType;

/// Every interface: its name, and whether it is up.
#[pyfunction]
pub(crate) fn interfaces(py: Python<'_>) -> PyResult<Vec<(String, bool)>> {
    let all = py
        .detach(Interface::all)
        .map_err(|error| errors::data_plane(&error.to_string()))?;
    Ok(all
        .into_iter()
        .map(|each| (each.name, each.is_up))
        .collect())
}

/// Every address of this host, in this network namespace.
#[pyfunction]
pub(crate) fn host_addresses(py: Python<'_>) -> PyResult<Vec<IpAddr>> {
    py.detach(local::host_addresses)
        .map_err(|error| errors::data_plane(&format!("the addresses of this host: {error}")))
}

/// How the frames of an interface begin when it is captured.
#[pyfunction]
pub(crate) fn interface_link_type(py: Python<'_>, name: &str) -> PyResult<LinkType> {
    py.detach(|| Interface::find(name))
        .map(|found| LinkType(found.link_type()))
        .map_err(|error| errors::data_plane(&error.to_string()))
}
