//! The engine for other people's taps, and the frame filter.

use std::sync::{Arc, LockResult, Mutex, MutexGuard};

use flowtap_core::batch::CopyBatch as CoreBatch;
use flowtap_core::bpf::{Instruction, Program};
use flowtap_core::engine::{Engine as CoreEngine, EngineOptions, Framing};
use flowtap_core::frame::{Direction, Frame, LinkType as CoreLinkType};
use flowtap_core::own::OwnTraffic;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::buffer::CopyBatch;
use crate::errors;
use crate::inner::inner_tunnels;
use crate::input;
use crate::link_type::LinkType;
use crate::stats::Stats;
use crate::table::FilterTable;
use crate::tunnels::{GivenTunnel, own_tunnels};

/// Octets of one record of pcapy-ng's `next_batch`: seconds, microseconds, offset, captured length.
const RECORD_OCTETS: usize = 16;

/// The engine, and how far its time has come.
struct Fed {
    engine: CoreEngine,
    last_ns: u64,
}

impl Fed {
    fn process(&mut self, frame: &Frame<'_>, batch: &mut CoreBatch) {
        self.last_ns = frame.timestamp_ns;
        self.engine
            .process(frame, frame.timestamp_ns, batch, &mut ());
    }
}

/// Match and encapsulate inside somebody else's tap.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Engine {
    core: Mutex<Fed>,
    link_type: CoreLinkType,
    process_id: u32,
}

impl Engine {
    /// The engine, for who has the interpreter: while somebody else works with it the interpreter is released.
    fn lock_attached(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Fed>> {
        errors::check_process(self.process_id)?;
        usable(self.core.lock_py_attached(py))
    }

    /// The frame of a record.
    fn recorded<'a>(
        &self,
        packets: &'a [u8],
        number: usize,
        record: &[u8; RECORD_OCTETS],
    ) -> PyResult<Frame<'a>> {
        let [seconds, microseconds, offset, captured] = record_fields(record);
        let data = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(captured).ok())
            .and_then(|(start, length)| packets.get(start..start.checked_add(length)?))
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "records[{number}]: {captured} octets at offset {offset} lie outside the {} octets of packets",
                    packets.len()
                ))
            })?;
        Ok(Frame {
            data,
            link_type: self.link_type,
            timestamp_ns: u64::from(seconds) * 1_000_000_000 + u64::from(microseconds) * 1_000,
            // The record does not say how long the frame was on the wire.
            original_length_octets: captured,
            interface: 0,
            direction: Direction::Unknown,
        })
    }
}

