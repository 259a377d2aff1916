//! Which addresses a table could match, and how many of its criteria need each of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;

/// Multiplies what is looked up in a gate; the program in the kernel does the same. 2^64 over the golden ratio, odd.
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The numbers that addresses are.
pub trait AddressBits: Copy + Ord + Hash + fmt::Debug {
    /// How many bits an address has.
    const BITS: u8;

    /// The address with zeros behind its first `length` bits.
    #[must_use]
    fn masked(self, length: u8) -> Self;
}

impl AddressBits for u32 {
    const BITS: u8 = 32;

    fn masked(self, length: u8) -> Self {
        let behind = Self::MAX.checked_shr(length.into()).unwrap_or(0);
        self & !behind
    }
}

impl AddressBits for u128 {
    const BITS: u8 = 128;

    fn masked(self, length: u8) -> Self {
        let behind = Self::MAX.checked_shr(length.into()).unwrap_or(0);
        self & !behind
    }
}

/// What maps and programs need of an address.
pub(super) trait Address: AddressBits {
    /// All bits set.
    const ONES: Self;
    /// The longest part of a prefix that a gate looks at.
    const GRANULE_MAX: u8;

    /// The `number`th prefix of `length` bits behind this one.
    fn sibling(self, number: u32, length: u8) -> Self;
    /// As the network writes it.
    fn octets(self) -> impl AsRef<[u8]>;
    /// The address in the upper bits.
    fn upper(self) -> u128;
    /// What the program makes of the address before it looks into a gate. It reads words as they lie in the packet, in the
    /// byte order of the machine.
    fn seed(self) -> u64;
    /// The same for the part in front of a prefix, which is at most [`Self::GRANULE_MAX`] long.
    fn prefix_seed(self) -> u64;
}

impl Address for u32 {
    const ONES: Self = Self::MAX;
    const GRANULE_MAX: u8 = 24;

    fn sibling(self, number: u32, length: u8) -> Self {
        let behind = Self::BITS.saturating_sub(length.into());
        self.wrapping_add(number.checked_shl(behind).unwrap_or(0))
    }

    fn octets(self) -> impl AsRef<[u8]> {
        self.to_be_bytes()
    }

    fn upper(self) -> u128 {
        u128::from(self) << 96
    }

    fn seed(self) -> u64 {
        self.to_be().into()
    }

    fn prefix_seed(self) -> u64 {
        self.seed()
    }
}

impl Address for u128 {
    const ONES: Self = Self::MAX;
    const GRANULE_MAX: u8 = 64;

    fn sibling(self, number: u32, length: u8) -> Self {
        let behind = Self::BITS.saturating_sub(length.into());
        self.wrapping_add(Self::from(number).checked_shl(behind).unwrap_or(0))
    }

    fn octets(self) -> impl AsRef<[u8]> {
        self.to_be_bytes()
    }

    fn upper(self) -> u128 {
        self
    }

    fn seed(self) -> u64 {
        self.prefix_seed().wrapping_mul(SPREAD) ^ word(self, 0)
    }

    fn prefix_seed(self) -> u64 {
        word(self, 64)
    }
}

/// The half of an address that begins `shift` bits from its end, as the machine reads it from a packet.
fn word(address: u128, shift: u32) -> u64 {
    let half = u64::try_from(address >> shift & u128::from(u64::MAX));
    half.unwrap_or(0).to_be()
}

/// The addresses whose first bits are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<A> {
    address: A,
    length: u8,
}

impl<A: AddressBits> Prefix<A> {
    /// A prefix of `length` bits; what the address says behind them is forgotten. None where an address has not so many.
    pub fn new(address: A, length: u8) -> Option<Self> {
        (length <= A::BITS).then(|| Self {
            address: address.masked(length),
            length,
        })
    }

    /// One address.
    pub fn host(address: A) -> Self {
        Self {
            address,
            length: A::BITS,
        }
    }

    /// The first address.
    pub const fn address(&self) -> A {
        self.address
    }

    /// How many bits count.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is one of these.
    pub fn contains(&self, address: A) -> bool {
        address.masked(self.length) == self.address
    }
}

/// What criteria could match of one family: a packet whose source lies in a source prefix, or whose destination lies in
/// a destination prefix, or any packet at all.
///
/// It is a sum over the criteria: what two of them need is there twice, so that one of them can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyCover<A> {
    /// Prefixes of sources.
    pub source: Vec<Prefix<A>>,
    /// Prefixes of destinations.
    pub destination: Vec<Prefix<A>>,
    /// How many criteria no address of this family narrows. A prefix of length 0 counts as one.
    pub open: u32,
}

impl<A> Default for FamilyCover<A> {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            destination: Vec::new(),
            open: 0,
        }
    }
}

/// What the criteria of a table could match, or those that a change adds to it or takes from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressCover {
    /// IPv4.
    pub v4: FamilyCover<u32>,
    /// IPv6.
    pub v6: FamilyCover<u128>,
}

/// Where in a packet an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Destination,
}

impl Role {
    /// Both, in the order in which a packet has them.
    pub(super) const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    /// The bit that says in a map that an address counts in this role.
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Source => 1,
            Self::Destination => 2,
        }
    }
}

/// One thing for each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByRole<T> {
    pub(super) source: T,
    pub(super) destination: T,
}

impl<T> ByRole<T> {
    pub(super) const fn of(&self, role: Role) -> &T {
        match role {
            Role::Source => &self.source,
            Role::Destination => &self.destination,
        }
    }

    pub(super) const fn of_mut(&mut self, role: Role) -> &mut T {
        match role {
            Role::Source => &mut self.source,
            Role::Destination => &mut self.destination,
        }
    }
}

