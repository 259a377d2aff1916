//! Packets inside tunnels, for criteria that ask for them.

use super::{IpPacket, MAXIMUM_IP_LAYERS, Outer, Rest, outer_at, walk_upper};
use crate::frame::{Frame, LinkType};
use crate::wire::{ether_type, gtpu, protocol, u16_at, vxlan};

/// Tunnels whose inner packets are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InnerTunnels {
    /// GRE, with an IP packet or an Ethernet frame inside.
    pub gre: bool,
    /// VXLAN on its UDP port.
    pub vxlan: bool,
    /// GTP-U on its UDP port.
    pub gtpu: bool,
    /// IPv4 or IPv6 in either.
    pub ipip: bool,
}

impl InnerTunnels {
    /// Every tunnel that can be followed.
    pub const ALL: Self = Self {
        gre: true,
        vxlan: true,
        gtpu: true,
        ipip: true,
    };

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        !(self.gre || self.vxlan || self.gtpu || self.ipip)
    }
}

/// A frame's outermost packet, where it can be one of these tunnels; None is certain.
#[inline]
pub(crate) fn tunnel_in<'a>(frame: &Frame<'a>, tunnels: InnerTunnels) -> Option<Outer<'a>> {
    if tunnels.is_empty() || is_plain(frame) {
        return None;
    }
    Outer::of(frame).filter(|outer| outer.may_carry(tunnels))
}

/// Whether a glance tells that this is no tunnel: the most frequent frames, whole IPv4 packets right behind the Ethernet
/// header, do not have to be decoded for it.
#[inline]
fn is_plain(frame: &Frame<'_>) -> bool {
    // Both headers without options, and two ports.
    let (LinkType::Ethernet, Some(octets)) = (frame.link_type, frame.data.first_chunk::<38>())
    else {
        return false;
    };
    let is_whole_ipv4 = u16_at(octets, 12) == Some(ether_type::IPV4)
        && octets.get(14) == Some(&0x45)
        && u16_at(octets, 20).is_some_and(|fragment| fragment << 2 == 0);
    let ports = (u16_at(octets, 34), u16_at(octets, 36));
    is_whole_ipv4
        && match octets.get(23) {
            Some(&(protocol::TCP | protocol::ICMP)) => true,
            Some(&protocol::UDP) => {
                ports.1 != Some(vxlan::PORT)
                    && ports.1 != Some(gtpu::PORT)
                    && ports.0 != Some(gtpu::PORT)
            }
            _ => false,
        }
}

impl<'a> Outer<'a> {
    /// Whether this can be a packet of these tunnels; false is certain. A fragment is one by its protocol alone, because
    /// whoever reads the first of a datagram must know all the others, and they do not show their ports.
    #[inline]
    pub fn may_carry(&self, tunnels: InnerTunnels) -> bool {
        let (protocol, fragment, upper_offset) = match self.rest {
            Rest::V4 {
                header_octets,
                protocol,
                fragment,
            } => (Some(protocol), fragment, header_octets),
            Rest::V6 {
                next_header: protocol::TCP | protocol::ICMPV6 | protocol::SCTP,
            } => return false,
            Rest::V6 { .. } => {
                let (packet, upper_offset, _) = self.upper();
                (packet.key.protocol, packet.fragment, upper_offset)
            }
        };
        let is_part = fragment.is_some_and(|fragment| !fragment.is_atomic());
        match protocol {
            Some(protocol::GRE) => tunnels.gre,
            Some(protocol::IPV4 | protocol::IPV6) => tunnels.ipip,
            Some(protocol::UDP) => {
                let has_port = |offset: usize, port| {
                    u16_at(self.octets, upper_offset.saturating_add(offset)) == Some(port)
                };
                (tunnels.vxlan && (is_part || has_port(2, vxlan::PORT)))
                    || (tunnels.gtpu
                        && (is_part || has_port(2, gtpu::PORT) || has_port(0, gtpu::PORT)))
            }
            Some(_) => false,
            // Behind the first fragment's further headers there may be anything.
            None => is_part,
        }
    }

    /// The IP packets inside this one, each inside the one before, as far as only these tunnels lead and no deeper than
    /// [`super::decode`] goes. `frame` is the frame that the packet was found in.
    pub fn inner_packets(&self, frame: &Frame<'a>, tunnels: InnerTunnels) -> InnerPackets<'a> {
        let (packet, upper_offset, stop) = self.upper();
        InnerPackets {
            frame: *frame,
            tunnels,
            packet,
            upper_offset,
            left: if stop.is_some() {
                0
            } else {
                MAXIMUM_IP_LAYERS - 1
            },
        }
    }
}

/// Walks from an IP packet into those that it carries.
#[derive(Clone, Debug)]
pub struct InnerPackets<'a> {
    frame: Frame<'a>,
    tunnels: InnerTunnels,
    packet: IpPacket<'a>,
    upper_offset: usize,
    /// Layers that may still be entered.
    left: usize,
}

impl<'a> Iterator for InnerPackets<'a> {
    type Item = IpPacket<'a>;

    fn next(&mut self) -> Option<IpPacket<'a>> {
        self.left = self.left.checked_sub(1)?;
        let reached = walk_upper(
            self.frame.data,
            &self.packet,
            self.upper_offset,
            self.tunnels,
            &mut (),
        );
        let inner = reached.and_then(|reached| outer_at(&self.frame, reached, &mut ()));
        let Some(inner) = inner else {
            self.left = 0;
            return None;
        };
        let (packet, upper_offset, stop) = inner.upper();
        if stop.is_some() {
            self.left = 0;
        }
        (self.packet, self.upper_offset) = (packet, upper_offset);
        Some(packet)
    }
}
