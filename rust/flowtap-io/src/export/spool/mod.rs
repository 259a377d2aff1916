//! Copies for destinations behind a gate: they leave while it is open, and wait meanwhile.
//!
//! A destination has one spool, which all workers of a tap share; every copy for it goes through that one, so that
//! nothing overtakes what waits. The spool outlives the table: what was copied while an order was in force is delivered,
//! also when the order has ended before the gate opens.

mod destination;
mod disk;
#[cfg(fuzzing)]
mod fuzzing;
mod queue;
mod segment;
mod sent;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_core::table::{Destination, FilterTable, Protection, SpoolKind};

use self::destination::DestinationSpool;
use self::disk::{Directory, Segment};
#[cfg(fuzzing)]
pub use self::fuzzing::read_segment;
use self::queue::Queue;
pub use self::segment::KEY_OCTETS;
use super::gate::Gate;
use super::sockets::Sockets;
use super::{ExportCount, bound_ended};

/// The most that leaves at once for want of looks, as the time that it would have taken, and never more than this: the
/// device of a tunnel in user space takes 500 datagrams.
const BURST: Duration = Duration::from_millis(20);
const BURST_MAX: u64 = 200;
/// How long one look may drain; frames wait in the ring meanwhile.
const LOOK: Duration = Duration::from_millis(2);
/// How often to look while something can be drained, so that pieces stay small.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often the spools where nothing happens are looked at, for what is kept too long.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Spools of destinations that left the table.
const ORPHANS_MAX: usize = 4_096;
/// How long such a spool is remembered where nothing waits, so that what was sent last can be counted as in doubt.
const ORPHAN_AGE: Duration = Duration::from_secs(3_600);
/// What a copy takes beside its own octets: its place in the queue, and what the allocator adds.
const HELD_OCTETS: u64 = 64;

/// A copy that waits or is kept.
struct HeldCopy {
    criteria_id: u64,
    /// Whether it was sent before, and is to be sent again.
    was_sent: bool,
    octets: Box<[u8]>,
}

impl HeldCopy {
    fn new(criteria_id: u64, octets: &[u8]) -> Self {
        Self {
            criteria_id,
            was_sent: false,
            octets: octets.into(),
        }
    }

    /// What it takes.
    fn octets(&self) -> u64 {
        u64::try_from(self.octets.len())
            .unwrap_or(u64::MAX)
            .saturating_add(HELD_OCTETS)
    }
}

/// A tunnel's gate and the spools that wait for it.
struct Way {
    gate: Arc<Gate>,
    /// Spools where copies began to wait since the last round.
    arrivals: Mutex<Vec<Arc<DestinationSpool>>>,
    /// Spools where copies wait.
    waiting: AtomicUsize,
    /// Copies that came in since the last round.
    came: AtomicU64,
    /// Losses of the tunnel that all its spools know.
    losses: AtomicU64,
    round: Mutex<Round>,
}

/// Spools take turns; one worker at a time drains a tunnel.
struct Round {
    spools: VecDeque<Arc<DestinationSpool>>,
    /// One datagram may leave in so much time.
    each: Duration,
    /// The most that may leave at once.
    burst: u64,
    /// Datagrams that may leave now, and when they were counted.
    allowed: u64,
    counted: Instant,
    /// A piece on its way out; one for all, since it can be long.
    piece: Vec<u8>,
}

impl Round {
    /// Counts what may leave by now.
    fn allow(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted);
        let more = elapsed.as_nanos() / self.each.as_nanos().max(1);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if u64::from(more) >= self.burst {
            (self.allowed, self.counted) = (self.burst, now);
        } else if more > 0 {
            self.allowed = self.allowed.saturating_add(more.into()).min(self.burst);
            let counted = self.each.saturating_mul(more);
            self.counted = self.counted.checked_add(counted).unwrap_or(now);
        }
    }
}

impl Way {
    fn new(gate: Arc<Gate>) -> Self {
        let each = Duration::from_secs(1) / gate.drain_pps().get();
        let burst = BURST.as_nanos() / each.as_nanos().max(1);
        let burst = u64::try_from(burst).unwrap_or(BURST_MAX);
        Self {
            losses: AtomicU64::new(gate.losses()),
            gate,
            arrivals: Mutex::default(),
            waiting: AtomicUsize::new(0),
            came: AtomicU64::new(0),
            round: Mutex::new(Round {
                spools: VecDeque::new(),
                each,
                // With one alone the time between two looks would be lost each time.
                burst: burst.clamp(2, BURST_MAX),
                allowed: 0,
                counted: Instant::now(),
                piece: Vec::new(),
            }),
        }
    }

