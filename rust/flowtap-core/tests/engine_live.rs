//! What matters where frames come from interfaces: the tap's own traffic, and packets that are seen twice.
#![cfg(test)]

mod frames;
mod tables;

use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::duplicates::Duplicates;
use flowtap_core::engine::{Engine, EngineOptions, Framing, Verdict};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::own::{OwnEndpoint, OwnSource, OwnTraffic};
use flowtap_core::packet::Address;
use flowtap_core::table::{Entry, FilterTable, Scope};
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};
use tables::{destination, from};

const TAP: [u8; 4] = [192, 0, 2, 1];
const DEVICE: [u8; 4] = [203, 0, 113, 9];
const SUBJECT: [u8; 4] = [198, 51, 100, 2];
const MILLISECOND_NS: u64 = 1_000_000;

fn everything(id: u64) -> Entry {
    from(id, "*")
}

fn engine(entries: Vec<Entry>) -> Engine {
    // Copies go from 192.0.2.1 port 65534 to 203.0.113.9 port 30000.
    let to = destination("cd1", "203.0.113.9", "192.0.2.1");
    let table = FilterTable::compile(entries, vec![to]).unwrap();
    let options = EngineOptions {
        framing: Framing::Payload,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Arc::new(table), options);
    let local = [Address::V4(u32::from_be_bytes(TAP))].into_iter().collect();
    engine.set_local_addresses(Arc::new(local));
    let ssh = OwnEndpoint {
        protocol: 6,
        address: None,
        port: 32_001,
    };
    let dtcp = OwnEndpoint {
        protocol: 17,
        address: Some(Address::V4(u32::from_be_bytes(TAP))),
        port: 1_814,
    };
    engine.set_own_traffic(OwnTraffic::new(vec![ssh, dtcp]));
    engine
}

fn verdict(engine: &mut Engine, packet: &[u8], now_ns: u64) -> Verdict {
    let frame = frame(packet, LinkType::Raw);
    engine.process(&frame, now_ns, &mut CopyBatch::new(), &mut ())
}

/// The ports of TCP lie where those of UDP do.
fn tcp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = udp(source, destination, &[0; 12]);
    header[12] = 0x50;
    header
}

#[test]
fn copies_through_a_socket_of_its_owner_s_are_the_tap_s_own() {
    let mut engine = engine(vec![everything(1)]);
    let port = engine.table().destinations()[0].port;
    let given = 40_000;
    let other = [192, 0, 2, 5];
    let local = [TAP, other].map(|address| Address::V4(u32::from_be_bytes(address)));
    engine.set_local_addresses(Arc::new(local.into_iter().collect()));
    let here = ipv4(TAP, DEVICE, 17, &udp(given, port, b"x"));
    let there = ipv4(other, DEVICE, 17, &udp(given, port, b"x"));
    let later = ipv4_fragment(other, DEVICE, 17, &[7; 20], 1480, false, 7);
    let never = [
        ipv4(SUBJECT, DEVICE, 17, &udp(given, port, b"x")),
        ipv4(TAP, DEVICE, 17, &udp(given + 1, port, b"x")),
        ipv4(TAP, DEVICE, 17, &udp(given, port + 1, b"x")),
        ipv4(TAP, SUBJECT, 17, &udp(given, port, b"x")),
        ipv4(TAP, DEVICE, 6, &tcp(given, port)),
    ];
    let from = |address| OwnSource {
        address,
        port: given,
    };
    for (source, own) in [
        (from(Some(local[0])), [true, false, false]),
        (from(Some(local[1])), [false, true, true]),
        (from(None), [true, true, true]),
    ] {
        engine.set_own_traffic(OwnTraffic::default().sent_from(source));
        for (packet, is_own) in [&here, &there, &later].into_iter().zip(own) {
            let found = verdict(&mut engine, packet, 0) == Verdict::Own;
            assert_eq!(found, is_own, "{source:?}");
        }
        for packet in &never {
            assert_ne!(verdict(&mut engine, packet, 0), Verdict::Own, "{source:?}");
        }
    }
}

