//! Traffic of the tunnels that copies leave through: the packets that carry it, and what is inside.
//!
//! Without this every copy that leaves by a tapped interface would be copied again, as the packet that carries it.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use crate::criteria::AddressSpace;
use crate::decode::IpPacket;
use crate::local::LocalAddresses;
use crate::packet::{Address, Transport};
use crate::wire::{ipv6, protocol};

/// IKE [RFC 7296 §2].
pub(super) const IKE_PORT: u16 = 500;
/// IKE and ESP where addresses are translated on the way, or are taken to be [RFC 3948 §2].
pub(super) const NAT_TRAVERSAL_PORT: u16 = 4500;
/// ESP [RFC 4303 §2].
pub(super) const ESP: u8 = 50;
/// AH [RFC 4302 §2].
pub(super) const AUTHENTICATION: u8 = ipv6::AUTHENTICATION;

/// A tunnel that begins on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTunnel {
    /// Where it begins; an address of this host, or of what translates its address.
    pub local_gateway: Address,
    /// Where it ends.
    pub remote_gateway: Address,
    /// What speaks through it on this side.
    pub local_networks: AddressSpace,
    /// What lies behind it.
    pub remote_networks: AddressSpace,
}

/// All tunnels of a tap.
#[derive(Clone, Debug, Default)]
pub(super) struct Tunnels {
    pub(super) all: Vec<OwnTunnel>,
    /// Both gateways of each, in either order.
    gateways: HashSet<(Address, Address), RandomState>,
}

impl Tunnels {
    pub(super) fn new(all: Vec<OwnTunnel>) -> Self {
        let mut gateways = HashSet::default();
        for tunnel in &all {
            gateways.insert((tunnel.local_gateway, tunnel.remote_gateway));
            gateways.insert((tunnel.remote_gateway, tunnel.local_gateway));
        }
        Self { all, gateways }
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a packet carries a tunnel or goes through one.
    #[inline(never)]
    pub(super) fn contain(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        self.carry(packet) || self.is_inside(packet, local)
    }

    /// Whether this is a packet of IPsec or IKE between the two ends of a tunnel.
    fn carry(&self, packet: &IpPacket<'_>) -> bool {
        let key = &packet.key;
        if !self.gateways.contains(&(key.source, key.destination)) {
            return false;
        }
        match (key.protocol, key.transport) {
            (
                Some(protocol::UDP),
                Transport::Ports {
                    source,
                    destination,
                },
            ) => [source, destination]
                .iter()
                .any(|port| [IKE_PORT, NAT_TRAVERSAL_PORT].contains(port)),
            // Later fragments have no ports, nor has what was cut off by a short capture; between these two it is the
            // tunnel's.
            (Some(ESP | AUTHENTICATION | protocol::UDP), _) => true,
            // The protocol of a later IPv6 fragment may be unknown.
            (None, _) if packet.fragment.is_some() => true,
            _ => has_authentication(packet),
        }
    }

    /// Whether this is a packet between this host and the other side of a tunnel: the kernel shows what it has decrypted
    /// once more on the interface on which it came. What others send there is nobody's own.
    fn is_inside(&self, packet: &IpPacket<'_>, local: Option<&LocalAddresses>) -> bool {
        let (source, destination) = (packet.key.source, packet.key.destination);
        let may_be = |address| local.is_none_or(|local| local.contains(address));
        let is_between = |here, there| {
            may_be(here)
                && self.all.iter().any(|tunnel| {
                    tunnel.local_networks.contains(here) && tunnel.remote_networks.contains(there)
                })
        };
        is_between(source, destination) || is_between(destination, source)
    }
}

/// Whether AH stands in front of what the IPv6 packet carries. The decoder walks through it, to what is authenticated.
fn has_authentication(packet: &IpPacket<'_>) -> bool {
    let next_header = |offset: usize| packet.octets.get(offset).copied();
    matches!(packet.key.source, Address::V6(_))
        && match next_header(6) {
            // [RFC 8200 §4.5]: the fragment header says what begins behind it.
            Some(ipv6::FRAGMENT) => next_header(ipv6::HEADER_OCTETS) == Some(AUTHENTICATION),
            first => first == Some(AUTHENTICATION),
        }
}
