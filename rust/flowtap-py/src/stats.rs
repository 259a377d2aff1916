//! Frozen accounts.

use std::collections::{BTreeMap, HashMap};

use flowtap_core::counters::{AccountError, CriterionCounters, Stats as CoreStats};
use flowtap_io::export::ExportCount;
use flowtap_io::tap::{CaptureCount, TapStats};
use pyo3::prelude::*;

/// The account of one criterion.
#[pyclass(frozen, get_all, module = "flowtap")]
pub(crate) struct CriterionStats {
    id: u64,
    packets: u64,
    octets: u64,
    copies: u64,
    last_match_ns: Option<u64>,
}

impl From<&CriterionCounters> for CriterionStats {
    fn from(counters: &CriterionCounters) -> Self {
        let &CriterionCounters {
            id,
            packets,
            octets,
            copies,
            last_match_ns,
        } = counters;
        Self {
            id,
            packets,
            octets,
            copies,
            last_match_ns,
        }
    }
}

#[pymethods]
impl CriterionStats {
    fn __repr__(&self) -> String {
        format!(
            "<CriterionStats {}: {} packets, {} octets, {} copies>",
            self.id, self.packets, self.octets, self.copies
        )
    }
}

/// The account of one content destination.
#[pyclass(frozen, get_all, module = "flowtap")]
pub(crate) struct DestinationStats {
    id: String,
    wanted: u64,
    copied: u64,
    refused: u64,
    exported: u64,
    dropped: u64,
    in_spool: u64,
    resent: u64,
    exported_in_doubt: u64,
    recovered: u64,
    /// Criterion, copies and octets of what was dropped or refused.
    lost: Vec<(u64, u64, u64)>,
    last_error: Option<String>,
}

#[pymethods]
impl DestinationStats {
    fn __repr__(&self) -> String {
        format!(
            "<DestinationStats {:?}: {} copied, {} exported, {} dropped>",
            self.id, self.copied, self.exported, self.dropped
        )
    }
}

/// The account of one interface.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct CaptureStats(CaptureCount);

#[pymethods]
impl CaptureStats {
    #[getter]
    fn interface(&self) -> &str {
        &self.0.interface
    }

    #[getter]
    fn is_up(&self) -> bool {
        self.0.is_up
    }

    #[getter]
    fn received(&self) -> u64 {
        self.0.received
    }

    #[getter]
    fn dropped(&self) -> u64 {
        self.0.dropped
    }

    #[getter]
    fn freezes(&self) -> u64 {
        self.0.freezes
    }

    #[getter]
    fn super_frames_whole(&self) -> u64 {
        self.0.super_frames_whole
    }

    #[getter]
    fn filtered_out(&self) -> u64 {
        self.0.filtered_out
    }

    #[getter]
    fn reopened(&self) -> u64 {
        self.0.reopened
    }

    #[getter]
    fn filter(&self) -> &str {
        &self.0.filter
    }

    fn __repr__(&self) -> String {
        format!(
            "<CaptureStats {}: {} received, {} dropped>",
            self.0.interface, self.0.received, self.0.dropped
        )
    }
}

/// A frozen account whose equations have been checked.
#[pyclass(frozen, skip_from_py_object, module = "flowtap")]
#[derive(Clone)]
pub(crate) struct Stats {
    core: CoreStats,
    /// What became of the copies, by destination; None where none were to be sent.
    exports: Option<HashMap<String, ExportCount>>,
    #[pyo3(get)]
    generation: u64,
    captures: Vec<CaptureCount>,
    /// Matched frames that were written to a file.
    #[pyo3(get)]
    written: u64,
}

impl Stats {
    fn new(
        core: CoreStats,
        exports: Option<Vec<ExportCount>>,
        generation: u64,
    ) -> Result<Self, AccountError> {
        core.check()?;
        if let Some(exports) = &exports {
            ExportCount::check(exports, &core)?;
        }
        let exports = exports.map(|counts| {
            counts
                .into_iter()
                .map(|count| (count.id.clone(), count))
                .collect()
        });
        Ok(Self {
            core,
            exports,
            generation,
            captures: Vec::new(),
            written: 0,
        })
    }

    /// Copies of each criterion that one destination did not get: dropped or refused.
    fn lost(&self, destination_id: &str, export: Option<&ExportCount>) -> Vec<(u64, u64, u64)> {
        let dropped = export.into_iter().flat_map(|export| export.lost.iter());
        let refused = self.core.refused_copies.iter();
        let refused = refused
            .filter(|each| each.destination_id == destination_id)
            .map(|each| (each.criteria_id, each.copies, each.octets));
        let mut sums: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (criteria_id, copies, octets) in dropped.chain(refused) {
            let sum = sums.entry(criteria_id).or_default();
            sum.0 += copies;
            sum.1 += octets;
        }
        let sums = sums.into_iter();
        sums.map(|(id, (copies, octets))| (id, copies, octets))
            .collect()
    }

