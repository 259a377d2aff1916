//! Gates of tunnels.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowtap_io::export::{DRAIN_PPS, Gate as IoGate, KEY_OCTETS, SpoolError, Spools};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;

// The signature below has it as a number, because only a number is shown to who asks for the signature.
const _: () = assert!(DRAIN_PPS.get() == 5_000);

/// Whether copies may leave through a tunnel; shut at first.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Gate(Arc<IoGate>);

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (tunnel, *, drain_pps=5_000))]
    fn new(tunnel: &str, drain_pps: i64) -> PyResult<Self> {
        let drain_pps = u32::try_from(drain_pps).and_then(NonZeroU32::try_from);
        let drain_pps = drain_pps.map_err(|_error| {
            PyValueError::new_err("drain_pps: a number from 1 to 4294967295 is right")
        })?;
        Ok(Self(Arc::new(IoGate::with_drain(tunnel, drain_pps))))
    }

    /// The name of the tunnel.
    #[getter]
    fn tunnel(&self) -> &str {
        self.0.tunnel()
    }

    /// How many copies that waited leave in a second, beyond what comes in meanwhile.
    #[getter]
    fn drain_pps(&self) -> NonZeroU32 {
        self.0.drain_pps()
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
    py: Python<'_>,
    gates: Vec<Py<Gate>>,
    directory: Option<&str>,
    key: Option<&[u8]>,
) -> PyResult<Option<Arc<Spools>>> {
    let key = key.map(<&[u8; KEY_OCTETS]>::try_from).transpose();
    let key = key.map_err(|_error| {
        PyValueError::new_err(format!("spool_key: {KEY_OCTETS} octets are right"))
    })?;
    if key.is_some() && directory.is_none() {
        return Err(PyValueError::new_err(
            "spool_key: there is no spool_directory that it could be for",
        ));
    }
    if gates.is_empty() && directory.is_none() {
        return Ok(None);
    }
    let gates = gates
        .into_iter()
        .map(|gate| Arc::clone(&gate.get().0))
        .collect();
    py.detach(|| Spools::new(gates, directory.map(Path::new), key))
        .map(|spools| Some(Arc::new(spools)))
        .map_err(|error| match error {
            SpoolError::TwoGates { .. } => PyValueError::new_err(error.to_string()),
            _ => errors::data_plane(&error.to_string()),
        })
}
