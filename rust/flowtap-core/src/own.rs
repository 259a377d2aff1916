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

/// How long copies of a table that is gone may be on the way: as long as fragments wait, and some time for the ring.
const EARLIER_NS: u64 = 35_000_000_000;
/// Tables that went within so long are one, so that it is no matter how many do.
const SLICE_NS: u64 = 5_000_000_000;
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

/// Copies, by the destinations of one table.
#[derive(Clone, Debug, Default)]
struct Copies {
    /// Addresses and ports: source, destination.
    tuples: HashSet<(Address, u16, Address, u16), RandomState>,
    /// The addresses alone: later fragments of long copies have no ports.
    pairs: HashSet<(Address, Address), RandomState>,
    /// Where those go that may come from any address of this host.
    targets: HashSet<(Address, u16), RandomState>,
    /// The addresses of these alone.
    hosts: HashSet<Address, RandomState>,
    /// Whether the kernel chooses the source port of some, because 0 was tasked.
    has_chosen_ports: bool,
}

impl Copies {
    fn of(table: &FilterTable, source: Option<OwnSource>) -> Self {
        let mut copies = Self::default();
        for destination in table.destinations() {
            let address = Address::from(destination.address);
            let tasked = (
                Address::from(destination.source_address),
                destination.source_port,
            );
            copies.has_chosen_ports |= destination.source_port == 0;
            let given = match source {
                Some(OwnSource {
                    address: Some(source),
                    port,
                }) => Some((source, port)),
                Some(OwnSource { address: None, .. }) => {
                    copies.targets.insert((address, destination.port));
                    copies.hosts.insert(address);
                    None
                }
                None => None,
            };
            for (source, port) in std::iter::once(tasked).chain(given) {
                copies
                    .tuples
                    .insert((source, port, address, destination.port));
                copies.pairs.insert((source, address));
            }
        }
        copies
    }

    fn is_part_of(&self, other: &Self) -> bool {
        self.tuples.is_subset(&other.tuples) && self.targets.is_subset(&other.targets)
    }

    /// Takes in what another table had.
    fn unite(&mut self, other: Self) {
        self.tuples.extend(other.tuples);
        self.pairs.extend(other.pairs);
        self.targets.extend(other.targets);
        self.hosts.extend(other.hosts);
        self.has_chosen_ports |= other.has_chosen_ports;
    }

    /// Whether copies may come from this address, because they come from any of this host's.
    fn may_come_from(&self, source: Address, local: Option<&LocalAddresses>) -> bool {
        !self.targets.is_empty() && local.is_some_and(|local| local.contains(source))
    }

    fn may_have_later(&self, key: &PacketKey, local: Option<&LocalAddresses>) -> bool {
        self.pairs.contains(&(key.source, key.destination))
            || self.may_come_from(key.source, local) && self.hosts.contains(&key.destination)
    }

    /// Whether a UDP datagram is one of them; `own_port` is that of the socket that all leave through.
    fn have(
        &self,
        key: &PacketKey,
        (source, destination): (u16, u16),
        own_port: Option<u16>,
        local: Option<&LocalAddresses>,
    ) -> bool {
        let tasked = (key.source, source, key.destination, destination);
        let chosen = (key.source, 0, key.destination, destination);
        self.tuples.contains(&tasked)
            || self.has_chosen_ports && self.tuples.contains(&chosen)
            || self.may_come_from(key.source, local)
                && own_port == Some(source)
                && self.targets.contains(&(key.destination, destination))
    }
}

/// Copies of tables that are gone.
#[derive(Clone, Debug)]
struct Earlier {
    copies: Copies,
    /// When the first of them went; None before anybody has told the time.
    since_ns: Option<u64>,
    /// Whether others that go belong to the next slice.
    is_over: bool,
}

/// What belongs to the tap: its control channels, the tunnels that it uses and, by the destinations of the present table,
/// its copies. Those of tables that are gone are its own for a while, because some are still on the way when a destination
/// leaves the table: in the ring, at another worker, in pieces, or quoted by who could not deliver them.
#[derive(Clone, Debug, Default)]
pub struct OwnTraffic {
    endpoints: Vec<OwnEndpoint>,
    tunnels: Tunnels,
    source: Option<OwnSource>,
    copies: Copies,
    earlier: Vec<Earlier>,
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
        let copies = Copies::of(table, self.source);
        let before = std::mem::replace(&mut self.copies, copies);
        if before.is_part_of(&self.copies) {
            return;
        }
        match self.earlier.last_mut() {
            Some(last) if !last.is_over => last.copies.unite(before),
            _ => self.earlier.push(Earlier {
                copies: before,
                since_ns: None,
                is_over: false,
            }),
        }
    }

    /// Forgets copies of tables that are gone for long enough.
    pub(crate) fn pass_time(&mut self, now_ns: u64) {
        self.earlier.retain_mut(|earlier| {
            let since_ns = *earlier.since_ns.get_or_insert(now_ns);
            let age_ns = now_ns.saturating_sub(since_ns);
            earlier.is_over |= age_ns >= SLICE_NS;
            age_ns < SLICE_NS + EARLIER_NS
        });
    }

    fn all_copies(&self) -> impl Iterator<Item = &Copies> {
        let earlier = self.earlier.iter().map(|earlier| &earlier.copies);
        std::iter::once(&self.copies).chain(earlier)
    }

    /// Whether a packet belongs to the tap, or says of one that does that it could not be delivered: whoever taps that copies
    /// an answer to his copy, whose copy is answered again.
    pub fn contains(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        self.has(packet, local)
            || quoted(packet).is_some_and(|quoted| {
                // An error goes to who has sent what it quotes. Anything else that quotes is somebody's who hides. Whoever
                // may write to a control channel has an error about that from this host alone: anybody can quote it.
                quoted.key.source == packet.key.destination
                    && (self.sends(&quoted, local)
                        || quoted.key.destination == packet.key.source
                            && self.receives(&quoted, local))
            })
    }

    fn has(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        self.sends(packet, local) || self.receives(packet, local)
    }

    /// Whether a packet is one to a control channel.
    fn receives(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        let key = &packet.key;
        let Transport::Ports { destination, .. } = key.transport else {
            return false;
        };
        self.endpoints.iter().any(|endpoint| {
            key.protocol == Some(endpoint.protocol)
                && endpoint.port == destination
                && endpoint.has(key.destination, local)
        })
    }

    /// Whether a packet is a copy, from a control channel, or a tunnel's.
    fn sends(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
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
                && self
                    .all_copies()
                    .any(|copies| copies.may_have_later(key, local));
        };
        let own_port = self.source.map(|own| own.port);
        let ports = (source, destination);
        let mut copies = self.all_copies();
        if is_udp && copies.any(|copies| copies.have(key, ports, own_port, local)) {
            return true;
        }
        self.endpoints.iter().any(|endpoint| {
            key.protocol == Some(endpoint.protocol)
                && endpoint.port == source
                && endpoint.has(key.source, local)
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
