//! What the decoder reads, against frames written by hand and against an independent decoder.
#![cfg(test)]

mod frames;

use std::net::IpAddr;

use flowtap_core::decode::{LayerKind, Outer, StopReason, decode};
use flowtap_core::frame::LinkType;
use flowtap_core::packet::Transport;
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};
use proptest::prelude::*;

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [198, 51, 100, 2];

fn kinds(data: &[u8], link_type: LinkType) -> Vec<&'static str> {
    decode(&frame(data, link_type))
        .layers
        .iter()
        .map(|layer| layer.kind.name())
        .collect()
}

fn stop(data: &[u8], link_type: LinkType) -> Option<(&'static str, &'static str)> {
    decode(&frame(data, link_type))
        .stop
        .map(|stop| (stop.layer.name(), stop.reason.name()))
}

fn dns() -> Vec<u8> {
    ipv4(A, B, 17, &udp(1024, 53, b"query"))
}

#[test]
fn every_link_type_leads_to_the_packet() {
    let v4 = dns();
    let v6 = ipv6(1, 2, 17, &udp(1024, 53, b"query"));
    let cases: Vec<(LinkType, &str, Vec<u8>, bool)> = vec![
        (LinkType::Raw, "raw", v4.clone(), false),
        (LinkType::Raw, "raw", v6.clone(), true),
        (LinkType::Ipv4, "raw", v4.clone(), false),
        (LinkType::Ipv6, "raw", v6.clone(), true),
        (
            LinkType::Null,
            "null",
            [&[2, 0, 0, 0], &*v4].concat(),
            false,
        ),
        (
            LinkType::Null,
            "null",
            [&[0, 0, 0, 30], &*v6].concat(),
            true,
        ),
        (
            LinkType::Loop,
            "null",
            [&[0, 0, 0, 24], &*v6].concat(),
            true,
        ),
        (
            LinkType::LinuxCooked,
            "sll",
            [&[0; 14][..], &[8, 0], &v4].concat(),
            false,
        ),
        (
            LinkType::LinuxCooked2,
            "sll2",
            [&[0x86, 0xdd][..], &[0; 18], &v6].concat(),
            true,
        ),
        (
            LinkType::Ethernet,
            "ethernet",
            ethernet(&[&[8, 0]], &v4),
            false,
        ),
        (
            LinkType::Ethernet,
            "ethernet",
            ethernet(&[&[0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]], &v4),
            false,
        ),
    ];
    for (link_type, name, data, is_ipv6) in cases {
        let ip = if is_ipv6 { "ipv6" } else { "ipv4" };
        assert_eq!(kinds(&data, link_type), [name, ip, "udp"], "{link_type:?}");
        assert_eq!(stop(&data, link_type), None);
        let packet = Outer::of(&frame(&data, link_type)).unwrap().packet();
        assert_eq!(packet.octets, if is_ipv6 { &v6 } else { &v4 });
        assert_eq!(
            packet.key.transport,
            Transport::Ports {
                source: 1024,
                destination: 53
            }
        );
    }
}

#[test]
fn tags_labels_and_sessions() {
    let session = |payload: &[u8]| {
        let length = u16::try_from(payload.len() + 2).unwrap().to_be_bytes();
        [
            &[0x88, 0x64, 0x11, 0, 0, 7][..],
            &length,
            &[0, 0x21],
            payload,
        ]
        .concat()
    };
    let packet = dns();
    let decoded_data = ethernet(
        &[&[0x88, 0xa8, 0x20, 100], &[0x81, 0, 0, 200], &[8, 0]],
        &packet,
    );
    let decoded = decode(&frame(&decoded_data, LinkType::Ethernet));
    assert_eq!(decoded.vlan_ids, [100, 200]);
    let labels = ethernet(
        &[&[0x88, 0x47, 0, 0x01, 0x00, 64, 0, 0x02, 0x01, 64]],
        &packet,
    );
    let decoded = decode(&frame(&labels, LinkType::Ethernet));
    assert_eq!(decoded.mpls_labels, [16, 32]);
    assert_eq!(
        kinds(&labels, LinkType::Ethernet),
        ["ethernet", "mpls", "mpls", "ipv4", "udp"]
    );
    let tagged = [
        frames::MAC.to_vec(),
        vec![0x81, 0, 0, 40],
        session(&packet),
        vec![0; 9],
    ]
    .concat();
    assert_eq!(
        kinds(&tagged, LinkType::Ethernet),
        ["ethernet", "vlan", "pppoe", "ipv4", "udp"]
    );
    // The session's length cuts off what the link has padded.
    assert_eq!(
        Outer::of(&frame(&tagged, LinkType::Ethernet))
            .unwrap()
            .octets,
        packet
    );
}

