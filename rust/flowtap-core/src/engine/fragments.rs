//! Fragments of one datagram get one verdict.

use super::{Engine, MatchSink, Verdict};
use crate::batch::CopyBatch;
use crate::decode::{Fragment, IpPacket, Outer};
use crate::fragments::HeldFrame;
use crate::frame::Frame;
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
        } else if let Some(ids) = self.fragments.verdict(packet, fragment, now_ns) {
            slots.clear();
            slots.extend(ids.iter().filter_map(|&id| self.table.slot_of(id)));
            self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink)
        } else if self.table.classify_later_fragment(&packet.key, &mut slots) {
            self.hold(frame, packet, fragment, now_ns);
            Verdict::Held
        } else {
            self.decide(frame, packet, passage, &mut slots, now_ns, batch, sink)
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
        for held in self.fragments.first(packet, fragment, &ids, now_ns) {
            self.follow(&held, &ids, now_ns, batch, sink);
        }
        self.ids = ids;
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

    /// Decides fragments whose first did not come in time, for who has a clock and perhaps no frames for a while.
    pub fn pass_time(&mut self, now_ns: u64, batch: &mut CopyBatch, sink: &mut impl MatchSink) {
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
