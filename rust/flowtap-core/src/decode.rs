//! From a frame to its outermost IP packet, and on to every layer that can be read.
//!
//! Two ways through the same walk: [`Outer::of`] and [`Outer::packet`] do what matching needs and nothing else;
//! [`decode`] records every layer, inner ones too, and where and why it stopped. Both are lax and total: whatever the
//! octets are, the answer is what could be read of them. They stand in one file, long as it is, because they must read
//! every header in the same way.

mod inner;

pub(crate) use self::inner::tunnel_in;
pub use self::inner::{InnerPackets, InnerTunnels};
use crate::frame::{Frame, LinkType};
use crate::packet::{Address, PacketKey, Transport};
pub use crate::wire::StopReason;
use crate::wire::ethernet::{self, Ethernet, Tag};
use crate::wire::gre::Gre;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{Chain, Ipv6};
use crate::wire::mpls::{self, LabelStackEntry};
use crate::wire::pppoe::{self, Pppoe};
use crate::wire::{cooked, ether_type, gtpu, loopback, protocol, transport, vxlan};

/// VLAN tags followed in front of one packet.
pub const MAXIMUM_TAGS: usize = 8;
/// MPLS labels followed in front of one packet.
pub const MAXIMUM_LABELS: usize = 16;
/// IP headers, the outermost included, that [`decode`] follows in one frame.
pub const MAXIMUM_IP_LAYERS: usize = 8;

/// The kinds of layers that the decoder tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "every name is the protocol's own")]
pub enum LayerKind {
    Ethernet,
    Vlan,
    Mpls,
    Pppoe,
    Sll,
    Sll2,
    Raw,
    Null,
    Ipv4,
    Ipv6,
    Gre,
    Vxlan,
    Gtpu,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

impl LayerKind {
    /// The stable name, as `explain` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::Vlan => "vlan",
            Self::Mpls => "mpls",
            Self::Pppoe => "pppoe",
            Self::Sll => "sll",
            Self::Sll2 => "sll2",
            Self::Raw => "raw",
            Self::Null => "null",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Gre => "gre",
            Self::Vxlan => "vxlan",
            Self::Gtpu => "gtpu",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
        }
    }
}

/// One layer and where it begins, in octets from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is.
    pub kind: LayerKind,
    /// Where it begins.
    pub offset: usize,
}

/// Where and why the decoder went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The last layer that was entered.
    pub layer: LayerKind,
    /// Why its payload, or the rest of its header, could not be read.
    pub reason: StopReason,
    /// Where in the frame.
    pub offset: usize,
}

/// What says that a packet is a fragment, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Offset of this fragment's data in octets.
    pub offset_octets: u32,
    /// More fragments follow.
    pub more: bool,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub identification: u32,
    /// The protocol of the datagram, where this fragment names it.
    pub protocol: Option<u8>,
}

impl Fragment {
    /// Whether the packet carries the whole datagram after all (RFC 6946).
    pub const fn is_atomic(&self) -> bool {
        self.offset_octets == 0 && !self.more
    }
}

/// The outermost IP packet of a frame, before its extension headers and transport were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    /// From the IP header to the end of the packet as captured; padding of the link is cut off.
    pub octets: &'a [u8],
    /// Where the IP header begins in the frame.
    pub offset: usize,
    /// Length of the packet on the wire, from its header; from the frame's where the header leaves it open.
    pub total_length_octets: u32,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    rest: Rest,
}

/// What the header said beyond addresses and lengths.
#[derive(Clone, Copy, Debug)]
enum Rest {
    V4 {
        header_octets: usize,
        protocol: u8,
        fragment: Option<Fragment>,
    },
    V6 {
        next_header: u8,
    },
}

/// The outermost IP packet of a frame, as criteria see it.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    /// From the IP header to the end of the packet as captured; padding of the link is cut off.
    pub octets: &'a [u8],
    /// Where the IP header begins in the frame.
    pub offset: usize,
    /// Length of the packet on the wire, from its header; from the frame's where the header leaves it open.
    pub total_length_octets: u32,
    /// What criteria match.
    pub key: PacketKey,
    /// Set for fragments, atomic ones too.
    pub fragment: Option<Fragment>,
}