/// What a lock gave, if the engine can be used.
fn usable(locked: LockResult<MutexGuard<'_, Fed>>) -> PyResult<MutexGuard<'_, Fed>> {
    locked.map_err(|poisoned| {
        // The exception needs the interpreter, for which nobody may wait while the engine is locked.
        drop(poisoned);
        // A panic in the core would have been a defect; the account it left is not to be trusted.
        errors::data_plane("the engine failed earlier and cannot be used any more")
    })
}

/// The four numbers of a record, in the byte order of this machine.
fn record_fields(record: &[u8; RECORD_OCTETS]) -> [u32; 4] {
    let mut fields = [0; 4];
    for (field, octets) in fields.iter_mut().zip(record.as_chunks::<4>().0) {
        *field = u32::from_ne_bytes(*octets);
    }
    fields
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (table, link_type=LinkType(CoreLinkType::Ethernet), *, mtu_octets=1500,
        inner=Vec::new(), interface=None, tunnels=Vec::new()))]
    fn new(
        table: &FilterTable,
        link_type: LinkType,
        mtu_octets: u32,
        inner: Vec<String>,
        interface: Option<String>,
        tunnels: Vec<GivenTunnel<'_>>,
    ) -> PyResult<Self> {
        let options = EngineOptions {
            framing: Framing::Datagram { mtu_octets },
            inner: inner_tunnels(inner)?,
            ..EngineOptions::default()
        };
        let mut core = CoreEngine::new(Arc::clone(&table.0), options);
        core.name_interfaces(vec![interface]);
        if !tunnels.is_empty() {
            core.set_own_traffic(OwnTraffic::default().through(own_tunnels(tunnels)?));
        }
        Ok(Self {
            core: Mutex::new(Fed {
                engine: core,
                last_ns: 0,
            }),
            link_type: link_type.0,
            process_id: std::process::id(),
        })
    }

    /// Takes one frame; returns the copies it caused.
    #[pyo3(signature = (frame, *, timestamp_ns=0, original_length_octets=None))]
    fn feed(
        &self,
        py: Python<'_>,
        frame: &Bound<'_, PyAny>,
        timestamp_ns: u64,
        original_length_octets: Option<u32>,
    ) -> PyResult<CopyBatch> {
        let data = input::octets(frame)?;
        let captured = u32::try_from(data.len())?;
        let mut batch = CoreBatch::new();
        let mut fed = self.lock_attached(py)?;
        let frame = Frame {
            data: &data,
            link_type: self.link_type,
            timestamp_ns,
            original_length_octets: original_length_octets.unwrap_or(captured),
            interface: 0,
            direction: Direction::Unknown,
        };
        fed.process(&frame, &mut batch);
        Ok(CopyBatch::new(batch, Arc::clone(fed.engine.table())))
    }

    /// Takes what pcapy-ng's `next_batch` returned; the work runs with the interpreter released.
    fn feed_batch(
        &self,
        py: Python<'_>,
        packets: &Bound<'_, PyAny>,
        records: &Bound<'_, PyAny>,
    ) -> PyResult<CopyBatch> {
        let packets = input::octets(packets)?;
        let records = input::octets(records)?;
        let (records, rest) = records.as_chunks::<RECORD_OCTETS>();
        if !rest.is_empty() {
            return Err(PyValueError::new_err(format!(
                "records: {} octets left over; every record has {RECORD_OCTETS}",
                rest.len()
            )));
        }
        errors::check_process(self.process_id)?;
        py.detach(|| {
            // Everything is looked at first: copies that nobody would be given must not be counted as made.
            let frames = records
                .iter()
                .enumerate()
                .map(|(number, record)| self.recorded(&packets, number, record))
                .collect::<PyResult<Vec<Frame<'_>>>>()?;
            let mut fed = usable(self.core.lock())?;
            let mut batch = CoreBatch::new();
            for frame in &frames {
                fed.process(frame, &mut batch);
            }
            Ok(CopyBatch::new(batch, Arc::clone(fed.engine.table())))
        })
    }

    /// Decides what still waits for a first fragment: to be called at the end of the input.
    fn flush(&self, py: Python<'_>) -> PyResult<CopyBatch> {
        let mut fed = self.lock_attached(py)?;
        let mut batch = CoreBatch::new();
        // Criteria that had ended by the last frame get nothing now.
        let Fed { engine, last_ns } = &mut *fed;
        engine.flush(*last_ns, &mut batch, &mut ());
        Ok(CopyBatch::new(batch, Arc::clone(engine.table())))
    }

    /// Changes the table; counters and budgets follow the criteria ids.
    fn install(&self, py: Python<'_>, table: &FilterTable) -> PyResult<()> {
        self.lock_attached(py)?.engine.install(Arc::clone(&table.0));
        Ok(())
    }

    /// Tries frames of every kind that the excluded tunnels can have, and returns how many there were.
    fn prove_exclusion(&self, py: Python<'_>) -> PyResult<usize> {
        let proven = self.lock_attached(py)?.engine.prove_exclusion();
        proven.map_err(|error| errors::data_plane(&error.to_string()))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let stats = self.lock_attached(py)?.engine.stats();
        Stats::of_engine(stats).map_err(|error| errors::from_account(&error))
    }
}

/// A classic BPF program, verified.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct BpfProgram(pub(crate) Arc<Program>);

#[pymethods]
impl BpfProgram {
    #[new]
    fn new(instructions: &Bound<'_, PyAny>) -> PyResult<Self> {
        let instructions = instructions
            .try_iter()?
            .map(|item| {
                let (code, jt, jf, k) = item?.extract()?;
                Ok(Instruction { code, jt, jf, k })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let program = Program::new(&instructions)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(program)))
    }

    /// Octets of the frame that the program accepts, 0 where it rejects it.
    #[pyo3(signature = (frame, wire_length_octets=None))]
    fn run(&self, frame: &Bound<'_, PyAny>, wire_length_octets: Option<u32>) -> PyResult<u32> {
        let data = input::octets(frame)?;
        let captured = u32::try_from(data.len())?;
        Ok(self.0.run(&data, wire_length_octets.unwrap_or(captured)))
    }
}
