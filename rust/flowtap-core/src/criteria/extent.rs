//! How far a filter reaches, for policies that bound it.

use super::set::AddressSet;
use super::text;
use super::{Criteria, CriteriaError, Field, Side, ranges};
use crate::packet::Address;

/// Addresses that a policy allows, or that lie on one side of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSpace(AddressSet);

impl AddressSpace {
    /// Reads a list of addresses, prefixes and ranges.
    ///
    /// # Errors
    /// The list cannot be read, or holds no address; the field is the source.
    pub fn parse(list: &str) -> Result<Self, CriteriaError> {
        text::addresses(Field::Source, list).map(Self)
    }

    /// Whether the space holds an address.
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        self.0.contains(address)
    }

    /// The lowest address of each range.
    pub fn lowest(&self) -> impl Iterator<Item = Address> {
        let v4 = self.0.v4().into_iter();
        let v6 = self.0.v6().into_iter();
        v4.map(|(first, _)| Address::V4(first))
            .chain(v6.map(|(first, _)| Address::V6(first)))
    }

    /// Whether every packet that the filter can match has its source or its destination in the space.
    pub fn covers(&self, criteria: &Criteria) -> bool {
        let source = criteria.addresses.side(Side::Source);
        let destination = criteria.addresses.side(Side::Destination);
        let v4 = covers(&self.0.v4(), &source.v4(), &destination.v4());
        let v6 = covers(&self.0.v6(), &source.v6(), &destination.v6());
        v4 && v6
    }
}

/// The same in one family; a filter that matches nothing of it stays within any space.
fn covers<T: ranges::Number>(space: &[(T, T)], source: &[(T, T)], destination: &[(T, T)]) -> bool {
    source.is_empty()
        || destination.is_empty()
        || ranges::difference(source, space).is_empty()
        || ranges::difference(destination, space).is_empty()
}

/// How many bits of an address the narrower of two sets leaves open, rounded up; None where one is empty.
fn open_bits<T: Copy + Into<u128>>(source: &[(T, T)], destination: &[(T, T)]) -> Option<u32> {
    let bits = |ranges: &[(T, T)]| -> Option<u32> {
        // The count less one, so that all of IPv6 fits into the type.
        let less_one = ranges
            .iter()
            .map(|&(first, last)| last.into() - first.into())
            .reduce(|sum, size| sum.saturating_add(size).saturating_add(1))?;
        Some(128 - less_one.leading_zeros())
    };
    Some(bits(source)?.min(bits(destination)?))
}

impl Criteria {
    /// How narrow the filter is among IPv4 packets: the prefix length of a block that holds as many addresses as the
    /// narrower of source and destination, rounded to the wider; None where no IPv4 packet matches.
    pub fn narrowness_v4(&self) -> Option<u32> {
        let source = self.addresses.side(Side::Source);
        let destination = self.addresses.side(Side::Destination);
        open_bits(&source.v4(), &destination.v4()).map(|bits| 32 - bits)
    }

    /// The same among IPv6 packets.
    pub fn narrowness_v6(&self) -> Option<u32> {
        let source = self.addresses.side(Side::Source);
        let destination = self.addresses.side(Side::Destination);
        open_bits(&source.v6(), &destination.v6()).map(|bits| 128 - bits)
    }
}
