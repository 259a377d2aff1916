//! What every worker has: an engine, an exporter, and a look at what its owner wants.

use std::sync::atomic::Ordering;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::Instant;

use flowtap_core::batch::CopyBatch;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing};

use super::{Shared, WorkerStats};
use crate::export::{ExportOptions, Exporter};
use crate::swap::{TableCell, TableReader};

/// Copies that are sent together.
pub(super) const BATCH_RECORDS: usize = 512;

/// An engine and an exporter that follow the active table.
pub(super) struct Station<'a> {
    shared: &'a Shared,
    cell: &'a TableCell,
    stop: &'a AtomicBool,
    tables: TableReader,
    pub(super) engine: Engine,
    exporter: Option<Exporter>,
    pub(super) batch: CopyBatch,
    began: Instant,
    monotonic_ns: u64,
    generation: u64,
}

impl<'a> Station<'a> {
    /// A station over the active table; `export` says how copies are sent, if they are.
    pub(super) fn new(
        shared: &'a Shared,
        cell: &'a Arc<TableCell>,
        stop: &'a AtomicBool,
        export: Option<ExportOptions>,
        inner: InnerTunnels,
        monotonic_ns: u64,
    ) -> Self {
        let (tables, table) = cell.reader();
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
            cell,
            stop,
            tables,
            exporter: export.map(|options| Exporter::new(Arc::clone(&table), options)),
            engine: Engine::new(table, options),
            batch: CopyBatch::new(),
            began: Instant::now(),
            monotonic_ns,
            generation: cell.generation(),
        }
    }

    /// The engine's time.
    pub(super) fn now_ns(&self) -> u64 {
        let elapsed = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.monotonic_ns.saturating_add(elapsed)
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
        WorkerStats {
            engine: self.engine.stats(),
            exported: self.exporter.as_ref().map(Exporter::counters),
            generation: self.generation,
        }
    }

    /// Says what is wrong.
    pub(super) fn fail(&self, message: &str) {
        let mut state = self.shared.lock();
        if state.error.as_deref() != Some(message) {
            state.error = Some(message.to_owned());
        }
    }

    /// Looks at what the owner wants; true if the worker is to stop.
    pub(super) fn look(&mut self) -> bool {
        if let Some(table) = self.tables.changed() {
            // Copies of the old table leave before the new one rules.
            self.send();
            if let Some(exporter) = &mut self.exporter {
                exporter.install(Arc::clone(&table));
            }
            self.engine.install(table);
            self.generation = self.cell.generation();
            self.tables.release();
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
        self.stop.load(Ordering::Acquire)
    }
}
