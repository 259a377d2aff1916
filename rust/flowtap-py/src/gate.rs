//! Gates of tunnels.

use std::sync::Arc;
use std::time::Duration;

use flowtap_io::export::{Gate as IoGate, Spools};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Whether copies may leave through a tunnel; shut at first.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Gate(Arc<IoGate>);

#[pymethods]
impl Gate {
    #[new]
    fn new(tunnel: &str) -> Self {
        Self(Arc::new(IoGate::new(tunnel)))
    }

    /// The name of the tunnel.
    #[getter]
    fn tunnel(&self) -> &str {
        self.0.tunnel()
    }

    /// Whether copies may leave.
    #[getter]
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Lets copies leave; what waits follows within a tenth of a second.
    fn open(&self, py: Python<'_>) {
        py.detach(|| self.0.open());
    }

    /// Lets nothing leave any more: when this returns, the last copy has. What was sent in the last `in_doubt_s` may not
    /// have arrived. Changes nothing where the gate is shut.
    #[pyo3(signature = (in_doubt_s=0.0))]
    fn shut(&self, py: Python<'_>, in_doubt_s: f64) -> PyResult<()> {
        let in_doubt = Duration::try_from_secs_f64(in_doubt_s).map_err(|_error| {
            PyValueError::new_err("in_doubt_s: a number of seconds from 0 is right")
        })?;
        py.detach(|| self.0.shut(in_doubt));
        Ok(())
    }

    fn __repr__(&self) -> String {
        let state = if self.0.is_open() { "open" } else { "shut" };
        format!("<Gate of {:?}, {state}>", self.0.tunnel())
    }
}

/// The spools behind gates; None without gates, and then nothing leaves for destinations behind tunnels.
pub(crate) fn spools(
    gates: Vec<Py<Gate>>,
    directory: Option<String>,
    key: Option<Vec<u8>>,
) -> PyResult<Option<Arc<Spools>>> {
    if (directory, key) != (None, None) {
        return Err(PyValueError::new_err(
            "spool_directory: spools on disk are not there yet",
        ));
    }
    if gates.is_empty() {
        return Ok(None);
    }
    let gates = gates
        .into_iter()
        .map(|gate| Arc::clone(&gate.get().0))
        .collect();
    Spools::new(gates)
        .map(|spools| Some(Arc::new(spools)))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}
