//! All active criteria, compiled: one immutable table that answers which of them match a packet.
//!
//! # How a packet finds its criteria
//!
//! 1. The `reach` of a family has a bit for every pair of networks that criteria are about (by the first octet of both
//!    addresses, in IPv6 by a mixture of the first 32 bits): one word decides most packets.
//! 2. Every criterion is anchored on the side that says more, and found through a `trie` of that side's prefixes. A `sketch`
//!    of the prefixes, one word for each of a few lengths, keeps packets away from the trie that it could not help.
//! 3. Criteria that share an anchor are asked one by one while they are few ([`MAXIMUM_IN_VAIN`]). Where there are more
//!    they are told apart by a trie of the other side's addresses; criteria that share both, by protocol and ports; those
//!    that share a port, by the other port. Ranges are cut into prefixes, so that they are looked up like everything else.
//! 4. Criteria about more than a sixteenth of all pairs of networks are kept apart, because addresses would let nearly
//!    every packet come as far as their tries. In front of these stand bitmaps of the protocols and ports that they name.
//!
//! # What a packet costs at most
//!
//! What counts is how many prefixes hold the packet, not how many criteria there are. Call what is found under a prefix,
//! or under a prefix below another, a place; a packet comes to those places whose prefixes all hold it. Prefixes that
//! hold the same packet differ in length, so through one address these are at most 33, in IPv6 129; below each of these
//! through the other address as many again; below each pair through the protocol 9, through a port 19; below each port
//! through the other port 19. Then [`Work`] is within
//!
//! * `criteria_asked`: those that match, and [`MAXIMUM_IN_VAIN`] for each place, and those whose lists are too long to be
//!   cut exactly (2,048 prefixes on the side that leads to the criterion, 64 on each other field, 16 ICMP types with a
//!   code, and all of these multiplied 4,096: a criterion never takes more places than that);
//! * `probes`: 25 for the first looks (31 in IPv6), 7 for each of the four tries of anchors (23), and for each place with
//!   more than [`MAXIMUM_IN_VAIN`] criteria the tries below it: 7 (23) for the other address, 11 for protocol and ports,
//!   4 for the other port.
//!
//! A later fragment costs no more: whether some criterion needs the first one is known without asking. No step depends
//! on a secret. The sketch is seeded, but whoever gets past it reaches the trie and its bound.
//!
//! # Changes
//!
//! [`FilterTable::changed`] makes a new table that shares with the old one what did not change: chunks of slots, nodes of
//! tries, pages of sketches. It copies the way to what changes, which does not grow with the table. What a
//! criterion that goes has set in the first looks and sketches stays, and costs work, never an answer; they are made anew
//! when 64 criteria and half as many as are left have gone since the last time. A sketch is made anew as well when it has
//! half as many prefixes again as it was made for. Both take time in proportion to the table, so that a change bears less
//! than a microsecond of it on average.
//!
//! The obvious way, asking every criterion ([`FilterTable::classify_linear`]), stays as the oracle that the tests hold
//! the index against.

mod addresses;
mod anchors;
mod classify;
mod destinations;
mod family;
mod fineness;
mod level;
mod prefix;
mod protection;
mod rate;
mod reach;
mod register;
mod scope;
mod sketch;
mod trie;
mod upper;
mod used;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::anchors::{
    AnchorChanges, AnchorDifference, AnchorPrefix, Anchors, FamilyAnchorChanges, FamilyAnchors,
};
pub use self::classify::Work;
use self::destinations::Destinations;
use self::family::Family;
use self::fineness::Fineness;
pub use self::level::MAXIMUM_IN_VAIN;
use self::prefix::Wide;
pub use self::protection::{Protection, SpoolKind};
pub use self::rate::Rate;
use self::register::Register;
pub use self::register::Slots;
use self::scope::{Compiled, Interfaces};
pub use self::scope::{Passage, Scope, Way};
pub use self::used::{Used, UsedPlace};
use crate::criteria::Criteria;

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
    /// Where it is counted what a limited criterion has used; None for a place of its own.
    pub used: Option<Arc<dyn UsedPlace>>,
    /// The most that may be copied, shared with other criteria; more is refused and counted.
    pub rate: Option<Arc<Rate>>,
    /// Traffic of the tap itself, which is never copied whatever the others say.
    pub own: bool,
    /// Where frames must pass.
    pub scope: Scope,
}