#[test]
fn padding_is_no_part_of_a_packet() {
    let packet = dns();
    let data = [ethernet(&[&[8, 0]], &packet), vec![0xff; 20]].concat();
    assert_eq!(
        Outer::of(&frame(&data, LinkType::Ethernet)).unwrap().octets,
        packet
    );
}

#[test]
fn a_length_left_to_the_hardware_is_the_frame_s() {
    let mut packet = dns();
    packet[2] = 0;
    packet[3] = 0;
    let mut whole = frame(&packet, LinkType::Raw);
    whole.original_length_octets = 9000;
    let outer = Outer::of(&whole).unwrap();
    assert_eq!(
        (outer.total_length_octets, outer.octets.len()),
        (9000, packet.len())
    );
}

#[test]
fn fragments_tell_ports_only_in_the_first() {
    let first = ipv4_fragment(A, B, 17, &udp(1, 2, &[0; 8]), 0, true, 7);
    let later = ipv4_fragment(A, B, 17, &[0; 16], 16, false, 7);
    let packet = |data: &[u8]| {
        let outer = Outer::of(&frame(data, LinkType::Raw)).unwrap().packet();
        (outer.key.transport, outer.fragment.unwrap())
    };
    let (transport, fragment) = packet(&first);
    assert_eq!(
        transport,
        Transport::Ports {
            source: 1,
            destination: 2
        }
    );
    assert_eq!(
        (
            fragment.offset_octets,
            fragment.more,
            fragment.identification
        ),
        (0, true, 7)
    );
    let (transport, fragment) = packet(&later);
    assert_eq!(transport, Transport::None);
    assert_eq!((fragment.offset_octets, fragment.more), (16, false));
    assert_eq!(stop(&later, LinkType::Raw), None);
}

#[test]
fn ipv6_extension_headers_are_followed_within_bounds() {
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let chained = ipv6(
        1,
        2,
        0,
        &[&[60, 0, 1, 4, 0, 0, 0, 0], &options[..], &udp(5, 6, b"")].concat(),
    );
    let packet = Outer::of(&frame(&chained, LinkType::Raw)).unwrap().packet();
    assert_eq!(packet.key.protocol, Some(17));
    assert_eq!(
        packet.key.transport,
        Transport::Ports {
            source: 5,
            destination: 6
        }
    );
    let endless = ipv6(1, 2, 60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(40));
    let packet = Outer::of(&frame(&endless, LinkType::Raw)).unwrap().packet();
    assert_eq!(packet.key.protocol, None);
    assert_eq!(stop(&endless, LinkType::Raw), Some(("ipv6", "limit")));
    let cut = ipv6(1, 2, 60, &[17, 9, 0, 0]);
    assert_eq!(stop(&cut, LinkType::Raw), Some(("ipv6", "truncated")));
    // A later fragment names its protocol only where that follows at once.
    for (next, protocol) in [(17, Some(17)), (60, None)] {
        let later = ipv6(
            1,
            2,
            44,
            &[&[next, 0, 0, 8, 0, 0, 0, 9][..], &[0; 16]].concat(),
        );
        let packet = Outer::of(&frame(&later, LinkType::Raw)).unwrap().packet();
        assert_eq!(packet.key.protocol, protocol);
        assert_eq!(
            packet.fragment.map(|fragment| fragment.identification),
            Some(9)
        );
    }
    let atomic = ipv6(
        1,
        2,
        44,
        &[&[17, 0, 0, 0, 0, 0, 0, 9][..], &udp(1, 2, b"")].concat(),
    );
    let packet = Outer::of(&frame(&atomic, LinkType::Raw)).unwrap().packet();
    assert!(packet.fragment.unwrap().is_atomic());
    assert_eq!(
        packet.key.transport,
        Transport::Ports {
            source: 1,
            destination: 2
        }
    );
}

