//! Sends copies to their content destinations and accounts for every one.
//!
//! A destination's copies leave in order, from the source address and port that it was tasked with. Batches are built
//! with payloads only (`Framing::Payload`): the kernel writes the outer headers, so that routing, IPsec policies and
//! netfilter apply, and cuts runs of equal length from one call. What is lost on the way through the network is not
//! known here; what this host could not or would not send is counted as dropped, with the reason.

mod gate;
mod raw;
mod socket;
mod sockets;
mod spool;
mod sys;
mod udp;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::counters::{AccountError, Stats};
use flowtap_core::table::{Destination, FilterTable};

#[cfg(test)]
pub(crate) use self::socket::lock_filter;
pub(crate) use self::socket::{source_of, take_nothing};

pub use self::gate::{DRAIN_PPS, Gate};
use self::sockets::{Route, Sockets};
use self::spool::Guard;
#[cfg(fuzzing)]
pub use self::spool::read_segment;
pub use self::spool::{KEY_OCTETS, SpoolError, Spools};
use self::udp::{Outcome, Patience, Span};
use crate::broker::Broker;

/// Destinations that are no longer in the table and still have a count of their own.
const ENDED_MAX: usize = 4_096;
/// The name under which still older ones are counted together.
const ENDED_TOGETHER: &str = "(ended destinations)";

/// How long nothing waits for a destination that used up the patience of a batch.
const CONGESTED: Duration = Duration::from_secs(1);

const NOT_EXPORTABLE: &str = "not exportable: no delivery parameters";
const UNDIRECTED: &str = "the criterion names no destination";
const NO_GATE: &str =
    "it is to be reached through a tunnel, and the tap has no gate for that: nothing is ever sent";
const GIVEN_UP: &str = "its spool was given up, because too many destinations had left the table";
const MIXED_FAMILIES: &str = "source and destination address are of different families";

/// How an [`Exporter`] sends.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Send buffer of each socket; the system's limit (`net.core.wmem_max`) applies without CAP_NET_ADMIN.
    pub send_buffer_octets: usize,
    /// How long one batch may wait for room, on the way to all its destinations together, in milliseconds. What then finds
    /// no room is dropped, and its destination is congested: for a second nothing waits for it any more, so that a slow
    /// destination never stops the capture.
    pub wait_ms: u64,
    /// How long of this nothing at all may leave for a destination, in milliseconds.
    pub stall_ms: u64,
    /// Sockets kept open, one for each source address and port; the one that was idle longest is closed for a new one.
    pub sockets_max: usize,
    /// Whether the kernel may be asked to cut several datagrams from one call (`UDP_SEGMENT`).
    pub segmentation: bool,
    /// Opens what this process may not.
    pub broker: Option<Arc<Broker>>,
    /// A UDP socket of the caller's, which sends all copies with its own source address in place of the tasked ones.
    pub socket: Option<Arc<OwnedFd>>,
    /// The gates of tunnels, and what waits behind them; without them nothing leaves for destinations behind tunnels.
    pub spools: Option<Arc<Spools>>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            send_buffer_octets: 4 << 20,
            wait_ms: 20,
            stall_ms: 20,
            sockets_max: 64,
            segmentation: true,
            broker: None,
            socket: None,
            spools: None,
        }
    }
}

impl ExportOptions {
    /// For copies of frames that wait where they are, as those of a capture file do: a batch waits for a way that is slow,
    /// but not for one that takes nothing.
    #[must_use]
    pub fn patient(wait_ms: u64) -> Self {
        Self {
            wait_ms,
            stall_ms: 100,
            ..Self::default()
        }
    }
}

/// What became of the copies for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportCount {
    /// The destination's name; empty for copies that had no destination.
    pub id: String,
    /// Copies that were handed to the network.
    pub exported: u64,
    /// Copies that were not.
    pub dropped: u64,
    /// Of which criteria the copies were that were not.
    pub lost: LostCopies,
    /// Copies that wait until a gate opens, and were not sent before; a level.
    pub in_spool: u64,
    /// Datagrams that were sent again after a tunnel was lost; each of them counts once as exported.
    pub resent: u64,
    /// Datagrams that were exported shortly before a tunnel was lost and not sent again: at most so many did not arrive.
    pub exported_in_doubt: u64,
    /// Copies of an earlier run that were found waiting on disk: more to export than was copied.
    pub recovered: u64,
    /// The last thing that went wrong, in words without addresses.
    pub last_error: Option<String>,
}

