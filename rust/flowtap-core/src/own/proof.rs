//! Proves that the tap's own traffic is excluded: frames of every kind that it can have, made from what it was told, go
//! through an engine whose criteria match everything.
//!
//! Frames beside them, between addresses that are nobody's, must match, or the proof would prove nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::OwnTraffic;
use super::tunnels::{AUTHENTICATION, ESP, IKE_PORT, NAT_TRAVERSAL_PORT};
use crate::batch::CopyBatch;
use crate::criteria::{Criteria, CriteriaText};
use crate::decode::InnerTunnels;
use crate::engine::{Engine, EngineOptions, Framing, Verdict};
use crate::frame::{Direction, Frame, LinkType};
use crate::local::LocalAddresses;
use crate::packet::Address;
use crate::table::{Entry, FilterTable, Scope, TableError};
use crate::wire::{ipv4, ipv6, protocol};

/// Most kinds of frames that a message names.
const NAMED_MAX: usize = 8;
/// The port of who is asked or answered; none that the tap listens on, as a rule.
const PEER_PORT: u16 = 40_000;
/// Where the data of the later fragment would be.
const LATER_OCTETS: u16 = 1_480;
const MORE_FRAGMENTS: u16 = 0x2000;
/// What a packet carries behind its header.
const PAYLOAD_OCTETS: usize = 24;

/// Own traffic that would be tapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// Frames that count as somebody else's.
    #[error("own traffic is not excluded from tapping: {}", list(.0))]
    NotExcluded(Vec<String>),
    /// Frames of others that are excluded as well, so that nothing is proven by what is.
    #[error("traffic of others is excluded from tapping as if it were own: {}", list(.0))]
    TooMuch(Vec<String>),
    /// The table's destinations do not fit into a table of their own: a defect.
    #[error("own traffic could not be tried: {0}")]
    Table(#[from] TableError),
}

fn list(kinds: &[String]) -> String {
    let named = kinds.get(..NAMED_MAX).unwrap_or(kinds);
    let more = match kinds.len() - named.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    named.join("; ") + &more
}

/// What part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    First,
    Later,
    Whole,
}

impl Part {
    /// In this order, because a later fragment may have to follow its first.
    const ALL: [Self; 3] = [Self::First, Self::Later, Self::Whole];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first fragment",
            Self::Later => "later fragment",
            Self::Whole => "whole",
        })
    }
}

/// What a packet carries, as far as it shows.
#[derive(Clone, Copy)]
struct Carried {
    protocol: u8,
    /// Source and destination; zeros where the protocol has none.
    ports: (u16, u16),
}

const fn carried(protocol: u8, source: u16, destination: u16) -> Carried {
    Carried {
        protocol,
        ports: (source, destination),
    }
}

/// Whose a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    /// The tap's, and anybody can make it up: what routers say of it proves nothing.
    AnybodysOwn,
    Others,
}

/// One frame to be tried.
struct Trial {
    kind: String,
    packet: Vec<u8>,
    is_own: bool,
}

/// The frames, as they are thought of.
#[derive(Default)]
struct Trials(Vec<Trial>);

impl Trials {
    /// All parts of a datagram; nothing for addresses of two families, which have none in common.
    fn add(&mut self, kind: &str, from: Address, to: Address, what: Carried, whose: Whose) {
        let is_own = whose != Whose::Others;
        for part in Part::ALL {
            if let Some(packet) = packet(from, to, what, part) {
                if is_own && part == Part::Whole {
                    self.error(kind, to, from, &packet, whose);
                }
                let kind = format!("{kind} ({part})");
                self.0.push(Trial {
                    kind,
                    packet,
                    is_own,
                });
            }
        }
    }

