//! The running data plane: capture files in the caller's loop, or files and interfaces on threads of their own.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_core::batch::CopyBatch as CoreBatch;
use flowtap_core::counters::{AccountError, Stats as CoreStats};
use flowtap_core::own::OwnEndpoint;
use flowtap_core::table::FilterTable as CoreTable;
use flowtap_io::broker::{Broker, udp_socket};
use flowtap_io::export::ExportOptions;
use flowtap_io::files::CaptureError;
use flowtap_io::packet::{RingOptions, Timestamps};
use flowtap_io::tap::{
    CaptureBatches, Clock, LiveOptions, OutputOptions, Pace, PlayOptions, Tap as IoTap, TapError,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::CopyBatch;
use crate::engine::BpfProgram;
use crate::errors;
use crate::gate::{Gate, spools};
use crate::inner::inner_tunnels;
use crate::stats::Stats;
use crate::table::FilterTable;
use crate::tunnels::{GivenTunnel, own_tunnels};

/// What a tap is doing.
enum State {
    /// Copies are taken batch by batch in the caller's own loop.
    Batches {
        batches: Box<CaptureBatches>,
        frames: u32,
    },
    /// Not started yet.
    Ready {
        table: Arc<CoreTable>,
        source: Box<Source>,
    },
    /// Workers play or capture.
    Running(Box<IoTap>),
    /// Ended; the last account stays, and what was wrong.
    Stopped {
        stats: Box<Stats>,
        error: Option<String>,
    },
    /// Ended before it began, or failed.
    Gone,
}

/// What is to be tapped.
enum Source {
    Files(PlayOptions),
    Interfaces(LiveOptions),
}

/// Python's monotonic clock, so that the engine's times and its own can be compared.
fn clock(py: Python<'_>) -> PyResult<Clock> {
    let monotonic_ns = py.import("time")?.call_method0("monotonic_ns")?.extract()?;
    Ok(Clock::at(monotonic_ns))
}

impl Source {
    fn start(self, table: Arc<CoreTable>) -> Result<IoTap, TapError> {
        match self {
            Self::Files(options) => IoTap::play(table, options),
            Self::Interfaces(options) => IoTap::live(table, options),
        }
    }
}

/// The running data plane.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Tap {
    state: Mutex<State>,
    process_id: u32,
}

/// How the pace may be given: a word, or packets a second.
#[derive(FromPyObject)]
enum PaceArgument {
    #[pyo3(transparent)]
    Rate(f64),
    #[pyo3(transparent)]
    Word(String),
}

/// Why a call failed, said without the interpreter: nobody may wait for that while the state is locked.
enum Failure {
    Tap(TapError),
    Capture(CaptureError),
    Account(AccountError),
    /// The tap is not one for this call.
    Misuse(&'static str),
}

impl From<TapError> for Failure {
    fn from(error: TapError) -> Self {
        Self::Tap(error)
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        Self::Account(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Tap(error @ TapError::PermissionMissing { right, .. }) => {
                errors::permission_missing(right, &error.to_string())
            }
            Failure::Tap(error) => errors::data_plane(&error.to_string()),
            Failure::Capture(error) => errors::from_capture(&error),
            Failure::Account(error) => errors::from_account(&error),
            Failure::Misuse(message) => errors::data_plane(message),
        }
    }
}

impl Drop for Tap {
    /// Workers may take a while to end; nobody else's Python code waits for them.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let state = std::mem::replace(state, State::Gone);
        if matches!(state, State::Running(_)) {
            Python::attach(|py| py.detach(|| drop(state)));
        }
    }
}

impl Tap {
    fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            process_id: std::process::id(),
        }
    }

    /// Works on the state with the interpreter released: who waits for another call lets everybody else go on. An
    /// exception is made when the state is free again, since that needs the interpreter.
    fn with_state<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut State) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        errors::check_process(self.process_id)?;
        py.detach(|| work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(PyErr::from)
    }
}

