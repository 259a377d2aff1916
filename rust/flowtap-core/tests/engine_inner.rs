//! Criteria on packets inside tunnels: what the engine finds is what the decoder's layers say, frame by frame and once a
//! criterion; the copy is the outermost packet.
#![cfg(test)]

mod frames;
mod tables;

use std::collections::BTreeSet;
use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::CriteriaText;
use flowtap_core::decode::{InnerTunnels, Layer, LayerKind, decode, decode_packet};
use flowtap_core::engine::{Engine, EngineOptions, Framing, Verdict};
use flowtap_core::fragments::FragmentLimits;
use flowtap_core::frame::{Frame, LinkType};
use flowtap_core::table::{Entry, FilterTable};
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};
use proptest::prelude::*;
use tables::{compile, entry, from};

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [192, 0, 2, 2];
const C: [u8; 4] = [192, 0, 2, 3];
const D: [u8; 4] = [192, 0, 2, 4];

/// What wraps a packet.
#[derive(Clone, Copy, Debug)]
enum Wrapping {
    Gre,
    GreWithEthernet,
    Vxlan,
    Gtpu,
    GtpuFromItsPort,
    Ipip,
    /// No tunnel that anybody knows.
    Other,
}

/// A packet from `from` to `to` that carries `inner`.
fn wrap(wrapping: Wrapping, from: u8, to: u8, is_ipv6: bool, inner: &[u8]) -> Vec<u8> {
    let is_inner_ipv6 = inner.first().is_some_and(|first| first >> 4 == 6);
    let ether_type: [u8; 2] = if is_inner_ipv6 { [0x86, 0xdd] } else { [8, 0] };
    let (protocol, payload) = match wrapping {
        Wrapping::Gre => (
            47,
            [&[0x20, 0], &ether_type[..], &[0, 0, 0, 9], inner].concat(),
        ),
        Wrapping::GreWithEthernet => {
            let inner = ethernet(&[&[0x81, 0, 0, 5], &ether_type], inner);
            (47, [&[0, 0, 0x65, 0x58], &*inner].concat())
        }
        Wrapping::Vxlan => {
            let inner = ethernet(&[&ether_type], inner);
            (
                17,
                udp(5, 4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], &*inner].concat()),
            )
        }
        Wrapping::Gtpu | Wrapping::GtpuFromItsPort => {
            let length = u16::try_from(inner.len()).unwrap().to_be_bytes();
            let message = [&[0x30, 255], &length[..], &[0, 0, 0, 1], inner].concat();
            let ports = if matches!(wrapping, Wrapping::Gtpu) {
                (5, 2152)
            } else {
                (2152, 5)
            };
            (17, udp(ports.0, ports.1, &message))
        }
        Wrapping::Ipip => (if is_inner_ipv6 { 41 } else { 4 }, inner.to_vec()),
        Wrapping::Other => (17, udp(5, 5000, inner)),
    };
    if is_ipv6 {
        ipv6(from, to, protocol, &payload)
    } else {
        ipv4([192, 0, 2, from], [192, 0, 2, to], protocol, &payload)
    }
}

fn engine(entries: Vec<Entry>, inner: InnerTunnels) -> Engine {
    let options = EngineOptions {
        framing: Framing::Payload,
        inner,
        ..EngineOptions::default()
    };
    Engine::new(Arc::new(compile(entries)), options)
}

/// The verdict, and the criteria that the copies are for.
fn process(engine: &mut Engine, data: &[u8], now_ns: u64) -> (Verdict, Vec<u64>) {
    let mut batch = CopyBatch::new();
    let verdict = engine.process(&frame(data, LinkType::Raw), now_ns, &mut batch, &mut ());
    engine.stats().check().unwrap();
    (
        verdict,
        batch
            .records()
            .iter()
            .map(|record| record.criteria_id)
            .collect(),
    )
}

fn to_dns(id: u64, source: &str) -> Entry {
    let text = CriteriaText {
        source: Some(source),
        destination_port: Some("53"),
        ..CriteriaText::default()
    };
    entry(id, &text)
}