impl Entry {
    /// A filter alone: its copies are counted and go nowhere, wherever frames pass, without an end.
    pub fn new(id: u64, criteria: Criteria) -> Self {
        Self {
            id,
            criteria,
            destinations: Vec::new(),
            lifetime: Lifetime::default(),
            used: None,
            rate: None,
            own: false,
            scope: Scope::default(),
        }
    }
}

/// Where copies go, and their outer header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// What they must pass through; None for a destination that is reached in clear.
    pub protection: Option<Arc<Protection>>,
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
    /// The outer header would have an address that is no host's: the kernel would put another in its place, and the
    /// copies would not be known as the tap's own.
    #[error(
        "content destination {id:?}: the {which} is unspecified, a group's or everybody's; the address of one host is right"
    )]
    NoHost {
        /// The destination.
        id: String,
        /// Which of its addresses.
        which: &'static str,
    },
    /// More criteria than a table can number.
    #[error("{count} criteria; a table holds at most {}", u32::MAX)]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// A change takes away a criterion that is not there.
    #[error("criteria {id} is to be taken away and is not in the table")]
    UnknownId {
        /// The number.
        id: u64,
    },
    /// Two destinations with one name.
    #[error("content destination {id:?} is given twice; every destination has a name of its own")]
    DuplicateDestination {
        /// The destination.
        id: String,
    },
    /// A change leaves out a destination that a criterion still has.
    #[error("content destination {id:?} is left out, and some criterion still delivers to it")]
    DestinationInUse {
        /// The destination.
        id: String,
    },
}

/// The number of no destination.
const NOWHERE: u32 = u32::MAX;

/// One compiled criterion.
#[derive(Clone, Debug)]
pub struct Slot {
    id: u64,
    criteria: Criteria,
    /// The number of the first destination, or [`NOWHERE`].
    destination: u32,
    fineness: Fineness,
    // Most criteria of a large table have none of this, or are ended from outside.
    special: Option<Box<Special>>,
}

/// What few criteria have.
#[derive(Clone, Debug)]
struct Special {
    lifetime: Lifetime,
    /// There where the lifetime is limited.
    used: Option<Arc<dyn UsedPlace>>,
    rate: Option<Arc<Rate>>,
    own: bool,
    scope: Option<Box<Compiled>>,
    /// The numbers of further destinations.
    destinations: Box<[u32]>,
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

    /// What ends it and what it has used, None where nothing ends it.
    pub fn limits(&self) -> Option<(&Lifetime, &Used)> {
        let special = self.special.as_deref()?;
        let used = special.used.as_ref()?;
        Some((&special.lifetime, used.used()))
    }

    /// The most that may be copied.
    pub fn rate(&self) -> Option<&Rate> {
        self.special.as_ref()?.rate.as_deref()
    }

    /// Whether this is traffic of the tap itself.
    pub fn is_own(&self) -> bool {
        self.special.as_ref().is_some_and(|special| special.own)
    }

    /// Whether it is about whole frames, and its filter is not asked.
    pub fn is_circuit(&self) -> bool {
        let special = self.special.as_ref();
        special.is_some_and(|special| special.scope.as_ref().is_some_and(|scope| scope.circuit))
    }

    /// Whether it is asked about frames that pass like this.
    #[inline]
    pub fn admits(&self, passage: Passage) -> bool {
        let special = self.special.as_ref();
        match special.and_then(|special| special.scope.as_ref()) {
            None => passage.is_any_way || passage.way != Way::Forwarded,
            Some(scope) => scope.admits(passage),
        }
    }

    /// Whether it names interfaces.
    pub fn names_interfaces(&self) -> bool {
        let special = self.special.as_ref();
        special.is_some_and(|special| special.scope.as_deref().is_some_and(Compiled::is_named))
    }