    /// What somebody on the way, and the other end, say of a packet that they could not deliver.
    fn error(
        &mut self,
        kind: &str,
        end: Address,
        sender: Address,
        undelivered: &[u8],
        whose: Whose,
    ) {
        for from in [nobody(sender, 3), end] {
            let (what, destination_unreachable) = match sender {
                Address::V4(_) => (carried(protocol::ICMP, 0, 0), 3),
                Address::V6(_) => (carried(protocol::ICMPV6, 0, 0), 1),
            };
            if let Some(mut packet) = packet(from, sender, what, Part::Whole) {
                let header_octets = packet.len().saturating_sub(PAYLOAD_OCTETS);
                packet.truncate(header_octets);
                packet.extend([destination_unreachable, 3, 0, 0, 0, 0, 0, 0]);
                packet.extend_from_slice(undelivered);
                let at = if matches!(sender, Address::V4(_)) {
                    2
                } else {
                    4
                };
                let counted = if at == 2 {
                    packet.len()
                } else {
                    packet.len() - header_octets
                };
                let length = u16::try_from(counted).unwrap_or(u16::MAX).to_be_bytes();
                packet.splice(at..at + 2, length);
                self.0.push(Trial {
                    kind: format!("an error about {kind}"),
                    packet,
                    is_own: whose == Whose::Own || from == end,
                });
            }
        }
    }

    fn own(&mut self, kind: &str, from: Address, to: Address, what: Carried) {
        self.add(kind, from, to, what, Whose::Own);
    }

    fn anybody_s_own(&mut self, kind: &str, from: Address, to: Address, what: Carried) {
        self.add(kind, from, to, what, Whose::AnybodysOwn);
    }

    fn others(&mut self, kind: &str, from: Address, to: Address, what: Carried) {
        self.add(kind, from, to, what, Whose::Others);
    }
}

/// An address that is nobody's [RFC 1112 §4, RFC 6666].
const fn nobody(like: Address, number: u8) -> Address {
    match like {
        Address::V4(_) => Address::V4(0xf000_0000 | number as u32),
        Address::V6(_) => Address::V6(0x0100 << 112 | number as u128),
    }
}

/// An IP packet without checksums, which nobody asks for here.
fn packet(from: Address, to: Address, what: Carried, part: Part) -> Option<Vec<u8>> {
    let mut payload = vec![0; PAYLOAD_OCTETS];
    if part != Part::Later {
        let ports = [what.ports.0.to_be_bytes(), what.ports.1.to_be_bytes()].concat();
        payload.splice(..4, ports);
    }
    let (offset, more) = match part {
        Part::First => (0, true),
        Part::Later => (LATER_OCTETS, false),
        Part::Whole => (0, false),
    };
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::new();
    match (from, to) {
        (Address::V4(from), Address::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend(short(ipv4::MINIMUM_HEADER_OCTETS + payload.len()));
            packet.extend([0, 7]);
            let more = if more { MORE_FRAGMENTS } else { 0 };
            packet.extend((more | (offset / 8)).to_be_bytes());
            packet.extend([64, what.protocol, 0, 0]);
            packet.extend(from.to_be_bytes());
            packet.extend(to.to_be_bytes());
        }
        (Address::V6(from), Address::V6(to)) => {
            let fragment = [
                [what.protocol, 0],
                (offset | u16::from(more)).to_be_bytes(),
                [0, 0],
                [0, 7],
            ];
            let is_part = part != Part::Whole;
            if is_part {
                payload.splice(..0, fragment.concat());
            }
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(short(payload.len()));
            packet.extend([
                if is_part {
                    ipv6::FRAGMENT
                } else {
                    what.protocol
                },
                64,
            ]);
            packet.extend(from.to_be_bytes());
            packet.extend(to.to_be_bytes());
        }
        _ => return None,
    }
    packet.extend(payload);
    Some(packet)
}

