//! What criteria have used, in a file that outlives the process.

use std::path::PathBuf;
use std::sync::Arc;

use flowtap_io::usage;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::stats::Stats;

/// The counts of one criterion in a usage file, for `Criteria`.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct UsageRecord(pub(crate) Arc<usage::Record>);

/// A usage file.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct UsageFile(usage::UsageFile);

fn failed(what: &str, error: &std::io::Error) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), format!("{what}: {error}")))
}

#[pymethods]
impl UsageFile {
    /// Makes the file that will be at `path` when it is published.
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the binding converts into owned values"
    )]
    fn new(path: PathBuf, boot_id: [u8; 16]) -> PyResult<Self> {
        usage::UsageFile::create(&path, boot_id)
            .map(Self)
            .map_err(|error| failed("the usage file cannot be made", &error))
    }

    /// The record of a criterion; while it is held, the criterion counts in the file itself.
    #[pyo3(signature = (id, packets, octets, last_match_ns, now_ns))]
    fn reserve(
        &self,
        id: u64,
        packets: u64,
        octets: u64,
        last_match_ns: Option<u64>,
        now_ns: u64,
    ) -> PyResult<UsageRecord> {
        self.0
            .reserve(id, packets, octets, last_match_ns, now_ns)
            .map(UsageRecord)
            .map_err(|error| failed("the usage file cannot grow", &error))
    }

    /// Puts the file in the place of that of an earlier run.
    fn publish(&self) -> PyResult<()> {
        self.0
            .publish()
            .map_err(|error| failed("the usage file cannot take its place", &error))
    }

    /// Writes what the other criteria have counted in this run, and a sign of life.
    fn write(&self, py: Python<'_>, stats: &Stats, wall_ns: u64, monotonic_ns: u64) {
        py.detach(|| {
            let counts = stats.criteria_counts();
            self.0.write(counts, wall_ns, monotonic_ns);
        });
    }

    /// Says that nothing is copied any more.
    fn finish(&self) {
        self.0.finish();
    }
}