    /// Whether it names interfaces that frames go out on.
    fn has_outputs(&self) -> bool {
        let special = self.special.as_ref();
        special.is_some_and(|special| special.scope.as_deref().is_some_and(Compiled::has_outputs))
    }

    /// Whether copies go anywhere.
    pub const fn is_delivered(&self) -> bool {
        self.destination != NOWHERE
    }

    /// The numbers of the destinations.
    fn handles(&self) -> impl Iterator<Item = u32> {
        let special = self.special.as_ref();
        let further = special.map_or(&[][..], |special| &special.destinations);
        let first = Some(self.destination).filter(|&number| number != NOWHERE);
        first.into_iter().chain(further.iter().copied())
    }

    /// Copies that one match wants: one a destination, or one that goes nowhere.
    pub fn wanted(&self) -> u64 {
        u64::try_from(self.handles().count().max(1)).unwrap_or(u64::MAX)
    }
}

/// All active criteria, compiled; immutable.
#[derive(Clone, Debug, Default)]
pub struct FilterTable {
    register: Register,
    destinations: Destinations,
    /// Criteria that name traffic of the tap itself.
    own: usize,
    /// Criteria about frames that go out.
    outputs: usize,
    /// Slots of criteria about whole frames; few, and asked one by one.
    circuits: Vec<u32>,
    interfaces: Interfaces,
    /// Criteria taken away since the first looks were made.
    stale: usize,
    v4: Family<u32>,
    v6: Family<Wide>,
}

/// Criteria that may go before the first looks are made anew, beside half of those that are left.
const STALE: usize = 64;

impl FilterTable {
    /// Compiles criteria. Slots are numbered in the order of the criteria's ids.
    ///
    /// # Errors
    /// Names the first criterion or destination that cannot be.
    pub fn compile(
        mut entries: Vec<Entry>,
        destinations: Vec<Destination>,
    ) -> Result<Self, TableError> {
        let mut table = Self::default();
        table.destinations.replace(destinations)?;
        entries.sort_by_key(|entry| entry.id);
        table.add(entries)?;
        Ok(table)
    }

    /// The table with some criteria taken away and others added; what does not change is shared between both.
    ///
    /// Everything that stays keeps its slot. A criterion that is taken away and added is replaced; a slot that became
    /// free is taken by the next that is added. `destinations` are those of the new table, which the indexes in `add`
    /// refer to; None leaves them as they are. A destination is known by its name: criteria that stay follow it to its
    /// new place and its new outer header.
    ///
    /// # Errors
    /// Names the first criterion or destination that cannot be.
    pub fn changed(
        &self,
        remove: &[u64],
        add: Vec<Entry>,
        destinations: Option<Vec<Destination>>,
    ) -> Result<Self, TableError> {
        let mut table = self.clone();
        for &id in remove {
            table.remove(id)?;
        }
        if let Some(destinations) = destinations {
            table.destinations.replace(destinations)?;
        }
        table.add(add)?;
        if table.stale > STALE + table.register.len() / 2 {
            table.stale = 0;
            let criteria = || {
                let slots = table.register.iter().filter(|slot| !slot.is_circuit());
                slots.map(Slot::criteria)
            };
            table.v4.renew(criteria());
            table.v6.renew(criteria());
        }
        Ok(table)
    }