/// Tries every kind of own traffic that can be had with this table, and returns how many frames were tried.
///
/// # Errors
/// [`Unproven`]: some would be tapped, or so much is excluded that nothing is proven.
pub fn prove(
    own: &OwnTraffic,
    table: &FilterTable,
    local: Option<&Arc<LocalAddresses>>,
    inner: InnerTunnels,
) -> Result<usize, Unproven> {
    let trials = trials(own, table, local.map(Arc::as_ref));
    let (mut tapped, mut missed) = (Vec::new(), Vec::new());
    for circuit in [false, true] {
        let mut engine = engine(table, circuit, inner)?;
        if let Some(local) = local {
            engine.set_local_addresses(Arc::clone(local));
        }
        engine.set_own_traffic(own.clone());
        engine.ask_any_way();
        for trial in &trials {
            match (trial.is_own, verdict(&mut engine, &trial.packet)) {
                (true, Verdict::Own) | (false, Verdict::Matched) => {}
                (true, _) => tapped.push(trial.kind.clone()),
                (false, _) => missed.push(trial.kind.clone()),
            }
        }
    }
    for kinds in [&mut tapped, &mut missed] {
        kinds.sort_unstable();
        kinds.dedup();
    }
    if !tapped.is_empty() {
        return Err(Unproven::NotExcluded(tapped));
    }
    if !missed.is_empty() {
        return Err(Unproven::TooMuch(missed));
    }
    Ok(trials.len())
}

/// An engine with one criterion that matches everything, by packets or by whole frames.
fn engine(table: &FilterTable, circuit: bool, inner: InnerTunnels) -> Result<Engine, TableError> {
    let scope = Scope {
        circuit,
        ..Scope::default()
    };
    // Without any field nothing can be wrong with it.
    let everything = Criteria::parse(&CriteriaText::default())
        .into_iter()
        .map(|criteria| Entry {
            scope: scope.clone(),
            ..Entry::new(1, criteria)
        });
    let table = FilterTable::compile(everything.collect(), table.destinations().to_vec())?;
    let options = EngineOptions {
        framing: Framing::Count,
        inner,
        ..EngineOptions::default()
    };
    Ok(Engine::new(Arc::new(table), options))
}

fn verdict(engine: &mut Engine, packet: &[u8]) -> Verdict {
    let frame = Frame {
        data: packet,
        link_type: LinkType::Raw,
        timestamp_ns: 0,
        original_length_octets: u32::try_from(packet.len()).unwrap_or(u32::MAX),
        interface: 0,
        direction: Direction::Unknown,
    };
    engine.process(&frame, 0, &mut CopyBatch::new(), &mut ())
}

fn trials(own: &OwnTraffic, table: &FilterTable, local: Option<&LocalAddresses>) -> Vec<Trial> {
    let mut trials = Trials::default();
    for_tunnels(&mut trials, own, local);
    for_copies(&mut trials, own, table, local);
    for_endpoints(&mut trials, own, local);
    for like in [Address::V4(0), Address::V6(0)] {
        let (one, other) = (nobody(like, 1), nobody(like, 2));
        trials.others("ESP of others", one, other, carried(ESP, 0, 0));
        let udp = carried(protocol::UDP, IKE_PORT, IKE_PORT);
        trials.others("IKE of others", one, other, udp);
    }
    trials.0
}