impl ByRole<u32> {
    /// The bits of the roles in which an address is needed.
    pub(super) fn bits(self) -> u8 {
        Role::BOTH
            .into_iter()
            .filter(|&role| *self.of(role) != 0)
            .fold(0, |bits, role| bits | role.bit())
    }
}

/// How many criteria need each address of one family.
#[derive(Clone, Debug)]
pub(super) struct FamilyCounts<A> {
    pub(super) hosts: HashMap<A, ByRole<u32>>,
    pub(super) prefixes: ByRole<HashMap<Prefix<A>, u32>>,
    open: u32,
}

/// What a change of the counts means for the maps: everything here is needed now and was not before, or the other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FamilyChanges<A> {
    pub(super) hosts: Vec<A>,
    pub(super) prefixes: ByRole<Vec<Prefix<A>>>,
    pub(super) open: bool,
}

impl<A> Default for FamilyChanges<A> {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            prefixes: ByRole {
                source: Vec::new(),
                destination: Vec::new(),
            },
            open: false,
        }
    }
}

impl<A> FamilyChanges<A> {
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.prefixes.source.is_empty()
            && self.prefixes.destination.is_empty()
            && !self.open
    }
}

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

impl Change {
    /// Counts criteria; whether the first has come or the last has gone.
    fn count(self, criteria: &mut u32, number: u32) -> bool {
        let before = *criteria;
        *criteria = match self {
            Self::Add => before.saturating_add(number),
            // Nobody knows any more how many there were.
            Self::Remove if before == u32::MAX => before,
            // What nobody added cannot be taken away.
            Self::Remove => before.saturating_sub(number),
        };
        (before == 0) != (*criteria == 0)
    }

    /// The same for one entry of a map, which is there as long as somebody needs it.
    fn count_in<K: Eq + Hash>(self, counts: &mut HashMap<K, u32>, key: K) -> bool {
        match counts.entry(key) {
            Entry::Occupied(mut entry) => {
                let changed = self.count(entry.get_mut(), 1);
                if *entry.get() == 0 {
                    entry.remove();
                }
                changed
            }
            Entry::Vacant(entry) if self == Self::Add => {
                entry.insert(1);
                true
            }
            Entry::Vacant(_) => false,
        }
    }
}

impl<A: Address> FamilyCounts<A> {
    pub(super) fn new() -> Self {
        Self {
            hosts: HashMap::new(),
            prefixes: ByRole {
                source: HashMap::new(),
                destination: HashMap::new(),
            },
            open: 0,
        }
    }

    /// Whether some criterion could match any packet of the family.
    pub(super) const fn is_open(&self) -> bool {
        self.open != 0
    }

    /// Counts a cover in or out.
    pub(super) fn change(&mut self, change: Change, cover: &FamilyCover<A>) -> FamilyChanges<A> {
        let mut changes = FamilyChanges::default();
        let was_open = self.is_open();
        change.count(&mut self.open, cover.open);
        for role in Role::BOTH {
            let prefixes = match role {
                Role::Source => &cover.source,
                Role::Destination => &cover.destination,
            };
            for &prefix in prefixes {
                if prefix.length == 0 {
                    change.count(&mut self.open, 1);
                } else if prefix.length == A::BITS {
                    let roles = self.hosts.entry(prefix.address).or_default();
                    if change.count(roles.of_mut(role), 1) {
                        changes.hosts.push(prefix.address);
                    }
                    if roles.bits() == 0 {
                        self.hosts.remove(&prefix.address);
                    }
                } else if change.count_in(self.prefixes.of_mut(role), prefix) {
                    changes.prefixes.of_mut(role).push(prefix);
                }
            }
        }
        changes.open = was_open != self.is_open();
        // A host may have changed in both roles.
        changes.hosts.sort_unstable();
        changes.hosts.dedup();
        changes
    }

    /// Addresses and prefixes that are counted, as many as the maps hold entries for.
    pub(super) fn entries(&self) -> usize {
        self.hosts.len() + self.prefixes.source.len() + self.prefixes.destination.len()
    }
}

/// How many criteria need each address.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) v4: FamilyCounts<u32>,
    pub(super) v6: FamilyCounts<u128>,
}

/// What a change of the counts means for the maps of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) v4: FamilyChanges<u32>,
    pub(super) v6: FamilyChanges<u128>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            v4: FamilyCounts::new(),
            v6: FamilyCounts::new(),
        }
    }

    /// Counts a cover in or out.
    pub(super) fn change(&mut self, change: Change, cover: &AddressCover) -> Changes {
        Changes {
            v4: self.v4.change(change, &cover.v4),
            v6: self.v6.change(change, &cover.v6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_full_stays() {
        let all = FamilyCover::<u32> {
            open: u32::MAX,
            ..FamilyCover::default()
        };
        let mut counts = FamilyCounts::new();
        assert!(counts.change(Change::Add, &all).open);
        assert!(!counts.change(Change::Add, &all).open);
        assert!(!counts.change(Change::Remove, &all).open);
        assert!(counts.is_open());
    }

    #[test]
    fn a_prefix_forgets_what_is_behind_it() {
        assert_eq!(Prefix::new(0x0a01_0203_u32, 33), None);
        assert_eq!(Prefix::new(0x0a01_0203_u32, 8), Prefix::new(0x0aff_ffff, 8));
        assert_eq!(Prefix::new(7_u128, 0), Prefix::new(u128::MAX, 0));
        assert_eq!(Prefix::new(7_u128, 128), Some(Prefix::host(7)));
        assert!(!Prefix::host(7_u128).contains(6));
    }
}
