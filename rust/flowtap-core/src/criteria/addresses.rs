//! What a filter says about both addresses, small for the common cases.

use std::borrow::Cow;

use super::Side;
use super::set::AddressSet;
use crate::packet::Address;

/// The addresses of both sides. The first forms stand for sides that say nothing or name one range of IPv4 addresses,
/// one IPv6 host; each pair of sets has one form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Addresses {
    Any,
    FromV4(u32, u32),
    ToV4(u32, u32),
    BetweenV4(u32, u32, u32, u32),
    FromV6(Box<u128>),
    ToV6(Box<u128>),
    Sets(Box<Pair>),
}

/// Two sets behind one pointer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    source: AddressSet,
    destination: AddressSet,
}

impl Addresses {
    pub(super) fn new(source: AddressSet, destination: AddressSet) -> Self {
        match (source, destination) {
            (AddressSet::Any, AddressSet::Any) => Self::Any,
            (AddressSet::OneV4(first, last), AddressSet::Any) => Self::FromV4(first, last),
            (AddressSet::Any, AddressSet::OneV4(first, last)) => Self::ToV4(first, last),
            (AddressSet::OneV4(a, b), AddressSet::OneV4(c, d)) => Self::BetweenV4(a, b, c, d),
            (AddressSet::HostV6(host), AddressSet::Any) => Self::FromV6(host),
            (AddressSet::Any, AddressSet::HostV6(host)) => Self::ToV6(host),
            (source, destination) => Self::Sets(Box::new(Pair {
                source,
                destination,
            })),
        }
    }

    /// Whether both addresses of a packet are among these; they are of one family.
    #[inline]
    pub(super) fn contain(&self, source: Address, destination: Address) -> bool {
        let v4 = |address, first, last| match address {
            Address::V4(bits) => first <= bits && bits <= last,
            Address::V6(_) => false,
        };
        match self {
            Self::Any => true,
            &Self::FromV4(first, last) => v4(source, first, last),
            &Self::ToV4(first, last) => v4(destination, first, last),
            &Self::BetweenV4(a, b, c, d) => v4(source, a, b) && v4(destination, c, d),
            Self::FromV6(host) => source == Address::V6(**host),
            Self::ToV6(host) => destination == Address::V6(**host),
            Self::Sets(pair) => {
                pair.source.contains(source) && pair.destination.contains(destination)
            }
        }
    }

    /// The addresses of one side.
    pub(super) fn side(&self, side: Side) -> Cow<'_, AddressSet> {
        let set = match (self, side) {
            (Self::Sets(pair), Side::Source) => return Cow::Borrowed(&pair.source),
            (Self::Sets(pair), Side::Destination) => return Cow::Borrowed(&pair.destination),
            (&(Self::FromV4(first, last) | Self::BetweenV4(first, last, ..)), Side::Source)
            | (&(Self::ToV4(first, last) | Self::BetweenV4(.., first, last)), Side::Destination) => {
                AddressSet::OneV4(first, last)
            }
            (Self::FromV6(host), Side::Source) | (Self::ToV6(host), Side::Destination) => {
                AddressSet::HostV6(host.clone())
            }
            _ => AddressSet::Any,
        };
        Cow::Owned(set)
    }

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Any | Self::FromV4(..) | Self::ToV4(..) | Self::BetweenV4(..) => 0,
            Self::FromV6(host) | Self::ToV6(host) => size_of_val::<u128>(host),
            Self::Sets(pair) => {
                size_of::<Pair>() + pair.source.heap_octets() + pair.destination.heap_octets()
            }
        }
    }
}
