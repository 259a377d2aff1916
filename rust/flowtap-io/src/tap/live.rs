//! Captures interfaces: one worker for each interface and share of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flowtap_core::bpf::Program;
use flowtap_core::decode::Outer;
use flowtap_core::duplicates::Duplicates;
use flowtap_core::engine::MatchSink;
use flowtap_core::frame::LinkType;
use flowtap_core::local::LocalAddresses;
use flowtap_core::own::{OwnEndpoint, OwnTraffic, OwnTunnel};

use super::filters::Filters;
use super::output::{Output, OutputOptions};
use super::station::{Clock, Station};
use super::{Shared, Stop, TapError, WorkerStats};
use crate::broker::Broker;
use crate::export::ExportOptions;
use crate::local::local_addresses;
use crate::packet::{
    Capture, CaptureOptions, Directions, FanoutGroup, FanoutMode, OnWire, PacketError, RingFrame,
    RingOptions, StatisticsReader, Timestamps, Waker,
};
use crate::prefilter::InnerTunnels;
use crate::swap::TableCell;

/// Longest wait for frames; an owner wakes the worker anyway.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How long a frame may take from the filter to the ring.
const ON_ITS_WAY: Duration = Duration::from_millis(1);
/// How late the kernel may be with a block whose time is up: it counts in its own ticks.
const BLOCK_LATE: Duration = Duration::from_millis(50);
/// Longest wait for the last block, whatever its time is.
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
/// How long after a capture could not be opened again it is tried once more.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Packets that the memory of duplicates has room for.
const DUPLICATES: usize = 1 << 18;

/// What a tap captures, and how.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Interfaces by name; frames number them in this order.
    pub interfaces: Vec<String>,
    /// Workers that share each interface.
    pub workers: usize,
    /// The ring of each worker.
    pub ring: RingOptions,
    /// Whether interfaces are to take frames that are for others.
    pub promiscuous: bool,
    /// Who is to take the time.
    pub timestamps: Timestamps,
    /// Ask criteria without interfaces about every frame, whichever way it goes; otherwise where it comes in, and where it
    /// goes out if this host made it.
    pub any_way: bool,
    /// How long a packet is remembered that is not to be copied twice, in milliseconds; 0 for not at all.
    pub deduplicate_ms: u64,
    /// Tunnels whose inner packets criteria are matched against as well.
    pub inner: InnerTunnels,
    /// Whether the kernel may filter by eBPF.
    pub ebpf: bool,
    /// Send the copies; otherwise they are counted only.
    pub export: Option<ExportOptions>,
    /// Opens what this process may not.
    pub broker: Option<Arc<Broker>>,
    /// Control channels of the tap, which are never tapped.
    pub own: Vec<OwnEndpoint>,
    /// Tunnels of the tap, which are never tapped either.
    pub tunnels: Vec<OwnTunnel>,
    /// Frames for which it returns 0 are not looked at any further.
    pub program: Option<Arc<Program>>,
    /// Where matched frames are written.
    pub output: Option<OutputOptions>,
    /// Matched frames after which the capture ends.
    pub frames_max: Option<u64>,
    /// The engine's time.
    pub clock: Clock,
}

/// What a capture on one interface has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureCount {
    /// The interface, as it was asked for.
    pub interface: String,
    /// Whether it is there and up.
    pub is_up: bool,
    /// Frames that the kernel handed over.
    pub received: u64,
    /// Frames that found no room in the ring, or that nobody could read before it was closed.
    pub dropped: u64,
    /// How often the kernel had to stop because the ring was full.
    pub freezes: u64,
    /// Super-frames that could not be cut into the packets that they stand for.
    pub super_frames_whole: u64,
    /// Frames that the frame filter kept away.
    pub filtered_out: u64,
    /// How often a capture was opened anew, because the interface had been removed.
    pub reopened: u64,
    /// What filters in the kernel.
    pub filter: String,
}

/// One interface, as its workers and the tap see it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    link_type: Mutex<LinkType>,
    pub(super) is_up: AtomicBool,
    super_frames_whole: AtomicU64,
    filtered_out: AtomicU64,
    reopened: AtomicU64,
    /// Counts up when captures are to be opened anew.
    pub(super) appeared: AtomicU64,
    statistics: Vec<StatisticsReader>,
}