    fn sum(&self, of: impl Fn(&ExportCount) -> u64) -> u64 {
        self.exports.iter().flat_map(HashMap::values).map(of).sum()
    }

    /// What every criterion has counted: id, packets, octets, last match.
    pub(crate) fn criteria_counts(&self) -> impl Iterator<Item = (u64, u64, u64, Option<u64>)> {
        let criteria = self.core.criteria.iter();
        criteria.map(|each| (each.id, each.packets, each.octets, each.last_match_ns))
    }

    pub(crate) fn of_engine(core: CoreStats) -> Result<Self, AccountError> {
        Self::new(core, None, 0)
    }

    pub(crate) fn of_export(
        core: CoreStats,
        exports: Option<Vec<ExportCount>>,
    ) -> Result<Self, AccountError> {
        Self::new(core, exports, 0)
    }

    pub(crate) fn of_tap(stats: TapStats) -> Result<Self, AccountError> {
        Ok(Self {
            captures: stats.captures,
            written: stats.written,
            ..Self::new(stats.engine, stats.exported, stats.generation)?
        })
    }
}

#[pymethods]
impl Stats {
    #[getter]
    fn frames(&self) -> u64 {
        self.core.frames
    }

    #[getter]
    fn octets(&self) -> u64 {
        self.core.octets
    }

    #[getter]
    fn undecodable(&self) -> u64 {
        self.core.undecodable
    }

    #[getter]
    fn own(&self) -> u64 {
        self.core.own
    }

    /// Frames that were seen just before on another interface.
    #[getter]
    fn duplicates(&self) -> u64 {
        self.core.duplicates
    }

    /// One account an interface of a live tap.
    #[getter]
    fn captures(&self) -> Vec<CaptureStats> {
        self.captures.iter().cloned().map(CaptureStats).collect()
    }

    #[getter]
    fn matched(&self) -> u64 {
        self.core.matched
    }

    #[getter]
    fn wanted(&self) -> u64 {
        self.core.wanted
    }

    #[getter]
    fn copied(&self) -> u64 {
        self.core.copied
    }

    #[getter]
    fn refused(&self) -> u64 {
        self.core.refused
    }

    /// Copies handed to the network, to all destinations that ever were.
    #[getter]
    fn exported(&self) -> u64 {
        self.sum(|count| count.exported)
    }

    /// Copies that are to be sent and wait for the network; a level.
    #[getter]
    fn in_queue(&self) -> u64 {
        match self.exports {
            Some(_) => (self.core.copied + self.recovered())
                .saturating_sub(self.exported() + self.dropped() + self.in_spool()),
            None => 0,
        }
    }

    /// Copies that wait until the gate of a tunnel opens; a level.
    #[getter]
    fn in_spool(&self) -> u64 {
        self.sum(|count| count.in_spool)
    }

    /// Copies of an earlier run that were found waiting on disk; they add to what was copied.
    #[getter]
    fn recovered(&self) -> u64 {
        self.sum(|count| count.recovered)
    }

    /// Copies lost on this host.
    #[getter]
    fn dropped(&self) -> u64 {
        self.sum(|count| count.dropped)
    }

    /// One account a criterion of the present table.
    #[getter]
    fn criteria(&self) -> Vec<CriterionStats> {
        self.core
            .criteria
            .iter()
            .map(CriterionStats::from)
            .collect()
    }

    /// The account of one criterion; None where the table does not have it.
    fn criterion(&self, id: u64) -> Option<CriterionStats> {
        let criteria = &self.core.criteria;
        let at = criteria.binary_search_by_key(&id, |each| each.id).ok()?;
        criteria.get(at).map(CriterionStats::from)
    }

    /// One account a content destination of the present table.
    #[getter]
    fn destinations(&self) -> Vec<DestinationStats> {
        self.core
            .destinations
            .iter()
            .map(|counters| {
                let export = self
                    .exports
                    .as_ref()
                    .and_then(|exports| exports.get(&counters.id));
                let of = |count: fn(&ExportCount) -> u64| export.map_or(0, count);
                DestinationStats {
                    id: counters.id.clone(),
                    wanted: counters.wanted,
                    copied: counters.copied,
                    refused: counters.refused,
                    exported: of(|export| export.exported),
                    dropped: of(|export| export.dropped),
                    in_spool: of(|export| export.in_spool),
                    resent: of(|export| export.resent),
                    exported_in_doubt: of(|export| export.exported_in_doubt),
                    recovered: of(|export| export.recovered),
                    lost: self.lost(&counters.id, export),
                    last_error: export.and_then(|export| export.last_error.clone()),
                }
            })
            .collect()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Stats: {} frames, {} matched, {} copied>",
            self.core.frames, self.core.matched, self.core.copied
        )
    }
}
