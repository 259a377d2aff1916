//! Where and how frames pass, and criteria about whole frames.

use std::sync::Arc;

use super::deliver::{Copied, Said};
use super::{Engine, MatchSink, Verdict};
use crate::batch::CopyBatch;
use crate::decode::{IpPacket, Outer};
use crate::duplicates::Duplicates;
use crate::frame::{Direction, Frame};
use crate::local::LocalAddresses;
use crate::own::{OwnTraffic, Unproven, prove};
use crate::packet::Address;
use crate::table::{Passage, Way};

impl Engine {
    /// Names the source's interfaces, in the order in which its frames number them.
    pub fn name_interfaces(&mut self, names: Vec<Option<String>>) {
        self.interfaces = names;
        self.number_interfaces();
    }

    pub(super) fn number_interfaces(&mut self) {
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

    /// Proves that what belongs to the tap is not tapped, with the present table; returns how many frames were tried, 0
    /// where nobody told what that is.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn prove_exclusion(&self) -> Result<usize, Unproven> {
        match &self.own {
            Some(own) => prove(own, &self.table, self.local.as_ref(), self.options.inner),
            None => Ok(0),
        }
    }

    /// Copies a packet once where it is seen several times; the memory may be shared with other engines.
    pub fn set_duplicates(&mut self, duplicates: Arc<Duplicates>) {
        self.duplicates = Some(duplicates);
    }

    /// Whether criteria without interfaces have had a packet. It is remembered where one of them has it now, and not where
    /// it passes in a way that they are not asked about: its way in may be seen after its way out.
    pub(super) fn is_duplicate(
        &self,
        packet: &IpPacket<'_>,
        passage: Passage,
        slots: &[u32],
        now_ns: u64,
    ) -> bool {
        let is_asked = |&number: &u32| {
            let slot = self.table.slot(number);
            slot.is_some_and(|slot| slot.admits(passage) && !slot.names_interfaces())
        };
        self.duplicates
            .as_deref()
            .is_some_and(|memory| slots.iter().any(is_asked) && memory.was_seen(packet, now_ns))
    }

    pub(super) fn is_own(&self, packet: &IpPacket<'_>) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.contains(packet, self.local.as_deref()))
    }

    /// Whether no criterion is asked about frames that pass like this.
    pub(super) fn is_out_of_question(&self, passage: Passage) -> bool {
        matches!(passage.way, Way::Forwarded) && !self.is_any_way && !self.table.has_outputs()
    }

    /// How a frame passes; whoever sends from another address forwards.
    #[inline]
    pub(super) fn passage(&self, frame: &Frame<'_>, source: Option<Address>) -> Passage {
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

    /// Asks the criteria about whole frames; a frame that matched before is not counted again.
    #[cold]
    pub(super) fn process_circuits(
        &mut self,
        frame: &Frame<'_>,
        verdict: Verdict,
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        if self.own.is_some()
            && let Some(outer) = Outer::of(frame)
        {
            // It was missed for its addresses, and what is the tap's own is in no circuit either.
            let packet = outer.packet();
            if self.is_own(&packet) || self.follows_own(&packet, now_ns) {
                return self.take_own(&packet, now_ns, batch, sink);
            }
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
    pub(super) fn circuits_match(&self, frame: &Frame<'_>, now_ns: u64) -> bool {
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
}