fn pace(given: PaceArgument) -> PyResult<Pace> {
    match given {
        PaceArgument::Word(word) if word == "recorded" => Ok(Pace::Recorded),
        PaceArgument::Word(word) if word == "fast" => Ok(Pace::Fast),
        PaceArgument::Rate(rate) if rate.is_finite() && rate > 0.0 => {
            Ok(Pace::PacketsPerSecond(rate))
        }
        PaceArgument::Word(_) | PaceArgument::Rate(_) => Err(PyValueError::new_err(
            "pace: \"recorded\", \"fast\" or a number of packets per second above 0 is right",
        )),
    }
}

/// One interface by its name, or several.
#[derive(FromPyObject)]
enum Interfaces {
    #[pyo3(transparent)]
    One(String),
    #[pyo3(transparent)]
    Several(Vec<String>),
}

impl Interfaces {
    fn into_names(self) -> PyResult<Vec<String>> {
        let names = match self {
            Self::One(name) => vec![name],
            Self::Several(names) => names,
        };
        if names.is_empty() || names.iter().collect::<HashSet<_>>().len() < names.len() {
            return Err(PyValueError::new_err(
                "interfaces: one name, or several different ones, are right",
            ));
        }
        Ok(names)
    }
}

/// The most workers for one interface: what a group of the kernel takes (PACKET_FANOUT_MAX before Linux 5.12).
const WORKERS_MAX: usize = 256;
const BLOCK_OCTETS: usize = 1 << 20;

fn ring(octets: usize, block_ms: u32) -> PyResult<RingOptions> {
    let ring = RingOptions {
        block_octets: BLOCK_OCTETS,
        blocks: octets / BLOCK_OCTETS,
        retire_ms: block_ms,
    };
    if ring.check().is_err() {
        return Err(PyValueError::new_err(
            "ring_octets: 2 MiB to 16 GiB are right; block_ms: 1 to 10000",
        ));
    }
    Ok(ring)
}

fn endpoints(own: Vec<(u8, Option<IpAddr>, u16)>) -> impl Iterator<Item = OwnEndpoint> {
    own.into_iter()
        .map(|(protocol, address, port)| OwnEndpoint {
            protocol,
            address: address.map(Into::into),
            port,
        })
}

/// How copies are sent: not at all, from sockets with the tasked source, or through a socket of the caller's.
fn export_options(
    given: Option<&Bound<'_, PyAny>>,
    broker: Option<&Arc<Broker>>,
) -> PyResult<Option<ExportOptions>> {
    let Some(given) = given else {
        return Ok(None);
    };
    let options = ExportOptions {
        broker: broker.cloned(),
        ..ExportOptions::default()
    };
    if let Ok(is_wanted) = given.extract::<bool>() {
        return Ok(is_wanted.then_some(options));
    }
    let descriptor = given.call_method0("fileno")?.extract()?;
    let socket = udp_socket(descriptor)
        .map_err(|error| PyValueError::new_err(format!("export: {error}")))?;
    Ok(Some(ExportOptions {
        socket: Some(Arc::new(socket)),
        ..options
    }))
}

/// The way to the broker, over a socket that stays the caller's.
fn broker(socket: &Bound<'_, PyAny>) -> PyResult<Arc<Broker>> {
    let descriptor = socket.call_method0("fileno")?.extract()?;
    Broker::from_number(descriptor)
        .map(Arc::new)
        .map_err(|error| PyValueError::new_err(format!("broker: {error}")))
}