    /// Copies begin to wait in a spool.
    fn list(&self, spool: Arc<DestinationSpool>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push(spool);
    }

    /// Copies come in while others are drained: as many more may leave.
    fn admit(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.came.fetch_add(count, Ordering::Relaxed);
    }

    /// Forgets the spools that were given up.
    fn forget_given_up(&self) {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        // Who holds a spool lists it: nobody asks a spool who holds the list.
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        round.spools.extend(arrivals.drain(..));
        drop(arrivals);
        let before = round.spools.len();
        round.spools.retain(|spool| !spool.is_given_up());
        let gone = before.saturating_sub(round.spools.len());
        self.waiting.fetch_sub(gone, Ordering::Relaxed);
    }

    /// Forgets the spools that wait.
    fn forget(&self) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.clear();
        drop(arrivals);
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        round.spools.clear();
        self.waiting.store(0, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.gate.is_open()
    }

    /// Drains what may leave now, if nobody else does.
    fn drain(&self, sockets: &mut Sockets, now: Instant) {
        if !self.is_draining() {
            return;
        }
        let Ok(mut round) = self.round.try_lock() else {
            return;
        };
        let round = &mut *round;
        round.allow(now);
        let mut left = round
            .allowed
            .saturating_add(self.came.swap(0, Ordering::Relaxed));
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        round.spools.extend(arrivals.drain(..));
        drop(arrivals);
        let until = now.checked_add(LOOK).unwrap_or(now);
        for _turn in 0..round.spools.len() {
            if left == 0 || Instant::now() >= until {
                break;
            }
            let Some(spool) = round.spools.pop_front() else {
                break;
            };
            let (count, is_waiting) = spool.drain(sockets, left, until, &mut round.piece);
            left = left.saturating_sub(count);
            if is_waiting {
                round.spools.push_back(spool);
            } else {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
        round.allowed = left.min(round.burst);
    }
}

/// A destination as its spool knows it.
struct Known {
    spool: Arc<DestinationSpool>,
    /// When it left the table, by a count; None while it is there.
    left: Option<u64>,
}

#[derive(Default)]
struct Registry {
    known: HashMap<Destination, Known>,
    departures: u64,
    /// Counts of spools that are gone.
    ended: BTreeMap<String, ExportCount>,
}

/// The spools of a tap.
pub struct Spools {
    ways: HashMap<String, Arc<Way>>,
    directory: Option<Arc<Directory>>,
    registry: Mutex<Registry>,
    /// How many spools there are, to be read without a lock.
    count: AtomicUsize,
    swept: Mutex<Instant>,
    /// Which tunnel comes first in the next look.
    turn: AtomicUsize,
}

impl fmt::Debug for Spools {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Spools")
            .field("tunnels", &self.ways.keys())
            .finish_non_exhaustive()
    }
}

/// Why there can be no spools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Two gates for one tunnel.
    #[error(
        "gates: tunnel {tunnel:?} has two; one is right, since they could contradict each other"
    )]
    TwoGates {
        /// The tunnel.
        tunnel: String,
    },
    /// The directory for spools on disk cannot be used.
    #[error("spool directory {path}: {message}")]
    Directory {
        /// The directory.
        path: String,
        /// What the system says.
        message: String,
    },
    /// Another tap has its spools there.
    #[error("spool directory {path}: another tap uses it; each has a directory of its own")]
    InUse {
        /// The directory.
        path: String,
    },
}

/// How copies for one destination leave.
#[derive(Clone)]
pub(super) enum Guard {
    /// It is reached in clear.
    Clear,
    /// It is to be reached through a tunnel whose gate nobody gave.
    NoGate,
    /// Through its spool.
    Spool(Arc<DestinationSpool>),
}

/// The destination without what may change while copies wait for it.
fn key(destination: &Destination, protection: &Protection) -> Destination {
    Destination {
        protection: Some(Arc::new(Protection {
            spool_octets: 0,
            resend: Duration::ZERO,
            ..protection.clone()
        })),
        ..destination.clone()
    }
}

