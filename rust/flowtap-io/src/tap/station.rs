//! What every worker has: an engine, an exporter, and a look at what its owner wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing, MatchSink};

use super::{Shared, Stop, WorkerStats};
use crate::export::{ExportOptions, Exporter};
use crate::swap::{TableCell, TableReader};

/// Copies that are sent together.
pub(super) const BATCH_RECORDS: usize = 512;

/// The caller's monotonic clock, read when this is made. It goes on from there, the same for all workers, whenever they begin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    read: Instant,
    monotonic_ns: u64,
}

impl Clock {
    /// A clock that shows so many nanoseconds now.
    pub fn at(monotonic_ns: u64) -> Self {
        Self {
            read: Instant::now(),
            monotonic_ns,
        }
    }

    /// What it shows now, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let elapsed = u64::try_from(self.read.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.monotonic_ns.saturating_add(elapsed)
    }
}

/// An engine and an exporter that follow the active table.
pub(super) struct Station<'a> {
    shared: &'a Shared,
    stop: &'a Stop,
    tables: TableReader,
    pub(super) engine: Engine,
    exporter: Option<Exporter>,
    pub(super) batch: CopyBatch,
    clock: Clock,
    generation: u64,
}

impl<'a> Station<'a> {
    /// A station over the active table; `export` says how copies are sent, if they are.
    pub(super) fn new(
        shared: &'a Shared,
        cell: &Arc<TableCell>,
        stop: &'a Stop,
        export: Option<ExportOptions>,
        inner: InnerTunnels,
        clock: Clock,
    ) -> Self {
        let (tables, generation, table) = cell.reader();
        let framing = if export.is_some() {
            Framing::Payload
        } else {
            Framing::Count
        };
        let options = EngineOptions {
            framing,
            inner,
            ..EngineOptions::default()
        };
        Self {
            shared,
            stop,
            tables,
            exporter: export.map(|options| Exporter::new(Arc::clone(&table), options)),
            engine: Engine::new(table, options),
            batch: CopyBatch::new(),
            clock,
            generation,
        }
    }

    /// The engine's time.
    pub(super) fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Sends what the batch holds.
    pub(super) fn send(&mut self) {
        if let Some(exporter) = &mut self.exporter
            && !self.batch.is_empty()
        {
            exporter.send(&self.batch);
        }
        self.batch.clear();
    }

    /// Sends when there is enough.
    #[inline]
    pub(super) fn send_if_full(&mut self) {
        if self.batch.len() >= BATCH_RECORDS {
            self.send();
        }
    }

    pub(super) fn account(&self) -> WorkerStats {
        let exporter = self.exporter.as_ref();
        // Before the engine's, which nobody changes meanwhile: other workers go on filling the spools. What was counted by
        // the moment that is noted here is in the engines' accounts of all workers that note a later one.
        let spooled = exporter.and_then(Exporter::spooled);
        let spooled = spooled.map(|counts| (Instant::now(), counts));
        WorkerStats {
            spooled,
            engine: self.engine.stats(),
            exported: exporter.map(Exporter::counters),
            generation: self.generation,
        }
    }

    /// Whether copies may have to wait until a gate opens.
    pub(super) fn has_gates(&self) -> bool {
        self.exporter.as_ref().is_some_and(Exporter::has_gates)
    }

    /// How long it may be until the next look, and at most `longest`.
    pub(super) fn wait(&self, longest: Duration) -> Duration {
        let exporter = self.exporter.as_ref();
        exporter.map_or(longest, |exporter| exporter.wait(longest))
    }

    /// Sends what waits behind open gates, as long as the owner gives time for that.
    pub(super) fn drain(&mut self) {
        let until = *self.stop.lock();
        if let Some((exporter, until)) = self.exporter.as_mut().zip(until) {
            exporter.drain(until);
        }
    }

    /// Says what is wrong.
    pub(super) fn fail(&self, message: &str) {
        let mut state = self.shared.lock();
        if state.error.as_deref() != Some(message) {
            state.error = Some(message.to_owned());
        }
    }

    /// Says that nothing is wrong any more.
    pub(super) fn recover(&self) {
        self.shared.lock().error = None;
    }

    /// Looks at what the owner wants, and what waited for frames that did not come; true if the worker is to stop.
    pub(super) fn look(&mut self, sink: &mut impl MatchSink) -> bool {
        if let Some((generation, table)) = self.tables.changed() {
            // Copies of the old table leave before the new one rules.
            self.send();
            if let Some(exporter) = &mut self.exporter {
                exporter.install(Arc::clone(&table));
            }
            self.engine.install(table);
            self.generation = generation;
            self.tables.release();
        }
        let now_ns = self.now_ns();
        self.engine.pass_time(now_ns, &mut self.batch, sink);
        if let Some(exporter) = &mut self.exporter {
            exporter.tend();
        }
        let asked = {
            let state = self.shared.lock();
            (state.asked > state.given).then_some(state.asked)
        };
        if let Some(asked) = asked {
            self.send();
            let stats = self.account();
            let mut state = self.shared.lock();
            state.stats = stats;
            state.given = asked;
            drop(state);
            self.shared.answered.notify_all();
        }
        self.stop.is_wanted()
    }
}

#[cfg(test)]
mod tests {
    use flowtap_core::criteria::{Criteria, CriteriaText};
    use flowtap_core::frame::{Direction, Frame, LinkType};
    use flowtap_core::table::{Entry, FilterTable};

    use super::*;

    #[derive(Default)]
    struct Seen(usize);

    impl MatchSink for Seen {
        fn matched(&mut self, _frame: &Frame<'_>) {
            self.0 += 1;
        }
    }

    fn table() -> Arc<FilterTable> {
        let entry = |id, destination_port| {
            Entry::new(
                id,
                Criteria::parse(&CriteriaText {
                    source: Some("192.0.2.1"),
                    destination_port,
                    ..CriteriaText::default()
                })
                .unwrap(),
            )
        };
        let entries = vec![entry(1, None), entry(2, Some("53"))];
        Arc::new(FilterTable::compile(entries, Vec::new()).unwrap())
    }

    #[test]
    fn a_look_decides_what_has_waited_long_enough() {
        let later = [
            0x45, 0, 0, 28, 0, 9, 0, 3, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 3, 4, 5, 6,
            7, 8,
        ];
        let frame = Frame {
            data: &later,
            link_type: LinkType::Ipv4,
            timestamp_ns: 0,
            original_length_octets: 28,
            interface: 0,
            direction: Direction::Unknown,
        };
        let (shared, stop) = (Shared::default(), Stop::default());
        let cell = Arc::new(TableCell::new(table()));
        let inner = InnerTunnels::default();
        let now_ns = 31_000_000_000;
        let mut station = Station::new(&shared, &cell, &stop, None, inner, Clock::at(now_ns));
        let mut seen = Seen::default();
        for (came_ns, decided) in [(now_ns, 0), (0, 1)] {
            let Station { engine, batch, .. } = &mut station;
            engine.process(&frame, came_ns, batch, &mut seen);
            assert!(!station.look(&mut seen));
            assert_eq!(seen.0, decided);
            station.engine.flush(came_ns, &mut station.batch, &mut ());
        }
    }
}