#[pymethods]
impl Tap {
    /// Copies of one capture, batch by batch.
    #[staticmethod]
    #[pyo3(signature = (path, table, *, mtu_octets=1500, batch_frames=4096, inner=Vec::new()))]
    fn from_pcap(
        py: Python<'_>,
        path: &str,
        table: &FilterTable,
        mtu_octets: u32,
        batch_frames: u32,
        inner: Vec<String>,
    ) -> PyResult<Self> {
        let inner = inner_tunnels(inner)?;
        if batch_frames == 0 {
            return Err(PyValueError::new_err("batch_frames: at least 1 is right"));
        }
        let table = Arc::clone(&table.0);
        let batches = py
            .detach(|| CaptureBatches::open(path, table, mtu_octets, inner))
            .map_err(|error| errors::from_capture(&error))?;
        Ok(Self::new(State::Batches {
            batches: Box::new(batches),
            frames: batch_frames,
        }))
    }

    /// Captures played by a worker of its own, and their copies sent.
    #[staticmethod]
    #[pyo3(signature = (files, table, *, pace=PaceArgument::Word("recorded".to_owned()), r#loop=false, wait_for_criteria=0, export=true, broker=None, interface=None, inner=Vec::new(),
        gates=Vec::new(), spool_directory=None, spool_key=None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a keyword of its own in Python"
    )]
    fn replay(
        py: Python<'_>,
        files: Vec<String>,
        table: &FilterTable,
        pace: PaceArgument,
        r#loop: bool,
        wait_for_criteria: usize,
        export: bool,
        broker: Option<&Bound<'_, PyAny>>,
        interface: Option<String>,
        inner: Vec<String>,
        gates: Vec<Py<Gate>>,
        spool_directory: Option<&str>,
        spool_key: Option<&[u8]>,
    ) -> PyResult<Self> {
        let clock = clock(py)?;
        let options = PlayOptions {
            files,
            pace: self::pace(pace)?,
            interface,
            inner: inner_tunnels(inner)?,
            tunnels: Vec::new(),
            looped: r#loop,
            wait_for_criteria,
            export,
            broker: broker.map(self::broker).transpose()?,
            spools: spools(py, gates, spool_directory, spool_key)?,
            clock,
        };
        Ok(Self::new(State::Ready {
            table: Arc::clone(&table.0),
            source: Box::new(Source::Files(options)),
        }))
    }

    /// Interfaces captured by workers of their own, and the copies sent.
    #[staticmethod]
    #[pyo3(signature = (interfaces, table, *, workers=1, export=None, promiscuous=false,
        direction="ingress", deduplicate_ms=0, inner=Vec::new(), prefilter=true, hardware_timestamps=false,
        ring_octets=64 << 20, block_ms=4, own=Vec::new(), bpf=None, write=None, write_comment=None,
        snapshot_octets=None, frames_max=None, broker=None, gates=Vec::new(), spool_directory=None,
        spool_key=None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a keyword of its own in Python"
    )]
    fn live(
        py: Python<'_>,
        interfaces: Interfaces,
        table: &FilterTable,
        workers: usize,
        export: Option<&Bound<'_, PyAny>>,
        promiscuous: bool,
        direction: &str,
        deduplicate_ms: u64,
        inner: Vec<String>,
        prefilter: bool,
        hardware_timestamps: bool,
        ring_octets: usize,
        block_ms: u32,
        own: Vec<(u8, Option<IpAddr>, u16)>,
        bpf: Option<&BpfProgram>,
        write: Option<String>,
        write_comment: Option<String>,
        snapshot_octets: Option<usize>,
        frames_max: Option<u64>,
        broker: Option<&Bound<'_, PyAny>>,
        gates: Vec<Py<Gate>>,
        spool_directory: Option<&str>,
        spool_key: Option<&[u8]>,
    ) -> PyResult<Self> {
        let clock = clock(py)?;
        let interfaces = interfaces.into_names()?;
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(PyValueError::new_err(format!(
                "workers: 1 to {WORKERS_MAX} are right"
            )));
        }
        let broker = broker.map(self::broker).transpose()?;
        let spools = spools(py, gates, spool_directory, spool_key)?;
        let options = LiveOptions {
            interfaces,
            workers,
            ring: ring(ring_octets, block_ms)?,
            promiscuous,
            timestamps: if hardware_timestamps {
                Timestamps::Hardware
            } else {
                Timestamps::Software
            },
            any_way: match direction {
                "ingress" => false,
                "both" => true,
                _ => {
                    return Err(PyValueError::new_err(
                        "direction: \"ingress\" or \"both\" is right",
                    ));
                }
            },
            deduplicate_ms,
            inner: inner_tunnels(inner)?,
            ebpf: prefilter,
            export: export_options(export, broker.as_ref())?
                .map(|export| ExportOptions { spools, ..export }),
            broker,
            own: endpoints(own).collect(),
            tunnels: Vec::new(),
            program: bpf.map(|program| Arc::clone(&program.0)),
            output: write.map(|path| OutputOptions {
                path,
                comment: write_comment,
                snapshot_octets: snapshot_octets.unwrap_or(usize::MAX),
            }),
            frames_max,
            clock,
        };
        Ok(Self::new(State::Ready {
            table: Arc::clone(&table.0),
            source: Box::new(Source::Interfaces(options)),
        }))
    }

    /// Names control channels of the tap itself, which are never tapped: protocol, address (None for all of this host) and
    /// port. Only before the start; captures that are played contain none.
    fn exclude(&self, py: Python<'_>, own: Vec<(u8, Option<IpAddr>, u16)>) -> PyResult<()> {
        self.with_state(py, |state| match state {
            State::Ready { source, .. } => {
                if let Source::Interfaces(options) = &mut **source {
                    options.own.extend(endpoints(own));
                }
                Ok(())
            }
            _ => Err(Failure::Misuse("exclude: only before the start")),
        })
    }

    /// Names tunnels of the tap itself: local gateway, remote gateway, local networks, remote networks. Neither what carries
    /// them nor what this host sends and gets through them is ever tapped. Only before the start.
    fn exclude_tunnels(&self, py: Python<'_>, tunnels: Vec<GivenTunnel<'_>>) -> PyResult<()> {
        let tunnels = own_tunnels(tunnels)?;
        self.with_state(py, |state| match state {
            State::Ready { source, .. } => {
                match &mut **source {
                    Source::Interfaces(options) => options.tunnels.extend(tunnels),
                    Source::Files(options) => options.tunnels.extend(tunnels),
                }
                Ok(())
            }
            State::Batches { batches, .. } => {
                batches.exclude_tunnels(tunnels);
                Ok(())
            }
            _ => Err(Failure::Misuse("exclude_tunnels: only before the start")),
        })
    }

    /// Tries frames of every kind that the tap's own traffic can have on an engine whose criteria match everything, and
    /// returns how many there were.
    fn prove_exclusion(&self, py: Python<'_>) -> PyResult<usize> {
        self.with_state(py, |state| {
            Ok(match state {
                State::Ready { table, source } => match &**source {
                    Source::Interfaces(options) => options.prove_exclusion(table)?,
                    Source::Files(options) => options.prove_exclusion(table)?,
                },
                State::Running(tap) => tap.prove_exclusion()?,
                State::Batches { batches, .. } => {
                    batches.prove_exclusion().map_err(TapError::from)?
                }
                State::Stopped { .. } | State::Gone => return Err(TapError::Stopped.into()),
            })
        })
    }

    /// Starts the workers.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.with_state(py, |state| match std::mem::replace(state, State::Gone) {
            State::Ready { table, source } => {
                *state = State::Running(Box::new(source.start(table)?));
                Ok(())
            }
            other => {
                *state = other;
                Err(Failure::Misuse(
                    "start: only a tap made by Tap.replay or Tap.live can be started, and once",
                ))
            }
        })
    }

    /// What has happened to the interfaces and to spools on disk since this was asked for last, in words.
    fn events(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with_state(py, |state| {
            Ok(match state {
                State::Running(tap) => tap.events(),
                _ => Vec::new(),
            })
        })
    }

    /// Changes the table; returns its generation when nothing uses the old one any more.
    fn install(&self, py: Python<'_>, table: &FilterTable) -> PyResult<u64> {
        let new = Arc::clone(&table.0);
        self.with_state(py, |state| match state {
            State::Running(tap) => Ok(tap.install(&new)?),
            State::Batches { batches, .. } => {
                batches.install(new);
                Ok(0)
            }
            State::Ready { table, .. } => {
                *table = new;
                Ok(0)
            }
            State::Stopped { .. } | State::Gone => Err(TapError::Stopped.into()),
        })
    }

    /// The account of this moment.
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        self.with_state(py, |state| {
            Ok(match state {
                State::Running(tap) => Stats::of_tap(tap.stats()?)?,
                State::Batches { batches, .. } => Stats::of_engine(batches.stats())?,
                State::Ready { .. } => Stats::of_engine(CoreStats::default())?,
                State::Stopped { stats, .. } => Stats::clone(stats),
                State::Gone => return Err(TapError::Stopped.into()),
            })
        })
    }

    /// Ends the tap and returns its last account.
    #[pyo3(signature = (timeout_s=2.0))]
    fn stop(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Stats> {
        let timeout = Duration::try_from_secs_f64(timeout_s).map_err(|_error| {
            PyValueError::new_err("timeout_s: a number of seconds from 0 is right")
        })?;
        self.with_state(py, |state| {
            let (stats, error) = match state {
                State::Running(tap) => {
                    let stats = Stats::of_tap(tap.stop(timeout)?)?;
                    // Some is known only when the last frame has been written.
                    (stats, tap.error())
                }
                State::Batches { batches, .. } => (Stats::of_engine(batches.stats())?, None),
                State::Ready { .. } => (Stats::of_engine(CoreStats::default())?, None),
                State::Stopped { stats, .. } => return Ok(Stats::clone(stats)),
                State::Gone => return Err(TapError::Stopped.into()),
            };
            *state = State::Stopped {
                stats: Box::new(stats.clone()),
                error,
            };
            Ok(stats)
        })
    }

    /// Whether every capture was played to its end, enough frames came, or a worker failed.
    #[getter]
    fn finished(&self, py: Python<'_>) -> PyResult<bool> {
        self.with_state(py, |state| {
            Ok(match state {
                State::Running(tap) => tap.is_finished(),
                State::Stopped { .. } | State::Gone => true,
                State::Batches { .. } | State::Ready { .. } => false,
            })
        })
    }

    /// What ended the playing or the writing early, or is wrong with an interface or a worker; after the end as well.
    #[getter]
    fn error(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.with_state(py, |state| {
            Ok(match state {
                State::Running(tap) => tap.error(),
                State::Stopped { error, .. } => error.clone(),
                _ => None,
            })
        })
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<CopyBatch>> {
        loop {
            // Signals are seen between batches, also where nothing matches.
            py.check_signals()?;
            let step = self.with_state(py, |state| match state {
                State::Batches { batches, frames } => {
                    let mut batch = CoreBatch::new();
                    let more = batches
                        .next_batch(*frames, &mut batch)
                        .map_err(Failure::Capture)?;
                    let table = Arc::clone(batches.table());
                    Ok((
                        more,
                        (!batch.is_empty()).then(|| CopyBatch::new(batch, table)),
                    ))
                }
                State::Stopped { .. } => Ok((false, None)),
                _ => Err(Failure::Misuse(
                    "only a tap made by Tap.from_pcap gives batches",
                )),
            })?;
            match step {
                (_, Some(batch)) => return Ok(Some(batch)),
                (false, None) => return Ok(None),
                (true, None) => {}
            }
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (_exc_type, _exc, _traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.stop(py, 2.0).map(drop)
    }
}