#[test]
fn each_tunnel_is_looked_into_where_it_is_asked_for() {
    let only = |index: usize| InnerTunnels {
        gre: index == 0,
        vxlan: index == 1,
        gtpu: index == 2,
        ipip: index == 3,
    };
    let wrappings = [
        (Wrapping::Gre, 0),
        (Wrapping::GreWithEthernet, 0),
        (Wrapping::Vxlan, 1),
        (Wrapping::Gtpu, 2),
        (Wrapping::GtpuFromItsPort, 2),
        (Wrapping::Ipip, 3),
        (Wrapping::Other, 4),
    ];
    let inner = ipv4(A, B, 17, &udp(1, 53, b"query"));
    for (wrapping, kind) in wrappings {
        for is_ipv6 in [false, true] {
            let outer = wrap(wrapping, 8, 9, is_ipv6, &inner);
            for asked in 0..5 {
                let mut engine = engine(vec![to_dns(1, "192.0.2.1")], only(asked));
                let mut batch = CopyBatch::new();
                let verdict = engine.process(&frame(&outer, LinkType::Raw), 0, &mut batch, &mut ());
                if asked == kind && kind < 4 {
                    assert_eq!(verdict, Verdict::Matched, "{wrapping:?} {is_ipv6}");
                    // The envelope stays on.
                    assert_eq!(batch.copy(0), Some(&*outer));
                    assert_eq!(
                        engine.stats().criteria[0].octets,
                        u64::try_from(outer.len()).unwrap()
                    );
                } else {
                    assert_eq!(verdict, Verdict::Missed, "{wrapping:?} {is_ipv6} {asked}");
                }
            }
        }
    }
}

#[test]
fn a_frame_counts_once_for_a_criterion_however_many_of_its_packets_match() {
    let inner = ipv4(A, B, 17, &udp(1, 53, b"query"));
    let middle = wrap(Wrapping::Gre, 1, 2, false, &inner);
    let outer = wrap(Wrapping::Ipip, 1, 2, false, &middle);
    let mut engine = engine(
        vec![
            from(1, "192.0.2.1"),
            to_dns(2, "192.0.2.1"),
            from(3, "192.0.2.9"),
        ],
        InnerTunnels::ALL,
    );
    assert_eq!(
        process(&mut engine, &outer, 0),
        (Verdict::Matched, vec![1, 2])
    );
    let counted: Vec<u64> = engine
        .stats()
        .criteria
        .iter()
        .map(|each| each.packets)
        .collect();
    assert_eq!(counted, [1, 1, 0]);
    assert_eq!(engine.stats().matched, 1);
}

#[test]
fn traffic_of_the_tap_itself_is_its_own_inside_a_tunnel_too() {
    let own = Entry {
        own: true,
        ..from(1, "192.0.2.1")
    };
    let outer = wrap(
        Wrapping::Gre,
        8,
        9,
        false,
        &ipv4(A, B, 17, &udp(1, 53, b"x")),
    );
    let mut engine = engine(vec![own, from(2, "192.0.2.8")], InnerTunnels::ALL);
    assert_eq!(process(&mut engine, &outer, 0), (Verdict::Own, vec![]));
}

/// A tunnel packet in three fragments; the inner headers are in the first.
fn outer_fragments(identification: u16) -> [Vec<u8>; 3] {
    let inner = ipv4(A, B, 17, &udp(1, 53, &[7; 80]));
    let payload = [&[0, 0, 8, 0], &*inner].concat();
    let part = |from: usize, to: usize, more: bool| {
        ipv4_fragment(
            C,
            D,
            47,
            &payload[from..to],
            u16::try_from(from).unwrap(),
            more,
            identification,
        )
    };
    [
        part(0, 40, true),
        part(40, 80, true),
        part(80, payload.len(), false),
    ]
}

#[test]
fn fragments_of_a_tunnel_packet_follow_the_first_in_any_order() {
    let entries = vec![to_dns(1, "192.0.2.1"), from(2, "10.0.0.1")];
    let parts = outer_fragments(7);
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let mut engine = engine(entries.clone(), InnerTunnels::ALL);
        for at in order {
            process(&mut engine, &parts[at], 0);
        }
        let stats = engine.stats();
        assert_eq!(
            (stats.criteria[0].packets, stats.matched, stats.held),
            (3, 3, 0),
            "{order:?}"
        );
    }
    // Without the option nothing of it is met, or held.
    let mut blind = engine(entries, InnerTunnels::default());
    for part in &parts {
        assert_eq!(process(&mut blind, part, 0).0, Verdict::Missed);
    }
    // Where the first carries nobody's packet, the others are nobody's.
    let mut other = engine(vec![from(2, "10.0.0.1")], InnerTunnels::ALL);
    let verdicts = [1, 0, 2].map(|at| process(&mut other, &parts[at], 0).0);
    assert_eq!(verdicts, [Verdict::Held, Verdict::Missed, Verdict::Missed]);
    assert_eq!(other.stats().held, 0);
}