/// Copies that were not sent, by criterion: how many, and the octets of their packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostCopies(BTreeMap<u64, (u64, u64)>);

impl LostCopies {
    fn add(&mut self, spans: &[Span]) {
        for span in spans {
            let octets = u64::try_from(span.length()).unwrap_or(u64::MAX);
            self.count(span.criteria_id, 1, octets);
        }
    }

    fn count(&mut self, criteria_id: u64, packets: u64, octets: u64) {
        let sum = self.0.entry(criteria_id).or_default();
        sum.0 = sum.0.saturating_add(packets);
        sum.1 = sum.1.saturating_add(octets);
    }

    fn merge(&mut self, other: &Self) {
        for (&criteria_id, &(packets, octets)) in &other.0 {
            self.count(criteria_id, packets, octets);
        }
    }

    /// Criterion, packets and octets, in the order of the criteria.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.0
            .iter()
            .map(|(&criteria_id, &(packets, octets))| (criteria_id, packets, octets))
    }
}

impl ExportCount {
    /// The counts of several exporters, those of one destination together.
    #[must_use]
    pub fn merged(counts: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for count in counts {
            let known = places.get(&count.id).and_then(|&at| all.get_mut(at));
            if let Some(sum) = known {
                sum.merge(count);
            } else {
                places.insert(count.id.clone(), all.len());
                all.push(count);
            }
        }
        all
    }

    /// Checks that nobody accounts for more copies than there were: copied + recovered = exported + in queue + in spool +
    /// dropped, where what is in the queue is the rest.
    ///
    /// # Errors
    /// Names the equation that does not hold.
    pub fn check(counts: &[Self], engine: &Stats) -> Result<(), AccountError> {
        let mut all = Self::default();
        for count in counts {
            all.add_sums(count);
        }
        let gone = all.exported + all.dropped + all.in_spool;
        if gone <= engine.copied + all.recovered {
            return Ok(());
        }
        Err(AccountError {
            equation: format!(
                "exported {} + in spool {} + dropped {} <= copied {} + recovered {}",
                all.exported, all.in_spool, all.dropped, engine.copied, all.recovered
            ),
        })
    }

    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..Self::default()
        }
    }

    /// Adds the count of another exporter for the same destination.
    fn merge(&mut self, count: Self) {
        self.lost.merge(&count.lost);
        self.add_sums(&count);
        self.last_error = count.last_error.or(self.last_error.take());
    }

    fn add_sums(&mut self, count: &Self) {
        for (sum, more) in [
            (&mut self.exported, count.exported),
            (&mut self.dropped, count.dropped),
            (&mut self.in_spool, count.in_spool),
            (&mut self.resent, count.resent),
            (&mut self.exported_in_doubt, count.exported_in_doubt),
            (&mut self.recovered, count.recovered),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    fn lose(&mut self, spans: &[Span], reason: &str) {
        self.dropped = self
            .dropped
            .saturating_add(u64::try_from(spans.len()).unwrap_or(u64::MAX));
        self.lost.add(spans);
        if self.last_error.as_deref() != Some(reason) {
            self.last_error = Some(reason.to_owned());
        }
    }

    fn add(&mut self, outcome: Outcome) {
        self.exported = self.exported.saturating_add(outcome.exported);
        self.dropped = self.dropped.saturating_add(outcome.dropped);
        self.lost.merge(&outcome.lost);
        if outcome.error.is_some() {
            self.last_error = outcome.error;
        }
    }
}

/// Counts the ended destinations beyond the bound together.
fn bound_ended(ended: &mut BTreeMap<String, ExportCount>) {
    while ended.len() > ENDED_MAX {
        let name = ended.keys().find(|name| *name != ENDED_TOGETHER).cloned();
        let Some(count) = name.and_then(|name| ended.remove(&name)) else {
            return;
        };
        ended
            .entry(ENDED_TOGETHER.to_owned())
            .or_insert_with(|| ExportCount::new(ENDED_TOGETHER))
            .add_sums(&count);
    }
}

/// One destination of the table and its state.
struct Target {
    route: Route,
    guard: Guard,
    count: ExportCount,
    /// The copies of the present batch.
    spans: Vec<Span>,
    /// Until when nothing waits for it, because it has used up the patience that there was.
    congested_until: Option<Instant>,
}

/// Sends copies and counts them; each worker has its own.
///
/// Every record of a batch is counted once, as exported or as dropped.
pub struct Exporter {
    table: Arc<FilterTable>,
    options: ExportOptions,
    targets: Vec<Target>,
    /// Counts of destinations that have left the table.
    ended: BTreeMap<String, ExportCount>,
    /// Copies for no destination.
    undirected: ExportCount,
    sockets: Sockets,
    /// Destinations with copies in the present batch.
    busy: Vec<usize>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Exporter")
            .field("options", &self.options)
            .field("destinations", &self.targets.len())
            .field("sockets", &self.sockets.open_count())
            .finish_non_exhaustive()
    }
}

