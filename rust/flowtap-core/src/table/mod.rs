//! All active criteria, compiled: one immutable table that answers which of them match a packet.
//!
//! Every criterion is anchored on one address field, the one that says more, and found through the index of that
//! field (the `index` module). Criteria that name no usable address are kept by protocol. The obvious way, asking every criterion
//! ([`FilterTable::classify_linear`]), stays as the oracle that the tests hold the index against.

mod index;

use std::net::IpAddr;

use foldhash::fast::RandomState;

use self::index::{AddressIndex, Bits, Prefix, prefixes};
use crate::criteria::{Anchor, Criteria};
use crate::packet::{Address, PacketKey};

/// What ends a criterion. Time runs on the engine's `now_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Nanoseconds without a match.
    pub idle_ns: Option<u64>,
    /// Nanoseconds since the criterion came into force.
    pub total_ns: Option<u64>,
    /// When it came into force, where that is known better than by its first frame.
    pub total_since_ns: Option<u64>,
    /// From when on idleness counts; a match counts as well.
    pub idle_since_ns: Option<u64>,
    /// Matched packets; the last one is still copied.
    pub packets: Option<u64>,
    /// Matched octets (IP total length); the packet that exhausts them is still copied.
    pub octets: Option<u64>,
}

impl Lifetime {
    /// Whether nothing ends the criterion.
    pub const fn is_unlimited(&self) -> bool {
        self.idle_ns.is_none()
            && self.total_ns.is_none()
            && self.packets.is_none()
            && self.octets.is_none()
    }
}

/// One criterion to compile.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Unique number.
    pub id: u64,
    /// The filter.
    pub criteria: Criteria,
    /// Indexes into the table's destinations; none: a match counts one copy that goes nowhere.
    pub destinations: Vec<u32>,
    /// What ends it.
    pub lifetime: Lifetime,
    /// Traffic of the tap itself, which is never copied whatever the others say.
    pub own: bool,
}

/// Where copies go, and their outer header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Name of the content destination.
    pub id: String,
    /// Destination of the outer header.
    pub address: IpAddr,
    /// UDP destination port.
    pub port: u16,
    /// Source of the outer header; of the same family as `address`.
    pub source_address: IpAddr,
    /// UDP source port.
    pub source_port: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Count instead of fragmenting what is longer than the path allows.
    pub refuse_oversize: bool,
    /// Whether copies are sent at all.
    pub export: bool,
}

/// A table that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Two criteria with one number.
    #[error("criteria {id} is given twice; every criterion has a number of its own")]
    DuplicateId {
        /// The number.
        id: u64,
    },
    /// A criterion names a destination that is not there.
    #[error("criteria {id} names destination {index}, but there are {count}")]
    UnknownDestination {
        /// The criterion.
        id: u64,
        /// The index it gave.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// A criterion names a destination twice.
    #[error("criteria {id} names destination {index} twice; a destination gets one copy")]
    RepeatedDestination {
        /// The criterion.
        id: u64,
        /// The index it gave.
        index: u32,
    },
    /// The outer header would have addresses of two families.
    #[error(
        "content destination {id:?}: address and source address are of different families; both must be IPv4 or both IPv6"
    )]
    MixedFamilies {
        /// The destination.
        id: String,
    },
    /// More criteria than a table can number.
    #[error("{count} criteria; a table holds at most {}", u32::MAX)]
    TooMany {
        /// How many were given.
        count: usize,
    },
}

/// One compiled criterion.
#[derive(Debug)]
pub struct Slot {
    id: u64,
    criteria: Criteria,
    destinations: Box<[u32]>,
    // Most criteria of a large table have none, or are ended from outside.
    lifetime: Option<Box<Lifetime>>,
    own: bool,
}

impl Slot {
    /// The criterion's number.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The filter.
    pub const fn criteria(&self) -> &Criteria {
        &self.criteria
    }

    /// Indexes into the table's destinations.
    pub const fn destinations(&self) -> &[u32] {
        &self.destinations
    }

