//! Which criteria match a packet, and what it costs to know.

use super::addresses::Sought;
use super::level::Find;
use super::trie::Seek;
use super::upper::UpperKey;
use super::{FilterTable, Slot};
use crate::packet::{Address, PacketKey};

/// What a look-up costs, counted and not timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Pieces of the index that are looked at: words of the first looks, nodes and leaves of tries. About as many cache
    /// lines.
    pub probes: usize,
    /// Criteria that are asked one by one.
    pub criteria_asked: usize,
}

impl FilterTable {
    /// Whether some criterion could match a packet with these addresses; false is certain.
    #[inline]
    pub fn may_match(&self, source: Address, destination: Address) -> bool {
        match (source, destination) {
            (Address::V4(source), Address::V4(destination)) => {
                self.v4.may_match(source, destination, &mut ())
            }
            (Address::V6(source), Address::V6(destination)) => {
                self.v6
                    .may_match(source.into(), destination.into(), &mut ())
            }
            _ => false,
        }
    }

    #[inline]
    fn visit<F: Find>(&self, key: &PacketKey, upper: UpperKey, find: &mut F) {
        match (key.source, key.destination) {
            (Address::V4(source), Address::V4(destination)) => {
                let sought = Sought {
                    source,
                    destination,
                    upper,
                };
                self.v4.visit(&sought, find);
            }
            (Address::V6(source), Address::V6(destination)) => {
                let sought = Sought {
                    source: source.into(),
                    destination: destination.into(),
                    upper,
                };
                self.v6.visit(&sought, find);
            }
            _ => {}
        }
    }

    /// Puts slots into the order of the criteria's ids.
    pub fn sort_by_id(&self, slots: &mut [u32]) {
        if self.register.is_ordered() {
            slots.sort_unstable();
        } else {
            slots.sort_unstable_by_key(|&slot| self.slot(slot).map(Slot::id));
        }
    }

    /// Puts the slot of every matching criterion into `into`, each once and in no order.
    #[inline]
    pub fn classify(&self, key: &PacketKey, into: &mut Vec<u32>) {
        into.clear();
        self.classify_also(key, into);
    }

    /// The same, behind what `into` holds already.
    #[inline]
    pub fn classify_also(&self, key: &PacketKey, into: &mut Vec<u32>) {
        let mut matching = Matching {
            table: self,
            key,
            into,
        };
        self.visit(key, UpperKey::of(key), &mut matching);
    }

    /// For a later fragment of a datagram whose first is not known. Puts the slot of every criterion into `into` that
    /// matches whatever the first fragment says, each once and in no order; returns whether there are others, for which
    /// the first decides.
    pub fn classify_later_fragment(&self, key: &PacketKey, into: &mut Vec<u32>) -> bool {
        into.clear();
        self.classify_later_fragment_also(key, into)
    }

    /// The same, behind what `into` holds already.
    pub fn classify_later_fragment_also(&self, key: &PacketKey, into: &mut Vec<u32>) -> bool {
        let mut matching = MatchingAlone {
            table: self,
            key,
            into,
            waits: false,
        };
        self.visit(key, UpperKey::of_later_fragment(key), &mut matching);
        matching.waits
    }

    /// What [`FilterTable::classify`] answers, by asking every criterion; in the order of the ids.
    pub fn classify_linear(&self, key: &PacketKey, into: &mut Vec<u32>) {
        into.clear();
        into.extend(
            self.slots()
                .numbered()
                .filter(|(_, slot)| !slot.is_circuit() && slot.criteria.matches(key))
                .map(|(number, _)| number),
        );
    }

    /// What [`FilterTable::may_match`] and [`FilterTable::classify`] together cost for a packet.
    pub fn work(&self, key: &PacketKey) -> Work {
        self.count_work(key, UpperKey::of(key))
    }

    /// What [`FilterTable::may_match`] and [`FilterTable::classify_later_fragment`] together cost for a fragment.
    pub fn work_of_later_fragment(&self, key: &PacketKey) -> Work {
        self.count_work(key, UpperKey::of_later_fragment(key))
    }

    fn count_work(&self, key: &PacketKey, upper: UpperKey) -> Work {
        let mut work = Work::default();
        let may_match = match (key.source, key.destination) {
            (Address::V4(source), Address::V4(destination)) => {
                self.v4.may_match(source, destination, &mut work)
            }
            (Address::V6(source), Address::V6(destination)) => {
                self.v6
                    .may_match(source.into(), destination.into(), &mut work)
            }
            _ => false,
        };
        if may_match {
            self.visit(key, upper, &mut work);
        }
        work
    }
}

/// Asks the candidates for a packet.
struct Matching<'a> {
    table: &'a FilterTable,
    key: &'a PacketKey,
    into: &'a mut Vec<u32>,
}

impl Seek for Matching<'_> {}

impl Find for Matching<'_> {
    #[inline]
    fn ask(&mut self, slots: &[u32]) {
        for &number in slots {
            if self
                .table
                .slot(number)
                .is_some_and(|slot| slot.criteria.matches(self.key))
            {
                self.into.push(number);
            }
        }
    }

    fn wait(&mut self) {}
}

/// Asks the candidates for a later fragment.
struct MatchingAlone<'a> {
    table: &'a FilterTable,
    key: &'a PacketKey,
    into: &'a mut Vec<u32>,
    waits: bool,
}

impl Seek for MatchingAlone<'_> {}

impl Find for MatchingAlone<'_> {
    fn ask(&mut self, slots: &[u32]) {
        for &number in slots {
            let Some(slot) = self.table.slot(number) else {
                continue;
            };
            if slot.criteria.matches_ignoring_transport(self.key) {
                if slot.criteria.needs_first_fragment(self.key) {
                    self.waits = true;
                } else {
                    self.into.push(number);
                }
            }
        }
    }

    fn wait(&mut self) {
        self.waits = true;
    }
}

impl Seek for Work {
    fn probe(&mut self) {
        self.probes += 1;
    }
}

impl Find for Work {
    fn ask(&mut self, slots: &[u32]) {
        self.criteria_asked += slots.len();
    }

    fn wait(&mut self) {}
}
