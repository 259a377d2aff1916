//! Batches of copies and their buffers: the only file of the bindings that may use unsafe code.
#![expect(
    unsafe_code,
    reason = "the buffer protocol hands a pointer to the interpreter"
)]

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowtap_core::batch::CopyBatch as CoreBatch;
use flowtap_core::table::FilterTable;
use pyo3::exceptions::{PyBufferError, PyIndexError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// One arena and the table its destination numbers refer to; never changed once Python has it.
struct Arena {
    batch: CoreBatch,
    table: Arc<FilterTable>,
}

/// Fills a read-only view of `octets`, which must live as long as `owner`.
fn fill(
    owner: &Bound<'_, PyAny>,
    octets: &[u8],
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let length = ffi::Py_ssize_t::try_from(octets.len())
        .map_err(|_error| PyBufferError::new_err("the batch is longer than a buffer can be"))?;
    if view.is_null() {
        return Err(PyBufferError::new_err("no view was given"));
    }
    // SAFETY: the interpreter is attached (`owner` is bound), `view` is the structure that it gave us, not
    // null, and `octets` stay at their place: they belong to an `Arc` held by `owner`, a frozen class that
    // never changes them, and PyBuffer_FillInfo makes the view hold a reference to `owner`. The view is
    // marked read-only, so nobody writes through the pointer.
    let status = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            octets.as_ptr().cast_mut().cast(),
            length,
            1,
            flags,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

/// Many copies in one arena.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct CopyBatch(Arc<Arena>);

impl CopyBatch {
    pub(crate) fn new(batch: CoreBatch, table: Arc<FilterTable>) -> Self {
        Self(Arc::new(Arena { batch, table }))
    }
}

#[pymethods]
impl CopyBatch {
    fn __len__(&self) -> usize {
        self.0.batch.records().len()
    }

    fn __getitem__(&self, index: isize) -> PyResult<Copy> {
        let count = self.0.batch.records().len();
        let place = if index < 0 {
            count.checked_sub(index.unsigned_abs())
        } else {
            Some(index.unsigned_abs())
        };
        match place {
            Some(index) if index < count => Ok(Copy {
                arena: Arc::clone(&self.0),
                index,
            }),
            _ => Err(PyIndexError::new_err(format!(
                "copy {index} of a batch of {count}"
            ))),
        }
    }

    fn __iter__(&self) -> CopyIterator {
        CopyIterator {
            arena: Arc::clone(&self.0),
            next: AtomicUsize::new(0),
        }
    }

    fn __repr__(&self) -> String {
        format!(
            "<CopyBatch of {} copies, {} octets>",
            self.__len__(),
            self.0.batch.bytes().len()
        )
    }

    /// A read-only view of all octets, one copy behind the other.
    ///
    /// # Safety
    /// Called by the interpreter only, which gives a valid `view`.
    unsafe fn __getbuffer__(
        slf: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        fill(slf.as_any(), slf.get().0.batch.bytes(), view, flags)
    }
}

/// Walks a batch from its first copy to its last.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct CopyIterator {
    arena: Arc<Arena>,
    next: AtomicUsize,
}

#[pymethods]
impl CopyIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<Copy> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.arena.batch.records().len()).then(|| Copy {
            arena: Arc::clone(&self.arena),
            index,
        })
    }
}

/// One outer datagram of a batch.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Copy {
    arena: Arc<Arena>,
    index: usize,
}

impl Copy {
    fn octets(&self) -> &[u8] {
        // Made only with an index that the batch has.
        self.arena.batch.copy(self.index).unwrap_or_default()
    }
}

#[pymethods]
impl Copy {
    #[getter]
    fn criteria_id(&self) -> Option<u64> {
        self.arena
            .batch
            .records()
            .get(self.index)
            .map(|record| record.criteria_id)
    }

    /// Id of the content destination; empty where the criterion names none.
    #[getter]
    fn destination_id(&self) -> &str {
        let destination = self
            .arena
            .batch
            .records()
            .get(self.index)
            .and_then(|record| {
                let index = usize::try_from(record.destination).ok()?;
                self.arena.table.destinations().get(index)
            });
        destination.map_or("", |destination| destination.id.as_str())
    }

    /// When the tapped packet was captured, in nanoseconds since the Unix epoch.
    #[getter]
    fn timestamp_ns(&self) -> Option<u64> {
        self.arena
            .batch
            .records()
            .get(self.index)
            .map(|record| record.timestamp_ns)
    }

    /// IP total length of the tapped packet.
    #[getter]
    fn original_length_octets(&self) -> Option<u32> {
        self.arena
            .batch
            .records()
            .get(self.index)
            .map(|record| record.original_length_octets)
    }

    fn __len__(&self) -> usize {
        self.octets().len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.octets())
    }

    // Neither addresses nor payload: a copy must be printable without disclosing anything.
    fn __repr__(&self) -> String {
        format!("<Copy of {} octets>", self.octets().len())
    }

    /// A read-only view of the datagram.
    ///
    /// # Safety
    /// Called by the interpreter only, which gives a valid `view`.
    unsafe fn __getbuffer__(
        slf: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        fill(slf.as_any(), slf.get().octets(), view, flags)
    }
}