/// Everything that could be read of one frame.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    /// Layers in the order in which they were entered.
    pub layers: Vec<Layer>,
    /// VLAN identifiers, outermost first.
    pub vlan_ids: Vec<u16>,
    /// MPLS labels, outermost first.
    pub mpls_labels: Vec<u32>,
    /// The outermost IP packet.
    pub ip: Option<IpPacket<'a>>,
    /// Why there is no more; None where a transport header was reached and whole.
    pub stop: Option<Stop>,
}

/// Receives what the walk meets; the empty one costs nothing.
trait Trace {
    fn layer(&mut self, _kind: LayerKind, _offset: usize) {}
    fn vlan_id(&mut self, _id: u16) {}
    fn mpls_label(&mut self, _label: u32) {}
    fn stop(&mut self, _reason: StopReason, _offset: usize) {}
}

impl Trace for () {}

/// What lies under the tags, labels and sessions: where the IP header is and how far its packet can go.
#[derive(Clone, Copy)]
struct Reached {
    offset: usize,
    end: usize,
    is_ipv6: bool,
}

/// The octets from `offset` to `end`, empty where there are none.
#[inline]
fn part(data: &[u8], offset: usize, end: usize) -> &[u8] {
    data.get(offset..end.min(data.len())).unwrap_or_default()
}

/// Whether the packet that begins at `offset` is IPv6, by its version nibble; None for neither.
fn version_at(data: &[u8], offset: usize, end: usize) -> Result<bool, StopReason> {
    match part(data, offset, end).first().map(|first| first >> 4) {
        Some(4) => Ok(false),
        Some(6) => Ok(true),
        Some(_) => Err(StopReason::Unknown),
        None => Err(StopReason::Truncated),
    }
}

/// Walks tags, labels and sessions from `ether_type` at `offset` on to an IP header. A GRE payload may also be
/// an Ethernet frame.
#[inline]
fn walk_ether_type<T: Trace>(
    data: &[u8],
    mut ether_type: u16,
    mut offset: usize,
    mut end: usize,
    trace: &mut T,
) -> Option<Reached> {
    let mut tags = 0;
    let mut sessions = 0;
    loop {
        let here = part(data, offset, end);
        let failed = match ether_type {
            ether_type::IPV4 | ether_type::IPV6 => {
                return Some(Reached {
                    offset,
                    end,
                    is_ipv6: ether_type == ether_type::IPV6,
                });
            }
            ether_type::VLAN
            | ether_type::SERVICE_VLAN
            | ether_type::OLD_SERVICE_VLAN
            | ether_type::OLD_SERVICE_VLAN_2 => {
                trace.layer(LayerKind::Vlan, offset);
                match Tag::parse(here) {
                    Ok(_) if tags == MAXIMUM_TAGS => StopReason::Limit,
                    Ok(tag) => {
                        trace.vlan_id(tag.vlan_id);
                        tags += 1;
                        offset += ethernet::TAG_OCTETS;
                        ether_type = tag.ether_type;
                        continue;
                    }
                    Err(reason) => reason,
                }
            }
            ether_type::MPLS | ether_type::MPLS_UPSTREAM => {
                return walk_labels(data, offset, end, trace);
            }
            ether_type::PPPOE_SESSION => {
                trace.layer(LayerKind::Pppoe, offset);
                match Pppoe::parse(here) {
                    Ok(_) if sessions == MAXIMUM_TAGS => StopReason::Limit,
                    Ok(session) => {
                        sessions += 1;
                        offset += pppoe::HEADER_OCTETS;
                        end = end.min(offset + session.payload_octets);
                        ether_type = session.ether_type;
                        continue;
                    }
                    Err(reason) => reason,
                }
            }
            _ => StopReason::Unknown,
        };
        trace.stop(failed, offset);
        return None;
    }
}

/// Walks a label stack; what follows it shows in its first nibble.
fn walk_labels<T: Trace>(
    data: &[u8],
    mut offset: usize,
    end: usize,
    trace: &mut T,
) -> Option<Reached> {
    for _ in 0..MAXIMUM_LABELS {
        trace.layer(LayerKind::Mpls, offset);
        match LabelStackEntry::parse(part(data, offset, end)) {
            Ok(entry) => {
                trace.mpls_label(entry.label);
                offset += mpls::ENTRY_OCTETS;
                if entry.bottom {
                    return match version_at(data, offset, end) {
                        Ok(is_ipv6) => Some(Reached {
                            offset,
                            end,
                            is_ipv6,
                        }),
                        Err(reason) => {
                            trace.stop(reason, offset);
                            None
                        }
                    };
                }
            }
            Err(reason) => {
                trace.stop(reason, offset);
                return None;
            }
        }
    }
    trace.stop(StopReason::Limit, offset);
    None
}