#[test]
fn copies_from_a_port_that_the_kernel_chose_are_the_tap_s_own() {
    let mut engine = engine(vec![everything(1)]);
    let chosen = flowtap_core::table::Destination {
        source_port: 0,
        ..engine.table().destinations()[0].clone()
    };
    let port = chosen.port;
    let table = FilterTable::compile(vec![everything(1)], vec![chosen]).unwrap();
    engine.install(Arc::new(table));
    let copy = ipv4(TAP, DEVICE, 17, &udp(33_333, port, b"x"));
    assert_eq!(verdict(&mut engine, &copy, 0), Verdict::Own);
    let other = ipv4(TAP, DEVICE, 17, &udp(33_333, port + 1, b"x"));
    assert_ne!(verdict(&mut engine, &other, 0), Verdict::Own);
}

#[test]
fn copies_and_control_channels_are_the_tap_s_own() {
    let mut engine = engine(vec![everything(1)]);
    let port = engine.table().destinations()[0].port;
    let from_port = engine.table().destinations()[0].source_port;
    for (packet, is_own) in [
        (ipv4(TAP, DEVICE, 17, &udp(from_port, port, b"x")), true),
        (
            ipv4(TAP, DEVICE, 17, &udp(from_port, port + 1, b"x")),
            false,
        ),
        (ipv4(TAP, DEVICE, 6, &tcp(from_port, port)), false),
        (ipv4(DEVICE, TAP, 17, &udp(port, from_port, b"x")), false),
        (
            ipv4(SUBJECT, DEVICE, 17, &udp(from_port, port, b"x")),
            false,
        ),
        // Later fragments of long copies have no ports.
        (
            ipv4_fragment(TAP, DEVICE, 17, &[1; 16], 1480, false, 7),
            true,
        ),
        (
            ipv4_fragment(TAP, DEVICE, 132, &[1; 16], 1480, false, 7),
            false,
        ),
        (ipv4(DEVICE, TAP, 6, &tcp(50_000, 32_001)), true),
        (ipv4(TAP, DEVICE, 6, &tcp(32_001, 50_000)), true),
        (ipv4(DEVICE, SUBJECT, 6, &tcp(50_000, 32_001)), false),
        (ipv4(DEVICE, TAP, 17, &udp(50_000, 32_001, b"")), false),
        (ipv4(DEVICE, TAP, 17, &udp(50_000, 1_814, b"")), true),
        (ipv4(TAP, DEVICE, 17, &udp(1_814, 50_000, b"")), true),
        (ipv4(DEVICE, SUBJECT, 17, &udp(50_000, 1_814, b"")), false),
    ] {
        let expected = if is_own {
            Verdict::Own
        } else {
            Verdict::Matched
        };
        assert_eq!(verdict(&mut engine, &packet, 0), expected, "{packet:?}");
    }
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.own, stats.matched), (6, 8));
}

#[test]
fn nobody_hides_behind_a_quotation_of_a_control_channel() {
    let mut engine = engine(vec![everything(1)]);
    let request = ipv4(SUBJECT, TAP, 6, &tcp(50_000, 32_001));
    let answer = ipv4(TAP, SUBJECT, 6, &tcp(32_001, 50_000));
    let error = |from, about: &[u8]| {
        let quoted = &about[..28];
        ipv4(
            from,
            SUBJECT,
            1,
            &[&[3, 3, 0, 0, 0, 0, 0, 0], quoted, b"hidden"].concat(),
        )
    };
    // The subject has written to the port, or says so; whoever quotes that to him may be his friend.
    assert_eq!(
        verdict(&mut engine, &error(DEVICE, &request), 0),
        Verdict::Matched
    );
    assert_eq!(verdict(&mut engine, &error(TAP, &request), 0), Verdict::Own);
    // Neither is an error to him about what he has not sent.
    assert_eq!(
        verdict(&mut engine, &error(DEVICE, &answer), 0),
        Verdict::Matched
    );
}