fn for_tunnels(trials: &mut Trials, own: &OwnTraffic, local: Option<&LocalAddresses>) {
    let outside = [
        ("ESP", carried(ESP, 0, 0)),
        ("AH", carried(AUTHENTICATION, 0, 0)),
        ("IKE", carried(protocol::UDP, IKE_PORT, IKE_PORT)),
        (
            "NAT traversal",
            carried(protocol::UDP, NAT_TRAVERSAL_PORT, NAT_TRAVERSAL_PORT),
        ),
        (
            "NAT traversal to a translated port",
            carried(protocol::UDP, NAT_TRAVERSAL_PORT, PEER_PORT),
        ),
        (
            "NAT traversal from a translated port",
            carried(protocol::UDP, PEER_PORT, NAT_TRAVERSAL_PORT),
        ),
    ];
    let inside = [
        ("UDP", carried(protocol::UDP, PEER_PORT, PEER_PORT)),
        ("TCP", carried(protocol::TCP, PEER_PORT, PEER_PORT)),
        ("ICMP", carried(protocol::ICMP, 0, 0)),
        ("ICMPv6", carried(protocol::ICMPV6, 0, 0)),
    ];
    for tunnel in &own.tunnels.all {
        let (here, there) = (tunnel.local_gateway, tunnel.remote_gateway);
        let end = IpAddr::from(there);
        for (name, what) in outside {
            let kind = format!("{name} of the tunnel to {end}");
            trials.own(&format!("{kind}, outbound"), here, there, what);
            trials.own(&format!("{kind}, inbound"), there, here, what);
        }
        let kind = format!("ESP of others to the gateway {end}");
        trials.others(&kind, nobody(there, 1), there, carried(ESP, 0, 0));
        // Where nothing is known of this host, any address of its side may be its own.
        let speakers: Vec<Address> = match local {
            Some(local) => local
                .iter()
                .filter(|&address| tunnel.local_networks.contains(address))
                .collect(),
            None => tunnel.local_networks.lowest().collect(),
        };
        for behind in tunnel.remote_networks.lowest() {
            for &speaker in &speakers {
                for (name, what) in inside {
                    let kind = format!("{name} through the tunnel to {end}");
                    trials.own(&format!("{kind}, outbound"), speaker, behind, what);
                    trials.own(&format!("{kind}, inbound"), behind, speaker, what);
                }
            }
            let kind = format!("UDP of others to what lies behind {end}");
            let udp = carried(protocol::UDP, PEER_PORT, PEER_PORT);
            trials.others(&kind, nobody(behind, 1), behind, udp);
        }
    }
}

fn for_copies(
    trials: &mut Trials,
    own: &OwnTraffic,
    table: &FilterTable,
    local: Option<&LocalAddresses>,
) {
    // Through a socket that is bound to no address copies leave from any of this host's.
    let given: Vec<(Address, u16)> = own.source.map_or_else(Vec::new, |source| {
        let any = local.into_iter().flat_map(LocalAddresses::iter);
        let addresses = source
            .address
            .map_or_else(|| any.collect(), |one| vec![one]);
        addresses
            .into_iter()
            .map(|each| (each, source.port))
            .collect()
    });
    for destination in table.destinations() {
        let port = match destination.source_port {
            // The kernel chooses.
            0 => PEER_PORT,
            port => port,
        };
        let tasked = (Address::from(destination.source_address), port);
        for &(source, port) in std::iter::once(&tasked).chain(&given) {
            let kind = format!("copies to content destination {}", destination.id);
            let udp = carried(protocol::UDP, port, destination.port);
            trials.own(&kind, source, destination.address.into(), udp);
        }
    }
}

fn for_endpoints(trials: &mut Trials, own: &OwnTraffic, local: Option<&LocalAddresses>) {
    for endpoint in &own.endpoints {
        let addresses: Vec<Address> = match endpoint.address {
            Some(address) => vec![address],
            None => local.into_iter().flat_map(LocalAddresses::iter).collect(),
        };
        for address in addresses {
            let peer = nobody(address, 1);
            let name = match endpoint.protocol {
                protocol::TCP => "TCP".to_owned(),
                protocol::UDP => "UDP".to_owned(),
                other => format!("protocol {other}"),
            };
            let kind = format!("{name} port {}", endpoint.port);
            let inbound = carried(endpoint.protocol, PEER_PORT, endpoint.port);
            trials.anybody_s_own(&format!("{kind}, inbound"), peer, address, inbound);
            let outbound = carried(endpoint.protocol, endpoint.port, PEER_PORT);
            trials.own(&format!("{kind}, outbound"), address, peer, outbound);
        }
    }
}