/// What all live workers share.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) places: Vec<Place>,
    pub(super) filters: Filters,
    pub(super) local: ArcSwap<LocalAddresses>,
    pub(super) output: Output,
    /// What is never tapped.
    own: OwnTraffic,
}

impl Live {
    /// What each interface has counted.
    pub(super) fn counts(&self) -> Vec<CaptureCount> {
        let count = |place: &Place| {
            let mut count = CaptureCount {
                interface: place.name.clone(),
                is_up: place.is_up.load(Ordering::Relaxed),
                super_frames_whole: place.super_frames_whole.load(Ordering::Relaxed),
                filtered_out: place.filtered_out.load(Ordering::Relaxed),
                reopened: place.reopened.load(Ordering::Relaxed),
                filter: self.filters.kind(place.link_type()),
                ..CaptureCount::default()
            };
            for reader in &place.statistics {
                let counted = reader.read();
                count.received += counted.received;
                count.dropped += counted.dropped;
                count.freezes += counted.freezes;
            }
            count
        };
        self.places.iter().map(count).collect()
    }

    /// Ends the output file, when no worker writes any more.
    pub(super) fn finish(&self) {
        let counts = self.counts();
        let counts = (0..).zip(&counts);
        self.output
            .finish(counts.map(|(number, each)| (number, each.received, each.dropped)));
    }
}

