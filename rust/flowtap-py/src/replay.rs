//! One pass over capture files.

use std::sync::Arc;

use flowtap_core::table::FilterTable as CoreTable;
use flowtap_io::replay::{ReplayControl, ReplayOptions, replay};
use pyo3::prelude::*;

use crate::engine::BpfProgram;
use crate::errors;
use crate::stats::Stats;
use crate::table::FilterTable;

/// What one pass did.
#[pyclass(frozen, get_all, module = "flowtap")]
pub(crate) struct ReplayReport {
    stats: Stats,
    elapsed_s: f64,
    filtered_out: u64,
    written: u64,
    error: Option<String>,
    error_offset_octets: Option<u64>,
    interrupted: bool,
}

/// One pass over capture files: match, count, write matched frames, send copies.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Replay {
    table: Arc<CoreTable>,
    options: ReplayOptions,
    control: ReplayControl,
}

#[pymethods]
impl Replay {
    #[new]
    #[pyo3(signature = (files, table, *, write=None, write_comment=None, export=false, bpf=None))]
    fn new(
        files: Vec<String>,
        table: &FilterTable,
        write: Option<String>,
        write_comment: Option<String>,
        export: bool,
        bpf: Option<&BpfProgram>,
    ) -> Self {
        let program = bpf.map(|program| Arc::clone(&program.0));
        Self {
            table: Arc::clone(&table.0),
            options: ReplayOptions {
                files,
                write,
                write_comment,
                export,
                program,
            },
            control: ReplayControl::default(),
        }
    }

    /// Makes the pass with the interpreter released.
    fn run(&self, py: Python<'_>) -> PyResult<ReplayReport> {
        let report = py
            .detach(|| replay(Arc::clone(&self.table), &self.options, &self.control))
            .map_err(|error| errors::from_capture(&error))?;
        Ok(ReplayReport {
            stats: Stats::of_export(report.stats, report.exported)?,
            elapsed_s: report.elapsed.as_secs_f64(),
            filtered_out: report.filtered_out,
            written: report.written,
            error: report.error.as_ref().map(ToString::to_string),
            error_offset_octets: report.error.as_ref().map(|error| error.offset_octets),
            interrupted: report.interrupted,
        })
    }

    /// Ends a running pass soon; may be called from another thread.
    fn cancel(&self) {
        self.control.cancel();
    }

    /// Frames read so far.
    #[getter]
    fn frames(&self) -> u64 {
        self.control.frames()
    }

    /// Octets read so far, decompressed.
    #[getter]
    fn read_octets(&self) -> u64 {
        self.control.read_octets()
    }
}