impl Spools {
    /// Spools behind gates, one for each tunnel; those on disk are in a directory that is nobody else's. With a key,
    /// which is to outlive the run, what an earlier run with the same key has left there waits as well. Without one the
    /// key is in memory only, and what cannot be read any more is removed.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn new(
        gates: Vec<Arc<Gate>>,
        directory: Option<&Path>,
        key: Option<&[u8; KEY_OCTETS]>,
    ) -> Result<Self, SpoolError> {
        let mut ways = HashMap::new();
        for gate in gates {
            let tunnel = gate.tunnel().to_owned();
            let way = Arc::new(Way::new(gate));
            if ways.insert(tunnel.clone(), way).is_some() {
                return Err(SpoolError::TwoGates { tunnel });
            }
        }
        let opened = directory
            .map(|path| Directory::open(path, key))
            .transpose()?;
        let (directory, recovered) = opened.unzip();
        let spools = Self {
            ways,
            directory,
            registry: Mutex::default(),
            count: AtomicUsize::new(0),
            swept: Mutex::new(Instant::now()),
            turn: AtomicUsize::new(0),
        };
        for (destination, segments) in recovered.into_iter().flatten() {
            spools.recover(destination, segments);
        }
        Ok(spools)
    }

    /// Lets wait what an earlier run has left.
    fn recover(&self, destination: Destination, segments: VecDeque<Segment>) {
        let tunnel = destination
            .protection
            .as_ref()
            .map(|each| each.tunnel.clone());
        let Some((tunnel, directory)) = tunnel.zip(self.directory.clone()) else {
            return;
        };
        let queue = Queue::on_disk(Arc::clone(&directory), destination.clone(), segments);
        let way = self.ways.get(&tunnel).cloned().unwrap_or_else(|| {
            let count = queue.unsent();
            directory.notice(format!(
                "{count} copies of an earlier run wait for tunnel {tunnel:?}, which this one has no gate for"
            ));
            // It is shut for good.
            Arc::new(Way::new(Arc::new(Gate::new(&tunnel))))
        });
        let spool = Arc::new(DestinationSpool::new(destination.clone(), way, true, queue));
        spool.recover();
        let mut registry = self.lock();
        let left = Some(registry.departures);
        registry.known.insert(destination, Known { spool, left });
        self.count.store(registry.known.len(), Ordering::Relaxed);
    }

    /// What there is to say about the disk since this was asked for last, in words.
    pub fn notices(&self) -> Vec<String> {
        let directory = self.directory.as_ref();
        directory.map_or_else(Vec::new, |directory| directory.take_notices())
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the copies for each destination of a table leave, in its order. Spools whose destination is not in it any more
    /// keep what waits.
    pub(super) fn adopt(&self, table: &FilterTable, segmentation: bool) -> Vec<Guard> {
        let mut registry = self.lock();
        let registry = &mut *registry;
        let before = registry.departures;
        registry.departures = before.saturating_add(1);
        for known in registry.known.values_mut() {
            known.left = known.left.or(Some(before));
            known.spool.forget_ended(table);
        }
        let guards = table.destinations().iter().map(|destination| {
            let Some(protection) = destination.protection.as_deref() else {
                return Guard::Clear;
            };
            let Some(way) = self.ways.get(&protection.tunnel) else {
                return Guard::NoGate;
            };
            let key = key(destination, protection);
            let known = registry.known.entry(key).or_insert_with_key(|key| {
                let directory = self.directory.as_ref();
                let queue = match directory.filter(|_| protection.spool == SpoolKind::Disk) {
                    Some(directory) => {
                        Queue::on_disk(Arc::clone(directory), key.clone(), VecDeque::new())
                    }
                    None => Queue::default(),
                };
                let way = Arc::clone(way);
                let spool = DestinationSpool::new(key.clone(), way, segmentation, queue);
                Known {
                    spool: Arc::new(spool),
                    left: None,
                }
            });
            known.left = None;
            known.spool.configure(protection, self.directory.is_some());
            Guard::Spool(Arc::clone(&known.spool))
        });
        let guards = guards.collect();
        if registry.bound_orphans() {
            for way in self.ways.values() {
                way.forget_given_up();
            }
        }
        self.count.store(registry.known.len(), Ordering::Relaxed);
        guards
    }

    /// Lets leave what may, in a bounded piece, and goes on with time.
    pub(super) fn tend(&self, sockets: &mut Sockets) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.sweep(Instant::now());
        let now = Instant::now();
        // One after the other comes first: who takes all of a look's time leaves nothing to the others.
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.ways.len().max(1);
        let ways = self.ways.values();
        for way in ways.clone().skip(first).chain(ways.take(first)) {
            let losses = way.gate.losses();
            if way.losses.swap(losses, Ordering::AcqRel) != losses {
                self.look(|spool| Arc::ptr_eq(&spool.way, way));
            }
            way.drain(sockets, now);
        }
    }

    /// How long a worker may wait for frames that does not wait longer than `longest`.
    pub(super) fn wait(&self, longest: Duration) -> Duration {
        if self.ways.values().any(|way| way.is_draining()) {
            longest.min(LOOK_EVERY)
        } else {
            longest
        }
    }

    /// Whether something waits that may leave.
    pub(super) fn is_draining(&self) -> bool {
        self.ways.values().any(|way| way.is_draining())
    }

    fn look(&self, is_meant: impl Fn(&DestinationSpool) -> bool) {
        let registry = self.lock();
        let spools = registry.known.values().map(|known| &known.spool);
        let spools: Vec<_> = spools.filter(|spool| is_meant(spool)).cloned().collect();
        drop(registry);
        for spool in spools {
            spool.look();
        }
    }

    /// Looks from time to time at the spools where nothing happens.
    fn sweep(&self, now: Instant) {
        let Ok(mut swept) = self.swept.try_lock() else {
            return;
        };
        if now.saturating_duration_since(*swept) < SWEEP_EVERY {
            return;
        }
        *swept = now;
        self.look(|_| true);
        let mut registry = self.lock();
        registry.forget_orphans(now);
        self.count.store(registry.known.len(), Ordering::Relaxed);
    }

    /// The counts of every spool, and of those that are gone.
    pub fn counts(&self) -> Vec<ExportCount> {
        let registry = self.lock();
        let spools: Vec<_> = registry
            .known
            .values()
            .map(|known| Arc::clone(&known.spool))
            .collect();
        let ended: Vec<ExportCount> = registry.ended.values().cloned().collect();
        drop(registry);
        let counts = spools.iter().map(|spool| spool.count());
        counts.chain(ended).collect()
    }

    /// Ends the spools with the tap: what waits in memory is dropped and counted, what the next run can read stays.
    pub fn finish(&self) {
        let registry = self.lock();
        for known in registry.known.values() {
            known.spool.finish();
            // Spools and ways know each other; here that ends.
            known.spool.way.forget();
        }
        if let Some(directory) = &self.directory {
            directory.leave();
        }
    }
}

