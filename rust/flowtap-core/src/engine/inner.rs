//! Criteria matched against packets inside tunnels as well.
//!
//! The copy is the outermost IP packet whatever matched: nothing is taken off or altered, and what is delivered shows in
//! which tunnel, between which ends, the inner packet was on its way.

use super::{Engine, MatchSink, Verdict};
use crate::batch::CopyBatch;
use crate::decode::{IpPacket, Outer};
use crate::fragments::FirstVerdict;
use crate::frame::Frame;

impl Engine {
    /// Takes a frame that can be a tunnel whose inner packets count.
    pub(super) fn process_tunnel(
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
        let fragment = packet.fragment.filter(|fragment| !fragment.is_atomic());
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        let verdict = match fragment {
            Some(fragment) if fragment.offset_octets != 0 => {
                match self.fragments.verdict(&packet, &fragment, now_ns) {
                    Some(FirstVerdict::Own) => {
                        self.totals.own += 1;
                        Verdict::Own
                    }
                    Some(FirstVerdict::Matching(ids)) => {
                        slots.extend(ids.iter().filter_map(|&id| self.table.slot_of(id)));
                        self.decide(frame, &packet, passage, &mut slots, now_ns, batch, sink)
                    }
                    None => {
                        // What the first fragment carries may match whatever this one shows.
                        self.hold(frame, &packet, &fragment, now_ns);
                        Verdict::Held
                    }
                }
            }
            _ => {
                self.table.classify_also(&packet.key, &mut slots);
                for inner in outer.inner_packets(frame, self.options.inner) {
                    self.classify_inner(&inner, &mut slots, now_ns, batch, sink);
                }
                // A criterion counts a frame once, however many of its packets match.
                slots.sort_unstable();
                slots.dedup();
                let verdict = self.decide(frame, &packet, passage, &mut slots, now_ns, batch, sink);
                if let Some(fragment) = fragment {
                    self.remember(&packet, &fragment, &slots, now_ns, batch, sink);
                }
                verdict
            }
        };
        self.slots = slots;
        self.forget_fragments(now_ns, batch, sink);
        verdict
    }

    /// Adds the slots of the criteria that match an inner packet. Its later fragments follow its first where that came
    /// before; they do not wait for it, and are decided by what they show where it did not.
    fn classify_inner(
        &mut self,
        inner: &IpPacket<'_>,
        slots: &mut Vec<u32>,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        let before = slots.len();
        match inner.fragment.filter(|fragment| !fragment.is_atomic()) {
            None => self.table.classify_also(&inner.key, slots),
            Some(fragment) if fragment.offset_octets == 0 => {
                self.table.classify_also(&inner.key, slots);
                let matching = slots.get(before..).unwrap_or_default();
                self.remember(inner, &fragment, matching, now_ns, batch, sink);
            }
            Some(fragment) => {
                match self.fragments.verdict(inner, &fragment, now_ns) {
                    Some(FirstVerdict::Matching(ids)) => {
                        slots.extend(ids.iter().filter_map(|&id| self.table.slot_of(id)));
                    }
                    // The outermost packet alone says what belongs to the tap.
                    Some(FirstVerdict::Own) | None => {
                        self.table.classify_later_fragment_also(&inner.key, slots);
                    }
                }
            }
        }
    }
}
