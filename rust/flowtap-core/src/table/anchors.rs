//! Which addresses lead to criteria: for a filter in front of the table that can look addresses up and nothing else.

use super::FilterTable;
use super::addresses::{Address, Addresses};
use super::family::Family;
use super::prefix::Prefix;
use super::reach::Network;

/// All addresses that agree in their first `length` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorPrefix<T> {
    /// The first address, as a number with the most significant octet first.
    pub bits: T,
    /// From 1 to the width of an address.
    pub length: u8,
}

/// The addresses that lead to the criteria of one family.
///
/// A packet that some criterion matches has its source in one of the prefixes of `source`, or its destination in one of
/// those of `destination`, or `is_open` is true. The reverse does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyAnchors<T> {
    /// Prefixes of source addresses, each once.
    pub source: Vec<AnchorPrefix<T>>,
    /// Prefixes of destination addresses, each once.
    pub destination: Vec<AnchorPrefix<T>>,
    /// Some criterion is about any address.
    pub is_open: bool,
}

/// The addresses that lead to the criteria of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// For IPv4 packets.
    pub v4: FamilyAnchors<u32>,
    /// For IPv6 packets.
    pub v6: FamilyAnchors<u128>,
    /// Some criterion is about whole frames, whatever they carry.
    pub is_open_to_frames: bool,
}

/// Prefixes that one table has and another has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorDifference<T> {
    /// In the second and not in the first.
    pub added: Vec<AnchorPrefix<T>>,
    /// In the first and not in the second.
    pub removed: Vec<AnchorPrefix<T>>,
}

/// How the anchors of one family differ between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyAnchorChanges<T> {
    /// Prefixes of source addresses.
    pub source: AnchorDifference<T>,
    /// Prefixes of destination addresses.
    pub destination: AnchorDifference<T>,
    /// What [`FamilyAnchors::is_open`] is in the second.
    pub is_open: bool,
}

/// How the anchors of two tables differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorChanges {
    /// For IPv4 packets.
    pub v4: FamilyAnchorChanges<u32>,
    /// For IPv6 packets.
    pub v6: FamilyAnchorChanges<u128>,
    /// What [`Anchors::is_open_to_frames`] is in the second.
    pub is_open_to_frames: bool,
}

impl FilterTable {
    /// The addresses that lead to the criteria.
    pub fn anchors(&self) -> Anchors {
        Anchors {
            v4: anchors(&self.v4),
            v6: anchors(&self.v6),
            is_open_to_frames: !self.circuits.is_empty(),
        }
    }

    /// How the anchors change from this table to another. Where one table is a change of the other, this costs about as
    /// much as the change.
    pub fn anchor_changes(&self, other: &Self) -> AnchorChanges {
        AnchorChanges {
            v4: changes(&self.v4, &other.v4),
            v6: changes(&self.v6, &other.v6),
            is_open_to_frames: !other.circuits.is_empty(),
        }
    }
}

/// The index of a side.
type Side<K> = fn(&Addresses<K>) -> &super::addresses::Anchored<K>;

/// A prefix for others; None for the one of all addresses.
fn public<K: Address>(prefix: Prefix<K>) -> Option<AnchorPrefix<K::Number>> {
    let length = K::WIDTH.checked_sub(prefix.host_bits)?;
    (length > 0).then(|| AnchorPrefix {
        bits: prefix.bits.number(),
        length,
    })
}

/// Whether some criterion of either index is found through a prefix.
fn has<K: Address>(family: &Family<K>, side: Side<K>, prefix: Prefix<K>) -> bool {
    side(&family.narrow).has(prefix) || side(&family.open).has(prefix)
}

fn is_open<K: Address>(family: &Family<K>) -> bool {
    let all = Prefix {
        bits: K::from_u128(0),
        host_bits: K::WIDTH,
    };
    has(family, |index| &index.by_source, all) || has(family, |index| &index.by_destination, all)
}

fn anchors<K: Address + Network>(family: &Family<K>) -> FamilyAnchors<K::Number> {
    let prefixes = |side: Side<K>| {
        let narrow = side(&family.narrow);
        let open = side(&family.open).prefixes();
        let open = open.filter(|&prefix| !narrow.has(prefix));
        narrow.prefixes().chain(open).filter_map(public).collect()
    };
    FamilyAnchors {
        source: prefixes(|index| &index.by_source),
        destination: prefixes(|index| &index.by_destination),
        is_open: is_open(family),
    }
}

fn changes<K: Address + Network>(
    first: &Family<K>,
    second: &Family<K>,
) -> FamilyAnchorChanges<K::Number> {
    let difference = |side: Side<K>| {
        let mut candidates = Vec::new();
        side(&first.narrow)
            .differences(side(&second.narrow), &mut |prefix| candidates.push(prefix));
        side(&first.open).differences(side(&second.open), &mut |prefix| candidates.push(prefix));
        // A prefix may leave one index and enter the other.
        candidates
            .sort_unstable_by_key(|prefix: &Prefix<K>| (prefix.bits.to_u128(), prefix.host_bits));
        candidates.dedup();
        let mut difference = AnchorDifference {
            added: Vec::new(),
            removed: Vec::new(),
        };
        for candidate in candidates {
            match (has(first, side, candidate), has(second, side, candidate)) {
                (true, false) => difference.removed.extend(public(candidate)),
                (false, true) => difference.added.extend(public(candidate)),
                _ => {}
            }
        }
        difference
    };
    FamilyAnchorChanges {
        source: difference(|index| &index.by_source),
        destination: difference(|index| &index.by_destination),
        is_open: is_open(second),
    }
}