#[test]
fn tunnels_are_opened_and_the_outermost_packet_counts() {
    let inner = dns();
    let gre = ipv4(B, A, 47, &[&[0x20, 0, 8, 0, 0, 0, 0, 9], &*inner].concat());
    let vxlan = ipv4(
        B,
        A,
        17,
        &udp(
            9,
            4789,
            &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &ethernet(&[&[8, 0]], &inner)].concat(),
        ),
    );
    let gtpu = ipv4(
        B,
        A,
        17,
        &udp(
            2152,
            2152,
            &[&[0x30, 255, 0, 0, 0, 0, 0, 1], &*inner].concat(),
        ),
    );
    let ipip = ipv4(B, A, 4, &inner);
    for (data, layers) in [
        (gre, vec!["raw", "ipv4", "gre", "ipv4", "udp"]),
        (
            vxlan,
            vec!["raw", "ipv4", "udp", "vxlan", "ethernet", "ipv4", "udp"],
        ),
        (gtpu, vec!["raw", "ipv4", "udp", "gtpu", "ipv4", "udp"]),
        (ipip, vec!["raw", "ipv4", "ipv4", "udp"]),
    ] {
        assert_eq!(kinds(&data, LinkType::Raw), layers);
        let decoded = decode(&frame(&data, LinkType::Raw));
        assert_eq!(
            IpAddr::from(decoded.ip.unwrap().key.source),
            IpAddr::from(B)
        );
    }
    let mut nested = inner;
    for _ in 0..20 {
        nested = ipv4(A, B, 4, &nested);
    }
    assert_eq!(stop(&nested, LinkType::Raw), Some(("ipv4", "limit")));
}

#[test]
fn what_cannot_be_decoded_says_why() {
    let cases: Vec<(Vec<u8>, LinkType, (&str, &str))> = vec![
        (
            ethernet(&[&[8, 6]], &[0; 28]),
            LinkType::Ethernet,
            ("ethernet", "unknown"),
        ),
        (vec![0; 10], LinkType::Ethernet, ("ethernet", "truncated")),
        (
            ethernet(&[&[0x81, 0, 0]], &[]),
            LinkType::Ethernet,
            ("vlan", "truncated"),
        ),
        (
            ethernet(&[&[0x81, 0, 0, 1].repeat(30)], &[]),
            LinkType::Ethernet,
            ("vlan", "limit"),
        ),
        (
            ethernet(&[&[0x88, 0x47], &[0; 100]], &[]),
            LinkType::Ethernet,
            ("mpls", "limit"),
        ),
        (
            ethernet(&[&[0x88, 0x64, 0x12, 0, 0, 0, 0, 9, 0, 0x21]], &[]),
            LinkType::Ethernet,
            ("pppoe", "malformed"),
        ),
        (
            ethernet(&[&[8, 0]], &[0x44; 20]),
            LinkType::Ethernet,
            ("ipv4", "malformed"),
        ),
        (
            ethernet(&[&[8, 0]], &[0x45; 19]),
            LinkType::Ethernet,
            ("ipv4", "truncated"),
        ),
        (
            ethernet(&[&[0x86, 0xdd]], &[0x45; 60]),
            LinkType::Ethernet,
            ("ipv6", "malformed"),
        ),
        (vec![0x10; 40], LinkType::Raw, ("raw", "unknown")),
        (vec![9, 0, 0, 0], LinkType::Null, ("null", "unknown")),
    ];
    for (data, link_type, expected) in cases {
        assert_eq!(stop(&data, link_type), Some(expected), "{data:02x?}");
        assert!(Outer::of(&frame(&data, link_type)).is_none());
    }
    assert!(Outer::of(&frame(&dns(), LinkType::Other(147))).is_none());
}