#[test]
fn fragments_that_cannot_be_a_tunnel_wait_for_nobody() {
    let gre = InnerTunnels {
        gre: true,
        ..InnerTunnels::default()
    };
    let later = ipv4_fragment(C, D, 17, &[0; 40], 40, true, 7);
    let mut engine = engine(vec![to_dns(1, "192.0.2.1")], gre);
    assert_eq!(process(&mut engine, &later, 0).0, Verdict::Missed);
    // VXLAN and GTP-U may be in any UDP datagram whose first fragment has not been seen.
    let vxlan = InnerTunnels { vxlan: true, ..gre };
    let mut engine = self::engine(vec![to_dns(1, "192.0.2.1")], vxlan);
    assert_eq!(process(&mut engine, &later, 0).0, Verdict::Held);
    let first = ipv4_fragment(C, D, 17, &udp(1, 2, &[0; 32]), 0, true, 7);
    assert_eq!(process(&mut engine, &first, 0).0, Verdict::Missed);
    assert_eq!(engine.stats().held, 0);
    assert_eq!(process(&mut engine, &later, 0).0, Verdict::Missed);
    // Nobody asks for anything: nothing waits.
    let mut idle = self::engine(Vec::new(), vxlan);
    let other = ipv4_fragment(C, D, 17, &[0; 40], 40, true, 8);
    assert_eq!(process(&mut idle, &other, 0).0, Verdict::Missed);
}

#[test]
fn fragments_inside_a_tunnel_follow_a_first_that_came_before() {
    let datagram = udp(1, 53, &[7; 72]);
    let part = |from: usize, more| {
        let inner = ipv4_fragment(
            A,
            B,
            17,
            &datagram[from..from + 40],
            u16::try_from(from).unwrap(),
            more,
            9,
        );
        wrap(Wrapping::Gtpu, 8, 9, false, &inner)
    };
    let (first, second) = (part(0, true), part(40, false));
    let mut engine = engine(vec![to_dns(1, "192.0.2.1")], InnerTunnels::ALL);
    assert_eq!(process(&mut engine, &second, 0).0, Verdict::Missed);
    assert_eq!(process(&mut engine, &first, 0).0, Verdict::Matched);
    assert_eq!(
        process(&mut engine, &second, 0),
        (Verdict::Matched, vec![1])
    );
    // What its addresses decide needs no first.
    let mut engine = self::engine(vec![from(1, "192.0.2.1")], InnerTunnels::ALL);
    assert_eq!(process(&mut engine, &second, 0).0, Verdict::Matched);
}

#[test]
fn tunnels_cannot_fill_the_memory_of_fragments() {
    let options = EngineOptions {
        framing: Framing::Count,
        fragments: FragmentLimits {
            datagrams: 10,
            held_octets: 400,
            timeout_ns: 1000,
        },
        inner: InnerTunnels::ALL,
    };
    let table = Arc::new(compile(vec![to_dns(1, "192.0.2.1")]));
    let mut engine = Engine::new(table, options);
    for identification in 0..1000 {
        for part in outer_fragments(identification).iter().skip(1) {
            process(&mut engine, part, 0);
        }
        assert!(engine.stats().held * 60 <= 400 + 60);
    }
}

/// The criteria that match the outermost packet or one inside it, as far as the decoder's layers show tunnels that are
/// asked for.
fn expected(table: &FilterTable, frame: &Frame<'_>, tunnels: InnerTunnels) -> BTreeSet<u64> {
    let decoded = decode(frame);
    let mut found = BTreeSet::new();
    let mut end = frame.data.len();
    let mut between: Vec<LayerKind> = Vec::new();
    let mut is_outermost = true;
    for Layer { kind, offset } in decoded.layers {
        let (LayerKind::Ipv4 | LayerKind::Ipv6) = kind else {
            between.push(kind);
            continue;
        };
        let is_asked = if between.contains(&LayerKind::Gre) {
            tunnels.gre
        } else if between.contains(&LayerKind::Vxlan) {
            tunnels.vxlan
        } else if between.contains(&LayerKind::Gtpu) {
            tunnels.gtpu
        } else {
            tunnels.ipip
        };
        if !is_outermost && !is_asked {
            break;
        }
        (is_outermost, between) = (false, Vec::new());
        let link_type = if kind == LayerKind::Ipv4 {
            LinkType::Ipv4
        } else {
            LinkType::Ipv6
        };
        let within = Frame {
            data: &frame.data[offset..end],
            link_type,
            ..*frame
        };
        // A header that is cut off is a layer, and no packet.
        let Some(packet) = decode_packet(&within) else {
            break;
        };
        end = offset + packet.octets.len();
        let mut slots = Vec::new();
        table.classify_linear(&packet.key, &mut slots);
        found.extend(slots.iter().map(|&slot| table.slot(slot).unwrap().id()));
    }
    found
}

