//! Table, fragments, encapsulation and accounts over frames: synchronous, embeddable, without a clock.

mod account;
mod deliver;
mod fragments;
mod inner;
mod passage;
mod screen;

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use self::deliver::{Copied, Said};
pub use self::screen::{Screen, Screened, ScreenedCount};
use crate::batch::CopyBatch;
use crate::decode::{InnerTunnels, IpPacket, Outer, tunnel_in};
use crate::duplicates::Duplicates;
use crate::fragments::{FragmentLimits, FragmentMemory};
use crate::frame::Frame;
use crate::local::LocalAddresses;
use crate::own::OwnTraffic;
use crate::table::{FilterTable, Lifetime, Passage, Used};

/// What the engine writes into the batch for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Whole outer datagrams, cut into fragments where they are longer than `mtu_octets`: one record a fragment.
    Datagram {
        /// Longest outer IP packet.
        mtu_octets: u32,
    },
    /// The tapped IP packets alone; whoever sends them lets the kernel write the outer headers.
    Payload,
    /// Nothing: copies are counted only.
    Count,
}

/// How an engine works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// What goes into the batch.
    pub framing: Framing,
    /// Bounds of the memory of fragmented datagrams.
    pub fragments: FragmentLimits,
    /// Tunnels whose inner packets criteria are matched against as well; none unless asked for. A frame counts once for a
    /// criterion, whichever of its packets match, and the copy is always the outermost packet.
    pub inner: InnerTunnels,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            framing: Framing::Datagram { mtu_octets: 1500 },
            fragments: FragmentLimits::default(),
            inner: InnerTunnels::default(),
        }
    }
}