/// Walks an Ethernet frame that begins at `offset`.
#[inline]
fn walk_ethernet<T: Trace>(
    data: &[u8],
    offset: usize,
    end: usize,
    trace: &mut T,
) -> Option<Reached> {
    trace.layer(LayerKind::Ethernet, offset);
    match Ethernet::parse(part(data, offset, end)) {
        Ok(header) => walk_ether_type(
            data,
            header.ether_type,
            offset + header.header_octets,
            end,
            trace,
        ),
        Err(reason) => {
            trace.stop(reason, offset);
            None
        }
    }
}

/// Walks from the start of a frame to its outermost IP header.
#[inline]
fn walk_link<T: Trace>(frame: &Frame<'_>, trace: &mut T) -> Option<Reached> {
    let data = frame.data;
    let end = data.len();
    if frame.link_type == LinkType::Ethernet {
        return walk_ethernet(data, 0, end, trace);
    }
    let (kind, found) = match frame.link_type {
        LinkType::Raw | LinkType::Ipv4 | LinkType::Ipv6 => {
            trace.layer(LayerKind::Raw, 0);
            let is_ipv6 = match frame.link_type {
                LinkType::Ipv4 => Ok(false),
                LinkType::Ipv6 => Ok(true),
                _ => version_at(data, 0, end),
            };
            return match is_ipv6 {
                Ok(is_ipv6) => Some(Reached {
                    offset: 0,
                    end,
                    is_ipv6,
                }),
                Err(reason) => {
                    trace.stop(reason, 0);
                    None
                }
            };
        }
        LinkType::LinuxCooked => (
            LayerKind::Sll,
            cooked::v1_ether_type(data).map(|found| (found, cooked::V1_OCTETS)),
        ),
        LinkType::LinuxCooked2 => (
            LayerKind::Sll2,
            cooked::v2_ether_type(data).map(|found| (found, cooked::V2_OCTETS)),
        ),
        LinkType::Null | LinkType::Loop => (
            LayerKind::Null,
            loopback::ether_type_of(data).map(|found| (found, loopback::HEADER_OCTETS)),
        ),
        // Nothing is known of the octets, so there is no layer to name either.
        LinkType::Ethernet | LinkType::Other(_) => return None,
    };
    trace.layer(kind, 0);
    match found {
        Ok((ether_type, offset)) => walk_ether_type(data, ether_type, offset, end, trace),
        Err(reason) => {
            trace.stop(reason, 0);
            None
        }
    }
}

/// Reads the IP header that the walk reached.
#[inline]
fn outer_at<'a, T: Trace>(frame: &Frame<'a>, reached: Reached, trace: &mut T) -> Option<Outer<'a>> {
    let Reached {
        offset,
        end,
        is_ipv6,
    } = reached;
    let here = part(frame.data, offset, end);
    let (said, source, destination, rest) = if is_ipv6 {
        trace.layer(LayerKind::Ipv6, offset);
        match Ipv6::parse(here) {
            Ok(header) => (
                header.total_length_octets(),
                Address::V6(header.source),
                Address::V6(header.destination),
                Rest::V6 {
                    next_header: header.next_header,
                },
            ),
            Err(reason) => {
                trace.stop(reason, offset);
                return None;
            }
        }
    } else {
        trace.layer(LayerKind::Ipv4, offset);
        match Ipv4::parse(here) {
            Ok(header) => {
                let is_fragment = header.more_fragments || header.fragment_offset_octets != 0;
                let fragment = is_fragment.then_some(Fragment {
                    offset_octets: header.fragment_offset_octets,
                    more: header.more_fragments,
                    identification: u32::from(header.identification),
                    protocol: Some(header.protocol),
                });
                (
                    (header.total_length_octets != 0)
                        .then_some(usize::from(header.total_length_octets)),
                    Address::V4(header.source),
                    Address::V4(header.destination),
                    Rest::V4 {
                        header_octets: header.header_octets,
                        protocol: header.protocol,
                        fragment,
                    },
                )
            }
            Err(reason) => {
                trace.stop(reason, offset);
                return None;
            }
        }
    };
    let (octets, total_length_octets) = if let Some(said) = said {
        (
            here.get(..said).unwrap_or(here),
            u32::try_from(said).unwrap_or(u32::MAX),
        )
    } else {
        let in_front = u32::try_from(offset).unwrap_or(u32::MAX);
        let on_wire = frame.original_length_octets.saturating_sub(in_front);
        (
            here,
            on_wire.max(u32::try_from(here.len()).unwrap_or(u32::MAX)),
        )
    };
    Some(Outer {
        octets,
        offset,
        total_length_octets,
        source,
        destination,
        rest,
    })
}