    /// What ends it, None where nothing does.
    pub fn lifetime(&self) -> Option<&Lifetime> {
        self.lifetime.as_deref()
    }

    /// Whether this is traffic of the tap itself.
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// Copies that one match wants: one a destination, or one that goes nowhere.
    pub fn wanted(&self) -> u64 {
        u64::try_from(self.destinations.len().max(1)).unwrap_or(u64::MAX)
    }
}

/// Prefixes that one criterion may put into the index; above that it is asked every time.
const MAXIMUM_PREFIXES: usize = 2048;
/// Protocols that a criterion without addresses may name to be kept by protocol.
const MAXIMUM_PROTOCOLS: usize = 8;

/// The indexes of one family.
#[derive(Debug)]
struct Family<T> {
    source: AddressIndex<T>,
    destination: AddressIndex<T>,
    /// Criteria that no address leads to, and that name no or many protocols.
    always: Vec<u32>,
    /// The others without a usable address.
    by_protocol: Vec<(u8, Vec<u32>)>,
}

impl<T: Bits> Family<T> {
    #[inline]
    fn may_match(&self, source: T, destination: T, hasher: &RandomState) -> bool {
        !self.always.is_empty()
            || !self.by_protocol.is_empty()
            || self.source.may_hold(source, hasher)
            || self.destination.may_hold(destination, hasher)
    }

    #[inline]
    fn candidates(
        &self,
        source: T,
        destination: T,
        protocol: Option<u8>,
        mut found: impl FnMut(u32),
    ) {
        self.source.candidates(source, &mut found);
        self.destination.candidates(destination, &mut found);
        self.always.iter().copied().for_each(&mut found);
        for (number, slots) in &self.by_protocol {
            // A later fragment may not tell its protocol: then any could be it.
            if protocol.is_none_or(|protocol| protocol == *number) {
                slots.iter().copied().for_each(&mut found);
            }
        }
    }

    fn memory_octets(&self) -> usize {
        let kept: usize = self
            .by_protocol
            .iter()
            .map(|(_, slots)| slots.capacity())
            .sum();
        self.source.memory_octets()
            + self.destination.memory_octets()
            + (self.always.capacity() + kept) * size_of::<u32>()
            + self.by_protocol.capacity() * size_of::<(u8, Vec<u32>)>()
    }
}

/// What a family's indexes are built from.
struct FamilyBuilder<T> {
    source: Vec<(Prefix<T>, u32)>,
    destination: Vec<(Prefix<T>, u32)>,
    always: Vec<u32>,
    by_protocol: Vec<(u8, Vec<u32>)>,
}

impl<T: Bits> FamilyBuilder<T> {
    const fn new() -> Self {
        Self {
            source: Vec::new(),
            destination: Vec::new(),
            always: Vec::new(),
            by_protocol: Vec::new(),
        }
    }

    /// Puts one criterion where a packet's fields lead to it. `None` for a field that says nothing.
    fn add(
        &mut self,
        slot: u32,
        criteria: &Criteria,
        source: Option<&[(T, T)]>,
        destination: Option<&[(T, T)]>,
    ) {
        if source.is_some_and(<[_]>::is_empty) || destination.is_some_and(<[_]>::is_empty) {
            return; // matches nothing of this family
        }
        let source = source.and_then(|ranges| prefixes(ranges, MAXIMUM_PREFIXES));
        let destination = destination.and_then(|ranges| prefixes(ranges, MAXIMUM_PREFIXES));
        // The widest prefix decides how much traffic an anchor lets through; then the number of prefixes counts.
        let cost = |prefixes: &Vec<Prefix<T>>| {
            let widest = prefixes.iter().map(|prefix| T::WIDTH - prefix.1).max();
            (widest, prefixes.len())
        };
        let by_source = match (&source, &destination) {
            (Some(source), Some(destination)) => cost(source) <= cost(destination),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => {
                self.add_without_address(slot, criteria);
                return;
            }
        };
        let (into, prefixes) = if by_source {
            (&mut self.source, source)
        } else {
            (&mut self.destination, destination)
        };
        into.extend(
            prefixes
                .unwrap_or_default()
                .into_iter()
                .map(|prefix| (prefix, slot)),
        );
    }

