//! Fragments of one datagram get one verdict.

use super::{Engine, MatchSink, Verdict};
use crate::batch::CopyBatch;
use crate::decode::{Fragment, IpPacket, Outer};
use crate::fragments::{FirstVerdict, HeldFrame};
use crate::frame::Frame;
use crate::packet::PacketKey;
use crate::table::{Passage, Slot};

impl Engine {
    /// Takes a fragment whose addresses are of interest.
    // Apart from the way of all other frames, which is shorter for it.
    #[expect(
        clippy::too_many_arguments,
        reason = "the caller has taken them apart already"
    )]
    #[inline(never)]
    pub(super) fn process_fragment(
        &mut self,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        passage: Passage,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        let mut slots = std::mem::take(&mut self.slots);
        let verdict = if fragment.offset_octets == 0 {
            self.table.classify(&packet.key, &mut slots);
            let verdict = self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink);
            self.remember(packet, fragment, &slots, now_ns, batch, sink);
            verdict
        } else {
            match self.fragments.verdict(packet, fragment, now_ns) {
                Some(FirstVerdict::Own) => {
                    self.totals.own += 1;
                    Verdict::Own
                }
                Some(FirstVerdict::Matching(ids)) => {
                    slots.clear();
                    slots.extend(ids.iter().filter_map(|&id| self.table.slot_of(id)));
                    self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink)
                }
                None if self.table.classify_later_fragment(&packet.key, &mut slots)
                    || self.may_be_own(&packet.key) =>
                {
                    self.hold(frame, packet, fragment, now_ns);
                    Verdict::Held
                }
                None => self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink),
            }
        };
        self.slots = slots;
        self.forget_fragments(now_ns, batch, sink);
        verdict
    }

    /// Remembers which criteria match a first fragment, and gives those that waited for it the same verdict.
    pub(super) fn remember(
        &mut self,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        slots: &[u32],
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        let matching = slots.iter().filter_map(|&slot| self.table.slot(slot));
        ids.extend(matching.map(Slot::id));
        let verdict = FirstVerdict::Matching(&ids);
        for held in self.fragments.first(packet, fragment, verdict, now_ns) {
            self.follow(&held, &ids, now_ns, batch, sink);
        }
        self.ids = ids;
    }

    /// Counts a packet of the tap itself. Later fragments that do not tell by themselves whose they are follow their first.
    #[cold]
    pub(super) fn take_own(
        &mut self,
        packet: &IpPacket<'_>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        self.totals.own += 1;
        let local = self.local.as_deref();
        let is_open = |fragment: &Fragment| {
            fragment.offset_octets == 0
                && fragment.more
                && self
                    .own
                    .as_ref()
                    .is_some_and(|own| !own.is_told_by_later(packet, fragment, local))
        };
        if let Some(fragment) = packet.fragment.filter(is_open) {
            for held in self
                .fragments
                .first(packet, &fragment, FirstVerdict::Own, now_ns)
            {
                self.totals.own += u64::from(!held.is_counted());
            }
            self.forget_fragments(now_ns, batch, sink);
        }
        Verdict::Own
    }

    /// Whether a later fragment is of a datagram whose first belonged to the tap.
    pub(super) fn follows_own(&self, packet: &IpPacket<'_>, now_ns: u64) -> bool {
        packet
            .fragment
            .filter(|fragment| fragment.offset_octets != 0)
            .and_then(|fragment| self.fragments.verdict(packet, &fragment, now_ns))
            == Some(FirstVerdict::Own)
    }

    /// Whether a later fragment may be of such a datagram, whose first is still to come.
    fn may_be_own(&self, later: &PacketKey) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.may_contain(later, self.local.as_deref()))
    }

    /// Decides fragments whose first did not come in time.
    pub(super) fn forget_fragments(
        &mut self,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        for held in self.fragments.forget(now_ns) {
            self.decide_alone(&held, now_ns, batch, sink);
        }
    }

    /// Decides fragments whose first did not come in time, as it was when their time was up: whenever that is seen, and
    /// however many frames were counted together before, the outcome is the same.
    pub(super) fn decide_overdue(
        &mut self,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        for (held, due_ns) in self.fragments.overdue(now_ns) {
            self.decide_alone(&held, due_ns, batch, sink);
        }
        self.is_unusual = !self.options.inner.is_empty() || self.fragments.is_waiting();
    }

    /// Decides fragments whose first did not come in time, and forgets copies that cannot be on the way any more, for who has
    /// a clock and perhaps no frames for a while.
    pub fn pass_time(&mut self, now_ns: u64, batch: &mut CopyBatch, sink: &mut impl MatchSink) {
        if let Some(own) = &mut self.own {
            own.pass_time(now_ns);
        }
        if self.fragments.is_waiting() {
            for (held, _) in self.fragments.overdue(now_ns) {
                self.decide_alone(&held, now_ns, batch, sink);
            }
        }
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
    pub(super) fn decide_alone(
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

    /// Holds a later fragment until its first comes.
    pub(super) fn hold(
        &mut self,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        now_ns: u64,
    ) {
        let is_counted = self.circuits_match(frame, now_ns);
        // Its time may be up before another fragment comes.
        self.is_unusual = true;
        self.fragments
            .hold(frame, packet, fragment, is_counted, now_ns);
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
}
