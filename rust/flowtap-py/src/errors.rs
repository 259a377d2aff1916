//! Rust errors to the exception classes of `flowtap.errors`.

use flowtap_core::counters::AccountError;
use flowtap_core::criteria::CriteriaError;
use flowtap_io::files::CaptureError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

/// An exception of class `flowtap.errors.<class>`; an error while making it is returned instead.
fn raise(
    py: Python<'_>,
    class: &str,
    message: &str,
    attributes: impl FnOnce(Python<'_>) -> PyResult<Bound<'_, PyDict>>,
) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import("flowtap.errors")?.getattr(class)?;
        let exception = class.call((message,), Some(&attributes(py)?))?;
        Ok(PyErr::from_value(exception))
    };
    make().unwrap_or_else(|error| error)
}

/// `flowtap.errors.DataPlaneError`.
pub(crate) fn data_plane(message: &str) -> PyErr {
    Python::attach(|py| raise(py, "DataPlaneError", message, |py| Ok(PyDict::new(py))))
}

/// `flowtap.errors.PermissionMissingError`.
pub(crate) fn permission_missing(right: &str, message: &str) -> PyErr {
    Python::attach(|py| {
        raise(py, "PermissionMissingError", message, |py| {
            [("right", right)].into_py_dict(py)
        })
    })
}

/// `flowtap.errors.CriteriaError`.
pub(crate) fn criteria(field: &str, value: &str, message: &str, syntax: bool) -> PyErr {
    Python::attach(|py| {
        raise(py, "CriteriaError", message, |py| {
            let attributes = [("field", field), ("value", value)].into_py_dict(py)?;
            attributes.set_item("syntax", syntax)?;
            Ok(attributes)
        })
    })
}

/// The exception for a filter that cannot be.
pub(crate) fn from_criteria(error: &CriteriaError) -> PyErr {
    criteria(
        error.field().name(),
        error.value(),
        &error.to_string(),
        error.is_syntax(),
    )
}

/// `flowtap.errors.CaptureError`.
pub(crate) fn capture(path: &str, message: &str, offset_octets: Option<u64>) -> PyErr {
    Python::attach(|py| {
        raise(py, "CaptureError", message, |py| {
            let attributes = [("path", path)].into_py_dict(py)?;
            attributes.set_item("offset_octets", offset_octets)?;
            Ok(attributes)
        })
    })
}

/// The exception for a capture file that cannot be read further.
pub(crate) fn from_capture(error: &CaptureError) -> PyErr {
    capture(&error.path, &error.to_string(), Some(error.offset_octets))
}

/// The exception for an account that contradicts itself.
pub(crate) fn from_account(error: &AccountError) -> PyErr {
    data_plane(&error.to_string())
}

/// Refuses to go on in a child process: sockets, threads and counters belong to the parent.
pub(crate) fn check_process(process_id: u32) -> PyResult<()> {
    if std::process::id() == process_id {
        Ok(())
    } else {
        Err(data_plane(
            "made before fork() and used after it: make a new one in the child process",
        ))
    }
}