impl Place {
    fn link_type(&self) -> LinkType {
        *self
            .link_type
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture that is open and has its filter, before its thread is there.
pub(super) struct Prepared {
    capture: Capture,
    place: usize,
    worker: usize,
}

impl Prepared {
    pub(super) fn waker(&self) -> Waker {
        self.capture.waker()
    }
}

fn socket_of(broker: &Broker, interface: &str) -> Result<OwnedFd, TapError> {
    broker
        .packet(interface)
        .map_err(|message| TapError::Capture { message })
}

fn open(options: CaptureOptions, broker: Option<&Broker>) -> Result<Capture, TapError> {
    let interface = options.interface.clone();
    match (Capture::open(options.clone()), broker) {
        (Err(PacketError::PermissionMissing { .. }), Some(broker)) => {
            Capture::from_socket(socket_of(broker, &interface)?, options)
        }
        (result, _) => result,
    }
    .map_err(TapError::from)
}

/// Opens all captures of a tap.
pub(super) fn prepare(
    cell: &TableCell,
    options: &LiveOptions,
    own: OwnTraffic,
) -> Result<(Arc<Live>, Vec<Prepared>), TapError> {
    let table = cell.table();
    // What criteria about outgoing frames come later, nobody knows: all frames come in, and the engine decides.
    let output = Output::new(
        options.output.as_ref(),
        options.frames_max,
        &options.interfaces,
    )
    .map_err(|error| TapError::Output {
        message: error.to_string(),
    })?;
    let filters = Filters::new(&table, options.inner, options.ebpf, options.broker.clone());
    let mut places = Vec::new();
    let mut prepared = Vec::new();
    for (number, name) in options.interfaces.iter().enumerate() {
        let group = (options.workers > 1).then(|| FanoutGroup::new(FanoutMode::default()));
        let mut statistics = Vec::new();
        let mut link_type = LinkType::Ethernet;
        let mut is_up = true;
        for _ in 0..options.workers.max(1) {
            let mut capture_options = CaptureOptions::new(name.as_str());
            capture_options.number = u32::try_from(number).unwrap_or(u32::MAX);
            capture_options.ring = options.ring;
            capture_options.promiscuous = options.promiscuous;
            capture_options.directions = Directions::Both;
            capture_options.timestamps = options.timestamps;
            capture_options.fanout.clone_from(&group);
            let capture = open(capture_options, options.broker.as_deref())?;
            let worker = prepared.len();
            link_type = capture.link_type();
            is_up = capture.interface().is_up;
            filters
                .attach(worker, capture.as_fd(), link_type)
                .map_err(|message| TapError::Capture { message })?;
            statistics.push(capture.statistics());
            prepared.push(Prepared {
                capture,
                place: number,
                worker,
            });
        }
        places.push(Place {
            name: name.clone(),
            link_type: Mutex::new(link_type),
            is_up: AtomicBool::new(is_up),
            super_frames_whole: AtomicU64::new(0),
            filtered_out: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            appeared: AtomicU64::new(0),
            statistics,
        });
    }
    let live = Live {
        places,
        filters,
        local: ArcSwap::from_pointee(local_addresses()),
        output,
        own,
    };
    Ok((Arc::new(live), prepared))
}

/// The memory that all workers share, where packets are not to be copied twice.
pub(super) fn duplicates(options: &LiveOptions) -> Option<Arc<Duplicates>> {
    (options.deduplicate_ms > 0)
        .then(|| Arc::new(Duplicates::new(options.deduplicate_ms, DUPLICATES)))
}

/// What a live worker is made with.
pub(super) struct Task<'a> {
    pub(super) shared: &'a Shared,
    pub(super) cell: &'a Arc<TableCell>,
    pub(super) stop: &'a Stop,
    pub(super) live: &'a Live,
    pub(super) options: &'a LiveOptions,
    pub(super) duplicates: Option<Arc<Duplicates>>,
}

/// Captures until the owner stops it, or nothing more is wanted.
pub(super) fn run(task: Task<'_>, prepared: Prepared) -> WorkerStats {
    let Task {
        shared,
        cell,
        stop,
        live,
        options,
        duplicates,
    } = task;
    let mut station = Station::new(
        shared,
        cell,
        stop,
        options.export.clone(),
        options.inner,
        options.clock,
    );
    let names = options.interfaces.iter().cloned().map(Some).collect();
    station.engine.name_interfaces(names);
    station.engine.set_own_traffic(live.own.clone());
    if options.any_way {
        station.engine.ask_any_way();
    }
    if let Some(duplicates) = duplicates {
        station.engine.set_duplicates(duplicates);
    }
    let local = live.local.load_full();
    station.engine.set_local_addresses(Arc::clone(&local));
    let mut listener = Listener {
        station,
        live,
        options,
        capture: prepared.capture,
        place: prepared.place,
        worker: prepared.worker,
        local,
        appeared: 0,
        reopen_at: None,
    };
    listener.listen();
    listener.drain();
    let now_ns = listener.station.now_ns();
    let Station { engine, batch, .. } = &mut listener.station;
    engine.flush(now_ns, batch, &mut &live.output);
    listener.station.send();
    let Listener {
        mut station,
        capture,
        ..
    } = listener;
    drop(capture);
    shared.lock().finished = true;
    // Enough frames came: their copies may still wait for a gate.
    while station.has_gates() && !station.look(&mut ()) {
        std::thread::park_timeout(station.wait(LONGEST_WAIT));
    }
    station.drain();
    station.account()
}

struct Listener<'a> {
    station: Station<'a>,
    live: &'a Live,
    options: &'a LiveOptions,
    capture: Capture,
    place: usize,
    worker: usize,
    local: Arc<LocalAddresses>,
    appeared: u64,
    /// When it is tried again to open the capture anew.
    reopen_at: Option<Instant>,
}

