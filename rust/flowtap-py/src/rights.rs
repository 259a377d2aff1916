//! The rights of this process, and the broker that keeps those which it gives up.

use flowtap_io::{broker, rights};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

fn failed(what: &str, error: &std::io::Error) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), format!("{what}: {error}")))
}

/// The capabilities that flowtap uses and this thread has.
#[pyfunction]
pub(crate) fn rights_held() -> PyResult<Vec<&'static str>> {
    rights::held().map_err(|error| failed("capabilities", &error))
}

/// Gives up every capability but those named, for ever. Only before there are other threads. Programs that are started have
/// those that are kept where `ambient` says so.
#[pyfunction]
#[pyo3(signature = (names, *, ambient=false))]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the binding converts into owned values"
)]
pub(crate) fn keep_rights(names: Vec<String>, ambient: bool) -> PyResult<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let kept = if ambient {
        rights::keep_for_programs(&names)
    } else {
        rights::keep_only(&names)
    };
    kept.map_err(|error| failed("giving up capabilities", &error))
}

/// Answers requests for descriptors until the other side is closed.
#[pyfunction]
pub(crate) fn serve_broker(
    py: Python<'_>,
    descriptor: i32,
    interfaces: Vec<String>,
) -> PyResult<()> {
    let permitted = broker::Permitted { interfaces };
    py.detach(|| broker::serve_number(descriptor, &permitted))
        .map_err(|error| failed("broker", &error))
}
