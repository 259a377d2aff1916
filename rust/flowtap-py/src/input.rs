//! Octets from Python.

use std::borrow::Cow;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The octets of `object`, safe to read while the interpreter is released: `bytes` cannot change and
/// are borrowed; every other buffer could be written to meanwhile and is copied.
pub(crate) fn octets<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(Cow::Borrowed(bytes.as_bytes()));
    }
    let buffer = PyBuffer::<u8>::get(object)?;
    Ok(Cow::Owned(buffer.to_vec(object.py())?))
}