/// Found by the fuzzer: a header length that reaches beyond the captured octets.
#[test]
fn options_that_were_cut_off_hide_the_transport() {
    let mut packet = dns();
    packet[0] = 0x4e;
    packet[3] = 80;
    assert_eq!(stop(&packet, LinkType::Raw), Some(("ipv4", "truncated")));
    let decoded = decode(&frame(&packet, LinkType::Raw));
    assert_eq!(decoded.ip.unwrap().key.transport, Transport::None);
}

fn any_link_type() -> impl Strategy<Value = LinkType> {
    prop::sample::select(vec![0, 1, 101, 108, 113, 228, 229, 276, 147])
        .prop_map(LinkType::from_number)
}

/// Octets that often go deep: headers of the protocols in any order.
fn deep() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        frames::MAC.to_vec(),
        vec![0x81, 0, 0, 5],
        vec![0x88, 0xa8, 0, 6],
        vec![0x88, 0x47, 0, 1, 1, 64],
        vec![8, 0],
        vec![0x86, 0xdd],
        dns(),
        ipv6(1, 2, 44, &[17, 0, 0, 1, 0, 0, 0, 9]),
        ipv6(1, 2, 0, &[58, 0, 0, 0, 0, 0, 0, 0, 128, 0]),
        vec![0x45, 0, 0, 0],
    ];
    prop::collection::vec(
        prop_oneof![
            prop::sample::select(pieces),
            prop::collection::vec(any::<u8>(), 0..9)
        ],
        0..8,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn both_ways_through_the_decoder_agree(data in deep(), link_type in any_link_type()) {
        let whole = frame(&data, link_type);
        let quick = Outer::of(&whole).map(|outer| outer.packet());
        let decoded = decode(&whole);
        prop_assert_eq!(quick.map(|packet| packet.key), decoded.ip.map(|packet| packet.key));
        prop_assert!(decoded.layers.iter().all(|layer| layer.offset <= data.len()));
    }

    #[test]
    fn a_prefix_of_a_frame_has_a_prefix_of_the_layers(data in deep(), cut in 0_usize..80) {
        let whole = decode(&frame(&data, LinkType::Ethernet));
        let part = &data[..cut.min(data.len())];
        let prefix = decode(&frame(part, LinkType::Ethernet));
        prop_assert!(prefix.layers.len() <= whole.layers.len());
        prop_assert_eq!(&prefix.layers[..], &whole.layers[..prefix.layers.len()]);
    }

    #[test]
    fn the_independent_decoder_reads_the_same(data in deep()) {
        use etherparse::{LaxNetSlice, LaxSlicedPacket};
        // Types that only one of the two follows are left out: it does not know the old service tags, SNAP or PPPoE.
        let ours = decode(&frame(&data, LinkType::Ethernet));
        prop_assume!(ours.layers.iter().all(|layer| !matches!(layer.kind, LayerKind::Mpls | LayerKind::Pppoe)));
        let Ok(theirs) = LaxSlicedPacket::from_ethernet(&data) else { return Ok(()) };
        let (Some(net), Some(ours)) = (&theirs.net, &ours.ip) else { return Ok(()) };
        match net {
            LaxNetSlice::Ipv4(slice) => {
                prop_assert_eq!(IpAddr::from(ours.key.source), IpAddr::from(slice.header().source_addr()));
                prop_assert_eq!(ours.key.protocol, Some(slice.header().protocol().0));
            }
            LaxNetSlice::Ipv6(slice) => {
                prop_assert_eq!(IpAddr::from(ours.key.source), IpAddr::from(slice.header().source_addr()));
                prop_assert_eq!(IpAddr::from(ours.key.destination), IpAddr::from(slice.header().destination_addr()));
            }
            LaxNetSlice::Arp(_) => prop_assert!(false, "ARP was decoded as IP"),
        }
        if let Some(etherparse::TransportSlice::Udp(udp)) = &theirs.transport {
            let ports = Transport::Ports { source: udp.source_port(), destination: udp.destination_port() };
            prop_assert_eq!(ours.key.transport, ports);
        }
    }
}

#[test]
fn reasons_have_stable_names() {
    let names = [
        StopReason::Truncated,
        StopReason::Unknown,
        StopReason::Malformed,
        StopReason::Limit,
    ];
    assert_eq!(
        names.map(StopReason::name),
        ["truncated", "unknown", "malformed", "limit"]
    );
}
