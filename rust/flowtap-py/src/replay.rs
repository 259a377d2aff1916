//! One pass over capture files.

use std::num::NonZero;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_core::table::FilterTable as CoreTable;
use flowtap_io::replay::{ReplayControl, ReplayOptions, replay};
use pyo3::prelude::*;

use crate::engine::BpfProgram;
use crate::errors;
use crate::inner::inner_tunnels;
use crate::stats::Stats;
use crate::table::FilterTable;

/// How often signals are looked at.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

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
    threads: usize,
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
    #[pyo3(signature = (files, table, *, write=None, write_comment=None, export=false, bpf=None, inner=Vec::new(), threads=None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a keyword of its own in Python"
    )]
    fn new(
        files: Vec<String>,
        table: &FilterTable,
        write: Option<String>,
        write_comment: Option<String>,
        export: bool,
        bpf: Option<&BpfProgram>,
        inner: Vec<String>,
        threads: Option<NonZero<usize>>,
    ) -> PyResult<Self> {
        let program = bpf.map(|program| Arc::clone(&program.0));
        Ok(Self {
            table: Arc::clone(&table.0),
            options: ReplayOptions {
                files,
                write,
                write_comment,
                export,
                program,
                inner: inner_tunnels(inner)?,
                threads,
            },
            control: ReplayControl::default(),
        })
    }

    /// Makes the pass with the interpreter released; a signal whose handler raises ends it.
    fn run(&self, py: Python<'_>) -> PyResult<ReplayReport> {
        let outcome = std::thread::scope(|scope| {
            let (alive, ended) = mpsc::channel::<()>();
            let ended = Mutex::new(ended);
            let pass = scope.spawn(move || {
                // Dropped when the pass ends, also by a panic: that is what the caller waits for.
                let _alive = alive;
                replay(Arc::clone(&self.table), &self.options, &self.control)
            });
            let mut raised = Ok(());
            let wait = || {
                let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.recv_timeout(SIGNAL_POLL)
            };
            while py.detach(wait) == Err(RecvTimeoutError::Timeout) {
                if raised.is_ok() {
                    raised = py.check_signals();
                    if raised.is_err() {
                        self.control.cancel();
                    }
                }
            }
            raised.map(|()| pass.join())
        })?;
        let report = outcome
            .map_err(|_panic| errors::data_plane("the pass failed: a defect in flowtap"))?
            .map_err(|error| errors::from_capture(&error))?;
        Ok(ReplayReport {
            stats: Stats::of_export(report.stats, report.exported)
                .map_err(|error| errors::from_account(&error))?,
            elapsed_s: report.elapsed.as_secs_f64(),
            filtered_out: report.filtered_out,
            written: report.written,
            error: report.error.as_ref().map(ToString::to_string),
            error_offset_octets: report.error.as_ref().map(|error| error.offset_octets),
            interrupted: report.interrupted,
            threads: report.threads,
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