#[test]
fn own_traffic_follows_the_table_and_is_in_no_circuit() {
    let whole = Entry {
        scope: Scope {
            circuit: true,
            ..Scope::default()
        },
        ..everything(1)
    };
    let mut engine = engine(vec![whole]);
    let destination = engine.table().destinations()[0].clone();
    let old = ipv4(
        TAP,
        DEVICE,
        17,
        &udp(destination.source_port, destination.port, b"x"),
    );
    let new = ipv4(TAP, DEVICE, 17, &udp(destination.source_port, 4_000, b"x"));
    assert_eq!(verdict(&mut engine, &old, 0), Verdict::Own);
    assert_eq!(verdict(&mut engine, &new, 0), Verdict::Matched);
    let moved = flowtap_core::table::Destination {
        port: 4_000,
        ..destination
    };
    let table = engine.table().changed(&[], Vec::new(), Some(vec![moved]));
    let mut batch = CopyBatch::new();
    engine.pass_time(1_000, &mut batch, &mut ());
    engine.install(Arc::new(table.unwrap()));
    assert_eq!(verdict(&mut engine, &new, 1_000), Verdict::Own);
    // The last ones are still on the way: in the ring, at another worker, in pieces.
    for (now_ns, expected) in [
        (1_000, Verdict::Own),
        (30_000_000_000, Verdict::Own),
        (40_000_001_000, Verdict::Matched),
    ] {
        engine.pass_time(now_ns, &mut batch, &mut ());
        assert_eq!(verdict(&mut engine, &old, now_ns), expected, "{now_ns}");
    }
    assert_eq!(verdict(&mut engine, &new, 40_000_001_000), Verdict::Own);
    engine.stats().check().unwrap();
}

/// The same packet one hop further: another time to live, checksum and link.
fn hop(packet: &[u8]) -> Vec<u8> {
    let mut next = packet.to_vec();
    if next[0] >> 4 == 4 {
        next[8] -= 1;
        next[10] ^= 0x55;
    } else {
        next[7] -= 1;
    }
    next
}

#[test]
fn a_packet_is_new_again_however_long_it_was_not_seen() {
    // When the time of a place begins anew.
    let round_ms = 1_u64 << 20;
    for pause_ms in [500, 20_000, 300_000, 2 * round_ms] {
        let mut engine = engine(vec![from(1, "198.51.100.2")]);
        engine.set_duplicates(Arc::new(Duplicates::new(100, 1 << 14)));
        let packet = |text: &[u8]| ipv4(SUBJECT, DEVICE, 17, &udp(1, 2, text));
        let mut at = |text: &[u8], ms: u64| {
            let packet = packet(text);
            verdict(&mut engine, &packet, ms * MILLISECOND_NS)
        };
        assert_eq!(at(b"one", 5), Verdict::Matched);
        assert_eq!(at(b"one", 6), Verdict::Duplicate);
        for ms in (pause_ms..round_ms).step_by(usize::try_from(pause_ms).unwrap()) {
            assert_eq!(at(&ms.to_be_bytes(), ms), Verdict::Matched);
        }
        assert_eq!(at(b"one", round_ms + 5), Verdict::Matched, "{pause_ms}");
        assert_eq!(at(b"one", round_ms + 104), Verdict::Duplicate);
    }
}