    fn add_without_address(&mut self, slot: u32, criteria: &Criteria) {
        let allowed: Vec<u8> = (0..=u8::MAX)
            .filter(|&number| criteria.allows_protocol(number))
            .collect();
        if allowed.len() > MAXIMUM_PROTOCOLS {
            self.always.push(slot);
            return;
        }
        for number in allowed {
            match self
                .by_protocol
                .iter_mut()
                .find(|(known, _)| *known == number)
            {
                Some((_, slots)) => slots.push(slot),
                None => self.by_protocol.push((number, vec![slot])),
            }
        }
    }

    fn build(self, hasher: &RandomState) -> Family<T> {
        Family {
            source: AddressIndex::build(self.source, hasher),
            destination: AddressIndex::build(self.destination, hasher),
            always: self.always,
            by_protocol: self.by_protocol,
        }
    }
}

/// All active criteria, compiled; immutable.
#[derive(Debug)]
pub struct FilterTable {
    slots: Vec<Slot>,
    destinations: Vec<Destination>,
    has_own: bool,
    // The seed differs from table to table, so that nobody can prepare addresses that collide.
    hasher: RandomState,
    v4: Family<u32>,
    v6: Family<u128>,
}

impl FilterTable {
    /// Compiles criteria. Slots are numbered in the order of the criteria's ids.
    ///
    /// # Errors
    /// Names the first criterion or destination that cannot be.
    pub fn compile(
        mut entries: Vec<Entry>,
        destinations: Vec<Destination>,
    ) -> Result<Self, TableError> {
        if u32::try_from(entries.len()).is_err() {
            return Err(TableError::TooMany {
                count: entries.len(),
            });
        }
        if let Some(mixed) = destinations.iter().find(|destination| {
            destination.address.is_ipv4() != destination.source_address.is_ipv4()
        }) {
            return Err(TableError::MixedFamilies {
                id: mixed.id.clone(),
            });
        }
        entries.sort_by_key(|entry| entry.id);
        let hasher = RandomState::default();
        let mut v4 = FamilyBuilder::new();
        let mut v6 = FamilyBuilder::new();
        let mut slots: Vec<Slot> = Vec::with_capacity(entries.len());
        let mut has_own = false;
        for (number, entry) in (0_u32..).zip(entries) {
            if slots.last().is_some_and(|previous| previous.id == entry.id) {
                return Err(TableError::DuplicateId { id: entry.id });
            }
            for (at, &index) in entry.destinations.iter().enumerate() {
                if usize::try_from(index).map_or(true, |index| index >= destinations.len()) {
                    let count = destinations.len();
                    return Err(TableError::UnknownDestination {
                        id: entry.id,
                        index,
                        count,
                    });
                }
                if entry
                    .destinations
                    .iter()
                    .take(at)
                    .any(|&earlier| earlier == index)
                {
                    return Err(TableError::RepeatedDestination {
                        id: entry.id,
                        index,
                    });
                }
            }
            let ranges = |anchor| match anchor {
                Anchor::Any => (None, None),
                Anchor::Ranges { v4, v6 } => (Some(v4), Some(v6)),
            };
            let (source_v4, source_v6) = ranges(entry.criteria.source_anchor());
            let (destination_v4, destination_v6) = ranges(entry.criteria.destination_anchor());
            v4.add(
                number,
                &entry.criteria,
                source_v4.as_deref(),
                destination_v4.as_deref(),
            );
            v6.add(
                number,
                &entry.criteria,
                source_v6.as_deref(),
                destination_v6.as_deref(),
            );
            has_own |= entry.own;
            slots.push(Slot {
                id: entry.id,
                criteria: entry.criteria,
                destinations: entry.destinations.into(),
                lifetime: (!entry.lifetime.is_unlimited()).then(|| Box::new(entry.lifetime)),
                own: entry.own,
            });
        }
        let (v4, v6) = (v4.build(&hasher), v6.build(&hasher));
        Ok(Self {
            slots,
            destinations,
            has_own,
            hasher,
            v4,
            v6,
        })
    }

