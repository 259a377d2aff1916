//! Copies of one capture, batch by batch, for programs that take them in their own loop.

use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::counters::Stats;
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing};
use flowtap_core::own::{OwnTraffic, OwnTunnel, Unproven};
use flowtap_core::table::FilterTable;

use crate::files::{CaptureError, CaptureReader, names};

/// Reads a capture and matches it on demand.
pub struct CaptureBatches {
    reader: CaptureReader,
    engine: Engine,
    tunnels: Vec<OwnTunnel>,
    /// How many of the file's interfaces the engine knows by name.
    named: usize,
    last_ns: u64,
    ended: bool,
    /// Damage that was met behind frames whose copies had to be returned first.
    damage: Option<CaptureError>,
}

impl CaptureBatches {
    /// Opens a capture; `-` is standard input.
    ///
    /// # Errors
    /// A capture that cannot be read.
    pub fn open(
        path: &str,
        table: Arc<FilterTable>,
        mtu_octets: u32,
        inner: InnerTunnels,
    ) -> Result<Self, CaptureError> {
        let options = EngineOptions {
            framing: Framing::Datagram { mtu_octets },
            inner,
            ..EngineOptions::default()
        };
        Ok(Self {
            reader: CaptureReader::open(path)?,
            engine: Engine::new(table, options),
            tunnels: Vec::new(),
            named: 0,
            last_ns: 0,
            ended: false,
            damage: None,
        })
    }

    /// The present table.
    pub fn table(&self) -> &Arc<FilterTable> {
        self.engine.table()
    }

    /// Reads up to `frames` frames and puts their copies into `batch`; false when the capture has ended.
    ///
    /// # Errors
    /// A damaged capture, after the copies of everything before the damage were returned.
    pub fn next_batch(&mut self, frames: u32, batch: &mut CopyBatch) -> Result<bool, CaptureError> {
        if let Some(error) = self.damage.take() {
            return Err(error);
        }
        if self.ended {
            return Ok(false);
        }
        for _ in 0..frames {
            let frame = match self.reader.next_with_interfaces() {
                Ok(Some((frame, interfaces))) => {
                    if interfaces.len() != self.named {
                        self.named = interfaces.len();
                        self.engine.name_interfaces(names(interfaces, None));
                    }
                    frame
                }
                Ok(None) => {
                    self.ended = true;
                    self.engine.flush(self.last_ns, batch, &mut ());
                    return Ok(!batch.is_empty());
                }
                Err(error) => {
                    self.ended = true;
                    self.engine.flush(self.last_ns, batch, &mut ());
                    if batch.is_empty() {
                        return Err(error);
                    }
                    self.damage = Some(error);
                    return Ok(true);
                }
            };
            self.last_ns = frame.timestamp_ns;
            self.engine
                .process(&frame, frame.timestamp_ns, batch, &mut ());
        }
        Ok(true)
    }

    /// Tells which tunnels are the reader's own; what belongs to them is not copied.
    pub fn exclude_tunnels(&mut self, tunnels: Vec<OwnTunnel>) {
        self.tunnels.extend(tunnels);
        self.engine
            .set_own_traffic(OwnTraffic::default().through(self.tunnels.clone()));
    }

    /// Proves that nothing of one's own is copied; returns how many frames were tried.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn prove_exclusion(&self) -> Result<usize, Unproven> {
        self.engine.prove_exclusion()
    }

    /// The account so far.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Goes over to another table.
    pub fn install(&mut self, table: Arc<FilterTable>) {
        self.engine.install(table);
    }
}

impl std::fmt::Debug for CaptureBatches {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CaptureBatches")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
