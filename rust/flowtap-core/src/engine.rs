//! Table, fragments, encapsulation and accounts over frames: synchronous, embeddable, without a clock.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::batch::{CopyBatch, CopyRecord, NO_DESTINATION};
use crate::counters::{CriterionCounters, DestinationCounters, RefusedCopies, Stats};
use crate::decode::{IpPacket, Outer};
use crate::duplicates::Duplicates;
use crate::encap::flowtap;
use crate::fragments::{FragmentLimits, FragmentMemory, HeldFrame};
use crate::frame::{Direction, Frame};
use crate::local::LocalAddresses;
use crate::own::OwnTraffic;
use crate::packet::Address;
use crate::table::{Destination, FilterTable, Lifetime, Passage, Slot, Used, Way};

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
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            framing: Framing::Datagram { mtu_octets: 1500 },
            fragments: FragmentLimits::default(),
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

/// What is copied of a frame, and how it passed.
#[derive(Clone, Copy)]
struct Copied<'a> {
    /// Criteria without interfaces have had it.
    is_duplicate: bool,
    octets: &'a [u8],
    /// As counted: the length that the IP header tells, or that of the frame on the wire.
    length_octets: u32,
    passage: Passage,
}

/// What the criteria of some slots said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Own,
    Duplicate,
    Match,
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

    /// Goes over to another table. Accounts and ages follow the ids of criteria and the names of destinations; those
    /// that left stay in the totals. Where the new table is a change of the present one, this costs about as much as the
    /// change.
    pub fn install(&mut self, table: Arc<FilterTable>) {
        let mut moved: Vec<(usize, Option<CriterionState>)> = Vec::new();
        self.table.differing_slots(&table, |number| {
            let (old, new) = (self.table.slot(number), table.slot(number));
            if let Some(new) = new {
                self.hand_on(new);
            }
            if let (Some(new), Ok(at)) = (new, usize::try_from(number))
                && old.map(Slot::id) != Some(new.id())
            {
                let state = self.table.slot_of(new.id()).and_then(|old| self.state(old));
                moved.push((at, state));
            }
        });
        let end = usize::try_from(table.slots_end()).unwrap_or(usize::MAX);
        self.criteria.resize(end, CriterionState::default());
        for (at, state) in moved {
            if let Some(place) = self.criteria.get_mut(at) {
                *place = state.unwrap_or_default();
                if place.since_ns.is_none() {
                    self.fresh.push(at);
                }
            }
        }
        if self.fresh.len() > self.criteria.len() {
            // Many changes without a frame between them: some slots are there several times.
            self.fresh = (0..self.criteria.len()).collect();
        }
        if !self.table.shares_destinations(&table) {
            self.destinations = self.destinations_of(&table);
            self.refused = self.refused_of(&table);
            if let Some(own) = &mut self.own {
                own.follow(&table);
            }
        }
        if !self.refused.is_empty() {
            self.refused
                .retain(|&(id, _), _| table.slot_of(id).is_some());
        }
        self.table = table;
        self.number_interfaces();
    }

    /// Names the source's interfaces, in the order in which its frames number them.
    pub fn name_interfaces(&mut self, names: Vec<Option<String>>) {
        self.interfaces = names;
        self.number_interfaces();
    }

    fn number_interfaces(&mut self) {
        self.interface_numbers.clear();
        if self.table.interface_count() > 0 {
            let names = self.interfaces.iter();
            let number = |name: &Option<String>| self.table.interface(name.as_deref()?);
            self.interface_numbers.extend(names.map(number));
        }
    }

    /// Tells which source addresses the frames have that this host sends and does not only forward.
    pub fn set_local_addresses(&mut self, local: Arc<LocalAddresses>) {
        self.local = Some(local);
    }

    /// Asks criteria without interfaces about every frame, whichever way it goes: for interfaces that show the traffic of
    /// others.
    pub const fn ask_any_way(&mut self) {
        self.is_any_way = true;
    }

    /// Tells what belongs to the tap itself.
    pub fn set_own_traffic(&mut self, mut own: OwnTraffic) {
        own.follow(&self.table);
        self.own = Some(own);
    }

    /// Copies a packet once where it is seen several times; the memory may be shared with other engines.
    pub fn set_duplicates(&mut self, duplicates: Arc<Duplicates>) {
        self.duplicates = Some(duplicates);
    }

    fn is_own(&self, packet: &IpPacket<'_>) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.contains(packet, self.local.as_deref()))
    }

    /// How a frame passes; whoever sends from another address forwards.
    #[inline]
    fn passage(&self, frame: &Frame<'_>, source: Option<Address>) -> Passage {
        let way = match (frame.direction, &self.local) {
            (Direction::Unknown | Direction::Inbound, _) => Way::In,
            (Direction::Outbound, None) => Way::Made,
            (Direction::Outbound, Some(local)) => {
                if source.is_some_and(|source| local.made(source)) {
                    Way::Made
                } else {
                    Way::Forwarded
                }
            }
        };
        let interface = usize::try_from(frame.interface)
            .ok()
            .and_then(|at| self.interface_numbers.get(at).copied().flatten());
        Passage {
            way,
            is_any_way: self.is_any_way,
            interface,
        }
    }

    /// Lets a criterion of another table go on from what that with its id has used.
    fn hand_on(&self, new: &Slot) {
        let Some((_, used)) = new.limits() else {
            return;
        };
        let Some(old) = self.table.slot_of(new.id()) else {
            return;
        };
        match self.table.slot(old).and_then(Slot::limits) {
            Some((_, before)) if std::ptr::eq(before, used) => {}
            Some((_, before)) => {
                let (packets, octets, last_match_ns) = before.counts();
                used.raise(packets, octets, last_match_ns);
            }
            None => {
                let state = self.state(old).unwrap_or_default();
                used.raise(state.packets, state.octets, state.last_match_ns);
            }
        }
    }

    /// The states of another table's destinations: those of the present ones with the same names.
    fn destinations_of(&self, table: &FilterTable) -> Vec<DestinationState> {
        let present = self.table.destinations().iter();
        let states: HashMap<&str, DestinationState, RandomState> = present
            .map(|destination| destination.id.as_str())
            .zip(self.destinations.iter().copied())
            .collect();
        let state = |destination: &Destination| states.get(destination.id.as_str()).copied();
        let others = table.destinations().iter();
        others
            .map(|destination| state(destination).unwrap_or_default())
            .collect()
    }

    /// What was refused, by the indexes of another table's destinations.
    fn refused_of(&self, table: &FilterTable) -> HashMap<(u64, u32), (u64, u64), RandomState> {
        let index_of: HashMap<&str, u32, RandomState> = table
            .destinations()
            .iter()
            .map(|destination| destination.id.as_str())
            .zip(0..)
            .collect();
        let others = self.refused.iter().filter_map(|(&(id, index), &refused)| {
            let index = usize::try_from(index).ok()?;
            let name = self.table.destinations().get(index)?.id.as_str();
            Some(((id, *index_of.get(name)?), refused))
        });
        others.collect()
    }

    /// The state of the criterion in a slot.
    fn state(&self, slot: u32) -> Option<CriterionState> {
        self.criteria.get(usize::try_from(slot).ok()?).copied()
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
        if !self.fresh.is_empty() {
            self.begin_lifetimes(now_ns);
        }
        let verdict = match Outer::of(frame) {
            None => {
                self.totals.undecodable += 1;
                Verdict::Undecodable
            }
            Some(outer) if !self.table.may_match(outer.source, outer.destination) => {
                Verdict::Missed
            }
            Some(outer) => self.process_packet(frame, &outer, now_ns, batch, sink),
        };
        if self.table.circuits().is_empty() || verdict == Verdict::Own {
            verdict
        } else {
            self.process_circuits(frame, verdict, now_ns, batch, sink)
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
        if passage.way == Way::Forwarded && !self.is_any_way && !self.table.has_outputs() {
            return Verdict::Missed;
        }
        let packet = outer.packet();
        if self.is_own(&packet) {
            self.totals.own += 1;
            return Verdict::Own;
        }
        match packet.fragment {
            Some(fragment) if !fragment.is_atomic() => {
                self.process_fragment(frame, &packet, passage, now_ns, batch, sink)
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

    /// Asks the criteria about whole frames; a frame that matched before is not counted again.
    #[cold]
    fn process_circuits(
        &mut self,
        frame: &Frame<'_>,
        verdict: Verdict,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        if self.own.is_some()
            && let Some(outer) = Outer::of(frame)
            && self.is_own(&outer.packet())
        {
            // It was missed for its addresses, and what is the tap's own is in no circuit either.
            self.totals.own += 1;
            return Verdict::Own;
        }
        let copied = Copied {
            is_duplicate: false,
            octets: frame.data,
            length_octets: frame.original_length_octets,
            passage: self.passage(frame, None),
        };
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        slots.extend_from_slice(self.table.circuits());
        let said = self.deliver(frame, copied, &mut slots, now_ns, batch);
        self.slots = slots;
        match (said, verdict) {
            (Said::Nothing | Said::Own | Said::Duplicate, _) | (_, Verdict::Matched) => verdict,
            (Said::Match, _) => {
                self.count(frame, sink);
                self.totals.matched_whole += 1;
                if verdict == Verdict::Held {
                    verdict
                } else {
                    Verdict::Matched
                }
            }
        }
    }

    /// Whether some criterion about whole frames matches.
    fn circuits_match(&self, frame: &Frame<'_>, now_ns: u64) -> bool {
        let passage = self.passage(frame, None);
        self.table.circuits().iter().any(|&number| {
            let state = self.state(number).unwrap_or_default();
            self.table.slot(number).is_some_and(|slot| {
                slot.admits(passage)
                    && !slot
                        .limits()
                        .is_some_and(|(lifetime, used)| state.has_ended(lifetime, used, now_ns))
            })
        })
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
        let duplicates = self.duplicates.as_deref();
        let copied = Copied {
            is_duplicate: duplicates.is_some_and(|memory| memory.was_seen(packet, now_ns)),
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

    fn begin_lifetimes(&mut self, now_ns: u64) {
        for at in self.fresh.drain(..) {
            if let Some(state) = self.criteria.get_mut(at) {
                state.since_ns.get_or_insert(now_ns);
            }
        }
    }

    fn process_fragment(
        &mut self,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        passage: Passage,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        let Some(fragment) = packet.fragment else {
            return Verdict::Missed;
        };
        let mut slots = std::mem::take(&mut self.slots);
        let verdict = if fragment.offset_octets == 0 {
            self.table.classify(&packet.key, &mut slots);
            let verdict = self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink);
            let mut ids = std::mem::take(&mut self.ids);
            ids.clear();
            ids.extend(
                slots
                    .iter()
                    .filter_map(|&slot| self.table.slot(slot))
                    .map(Slot::id),
            );
            for held in self.fragments.first(packet, &fragment, &ids, now_ns) {
                self.follow(&held, &ids, now_ns, batch, sink);
            }
            self.ids = ids;
            verdict
        } else if let Some(ids) = self.fragments.verdict(packet, &fragment, now_ns) {
            slots.clear();
            slots.extend(ids.iter().filter_map(|&id| self.table.slot_of(id)));
            self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink)
        } else if self.table.classify_later_fragment(&packet.key, &mut slots) {
            let is_counted = self.circuits_match(frame, now_ns);
            self.fragments
                .hold(frame, packet, &fragment, is_counted, now_ns);
            Verdict::Held
        } else {
            self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink)
        };
        self.slots = slots;
        for held in self.fragments.forget(now_ns) {
            self.decide_alone(&held, now_ns, batch, sink);
        }
        verdict
    }

    /// Gives a held fragment the verdict of its first.
    fn follow(
        &mut self,
        held: &HeldFrame,
        ids: &[u64],
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        let frame = held.frame();
        let Some(packet) = Outer::of(&frame).map(|outer| outer.packet()) else {
            return;
        };
        let mut slots: Vec<u32> = ids
            .iter()
            .filter_map(|&id| self.table.slot_of(id))
            .collect();
        self.decide_held(held, &frame, &packet, &mut slots, now_ns, batch, sink);
    }

    /// Decides a held fragment whose first never came: what needs the first does not match.
    fn decide_alone(
        &mut self,
        held: &HeldFrame,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        let frame = held.frame();
        let Some(packet) = Outer::of(&frame).map(|outer| outer.packet()) else {
            return;
        };
        let mut slots = Vec::new();
        self.table.classify_later_fragment(&packet.key, &mut slots);
        self.decide_held(held, &frame, &packet, &mut slots, now_ns, batch, sink);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the caller has taken them apart already"
    )]
    fn decide_held(
        &mut self,
        held: &HeldFrame,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        slots: &mut [u32],
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        let passage = self.passage(frame, Some(packet.key.source));
        if held.is_counted() {
            let counted = self.totals.matched;
            self.decide(frame, packet, passage, slots, now_ns, batch, &mut ());
            self.totals.matched = counted;
        } else {
            self.decide(frame, packet, passage, slots, now_ns, batch, sink);
        }
    }

    /// Counts the matches of one frame and makes its copies, in the order of the criteria's ids.
    fn deliver(
        &mut self,
        frame: &Frame<'_>,
        copied: Copied<'_>,
        slots: &mut [u32],
        now_ns: u64,
        batch: &mut CopyBatch,
    ) -> Said {
        if slots.is_empty() {
            return Said::Nothing;
        }
        let table = Arc::clone(&self.table);
        if table.has_own()
            && slots
                .iter()
                .any(|&slot| table.slot(slot).is_some_and(Slot::is_own))
        {
            return Said::Own;
        }
        if self.options.framing != Framing::Count && slots.len() > 1 {
            table.sort_by_id(slots);
        }
        let mut matched = false;
        let mut duplicate = false;
        for &number in &*slots {
            let state = usize::try_from(number)
                .ok()
                .and_then(|number| self.criteria.get_mut(number));
            let Some((slot, state)) = table.slot(number).zip(state) else {
                continue;
            };
            if !slot.admits(copied.passage) {
                continue;
            }
            if copied.is_duplicate && !slot.names_interfaces() {
                duplicate = true;
                continue;
            }
            if let Some((lifetime, used)) = slot.limits()
                && (state.has_ended(lifetime, used, now_ns)
                    || !used.take(lifetime, copied.length_octets.into(), now_ns))
            {
                continue;
            }
            matched = true;
            state.packets += 1;
            state.octets += u64::from(copied.length_octets);
            state.last_match_ns = Some(state.last_match_ns.map_or(now_ns, |last| last.max(now_ns)));
            self.totals.wanted += slot.wanted();
            let is_admitted = slot
                .rate()
                .is_none_or(|rate| rate.admit(copied.length_octets.into(), now_ns));
            let record = CopyRecord {
                start: 0,
                end: 0,
                header_octets: 0,
                criteria_id: slot.id(),
                destination: NO_DESTINATION,
                timestamp_ns: frame.timestamp_ns,
                original_length_octets: copied.length_octets,
            };
            if !slot.is_delivered() && !is_admitted {
                self.totals.refused += 1;
            } else if !slot.is_delivered() {
                if self.options.framing != Framing::Count {
                    batch.push(record, |bytes| bytes.extend_from_slice(copied.octets));
                }
                state.copies += 1;
                self.totals.copied += 1;
            }
            for (index, destination) in table.destinations_of(slot) {
                let account = usize::try_from(index)
                    .ok()
                    .and_then(|index| self.destinations.get_mut(index));
                let Some(account) = account else {
                    continue;
                };
                account.wanted += 1;
                let record = CopyRecord {
                    destination: index,
                    ..record
                };
                let framing = self.options.framing;
                let outer_octets = flowtap::header_octets(destination) + copied.octets.len();
                let too_long = copied.octets.len() > flowtap::maximum_payload_octets(destination)
                    || match framing {
                        Framing::Datagram { mtu_octets } => {
                            destination.refuse_oversize
                                && u32::try_from(outer_octets)
                                    .map_or(true, |octets| octets > mtu_octets)
                        }
                        Framing::Payload | Framing::Count => false,
                    };
                if too_long || !is_admitted {
                    account.refused += 1;
                    self.totals.refused += 1;
                    let refused = self.refused.entry((slot.id(), index)).or_default();
                    refused.0 += 1;
                    refused.1 += u64::from(copied.length_octets);
                    continue;
                }
                match framing {
                    Framing::Count => {}
                    Framing::Payload => {
                        batch.push(record, |bytes| bytes.extend_from_slice(copied.octets));
                    }
                    Framing::Datagram { mtu_octets } => {
                        account.identification = account.identification.wrapping_add(1);
                        let identification = account.identification;
                        let header_octets =
                            u32::try_from(flowtap::header_octets(destination)).unwrap_or(0);
                        let record = CopyRecord {
                            header_octets,
                            ..record
                        };
                        if u32::try_from(outer_octets).is_ok_and(|octets| octets <= mtu_octets) {
                            batch.push(record, |bytes| {
                                flowtap::outer(destination, copied.octets, identification, bytes);
                            });
                        } else {
                            self.datagram.clear();
                            flowtap::outer(
                                destination,
                                copied.octets,
                                identification,
                                &mut self.datagram,
                            );
                            let mut is_first = true;
                            flowtap::fragment(
                                &self.datagram,
                                mtu_octets,
                                identification,
                                |headers, data| {
                                    let ip_octets = u32::try_from(headers.len()).unwrap_or(0);
                                    // The UDP header travels in the first fragment.
                                    let header_octets =
                                        if is_first { ip_octets + 8 } else { ip_octets };
                                    is_first = false;
                                    batch.push(
                                        CopyRecord {
                                            header_octets,
                                            ..record
                                        },
                                        |bytes| {
                                            bytes.extend_from_slice(headers);
                                            bytes.extend_from_slice(data);
                                        },
                                    );
                                },
                            );
                        }
                    }
                }
                account.copied += 1;
                state.copies += 1;
                self.totals.copied += 1;
            }
        }
        if matched {
            Said::Match
        } else if duplicate {
            Said::Duplicate
        } else {
            Said::Nothing
        }
    }

    /// Decides what still waits for a first fragment: at the end of the input.
    pub fn flush(&mut self, now_ns: u64, batch: &mut CopyBatch, sink: &mut impl MatchSink) {
        for held in self.fragments.drain() {
            self.decide_alone(&held, now_ns, batch, sink);
        }
    }

    /// The account.
    pub fn stats(&self) -> Stats {
        let Totals {
            frames,
            octets,
            undecodable,
            own,
            duplicates,
            matched,
            matched_whole,
            wanted,
            copied,
            refused,
        } = self.totals;
        let criteria = self.table.slots().numbered();
        let destinations = self.table.destinations().iter().zip(&self.destinations);
        Stats {
            frames,
            octets,
            undecodable,
            own,
            duplicates,
            matched,
            matched_whole,
            wanted,
            copied,
            refused,
            held: u64::try_from(self.fragments.held_frames()).unwrap_or(u64::MAX),
            criteria: criteria
                .map(|(number, slot)| {
                    let state = self.state(number).unwrap_or_default();
                    CriterionCounters {
                        id: slot.id(),
                        packets: state.packets,
                        octets: state.octets,
                        copies: state.copies,
                        last_match_ns: state.last_match_ns,
                    }
                })
                .collect(),
            destinations: destinations
                .map(|(destination, state)| DestinationCounters {
                    id: destination.id.clone(),
                    wanted: state.wanted,
                    copied: state.copied,
                    refused: state.refused,
                })
                .collect(),
            refused_copies: self
                .refused
                .iter()
                .filter_map(|(&(criteria_id, index), &(copies, octets))| {
                    let index = usize::try_from(index).ok()?;
                    Some(RefusedCopies {
                        criteria_id,
                        destination_id: self.table.destinations().get(index)?.id.clone(),
                        copies,
                        octets,
                    })
                })
                .collect(),
        }
    }
}
