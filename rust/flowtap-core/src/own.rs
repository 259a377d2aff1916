//! Traffic of the tap itself, which is never tapped: without this a criterion that matches its own copies would copy
//! them again and again.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use crate::decode::IpPacket;
use crate::local::LocalAddresses;
use crate::packet::{Address, Transport};
use crate::table::FilterTable;
use crate::wire::protocol;

/// A place at which this host listens, or that it sends to, for the tap's own purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnEndpoint {
    /// TCP or UDP, by number.
    pub protocol: u8,
    /// The address; None for every address of this host.
    pub address: Option<Address>,
    /// The port.
    pub port: u16,
}

/// What belongs to the tap: its control channels and, by the destinations of the present table, its copies.
#[derive(Clone, Debug, Default)]
pub struct OwnTraffic {
    endpoints: Vec<OwnEndpoint>,
    /// Addresses and ports of copies: source, destination.
    copies: HashSet<(Address, u16, Address, u16), RandomState>,
    /// The addresses alone: later fragments of long copies have no ports.
    pairs: HashSet<(Address, Address), RandomState>,
}

impl OwnTraffic {
    /// With these control channels.
    pub fn new(endpoints: Vec<OwnEndpoint>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Learns where the copies of a table go.
    pub fn follow(&mut self, table: &FilterTable) {
        self.copies.clear();
        self.pairs.clear();
        for destination in table.destinations() {
            let source = Address::from(destination.source_address);
            let address = Address::from(destination.address);
            self.copies
                .insert((source, destination.source_port, address, destination.port));
            self.pairs.insert((source, address));
        }
    }

    /// Whether a packet belongs to the tap.
    pub fn contains(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        let key = &packet.key;
        let is_udp = key.protocol == Some(protocol::UDP);
        let Transport::Ports {
            source,
            destination,
        } = key.transport
        else {
            let is_later = packet
                .fragment
                .is_some_and(|fragment| fragment.offset_octets > 0);
            // The protocol of a later IPv6 fragment may be unknown.
            return is_later
                && (is_udp || key.protocol.is_none())
                && self.pairs.contains(&(key.source, key.destination));
        };
        if is_udp
            && self
                .copies
                .contains(&(key.source, source, key.destination, destination))
        {
            return true;
        }
        let is_there = |endpoint: &OwnEndpoint, address: Address, port: u16| {
            endpoint.port == port
                && match endpoint.address {
                    Some(own) => own == address,
                    None => local.is_some_and(|local| local.contains(address)),
                }
        };
        self.endpoints.iter().any(|endpoint| {
            key.protocol == Some(endpoint.protocol)
                && (is_there(endpoint, key.source, source)
                    || is_there(endpoint, key.destination, destination))
        })
    }
}
