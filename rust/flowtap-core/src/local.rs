//! Addresses of this host, by which it tells what it sends from what it forwards.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use crate::packet::Address;

/// A set of addresses of this host.
#[derive(Clone, Debug, Default)]
pub struct LocalAddresses(HashSet<Address, RandomState>);

impl LocalAddresses {
    /// Whether this is an address of this host.
    #[inline]
    pub fn contains(&self, address: Address) -> bool {
        self.0.contains(&address)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Address> {
        self.0.iter().copied()
    }

    /// Whether this host has made a packet with this source address that goes out.
    #[inline]
    pub fn made(&self, source: Address) -> bool {
        // A host that has no address yet sends without one, and nobody forwards that [RFC 4291 §2.5.2, RFC 1812 §5.3.7].
        matches!(source, Address::V4(0) | Address::V6(0)) || self.0.contains(&source)
    }
}

impl FromIterator<Address> for LocalAddresses {
    fn from_iter<I: IntoIterator<Item = Address>>(addresses: I) -> Self {
        Self(addresses.into_iter().collect())
    }
}