impl<'a> Outer<'a> {
    /// Finds the outermost IP packet; None for a frame that holds none that can be read (such a frame counts as
    /// undecodable).
    #[inline]
    pub fn of(frame: &Frame<'a>) -> Option<Self> {
        outer_at(frame, walk_link(frame, &mut ())?, &mut ())
    }

    /// Looks at extension headers and transport as well.
    #[inline]
    pub fn packet(&self) -> IpPacket<'a> {
        self.upper().0
    }

    /// The packet, where its upper layer begins, and why an extension header chain broke off.
    #[inline]
    fn upper(&self) -> (IpPacket<'a>, usize, Option<StopReason>) {
        let (protocol, upper_offset, fragment, stop) = match self.rest {
            Rest::V4 {
                header_octets,
                protocol,
                fragment,
            } => (Some(protocol), header_octets, fragment, None),
            Rest::V6 { next_header } => {
                let chain = Chain::follow(self.octets, next_header);
                let fragment = chain.fragment.map(|header| Fragment {
                    offset_octets: header.offset_octets,
                    more: header.more,
                    identification: header.identification,
                    protocol: chain.protocol,
                });
                (chain.protocol, chain.upper_offset, fragment, chain.stop)
            }
        };
        let is_later = fragment.is_some_and(|fragment| fragment.offset_octets != 0);
        let upper = self.octets.get(upper_offset..).unwrap_or_default();
        let transport = match protocol {
            Some(protocol) if !is_later => {
                transport::parse(upper, protocol, matches!(self.rest, Rest::V6 { .. }))
            }
            _ => Transport::None,
        };
        let packet = IpPacket {
            octets: self.octets,
            offset: self.offset,
            total_length_octets: self.total_length_octets,
            key: PacketKey {
                source: self.source,
                destination: self.destination,
                protocol,
                transport,
            },
            fragment,
        };
        (packet, upper_offset, stop)
    }
}

/// The outermost IP packet of a frame, as criteria see it; None for an undecodable frame.
#[inline]
pub fn decode_packet<'a>(frame: &Frame<'a>) -> Option<IpPacket<'a>> {
    Outer::of(frame).map(|outer| outer.packet())
}

/// What [`decode`] collects.
#[derive(Default)]
struct Record {
    layers: Vec<Layer>,
    vlan_ids: Vec<u16>,
    mpls_labels: Vec<u32>,
    stop: Option<Stop>,
}

impl Trace for Record {
    fn layer(&mut self, kind: LayerKind, offset: usize) {
        self.layers.push(Layer { kind, offset });
    }

    fn vlan_id(&mut self, id: u16) {
        self.vlan_ids.push(id);
    }

    fn mpls_label(&mut self, label: u32) {
        self.mpls_labels.push(label);
    }

    fn stop(&mut self, reason: StopReason, offset: usize) {
        let layer = self
            .layers
            .last()
            .map_or(LayerKind::Raw, |layer| layer.kind);
        self.stop = Some(Stop {
            layer,
            reason,
            offset,
        });
    }
}

