//! Frames and covers as chance makes them, so that addresses meet.

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{AddressBits, AddressCover, FamilyCover, InnerTunnels, Prefix};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

pub(crate) const MAC: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const TAG_TYPES: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
const PROTOCOLS: [u8; 8] = [1, 4, 6, 17, 41, 47, 58, 132];
pub(crate) const EXTENSION_HEADERS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// Addresses that often are the same, or differ in a few bits.
pub(crate) fn v4_address() -> BoxedStrategy<u32> {
    let near = (0..4_u32, 0..32_u32).prop_map(|(low, bit)| (0x0a00_0000 + low) ^ (1 << bit));
    prop_oneof![
        6 => (0..32_u32).prop_map(|low| 0x0a00_0000 + low),
        2 => near,
        1 => any::<u32>(),
    ]
    .boxed()
}

pub(crate) fn v6_address() -> BoxedStrategy<u128> {
    const BASE: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0000;
    let near = (0..4_u128, 0..128_u32).prop_map(|(low, bit)| (BASE + low) ^ (1 << bit));
    prop_oneof![
        6 => (0..32_u128).prop_map(|low| BASE + low),
        2 => near,
        1 => any::<u128>(),
    ]
    .boxed()
}

fn prefix<A: AddressBits + 'static>(address: BoxedStrategy<A>) -> BoxedStrategy<Prefix<A>> {
    let length = prop_oneof![
        8 => Just(A::BITS),
        4 => A::BITS - 6..A::BITS,
        1 => 8..A::BITS,
    ];
    (address, length)
        .prop_map(|(address, length)| Prefix::new(address, length).unwrap())
        .boxed()
}

fn family<A: AddressBits + 'static>(address: &BoxedStrategy<A>) -> BoxedStrategy<FamilyCover<A>> {
    let prefixes = || vec(prefix(address.clone()), 0..5);
    // An open family lets everything through, so it is rare.
    let open = prop_oneof![20 => Just(0_u32), 1 => 1..3_u32];
    (prefixes(), prefixes(), open)
        .prop_map(|(source, destination, open)| FamilyCover {
            source,
            destination,
            open,
        })
        .boxed()
}

pub(crate) fn cover() -> BoxedStrategy<AddressCover> {
    let v4 = family(&v4_address());
    let v6 = family(&v6_address());
    (v4, v6)
        .prop_map(|(v4, v6)| AddressCover { v4, v6 })
        .boxed()
}

pub(crate) fn tunnels() -> BoxedStrategy<InnerTunnels> {
    any::<[bool; 4]>()
        .prop_map(|[gre, vxlan, gtpu, ipip]| InnerTunnels {
            gre,
            vxlan,
            gtpu,
            ipip,
        })
        .boxed()
}

/// What may be behind an IP header.
fn upper() -> BoxedStrategy<Vec<u8>> {
    let port = || prop_oneof![select(vec![53_u16, 2152, 4789]), any::<u16>()];
    let datagram = (port(), port(), vec(any::<u8>(), 0..24))
        .prop_map(|(from, to, data)| [&from.to_be_bytes()[..], &to.to_be_bytes(), &data].concat());
    prop_oneof![2 => datagram, 1 => vec(any::<u8>(), 0..40)].boxed()
}

fn protocol() -> BoxedStrategy<u8> {
    prop_oneof![
        6 => select(&PROTOCOLS[..]),
        2 => select(&EXTENSION_HEADERS[..]),
        1 => any::<u8>(),
    ]
    .boxed()
}

pub(crate) fn v4_packet() -> BoxedStrategy<Vec<u8>> {
    let first = prop_oneof![20 => Just(0x45_u8), 4 => 0x45_u8..=0x4f, 1 => any::<u8>()];
    let fragment = prop_oneof![6 => Just(0_u16), 2 => any::<u16>()];
    // What is said beyond or below the packet's own length.
    let difference = prop_oneof![10 => Just(0_i32), 1 => -40..40_i32, 1 => Just(-65_535)];
    let addresses = (v4_address(), v4_address());
    (first, difference, fragment, protocol(), addresses, upper())
        .prop_map(
            |(first, difference, fragment, protocol, (source, destination), upper)| {
                let header = usize::from(first & 0x0f).max(5) * 4;
                let length = i32::try_from(header + upper.len()).unwrap() + difference;
                let length = u16::try_from(length).unwrap_or(0);
                let mut packet = vec![first, 0];
                packet.extend_from_slice(&length.to_be_bytes());
                packet.extend_from_slice(&[0, 1]);
                packet.extend_from_slice(&fragment.to_be_bytes());
                packet.extend_from_slice(&[64, protocol, 0, 0]);
                packet.extend_from_slice(&source.to_be_bytes());
                packet.extend_from_slice(&destination.to_be_bytes());
                packet.resize(header, 0);
                packet.extend_from_slice(&upper);
                packet
            },
        )
        .boxed()
}