impl Drop for Spools {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Registry {
    fn remove(&mut self, key: &Destination) {
        let Some(known) = self.known.remove(key) else {
            return;
        };
        let count = known.spool.give_up();
        self.ended
            .entry(count.id.clone())
            .or_insert_with(|| ExportCount::new(&count.id))
            .merge(count);
        bound_ended(&mut self.ended);
    }

    /// Gives up the spools of destinations that left the table first, where there are too many: such first where nothing
    /// waits. Says whether there were.
    fn bound_orphans(&mut self) -> bool {
        let orphans = self.known.values().filter(|known| known.left.is_some());
        let excess = orphans.count().saturating_sub(ORPHANS_MAX);
        if excess == 0 {
            return false;
        }
        let mut orphans: Vec<(bool, u64, Destination)> = self
            .known
            .iter()
            .filter_map(|(key, known)| {
                let is_waiting = !known.spool.is_idle();
                Some((is_waiting, known.left?, key.clone()))
            })
            .collect();
        orphans.sort_by_key(|&(is_waiting, left, _)| (is_waiting, left));
        for (_, _, key) in orphans.iter().take(excess) {
            self.remove(key);
        }
        true
    }

    /// Forgets spools of destinations that left the table where nothing has happened for long.
    fn forget_orphans(&mut self, now: Instant) {
        let is_old = |spool: &DestinationSpool| {
            let age = |sent| now.saturating_duration_since(sent);
            spool.is_idle() && spool.last_sent().is_none_or(|sent| age(sent) > ORPHAN_AGE)
        };
        let old: Vec<Destination> = self
            .known
            .iter()
            .filter(|(_, known)| known.left.is_some())
            .filter(|(_, known)| is_old(&known.spool))
            .map(|(key, _)| key.clone())
            .collect();
        for key in old {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