fn any_tunnels() -> impl Strategy<Value = InnerTunnels> {
    any::<[bool; 4]>().prop_map(|[gre, vxlan, gtpu, ipip]| InnerTunnels {
        gre,
        vxlan,
        gtpu,
        ipip,
    })
}

/// Packets in packets, deeper than anybody goes.
fn any_nest() -> impl Strategy<Value = Vec<u8>> {
    let wrapping = prop::sample::select(vec![
        Wrapping::Gre,
        Wrapping::GreWithEthernet,
        Wrapping::Vxlan,
        Wrapping::Gtpu,
        Wrapping::GtpuFromItsPort,
        Wrapping::Ipip,
        Wrapping::Ipip,
        Wrapping::Other,
    ]);
    let level = (wrapping, 0_u8..12, 0_u8..12, prop::bool::weighted(0.3));
    let innermost = (0_u8..12, 0_u8..12, 50_u16..56);
    (innermost, prop::collection::vec(level, 0..11)).prop_map(|((from, to, port), levels)| {
        let mut packet = ipv4([192, 0, 2, from], [192, 0, 2, to], 17, &udp(1, port, b"x"));
        for (wrapping, from, to, is_ipv6) in levels {
            packet = wrap(wrapping, from, to, is_ipv6, &packet);
        }
        packet
    })
}

proptest! {
    #[test]
    fn what_is_found_is_what_the_layers_show(
        entries in prop::collection::vec((0_u8..12, 50_u16..56, any::<bool>(), any::<bool>()), 1..12),
        packet in any_nest(),
        tunnels in any_tunnels(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        is_ethernet in any::<bool>(),
    ) {
        let criterion = |id: u64, (host, port, with_port, is_ipv6): (u8, u16, bool, bool)| {
            let source = if is_ipv6 { format!("2001:db8::{host:x}") } else { format!("192.0.2.{host}") };
            let port = port.to_string();
            let text = CriteriaText {
                source: Some(&source),
                destination_port: Some(port.as_str()).filter(|_| with_port),
                ..CriteriaText::default()
            };
            entry(id, &text)
        };
        let table = compile(entries.into_iter().zip(1..).map(|(each, id)| criterion(id, each)).collect());
        let mut data = packet;
        if is_ethernet {
            let ether_type: &[u8] = if data[0] >> 4 == 6 { &[0x86, 0xdd] } else { &[8, 0] };
            data = ethernet(&[ether_type], &data);
        }
        if let Some((at, octet)) = damage {
            let at = at.index(data.len());
            data[at] = octet;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let link_type = if is_ethernet { LinkType::Ethernet } else { LinkType::Raw };
        let frame = frame(&data, link_type);
        // Fragments have verdicts of their own; the damage may make some.
        let is_whole = |packet: &flowtap_core::decode::IpPacket<'_>| packet.fragment.is_none();
        prop_assume!(decode_packet(&frame).is_none_or(|packet| is_whole(&packet)));
        let outer = flowtap_core::decode::Outer::of(&frame);
        prop_assume!(outer.is_none_or(|outer| outer.inner_packets(&frame, InnerTunnels::ALL).all(|packet| is_whole(&packet))));
        let expected = expected(&table, &frame, tunnels);
        let options = EngineOptions { framing: Framing::Payload, inner: tunnels, ..EngineOptions::default() };
        let mut engine = Engine::new(Arc::new(table), options);
        let mut batch = CopyBatch::new();
        let verdict = engine.process(&frame, 0, &mut batch, &mut ());
        let copied: Vec<u64> = batch.records().iter().map(|record| record.criteria_id).collect();
        prop_assert_eq!(&copied, &expected.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(verdict == Verdict::Matched, !expected.is_empty());
        for at in 0..batch.len() {
            prop_assert_eq!(batch.copy(at), decode_packet(&frame).map(|packet| packet.octets));
        }
        prop_assert!(engine.stats().check().is_ok());
    }

    #[test]
    fn any_frames_at_all_leave_an_account_that_is_right(
        nests in prop::collection::vec(any_nest(), 0..12),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..40),
    ) {
        let mut frames = nests;
        frames.extend(outer_fragments(3));
        for (which, at, octet) in damage {
            let count = frames.len();
            let data = &mut frames[which.index(count)];
            let at = at.index(data.len());
            data[at] = octet;
        }
        let mut engine = engine(vec![from(1, "192.0.2.1"), to_dns(2, "192.0.2.1")], InnerTunnels::ALL);
        let mut batch = CopyBatch::new();
        for data in &frames {
            engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut ());
            prop_assert!(engine.stats().check().is_ok());
        }
        engine.flush(0, &mut batch, &mut ());
        let stats = engine.stats();
        prop_assert!(stats.check().is_ok());
        prop_assert_eq!(stats.held, 0);
    }
}