impl Exporter {
    /// An exporter for the destinations of a table; sockets are opened when they are first needed.
    pub fn new(table: Arc<FilterTable>, options: ExportOptions) -> Self {
        let sockets = Sockets::new(&options);
        let mut exporter = Self {
            table: Arc::clone(&table),
            options,
            targets: Vec::new(),
            ended: BTreeMap::new(),
            undirected: ExportCount::default(),
            sockets,
            busy: Vec::new(),
        };
        exporter.install(table);
        exporter
    }

    /// Goes over to another table: the counts of a destination stay with its name. Batches that follow must have been
    /// built with this table.
    pub fn install(&mut self, table: Arc<FilterTable>) {
        // A change of the table is no reason to wait again.
        let mut congested: HashMap<String, Instant> = HashMap::new();
        for target in self.targets.drain(..) {
            if let Some(until) = target.congested_until {
                congested.insert(target.count.id.clone(), until);
            }
            self.ended.insert(target.count.id.clone(), target.count);
        }
        let segmentation = self.options.segmentation;
        let mut guards = match &self.options.spools {
            Some(spools) => spools.adopt(&table, segmentation),
            None => Vec::new(),
        }
        .into_iter();
        for destination in table.destinations() {
            let guard = guards.next().unwrap_or(match destination.protection {
                Some(_) => Guard::NoGate,
                None => Guard::Clear,
            });
            let count = self
                .ended
                .remove(&destination.id)
                .unwrap_or_else(|| ExportCount::new(&destination.id));
            self.targets.push(Target {
                route: Route::new(destination, segmentation),
                guard,
                count,
                spans: Vec::new(),
                congested_until: congested.remove(&destination.id),
            });
        }
        // What ended criteria have lost is in the sums; nobody asks for it by name any more.
        let ended = self.ended.values_mut();
        for count in self
            .targets
            .iter_mut()
            .map(|target| &mut target.count)
            .chain(ended)
        {
            count.lost.0.retain(|&id, _| table.slot_of(id).is_some());
        }
        self.table = table;
        bound_ended(&mut self.ended);
        // A port may have become free, a right may have been given.
        self.sockets.forget_failures();
    }

    /// Sends all copies of a batch, in order for each destination.
    pub fn send(&mut self, batch: &CopyBatch) {
        for record in batch.records() {
            let span = Span {
                start: record.start,
                end: record.end,
                criteria_id: record.criteria_id,
            };
            let index = usize::try_from(record.destination).unwrap_or(usize::MAX);
            match self.targets.get_mut(index) {
                Some(target) => {
                    if target.spans.is_empty() {
                        self.busy.push(index);
                    }
                    target.spans.push(span);
                }
                None => self.undirected.lose(&[span], UNDIRECTED),
            }
        }
        let mut left = Duration::from_millis(self.options.wait_ms);
        let stall = Duration::from_millis(self.options.stall_ms);
        for index in self.busy.drain(..) {
            if let Some((target, destination)) = self
                .targets
                .get_mut(index)
                .zip(self.table.destinations().get(index))
            {
                let patience = Patience::new(target.patience(left), stall);
                let left_over =
                    target.send(destination, &mut self.sockets, batch.bytes(), patience);
                left = left.min(left_over.unwrap_or(left));
            }
        }
    }