    fn add(&mut self, entries: Vec<Entry>) -> Result<(), TableError> {
        let count = self.register.len().saturating_add(entries.len());
        for entry in entries {
            if self.register.slot_of(entry.id).is_some() {
                return Err(TableError::DuplicateId { id: entry.id });
            }
            let handles = self.destinations.handles(entry.id, &entry.destinations)?;
            self.destinations.add_user(&handles);
            self.own += usize::from(entry.own);
            let (destination, further) = match handles.split_first() {
                None => (NOWHERE, &[][..]),
                Some((&first, further)) => (first, further),
            };
            let scope = self.interfaces.compile(&entry.scope).map(Box::new);
            let is_special = entry.own
                || !entry.lifetime.is_unlimited()
                || !further.is_empty()
                || entry.rate.is_some()
                || scope.is_some();
            let slot = Slot {
                id: entry.id,
                fineness: Fineness::of(&entry.criteria),
                criteria: entry.criteria,
                destination,
                special: is_special.then(|| {
                    Box::new(Special {
                        lifetime: entry.lifetime,
                        used: (!entry.lifetime.is_unlimited())
                            .then(|| entry.used.unwrap_or_else(|| Arc::new(Used::default()))),
                        rate: entry.rate,
                        own: entry.own,
                        scope,
                        destinations: further.into(),
                    })
                }),
            };
            let Some(number) = self.register.take(slot) else {
                return Err(TableError::TooMany { count });
            };
            let added = self.register.get(number);
            self.outputs += usize::from(added.is_some_and(Slot::has_outputs));
            if added.is_some_and(Slot::is_circuit) {
                self.circuits.push(number);
            } else {
                self.v4.add(number, &self.register);
                self.v6.add(number, &self.register);
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Result<(), TableError> {
        let found = self
            .register
            .slot_of(id)
            .and_then(|number| Some((number, self.register.get(number)?)));
        let Some((number, slot)) = found else {
            return Err(TableError::UnknownId { id });
        };
        self.own = self.own.saturating_sub(slot.is_own().into());
        self.destinations.remove_user(slot.handles());
        self.outputs = self.outputs.saturating_sub(slot.has_outputs().into());
        if slot.is_circuit() {
            self.circuits.retain(|&circuit| circuit != number);
        } else {
            self.v4.remove(number, &self.register);
            self.v6.remove(number, &self.register);
            self.stale += 1;
        }
        self.register.vacate(number);
        Ok(())
    }

    /// The compiled criteria, in the order of their ids.
    pub fn slots(&self) -> Slots<'_> {
        self.register.iter()
    }

    /// One more than the highest slot that a criterion has or had.
    pub const fn slots_end(&self) -> u32 {
        self.register.end()
    }

    /// The destinations, in the order given.
    pub fn destinations(&self) -> &[Destination] {
        self.destinations.as_slice()
    }

    /// The destinations of one of the table's criteria, with their indexes.
    #[inline]
    pub fn destinations_of<'a>(
        &'a self,
        slot: &'a Slot,
    ) -> impl Iterator<Item = (u32, &'a Destination)> {
        let handles = slot.handles();
        handles.filter_map(|handle| self.destinations.get(handle))
    }

    /// Whether some criterion names traffic of the tap itself.
    pub const fn has_own(&self) -> bool {
        self.own > 0
    }

    /// Whether some criterion is about frames that go out, whoever made them.
    pub const fn has_outputs(&self) -> bool {
        self.outputs > 0
    }

    /// Slots of the criteria about whole frames.
    pub fn circuits(&self) -> &[u32] {
        &self.circuits
    }

    /// How many interfaces criteria name; a table that is a change of another has at least as many, with the same
    /// numbers.
    pub fn interface_count(&self) -> usize {
        self.interfaces.len()
    }

    /// The number of an interface; None for one that no criterion names.
    pub fn interface(&self, name: &str) -> Option<u32> {
        self.interfaces.number(name)
    }

    /// The slot of a criterion.
    pub fn slot_of(&self, id: u64) -> Option<u32> {
        self.register.slot_of(id)
    }

    /// The criterion in a slot.
    #[inline]
    pub fn slot(&self, number: u32) -> Option<&Slot> {
        self.register.get(number)
    }

    /// Hands every slot to `each` that may hold another criterion in `other`. Where one table is a change of the other,
    /// these are few.
    pub fn differing_slots(&self, other: &Self, each: impl FnMut(u32)) {
        self.register.differences(&other.register, each);
    }

    /// Whether both tables have the very same list of destinations.
    pub fn shares_destinations(&self, other: &Self) -> bool {
        self.destinations.is_same(&other.destinations)
    }

    /// Octets that the table holds in memory, shared or not.
    pub fn memory_octets(&self) -> usize {
        size_of::<Self>()
            + self.register.heap_octets()
            + self.destinations.heap_octets()
            + self.interfaces.heap_octets()
            + self.circuits.capacity() * size_of::<u32>()
            + self.v4.heap_octets()
            + self.v6.heap_octets()
    }
}