pub(crate) fn v6_packet() -> BoxedStrategy<Vec<u8>> {
    let first = prop_oneof![20 => 0x60_u8..=0x6f, 1 => any::<u8>()];
    let length = prop_oneof![10 => Just(None), 1 => any::<u16>().prop_map(Some)];
    let addresses = (v6_address(), v6_address());
    (first, length, protocol(), addresses, upper())
        .prop_map(|(first, length, protocol, (source, destination), upper)| {
            let length = length.unwrap_or(u16::try_from(upper.len()).unwrap());
            let mut packet = vec![first, 0, 0, 0];
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&source.to_be_bytes());
            packet.extend_from_slice(&destination.to_be_bytes());
            packet.extend_from_slice(&upper);
            packet
        })
        .boxed()
}

/// An EtherType and the packet that belongs to it.
fn packet() -> BoxedStrategy<(u16, Vec<u8>)> {
    prop_oneof![
        10 => v4_packet().prop_map(|packet| (0x0800, packet)),
        10 => v6_packet().prop_map(|packet| (0x86dd, packet)),
        1 => v4_packet().prop_map(|packet| (0x86dd, packet)),
        1 => v6_packet().prop_map(|packet| (0x0800, packet)),
        1 => vec(any::<u8>(), 0..60).prop_map(|octets| (0x0806, octets)),
        1 => (any::<u16>(), vec(any::<u8>(), 0..60)),
    ]
    .boxed()
}

/// The same behind a label stack.
fn labelled() -> BoxedStrategy<(u16, Vec<u8>)> {
    let kind = select(vec![0x8847_u16, 0x8848]);
    (kind, vec(any::<u32>(), 1..12), packet())
        .prop_map(|(kind, labels, (_, packet))| {
            let last = labels.len() - 1;
            let stack = labels.iter().enumerate().flat_map(|(at, label)| {
                let bottom = if at == last { 0x100 } else { 0 };
                (label & !0x100 | bottom).to_be_bytes()
            });
            (kind, stack.chain(packet).collect())
        })
        .boxed()
}

/// The same in a PPPoE session.
fn session() -> BoxedStrategy<(u16, Vec<u8>)> {
    let head = prop_oneof![10 => Just([0x11_u8, 0]), 1 => any::<[u8; 2]>()];
    let shorter = prop_oneof![10 => Just(0_usize), 1 => 0..80_usize];
    let inside = prop_oneof![4 => packet(), 1 => labelled()];
    (head, shorter, inside)
        .prop_map(|(head, shorter, (kind, payload))| {
            let protocol: u16 = match kind {
                0x0800 => 0x0021,
                0x86dd => 0x0057,
                0x8847 => 0x0281,
                other => other,
            };
            let length = (payload.len() + 2).saturating_sub(shorter);
            let mut octets = head.to_vec();
            octets.extend_from_slice(&[0, 7]);
            octets.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            octets.extend_from_slice(&protocol.to_be_bytes());
            octets.extend_from_slice(&payload);
            (0x8864, octets)
        })
        .boxed()
}

/// A whole Ethernet frame, from the wire.
pub(crate) fn whole_ethernet() -> BoxedStrategy<Vec<u8>> {
    let tags = prop_oneof![
        4 => Just(Vec::new()),
        2 => vec((select(&TAG_TYPES[..]), any::<u16>()), 1..3),
        1 => vec((select(&TAG_TYPES[..]), any::<u16>()), 3..11),
    ];
    let inside = prop_oneof![6 => packet(), 2 => labelled(), 2 => session()];
    let snap = prop::bool::weighted(0.03);
    (tags, inside, snap)
        .prop_map(|(tags, (kind, payload), snap)| {
            let mut frame = MAC.to_vec();
            for (kind, control) in tags {
                frame.extend_from_slice(&kind.to_be_bytes());
                frame.extend_from_slice(&control.to_be_bytes());
            }
            if snap {
                let length = u16::try_from(payload.len() + 8).unwrap();
                frame.extend_from_slice(&length.to_be_bytes());
                frame.extend_from_slice(&[0xaa, 0xaa, 3, 0, 0, 0]);
            }
            frame.extend_from_slice(&kind.to_be_bytes());
            frame.extend_from_slice(&payload);
            frame
        })
        .boxed()
}

/// A frame of a link type, often cut, sometimes damaged or padded; never empty.
pub(crate) fn frame(link_type: LinkType) -> BoxedStrategy<Vec<u8>> {
    let whole = match link_type {
        LinkType::Ethernet => whole_ethernet().boxed(),
        _ => packet().prop_map(|(_, packet)| packet).boxed(),
    };
    let damage = prop_oneof![
        6 => Just(None),
        1 => any::<(Index, u8)>().prop_map(Some),
    ];
    let cut = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
    let padding = prop_oneof![3 => Just(0_usize), 1 => 0..30_usize];
    (whole, damage, cut, padding)
        .prop_map(|(mut frame, damage, cut, padding)| {
            frame.resize(frame.len().max(1) + padding, 0);
            if let Some((at, octet)) = damage {
                let at = at.index(frame.len());
                frame[at] = octet;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()) + 1);
            }
            frame
        })
        .boxed()
}