    /// Whether copies may have to wait until a gate opens.
    pub fn has_gates(&self) -> bool {
        self.options.spools.is_some()
    }

    /// Lets leave what waits behind open gates, in a bounded piece; to be called often.
    #[inline]
    pub fn tend(&mut self) {
        if let Some(spools) = &self.options.spools {
            spools.tend(&mut self.sockets);
        }
    }

    /// How long it may be until [`Exporter::tend`] is called again, and at most `longest`.
    pub fn wait(&self, longest: Duration) -> Duration {
        let spools = self.options.spools.as_ref();
        spools.map_or(longest, |spools| spools.wait(longest))
    }

    /// Lets leave what waits behind open gates, until a moment at most.
    pub fn drain(&mut self, until: Instant) {
        let Some(spools) = self.options.spools.clone() else {
            return;
        };
        while spools.is_draining() && Instant::now() < until {
            spools.tend(&mut self.sockets);
            std::thread::sleep(spools.wait(Duration::from_millis(5)));
        }
    }

    /// The counts of the spools that it shares with others; None where it has none.
    pub fn spooled(&self) -> Option<Vec<ExportCount>> {
        self.options.spools.as_ref().map(|spools| spools.counts())
    }

    /// The counts of every destination, without what its spool has counted: those of the table in its order, then those that have left it, then, under an
    /// empty name, copies that had no destination, if there were any.
    pub fn counters(&self) -> Vec<ExportCount> {
        let present = self.targets.iter().map(|target| &target.count);
        let undirected = Some(&self.undirected).filter(|count| count.dropped > 0);
        present
            .chain(self.ended.values())
            .chain(undirected)
            .cloned()
            .collect()
    }
}

impl Target {
    /// How long of the time that the batch has left may be waited for this destination.
    fn patience(&mut self, left: Duration) -> Duration {
        if let Some(until) = self.congested_until {
            if Instant::now() < until {
                return Duration::ZERO;
            }
            self.congested_until = None;
        }
        left
    }

    /// Sends the copies of the present batch. Returns how long the batch may still wait, where that is less.
    fn send(
        &mut self,
        destination: &Destination,
        sockets: &mut Sockets,
        bytes: &[u8],
        mut patience: Patience,
    ) -> Option<Duration> {
        let mut left = None;
        if !destination.export {
            self.count.lose(&self.spans, NOT_EXPORTABLE);
        } else if destination.address.is_ipv4() != destination.source_address.is_ipv4() {
            self.count.lose(&self.spans, MIXED_FAMILIES);
        } else if let Guard::NoGate = self.guard {
            self.count.lose(&self.spans, NO_GATE);
        } else if let Guard::Spool(spool) = &self.guard {
            if !spool.accept(sockets, bytes, &self.spans, &mut patience) {
                self.count.lose(&self.spans, GIVEN_UP);
            }
            left = self.congestion(&patience);
        } else {
            let mut outcome = Outcome::default();
            sockets.send(
                destination,
                &mut self.route,
                bytes,
                &self.spans,
                &mut patience,
                &mut outcome,
            );
            self.count.add(outcome);
            left = self.congestion(&patience);
        }
        self.spans.clear();
        left
    }

    /// Notes whether the destination is congested from now on. Returns how long the batch may still wait, where that is
    /// less.
    fn congestion(&mut self, patience: &Patience) -> Option<Duration> {
        if self.congested_until.is_some() {
            return None;
        }
        if patience.is_congested() {
            self.congested_until = Instant::now().checked_add(CONGESTED);
        }
        Some(patience.left())
    }
}