/// Reads every layer of a frame: link, tags, labels, the outermost IP packet and its transport, then packets inside
/// GRE, VXLAN, GTP-U and IP.
pub fn decode<'a>(frame: &Frame<'a>) -> Decoded<'a> {
    let mut record = Record::default();
    let mut ip = None;
    let mut reached = walk_link(frame, &mut record);
    for depth in 0.. {
        let Some(at) = reached else { break };
        if depth == MAXIMUM_IP_LAYERS {
            record.stop(StopReason::Limit, at.offset);
            break;
        }
        let Some(outer) = outer_at(frame, at, &mut record) else {
            break;
        };
        let (packet, upper_offset, stop) = outer.upper();
        ip = ip.or(Some(packet));
        let upper_at = outer.offset + upper_offset;
        if let Some(reason) = stop {
            record.stop(reason, upper_at);
            break;
        }
        reached = walk_upper(
            frame.data,
            &packet,
            upper_offset,
            InnerTunnels::ALL,
            &mut record,
        );
    }
    let Record {
        layers,
        vlan_ids,
        mpls_labels,
        stop,
    } = record;
    Decoded {
        layers,
        vlan_ids,
        mpls_labels,
        ip,
        stop,
    }
}

/// Records the transport layer of `packet` and walks into what it carries, where that is one of these tunnels.
fn walk_upper<T: Trace>(
    data: &[u8],
    packet: &IpPacket<'_>,
    upper_offset: usize,
    tunnels: InnerTunnels,
    trace: &mut T,
) -> Option<Reached> {
    let offset = packet.offset + upper_offset;
    let end = packet.offset + packet.octets.len();
    let is_ipv6 = matches!(packet.key.source, Address::V6(_));
    // The data of a later fragment begins in the middle of something.
    if packet
        .fragment
        .is_some_and(|fragment| fragment.offset_octets != 0)
    {
        return None;
    }
    let Some(upper) = packet.octets.get(upper_offset..) else {
        // The options of the IPv4 header were cut off.
        trace.stop(StopReason::Truncated, packet.offset);
        return None;
    };
    let protocol = packet.key.protocol?;
    let kind = match protocol {
        protocol::TCP => LayerKind::Tcp,
        protocol::UDP => LayerKind::Udp,
        protocol::SCTP => LayerKind::Sctp,
        protocol::ICMP if !is_ipv6 => LayerKind::Icmp,
        protocol::ICMPV6 if is_ipv6 => LayerKind::Icmpv6,
        protocol::GRE if tunnels.gre => {
            trace.layer(LayerKind::Gre, offset);
            return match Gre::parse(upper) {
                Ok(header) if header.ether_type == ether_type::ETHERNET => {
                    walk_ethernet(data, offset + header.header_octets, end, trace)
                }
                Ok(header) => walk_ether_type(
                    data,
                    header.ether_type,
                    offset + header.header_octets,
                    end,
                    trace,
                ),
                Err(reason) => {
                    trace.stop(reason, offset);
                    None
                }
            };
        }
        protocol::IPV4 if tunnels.ipip => {
            return Some(Reached {
                offset,
                end,
                is_ipv6: false,
            });
        }
        protocol::IPV6 if tunnels.ipip => {
            return Some(Reached {
                offset,
                end,
                is_ipv6: true,
            });
        }
        _ => {
            trace.stop(StopReason::Unknown, offset);
            return None;
        }
    };
    trace.layer(kind, offset);
    if transport::minimum_octets(protocol, is_ipv6).is_some_and(|needed| upper.len() < needed) {
        trace.stop(StopReason::Truncated, offset);
        return None;
    }
    let Transport::Ports {
        source,
        destination,
    } = packet.key.transport
    else {
        return None;
    };
    if kind != LayerKind::Udp {
        return None;
    }
    let payload_offset = offset + transport::UDP_HEADER_OCTETS;
    let payload = part(data, payload_offset, end);
    if destination == vxlan::PORT {
        if !tunnels.vxlan {
            return None;
        }
        // Other traffic may use the port: without the header's flag there is no VXLAN layer.
        vxlan::check(payload).ok()?;
        trace.layer(LayerKind::Vxlan, payload_offset);
        return walk_ethernet(data, payload_offset + vxlan::HEADER_OCTETS, end, trace);
    }
    if tunnels.gtpu && (destination == gtpu::PORT || source == gtpu::PORT) {
        let header_octets = gtpu::header_octets(payload).ok()?;
        trace.layer(LayerKind::Gtpu, payload_offset);
        let inner = payload_offset + header_octets;
        return match version_at(data, inner, end) {
            Ok(is_ipv6) => Some(Reached {
                offset: inner,
                end,
                is_ipv6,
            }),
            Err(reason) => {
                trace.stop(reason, inner);
                None
            }
        };
    }
    None
}