#[test]
fn a_packet_that_is_seen_again_is_copied_once() {
    let mut engine = engine(vec![from(1, "198.51.100.2,2001:db8::/32")]);
    engine.set_duplicates(Arc::new(Duplicates::new(10, 1_000)));
    let v4 = ipv4(SUBJECT, DEVICE, 17, &udp(1, 2, b"one"));
    let other = ipv4(SUBJECT, DEVICE, 17, &udp(1, 2, b"two"));
    let v6 = ipv6(1, 2, 17, &udp(1, 2, b"one"));
    let missed = ipv4(DEVICE, SUBJECT, 17, &udp(1, 2, b"one"));
    for packet in [&v4, &other, &v6] {
        assert_eq!(verdict(&mut engine, packet, 0), Verdict::Matched);
        assert_eq!(
            verdict(&mut engine, &hop(packet), MILLISECOND_NS),
            Verdict::Duplicate
        );
    }
    assert_eq!(verdict(&mut engine, &missed, 0), Verdict::Missed);
    assert_eq!(verdict(&mut engine, &missed, 0), Verdict::Missed);
    // What comes later is another packet.
    assert_eq!(
        verdict(&mut engine, &v4, 11 * MILLISECOND_NS),
        Verdict::Matched
    );
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.duplicates, stats.matched), (3, 4));
}

#[test]
fn engines_share_the_memory_and_it_is_bounded() {
    let memory = Arc::new(Duplicates::new(1_000, 64));
    let mut engines = [0, 1].map(|_| {
        let mut engine = engine(vec![everything(1)]);
        engine.set_duplicates(Arc::clone(&memory));
        engine
    });
    let packet = |number: u16| ipv4(SUBJECT, DEVICE, 17, &udp(number, 2, b""));
    assert_eq!(verdict(&mut engines[0], &packet(1), 0), Verdict::Matched);
    assert_eq!(verdict(&mut engines[1], &packet(1), 0), Verdict::Duplicate);
    // Far more than there is room for: what is forgotten is copied again, never the other way round.
    for number in 2..2_000 {
        assert_eq!(
            verdict(&mut engines[0], &packet(number), 0),
            Verdict::Matched
        );
    }
    assert_eq!(
        verdict(&mut engines[1], &packet(1_999), 0),
        Verdict::Duplicate
    );
}

#[test]
fn a_criterion_about_an_interface_has_every_passage() {
    let out = Entry {
        scope: Scope {
            outputs: vec!["eth1".to_owned()],
            ..Scope::default()
        },
        ..everything(2)
    };
    let mut engine = engine(vec![everything(1), out]);
    engine.name_interfaces(vec![Some("eth0".to_owned()), Some("eth1".to_owned())]);
    engine.set_duplicates(Arc::new(Duplicates::new(10, 1_000)));
    engine.ask_any_way();
    let packet = ipv4(SUBJECT, DEVICE, 17, &udp(1, 2, b"one"));
    let (before, after) = (
        ethernet(&[&[8, 0]], &packet),
        ethernet(&[&[8, 0]], &hop(&packet)),
    );
    let mut batch = CopyBatch::new();
    for (octets, interface, direction) in [
        (&before, 0, Direction::Inbound),
        (&after, 1, Direction::Outbound),
    ] {
        let frame = Frame {
            interface,
            direction,
            ..frame(octets, LinkType::Ethernet)
        };
        let verdict = engine.process(&frame, 0, &mut batch, &mut ());
        assert_eq!(verdict, Verdict::Matched);
    }
    let ids: Vec<u64> = batch
        .records()
        .iter()
        .map(|record| record.criteria_id)
        .collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn every_way_where_that_is_asked_for() {
    let mut engine = engine(vec![everything(1)]);
    let forwarded = ipv4(SUBJECT, DEVICE, 17, &udp(1, 2, b""));
    let out = Frame {
        direction: Direction::Outbound,
        ..frame(&forwarded, LinkType::Raw)
    };
    let mut batch = CopyBatch::new();
    assert_eq!(
        engine.process(&out, 0, &mut batch, &mut ()),
        Verdict::Missed
    );
    engine.ask_any_way();
    assert_eq!(
        engine.process(&out, 0, &mut batch, &mut ()),
        Verdict::Matched
    );
}
