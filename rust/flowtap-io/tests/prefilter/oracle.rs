//! What the filter may and must do with a frame, by the decoder that the table is asked with.

use flowtap_core::decode::{IpPacket, LayerKind, Outer, decode};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::packet::{Address, Transport};
use flowtap_core::wire::{gtpu, vxlan};
use flowtap_io::prefilter::{AddressBits, AddressCover, FamilyCover, InnerTunnels};

use crate::frames::EXTENSION_HEADERS;

/// What a frame must meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Some criterion may want it, or nobody can read it.
    Pass,
    /// It is read, through nothing unusual, and nobody wants it.
    Drop,
    /// Nobody wants it, but it is unusual enough to pass.
    Either,
}

fn wants<A: AddressBits>(cover: &FamilyCover<A>, source: A, destination: A) -> bool {
    cover.open > 0
        || cover.source.iter().any(|prefix| prefix.contains(source))
        || cover
            .destination
            .iter()
            .any(|prefix| prefix.contains(destination))
}

fn frame_of(data: &[u8], link_type: LinkType) -> Frame<'_> {
    Frame {
        data,
        link_type,
        timestamp_ns: 0,
        original_length_octets: u32::try_from(data.len()).unwrap(),
        interface: 0,
        direction: Direction::Unknown,
    }
}

/// Whether a tunnel is in the frame that is looked into, or a fragment of one.
fn is_tunnel(frame: &Frame<'_>, inner: InnerTunnels) -> bool {
    let decoded = decode(frame);
    let ip = |kind: &LayerKind| matches!(kind, LayerKind::Ipv4 | LayerKind::Ipv6);
    let mut layers = decoded.layers.iter().map(|layer| layer.kind);
    let has = |wanted: LayerKind| decoded.layers.iter().any(|layer| layer.kind == wanted);
    // An IP header directly behind another.
    let mut before = None;
    let ip_in_ip = layers.any(|kind| {
        let both = ip(&kind) && before.as_ref().is_some_and(ip);
        before = Some(kind);
        both
    });
    let is_later = |protocols: &[u8]| {
        decoded.ip.is_some_and(|packet| {
            packet
                .fragment
                .is_some_and(|fragment| fragment.offset_octets != 0)
                && packet
                    .key
                    .protocol
                    .is_none_or(|protocol| protocols.contains(&protocol))
        })
    };
    (inner.gre && (has(LayerKind::Gre) || is_later(&[47])))
        || (inner.vxlan && (has(LayerKind::Vxlan) || is_later(&[17])))
        || (inner.gtpu && (has(LayerKind::Gtpu) || is_later(&[17])))
        || (inner.ipip && (ip_in_ip || is_later(&[4, 41])))
}

/// Whether a packet is one of those that may be a tunnel, as far as the filter looks.
fn may_be_tunnel(packet: &IpPacket<'_>, inner: InnerTunnels) -> bool {
    if inner == InnerTunnels::default() {
        return false;
    }
    let is_v6 = matches!(packet.key.source, Address::V6(_));
    if is_v6 && EXTENSION_HEADERS.contains(&packet.octets[6]) {
        return true;
    }
    match packet.key.protocol {
        Some(47) => inner.gre,
        Some(4 | 41) => inner.ipip,
        Some(17) if inner.vxlan || inner.gtpu => match packet.key.transport {
            Transport::Ports {
                source,
                destination,
            } => {
                (inner.vxlan && destination == vxlan::PORT)
                    || (inner.gtpu && [source, destination].contains(&gtpu::PORT))
            }
            _ => true,
        },
        _ => false,
    }
}

/// The verdict on a frame.
pub(crate) fn verdict(
    data: &[u8],
    link_type: LinkType,
    cover: &AddressCover,
    inner: InnerTunnels,
) -> Verdict {
    let frame = frame_of(data, link_type);
    let Some(outer) = Outer::of(&frame) else {
        return Verdict::Pass;
    };
    let wanted = match (outer.source, outer.destination) {
        (Address::V4(source), Address::V4(destination)) => wants(&cover.v4, source, destination),
        (Address::V6(source), Address::V6(destination)) => wants(&cover.v6, source, destination),
        _ => unreachable!("a packet has addresses of one family"),
    };
    if wanted || is_tunnel(&frame, inner) {
        return Verdict::Pass;
    }
    let decoded = decode(&frame);
    let count = |kind: LayerKind| {
        let layers = decoded.layers.iter();
        layers.filter(|layer| layer.kind == kind).count()
    };
    let is_snap = link_type == LinkType::Ethernet && data[12] < 6;
    let is_unusual = is_snap
        || decoded.vlan_ids.len() > 4
        || decoded.mpls_labels.len() > 8
        || count(LayerKind::Pppoe) > 0 && count(LayerKind::Mpls) > 0
        || may_be_tunnel(&outer.packet(), inner);
    if is_unusual {
        Verdict::Either
    } else {
        Verdict::Drop
    }
}