impl Listener<'_> {
    fn listen(&mut self) {
        while !self.station.look(&mut &self.live.output) && !self.live.output.is_done() {
            self.follow();
            match self.take(self.station.wait(LONGEST_WAIT)) {
                Ok(true) => {}
                Ok(false) => {
                    self.station.send();
                    self.live.output.flush();
                }
                Err(error) => {
                    // The capture is of no use any more; perhaps the interface is, in a moment.
                    self.station.fail(&error.to_string());
                    self.reopen_at.get_or_insert_with(Instant::now);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Takes the frames that were received before the end, and no more: whatever is counted as received is looked at, or
    /// counted as dropped.
    fn drain(&mut self) {
        if self.live.output.is_done() {
            return;
        }
        if let Err(error) = self.capture.admit_nothing() {
            self.station.fail(&error.to_string());
        } else {
            let block_time = Duration::from_millis(self.options.ring.retire_ms.into());
            let longest = (block_time + BLOCK_LATE).min(LONGEST_DRAIN);
            std::thread::sleep(ON_ITS_WAY);
            let began = Instant::now();
            while self.capture.unread() > 0 && !self.live.output.is_done() {
                let is_more = self.take(ON_ITS_WAY).unwrap_or(false);
                self.station.look(&mut &self.live.output);
                if !is_more && began.elapsed() > longest {
                    break;
                }
            }
        }
        if !self.live.output.is_done() {
            self.capture.lose_unread();
        }
    }

    /// Takes the next block, waiting for it at most so long; false where none came.
    fn take(&mut self, timeout: Duration) -> Result<bool, PacketError> {
        let Some(mut block) = self.capture.next_block(timeout)? else {
            return Ok(false);
        };
        // After the wait: what has ended meanwhile gets none of these.
        let now_ns = self.station.now_ns();
        let mut output = &self.live.output;
        let program = self.options.program.as_deref();
        let (mut whole, mut filtered_out) = (0, 0);
        for frame in block.frames() {
            if self.live.output.is_done() {
                break;
            }
            let wire_octets = frame.original_length_octets;
            if program.is_some_and(|each| each.run(frame.octets(), wire_octets) == 0) {
                filtered_out += 1;
                continue;
            }
            whole += process(&mut self.station, frame, now_ns, &mut output);
            self.station.send_if_full();
        }
        if let Some(place) = self.live.places.get(self.place)
            && (whole > 0 || filtered_out > 0)
        {
            place.super_frames_whole.fetch_add(whole, Ordering::Relaxed);
            place
                .filtered_out
                .fetch_add(filtered_out, Ordering::Relaxed);
        }
        self.station.send();
        Ok(true)
    }

    /// Goes on with what has changed around the tap.
    fn follow(&mut self) {
        let local = self.live.local.load();
        if !Arc::ptr_eq(&local, &self.local) {
            self.local = Arc::clone(&local);
            self.station.engine.set_local_addresses(Arc::clone(&local));
        }
        let Some(place) = self.live.places.get(self.place) else {
            return;
        };
        let appeared = place.appeared.load(Ordering::Acquire);
        if appeared != self.appeared {
            self.appeared = appeared;
            self.reopen_at = Some(Instant::now());
        }
        if self.live.filters.take_stuck(self.worker) {
            self.reopen_at = Some(Instant::now());
        }
        if self.reopen_at.is_some_and(|at| at <= Instant::now()) {
            self.reopen_at = match self.reopen(place) {
                Ok(()) => {
                    place.reopened.fetch_add(1, Ordering::Relaxed);
                    self.station.recover();
                    None
                }
                Err(_not_yet) => Instant::now().checked_add(REOPEN_AFTER),
            };
        }
    }

    fn reopen(&mut self, place: &Place) -> Result<(), TapError> {
        match (self.capture.reopen(), self.options.broker.as_deref()) {
            (Err(PacketError::PermissionMissing { .. }), Some(broker)) => {
                self.capture.reopen_from(socket_of(broker, &place.name)?)?;
            }
            (result, _) => result?,
        }
        let link_type = self.capture.link_type();
        *place
            .link_type
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = link_type;
        self.live
            .filters
            .attach(self.worker, self.capture.as_fd(), link_type)
            .map_err(|message| TapError::Capture { message })
    }
}

/// Gives a frame to the engine, as the packets that were on the wire where a criterion may want them. Returns 1 for a
/// super-frame that could not be cut.
#[inline]
fn process(
    station: &mut Station<'_>,
    frame: RingFrame<'_>,
    now_ns: u64,
    sink: &mut impl MatchSink,
) -> u64 {
    let Station { engine, batch, .. } = station;
    if !frame.needs_work() {
        engine.process(&frame.frame(), now_ns, batch, sink);
        return 0;
    }
    let is_wanted = {
        let table = engine.table();
        !table.circuits().is_empty()
            || Outer::of(&frame.frame())
                .is_some_and(|outer| table.may_match(outer.source, outer.destination))
    };
    if !is_wanted {
        engine.process(&frame.frame(), now_ns, batch, sink);
        return 0;
    }
    let on_wire = frame.for_each_packet(|packet| {
        engine.process(packet, now_ns, batch, sink);
    });
    u64::from(matches!(on_wire, OnWire::Whole(_)))
}
