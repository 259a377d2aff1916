//! Traffic of the tap itself, which is never tapped: without this a criterion that matches its own copies would copy
//! them again and again.

mod proof;
mod tunnels;

use foldhash::fast::RandomState;
use hashbrown::HashSet;

pub use self::proof::{Unproven, prove};
pub use self::tunnels::OwnTunnel;
use self::tunnels::Tunnels;
use crate::decode::{Fragment, IpPacket, decode_packet};
use crate::frame::{Direction, Frame, LinkType};
use crate::local::LocalAddresses;
use crate::packet::{Address, PacketKey, Transport};
use crate::table::FilterTable;
use crate::wire::{ipv6, protocol};

/// Octets of an error message in front of what it quotes.
const ICMP_OCTETS: usize = 8;

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

impl OwnEndpoint {
    fn has(&self, address: Address, local: Option<&LocalAddresses>) -> bool {
        match self.address {
            Some(own) => own == address,
            None => local.is_some_and(|local| local.contains(address)),
        }
    }
}

/// Where copies come from that all leave through one socket, in place of the tasked sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSource {
    /// The address that the socket is bound to; None for whichever of this host's addresses the way goes out from.
    pub address: Option<Address>,
    /// The port.
    pub port: u16,
}

/// The packet that an error message is about, as far as it is quoted [RFC 792, RFC 4443 §3].
fn quoted<'a>(packet: &IpPacket<'a>) -> Option<IpPacket<'a>> {
    let Transport::Icmp { kind, .. } = packet.key.transport else {
        return None;
    };
    let octets = packet.octets;
    let (is_error, header_octets) = match packet.key.protocol {
        Some(protocol::ICMP) => {
            let words = usize::from(octets.first()? & 0x0f);
            (matches!(kind, 3 | 4 | 5 | 11 | 12), words * 4)
        }
        // Behind extension headers nobody looks: routers send these messages without any.
        Some(protocol::ICMPV6) if octets.get(6) == Some(&protocol::ICMPV6) => {
            (kind < 128, ipv6::HEADER_OCTETS)
        }
        _ => return None,
    };
    let data = octets.get(header_octets.checked_add(ICMP_OCTETS)?..)?;
    let frame = Frame {
        data,
        link_type: LinkType::Raw,
        timestamp_ns: 0,
        original_length_octets: u32::try_from(data.len()).ok()?,
        interface: 0,
        direction: Direction::Unknown,
    };
    is_error.then(|| decode_packet(&frame)).flatten()
}

/// What belongs to the tap: its control channels, the tunnels that it uses and, by the destinations of the present table,
/// its copies.
#[derive(Clone, Debug, Default)]
pub struct OwnTraffic {
    endpoints: Vec<OwnEndpoint>,
    tunnels: Tunnels,
    source: Option<OwnSource>,
    /// Addresses and ports of copies: source, destination.
    copies: HashSet<(Address, u16, Address, u16), RandomState>,
    /// The addresses alone: later fragments of long copies have no ports.
    pairs: HashSet<(Address, Address), RandomState>,
    /// Where copies go, for those that may come from any address of this host.
    targets: HashSet<(Address, u16), RandomState>,
    /// The addresses of these alone.
    hosts: HashSet<Address, RandomState>,
    /// Whether the kernel chooses the source port of some copies, because 0 was tasked.
    has_chosen_ports: bool,
}

impl OwnTraffic {
    /// With these control channels.
    pub fn new(endpoints: Vec<OwnEndpoint>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Tells that copies leave through one socket, with its source.
    #[must_use]
    pub fn sent_from(mut self, source: OwnSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Tells which tunnels begin on this host.
    #[must_use]
    pub fn through(mut self, tunnels: Vec<OwnTunnel>) -> Self {
        self.tunnels = Tunnels::new(tunnels);
        self
    }

    /// Learns where the copies of a table go.
    pub fn follow(&mut self, table: &FilterTable) {
        self.copies.clear();
        self.pairs.clear();
        self.targets.clear();
        self.hosts.clear();
        self.has_chosen_ports = table
            .destinations()
            .iter()
            .any(|destination| destination.source_port == 0);
        for destination in table.destinations() {
            let address = Address::from(destination.address);
            let tasked = (
                Address::from(destination.source_address),
                destination.source_port,
            );
            let given = match self.source {
                Some(OwnSource {
                    address: Some(source),
                    port,
                }) => Some((source, port)),
                Some(OwnSource { address: None, .. }) => {
                    self.targets.insert((address, destination.port));
                    self.hosts.insert(address);
                    None
                }
                None => None,
            };
            for (source, port) in std::iter::once(tasked).chain(given) {
                self.copies
                    .insert((source, port, address, destination.port));
                self.pairs.insert((source, address));
            }
        }
    }

    /// Whether copies may come from this address, because they come from any of this host's.
    fn may_send(&self, source: Address, local: Option<&LocalAddresses>) -> bool {
        !self.targets.is_empty() && local.is_some_and(|local| local.contains(source))
    }

    /// Whether a packet belongs to the tap, or says of one that does that it could not be delivered: whoever taps that copies
    /// an answer to his copy, whose copy is answered again.
    pub fn contains(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        self.has(packet, local)
            || quoted(packet).is_some_and(|quoted| {
                // An error goes to who has sent what it quotes. Anything else that quotes is somebody's who hides.
                quoted.key.source == packet.key.destination && self.has(&quoted, local)
            })
    }

    fn has(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        if !self.tunnels.is_empty() && self.tunnels.contain(packet, local) {
            return true;
        }
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
                && (self.pairs.contains(&(key.source, key.destination))
                    || self.may_send(key.source, local) && self.hosts.contains(&key.destination));
        };
        let is_copy = || {
            let tasked = (key.source, source, key.destination, destination);
            let is_port = || self.source.is_some_and(|own| own.port == source);
            let chosen = (key.source, 0, key.destination, destination);
            self.copies.contains(&tasked)
                || self.has_chosen_ports && self.copies.contains(&chosen)
                || self.may_send(key.source, local)
                    && is_port()
                    && self.targets.contains(&(key.destination, destination))
        };
        if is_udp && is_copy() {
            return true;
        }
        self.endpoints.iter().any(|endpoint| {
            key.protocol == Some(endpoint.protocol)
                && (endpoint.port == source && endpoint.has(key.source, local)
                    || endpoint.port == destination && endpoint.has(key.destination, local))
        })
    }

    /// Whether later fragments of a datagram that belongs to the tap tell so by themselves; otherwise they have to be known
    /// by their first.
    pub(crate) fn is_told_by_later(
        &self,
        first: &IpPacket<'_>,
        fragment: &Fragment,
        local: Option<&LocalAddresses>,
    ) -> bool {
        let later = IpPacket {
            key: PacketKey {
                transport: Transport::None,
                ..first.key
            },
            fragment: Some(Fragment {
                offset_octets: 8,
                ..*fragment
            }),
            ..*first
        };
        self.contains(&later, local)
    }

    /// Whether a later fragment may be of a datagram that belongs to the tap, which its first would tell.
    pub(crate) fn may_contain(&self, later: &PacketKey, local: Option<&LocalAddresses>) -> bool {
        self.endpoints.iter().any(|endpoint| {
            later
                .protocol
                .is_none_or(|protocol| protocol == endpoint.protocol)
                && (endpoint.has(later.source, local) || endpoint.has(later.destination, local))
        })
    }
}