    /// The compiled criteria, in the order of their ids.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The destinations, in the order given.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Whether some criterion names traffic of the tap itself.
    pub const fn has_own(&self) -> bool {
        self.has_own
    }

    /// The slot of a criterion.
    pub fn slot_of(&self, id: u64) -> Option<u32> {
        let at = self.slots.binary_search_by_key(&id, Slot::id).ok()?;
        u32::try_from(at).ok()
    }

    /// The criterion in a slot.
    #[inline]
    pub fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(number).ok()?)
    }

    /// Whether some criterion could match a packet with these addresses; false is certain.
    #[inline]
    pub fn may_match(&self, source: Address, destination: Address) -> bool {
        match (source, destination) {
            (Address::V4(source), Address::V4(destination)) => {
                self.v4.may_match(source, destination, &self.hasher)
            }
            (Address::V6(source), Address::V6(destination)) => {
                self.v6.may_match(source, destination, &self.hasher)
            }
            _ => false,
        }
    }

    #[inline]
    fn candidates(&self, key: &PacketKey, found: impl FnMut(u32)) {
        match (key.source, key.destination) {
            (Address::V4(source), Address::V4(destination)) => {
                self.v4.candidates(source, destination, key.protocol, found);
            }
            (Address::V6(source), Address::V6(destination)) => {
                self.v6.candidates(source, destination, key.protocol, found);
            }
            _ => {}
        }
    }

    #[inline]
    fn collect(&self, key: &PacketKey, into: &mut Vec<u32>, test: impl Fn(&Criteria) -> bool) {
        into.clear();
        self.candidates(key, |number| {
            if self.slot(number).is_some_and(|slot| test(&slot.criteria)) {
                into.push(number);
            }
        });
        into.sort_unstable();
        // A criterion without addresses is kept under every protocol that it names.
        into.dedup();
    }

    /// Puts the slots of every matching criterion into `into`, ascending.
    #[inline]
    pub fn classify(&self, key: &PacketKey, into: &mut Vec<u32>) {
        self.collect(key, into, |criteria| criteria.matches(key));
    }

    /// Puts the slots of every criterion into `into` that could match a datagram of which only this later fragment is known.
    pub fn classify_without_transport(&self, key: &PacketKey, into: &mut Vec<u32>) {
        self.collect(key, into, |criteria| {
            criteria.matches_ignoring_transport(key)
        });
    }

    /// What [`FilterTable::classify`] answers, by asking every criterion.
    pub fn classify_linear(&self, key: &PacketKey, into: &mut Vec<u32>) {
        into.clear();
        into.extend(
            (0_u32..)
                .zip(&self.slots)
                .filter(|(_, slot)| slot.criteria.matches(key))
                .map(|(number, _)| number),
        );
    }

    /// Octets that the table holds in memory.
    pub fn memory_octets(&self) -> usize {
        let slots: usize = self
            .slots
            .iter()
            .map(|slot| {
                slot.criteria.heap_octets()
                    + size_of_val::<[_]>(&slot.destinations)
                    + slot.lifetime.as_ref().map_or(0, |_| size_of::<Lifetime>())
            })
            .sum();
        let names: usize = self
            .destinations
            .iter()
            .map(|destination| destination.id.capacity())
            .sum();
        size_of::<Self>()
            + self.slots.capacity() * size_of::<Slot>()
            + slots
            + self.destinations.capacity() * size_of::<Destination>()
            + names
            + self.v4.memory_octets()
            + self.v6.memory_octets()
    }
}
