//! Tunnels by name.

use flowtap_core::decode::InnerTunnels;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Reads names of tunnels whose inner packets are matched.
pub(crate) fn inner_tunnels(names: Vec<String>) -> PyResult<InnerTunnels> {
    let mut tunnels = InnerTunnels::default();
    for name in names {
        match name.as_str() {
            "gre" => tunnels.gre = true,
            "vxlan" => tunnels.vxlan = true,
            "gtpu" => tunnels.gtpu = true,
            "ipip" => tunnels.ipip = true,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "inner: {name:?} is none; gre, vxlan, gtpu and ipip are"
                )));
            }
        }
    }
    Ok(tunnels)
}