/// Receives every matched frame once, unchanged.
pub trait MatchSink {
    /// Called when a frame's verdict is known; for an early fragment that is later than its arrival.
    fn matched(&mut self, frame: &Frame<'_>);
}

impl MatchSink for () {
    fn matched(&mut self, _frame: &Frame<'_>) {}
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No IP packet could be read.
    Undecodable,
    /// Traffic of the tap itself.
    Own,
    /// No criterion matches.
    Missed,
    /// Criteria match, and the same packet was seen just before.
    Duplicate,
    /// At least one criterion matches.
    Matched,
    /// A fragment that waits for the first of its datagram.
    Held,
}

/// The account and the age of one criterion.
#[derive(Clone, Copy, Debug, Default)]
struct CriterionState {
    packets: u64,
    octets: u64,
    copies: u64,
    last_match_ns: Option<u64>,
    /// When the first frame came under its rule.
    since_ns: Option<u64>,
}

impl CriterionState {
    /// Whether a lifetime has run out.
    fn has_ended(&self, lifetime: &Lifetime, used: &Used, now_ns: u64) -> bool {
        let age_ns = |since: Option<u64>| since.map_or(0, |since| now_ns.saturating_sub(since));
        let in_force = lifetime.total_since_ns.or(self.since_ns);
        let idle_since = used
            .last_match_ns()
            .max(lifetime.idle_since_ns)
            .or(self.since_ns);
        lifetime
            .total_ns
            .is_some_and(|limit| age_ns(in_force) >= limit)
            || lifetime
                .idle_ns
                .is_some_and(|limit| age_ns(idle_since) >= limit)
            || used.is_spent(lifetime)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct DestinationState {
    wanted: u64,
    copied: u64,
    refused: u64,
    identification: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    frames: u64,
    octets: u64,
    undecodable: u64,
    own: u64,
    duplicates: u64,
    matched: u64,
    matched_whole: u64,
    wanted: u64,
    copied: u64,
    refused: u64,
}

/// Matches frames and makes copies.
#[derive(Debug)]
pub struct Engine {
    table: Arc<FilterTable>,
    options: EngineOptions,
    fragments: FragmentMemory,
    totals: Totals,
    criteria: Vec<CriterionState>,
    destinations: Vec<DestinationState>,
    /// Refused copies and their octets, by criterion and index of the destination.
    refused: HashMap<(u64, u32), (u64, u64), RandomState>,
    /// Names of the source's interfaces, and the table's numbers for them.
    interfaces: Vec<Option<String>>,
    interface_numbers: Vec<Option<u32>>,
    /// None: what goes out counts as made here.
    local: Option<Arc<LocalAddresses>>,
    is_any_way: bool,
    own: Option<OwnTraffic>,
    duplicates: Option<Arc<Duplicates>>,
    /// Slots whose criteria's lifetime has not begun: before the first frame after an install.
    fresh: Vec<usize>,
    /// Lifetimes have to begin, inner packets are to be looked at, or fragments wait: one question for what most frames have
    /// no part in.
    is_unusual: bool,
    /// Scratch memory: slots of one packet, ids of one datagram, one outer datagram.
    slots: Vec<u32>,
    ids: Vec<u64>,
    datagram: Vec<u8>,
}

impl Engine {
    /// An engine with a first table.
    pub fn new(table: Arc<FilterTable>, options: EngineOptions) -> Self {
        let slots = usize::try_from(table.slots_end()).unwrap_or(usize::MAX);
        // Room for those that come later, so that no change has to move all the others.
        let mut criteria = Vec::with_capacity(slots + slots / 4);
        criteria.resize(slots, CriterionState::default());
        Self {
            criteria,
            destinations: vec![DestinationState::default(); table.destinations().len()],
            fresh: (0..slots).collect(),
            is_unusual: true,
            table,
            options,
            fragments: FragmentMemory::new(options.fragments),
            totals: Totals::default(),
            refused: HashMap::default(),
            interfaces: Vec::new(),
            interface_numbers: Vec::new(),
            local: None,
            is_any_way: false,
            own: None,
            duplicates: None,
            slots: Vec::new(),
            ids: Vec::new(),
            datagram: Vec::new(),
        }
    }

    /// The present table.
    pub const fn table(&self) -> &Arc<FilterTable> {
        &self.table
    }

    /// Takes one frame. Copies are appended to `batch`; `now_ns` drives lifetimes and the memory of fragments.
    #[inline]
    pub fn process(
        &mut self,
        frame: &Frame<'_>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        self.totals.frames += 1;
        self.totals.octets += u64::try_from(frame.data.len()).unwrap_or(u64::MAX);
        let tunnel = if self.is_unusual {
            self.begin(frame, now_ns, batch, sink)
        } else {
            None
        };
        let verdict = if let Some(outer) = tunnel {
            self.process_tunnel(frame, &outer, now_ns, batch, sink)
        } else {
            self.process_plain(frame, now_ns, batch, sink)
        };
        if self.table.circuits().is_empty() || verdict == Verdict::Own {
            verdict
        } else {
            self.process_circuits(frame, verdict, now_ns, batch, sink)
        }
    }

    /// Takes a frame whose outermost packet alone counts.
    #[inline]
    fn process_plain(
        &mut self,
        frame: &Frame<'_>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        match Outer::of(frame) {
            None => {
                self.totals.undecodable += 1;
                Verdict::Undecodable
            }
            Some(outer) if !self.table.may_match(outer.source, outer.destination) => {
                Verdict::Missed
            }
            Some(outer) => self.process_packet(frame, &outer, now_ns, batch, sink),
        }
    }

    fn process_packet(
        &mut self,
        frame: &Frame<'_>,
        outer: &Outer<'_>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        let passage = self.passage(frame, Some(outer.source));
        if self.is_out_of_question(passage) {
            return Verdict::Missed;
        }
        let packet = outer.packet();
        if self.is_own(&packet) {
            return self.take_own(&packet, now_ns, batch, sink);
        }
        match packet.fragment {
            Some(fragment) if !fragment.is_atomic() => {
                self.process_fragment(frame, &packet, &fragment, passage, now_ns, batch, sink)
            }
            _ => {
                let mut slots = std::mem::take(&mut self.slots);
                self.table.classify(&packet.key, &mut slots);
                let verdict = self.decide(frame, &packet, passage, &mut slots, now_ns, batch, sink);
                self.slots = slots;
                verdict
            }
        }
    }

    fn count(&mut self, frame: &Frame<'_>, sink: &mut impl MatchSink) {
        self.totals.matched += 1;
        sink.matched(frame);
    }

    /// What the criteria of some slots make of a packet.
    #[expect(
        clippy::too_many_arguments,
        reason = "the caller has taken them apart already"
    )]
    #[inline]
    fn decide(
        &mut self,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        passage: Passage,
        slots: &mut [u32],
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        if slots.is_empty() {
            return Verdict::Missed;
        }
        let copied = Copied {
            is_duplicate: self.is_duplicate(packet, passage, slots, now_ns),
            octets: packet.octets,
            length_octets: packet.total_length_octets,
            passage,
        };
        match self.deliver(frame, copied, slots, now_ns, batch) {
            Said::Nothing => Verdict::Missed,
            Said::Own => {
                self.totals.own += 1;
                Verdict::Own
            }
            Said::Duplicate => {
                self.totals.duplicates += 1;
                Verdict::Duplicate
            }
            Said::Match => {
                self.count(frame, sink);
                Verdict::Matched
            }
        }
    }

    /// Does what is due before a frame; one that can be a tunnel whose inner packets count comes back as its outermost
    /// packet.
    #[cold]
    fn begin<'a>(
        &mut self,
        frame: &Frame<'a>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Option<Outer<'a>> {
        self.begin_lifetimes(now_ns);
        self.decide_overdue(now_ns, batch, sink);
        tunnel_in(frame, self.options.inner).filter(|_| !self.table.slots().is_empty())
    }

    fn begin_lifetimes(&mut self, now_ns: u64) {
        for at in self.fresh.drain(..) {
            if let Some(state) = self.criteria.get_mut(at) {
                state.since_ns.get_or_insert(now_ns);
            }
        }
    }

    /// Decides what still waits for a first fragment: at the end of the input.
    pub fn flush(&mut self, now_ns: u64, batch: &mut CopyBatch, sink: &mut impl MatchSink) {
        for held in self.fragments.drain() {
            self.decide_alone(&held, now_ns, batch, sink);
        }
    }
}
