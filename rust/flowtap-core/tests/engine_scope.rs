//! Where frames pass: interfaces, ways, families, whole frames.
#![cfg(test)]

mod frames;

use std::net::IpAddr;
use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText, IpFamily};
use flowtap_core::duplicates::Duplicates;
use flowtap_core::engine::{Engine, EngineOptions, Framing, MatchSink};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::table::{Entry, FilterTable, Scope};
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [198, 51, 100, 2];
const IN: Direction = Direction::Inbound;
const OUT: Direction = Direction::Outbound;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn scope(inputs: &[&str], outputs: &[&str]) -> Scope {
    Scope {
        inputs: names(inputs),
        outputs: names(outputs),
        circuit: false,
    }
}

fn circuit(inputs: &[&str]) -> Scope {
    Scope {
        circuit: true,
        ..scope(inputs, &[])
    }
}

fn entry(id: u64, text: &CriteriaText<'_>, scope: Scope) -> Entry {
    Entry {
        scope,
        ..Entry::new(id, Criteria::parse(text).unwrap())
    }
}

fn any(id: u64, scope: Scope) -> Entry {
    entry(id, &CriteriaText::default(), scope)
}

/// Frames come on interface 0, which is eth0, 1, which is eth1, and 2, which has no name.
fn engine(entries: Vec<Entry>) -> Engine {
    let table = FilterTable::compile(entries, Vec::new()).unwrap();
    let options = EngineOptions {
        framing: Framing::Payload,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Arc::new(table), options);
    engine.name_interfaces(vec![Some("eth0".into()), Some("eth1".into()), None]);
    let local = [IpAddr::from(A).into()].into_iter().collect();
    engine.set_local_addresses(Arc::new(local));
    engine
}

/// Counts the frames that it is told of.
#[derive(Default)]
struct Told(usize);

impl MatchSink for Told {
    fn matched(&mut self, _frame: &Frame<'_>) {
        self.0 += 1;
    }
}

/// The ids of the criteria that copied a frame, and the octets of the copies.
fn copies(engine: &mut Engine, frame: &Frame<'_>) -> Vec<(u64, Vec<u8>)> {
    let mut batch = CopyBatch::new();
    engine.process(frame, 0, &mut batch, &mut ());
    let records = batch.records().iter().enumerate();
    records
        .map(|(at, record)| (record.criteria_id, batch.copy(at).unwrap().to_vec()))
        .collect()
}

fn ids(engine: &mut Engine, packet: &[u8], interface: u32, direction: Direction) -> Vec<u64> {
    let frame = Frame {
        interface,
        direction,
        ..frame(packet, LinkType::Raw)
    };
    let found = copies(engine, &frame);
    found.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_packet_that_is_seen_on_its_way_out_first_is_no_duplicate_on_its_way_in() {
    let entries = vec![any(1, Scope::default()), any(2, scope(&[], &["eth1"]))];
    let mut engine = engine(entries);
    engine.set_duplicates(Arc::new(Duplicates::new(20, 1_000)));
    let forwarded = ipv4(B, A, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &forwarded, 1, OUT), [2]);
    assert_eq!(ids(&mut engine, &forwarded, 0, IN), [1]);
    assert_eq!(ids(&mut engine, &forwarded, 0, IN), []);
    assert_eq!(engine.stats().duplicates, 1);
}

#[test]
fn every_packet_is_asked_about_where_it_enters_or_is_made() {
    let mut engine = engine(vec![any(1, Scope::default())]);
    let forwarded = ipv4(B, A, 17, &udp(1, 2, b""));
    let made = ipv4(A, B, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &forwarded, 0, IN), [1]);
    assert_eq!(ids(&mut engine, &forwarded, 1, OUT), []);
    assert_eq!(ids(&mut engine, &made, 1, OUT), [1]);
    assert_eq!(ids(&mut engine, &made, 1, Direction::Unknown), [1]);
    let unspecified = ipv4([0; 4], B, 17, &udp(68, 67, b""));
    assert_eq!(ids(&mut engine, &unspecified, 1, OUT), [1]);
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.frames, stats.matched), (5, 4));
}

#[test]
fn without_local_addresses_what_goes_out_is_made_here() {
    let table = FilterTable::compile(vec![any(1, Scope::default())], Vec::new()).unwrap();
    let mut engine = Engine::new(Arc::new(table), EngineOptions::default());
    let packet = ipv4(B, A, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &packet, 0, OUT), [1]);
}

#[test]
fn interfaces() {
    let mut engine = engine(vec![
        any(1, scope(&["eth0"], &[])),
        any(2, scope(&[], &["eth0"])),
        any(3, scope(&["eth1"], &["eth0"])),
        any(4, scope(&["eth0", "eth1"], &[])),
        any(5, scope(&["eth7"], &["eth7"])),
    ]);
    let forwarded = ipv4(B, A, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &forwarded, 0, IN), [1, 4]);
    assert_eq!(ids(&mut engine, &forwarded, 0, Direction::Unknown), [1, 4]);
    assert_eq!(ids(&mut engine, &forwarded, 0, OUT), [2, 3]);
    assert_eq!(ids(&mut engine, &forwarded, 1, IN), [3, 4]);
    assert_eq!(ids(&mut engine, &forwarded, 1, OUT), []);
    assert_eq!(ids(&mut engine, &forwarded, 2, IN), []);
    assert_eq!(ids(&mut engine, &forwarded, 9, IN), []);
    let made = ipv4(A, B, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &made, 0, OUT), [2, 3]);
    assert_eq!(ids(&mut engine, &made, 1, OUT), []);
}

#[test]
fn a_change_of_the_table_may_name_further_interfaces() {
    let mut engine = engine(vec![any(1, scope(&["eth0"], &[]))]);
    let add = vec![any(2, scope(&["eth1"], &[]))];
    let changed = engine.table().changed(&[], add, None).unwrap();
    engine.install(Arc::new(changed));
    let packet = ipv4(A, B, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &packet, 0, IN), [1]);
    assert_eq!(ids(&mut engine, &packet, 1, IN), [2]);
    let changed = engine.table().changed(&[1], Vec::new(), None).unwrap();
    engine.install(Arc::new(changed));
    assert_eq!(ids(&mut engine, &packet, 0, IN), []);
    assert_eq!(ids(&mut engine, &packet, 1, IN), [2]);
    // A table of its own numbers interfaces in its own way.
    let other = FilterTable::compile(vec![any(3, scope(&["eth1"], &[]))], Vec::new()).unwrap();
    engine.install(Arc::new(other));
    assert_eq!(ids(&mut engine, &packet, 0, IN), []);
    assert_eq!(ids(&mut engine, &packet, 1, IN), [3]);
}

#[test]
fn families() {
    let of = |family| CriteriaText {
        family: Some(family),
        ..CriteriaText::default()
    };
    let both = CriteriaText {
        source: Some("192.0.2.0/24,2001:db8::/32"),
        ..of(IpFamily::V6)
    };
    let mut engine = engine(vec![
        entry(1, &of(IpFamily::V4), Scope::default()),
        entry(2, &of(IpFamily::V6), Scope::default()),
        entry(3, &both, Scope::default()),
    ]);
    assert_eq!(
        ids(&mut engine, &ipv4(A, B, 17, &udp(1, 2, b"")), 0, IN),
        [1]
    );
    assert_eq!(
        ids(&mut engine, &ipv6(1, 2, 17, &udp(1, 2, b"")), 0, IN),
        [2, 3]
    );
    for text in [
        CriteriaText {
            source: Some("192.0.2.1"),
            ..of(IpFamily::V6)
        },
        CriteriaText {
            destination: Some("2001:db8::1"),
            ..of(IpFamily::V4)
        },
    ] {
        let error = Criteria::parse(&text).unwrap_err();
        assert!(error.to_string().contains("IP version"), "{error}");
    }
}

#[test]
fn circuits_copy_whole_frames_whatever_they_carry() {
    let mut engine = engine(vec![
        any(1, circuit(&["eth0"])),
        any(2, circuit(&[])),
        any(3, Scope::default()),
    ]);
    let packet = ipv4(A, B, 17, &udp(1, 2, b"x"));
    let whole = ethernet(&[&[8, 0]], &packet);
    let arp = ethernet(&[&[8, 6]], &[0; 28]);
    let on = |data, interface, direction| Frame {
        interface,
        direction,
        ..frame(data, LinkType::Ethernet)
    };
    assert_eq!(
        copies(&mut engine, &on(&whole, 0, IN)),
        [(3, packet), (1, whole.clone()), (2, whole.clone())]
    );
    assert_eq!(
        copies(&mut engine, &on(&arp, 0, IN)),
        [(1, arp.clone()), (2, arp.clone())]
    );
    assert_eq!(copies(&mut engine, &on(&arp, 1, IN)), [(2, arp.clone())]);
    assert_eq!(copies(&mut engine, &on(&arp, 1, OUT)), []);
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.frames, stats.undecodable, stats.matched), (4, 3, 3));
    let octets = u64::try_from(whole.len() + arp.len()).unwrap();
    assert_eq!(
        (stats.criteria[0].packets, stats.criteria[0].octets),
        (2, octets)
    );
    assert!(engine.table().anchors().is_open_to_frames);
    let changed = engine.table().changed(&[1, 2], Vec::new(), None).unwrap();
    assert!(!engine.table().anchor_changes(&changed).is_open_to_frames);
    engine.install(Arc::new(changed));
    assert_eq!(copies(&mut engine, &on(&arp, 0, IN)), []);
}

#[test]
fn a_frame_of_a_circuit_counts_once_also_where_it_waits_for_its_datagram() {
    let ports = CriteriaText {
        destination_port: Some("53"),
        ..CriteriaText::default()
    };
    let mut engine = engine(vec![
        any(1, circuit(&[])),
        entry(2, &ports, Scope::default()),
    ]);
    let datagram = udp(1024, 53, &[7; 24]);
    let later = ipv4_fragment(A, B, 17, &datagram[16..], 16, false, 5);
    let first = ipv4_fragment(A, B, 17, &datagram[..16], 0, true, 5);
    let mut batch = CopyBatch::new();
    let mut told = Told::default();
    for packet in [&later, &first] {
        engine.process(&frame(packet, LinkType::Raw), 0, &mut batch, &mut told);
    }
    let stats = engine.stats();
    stats.check().unwrap();
    assert_eq!((stats.matched, told.0), (2, 2));
    let packets: Vec<u64> = stats.criteria.iter().map(|each| each.packets).collect();
    assert_eq!((packets, batch.len()), (vec![2, 2], 4));
}

#[test]
fn own_traffic_is_in_no_circuit() {
    let own = Entry {
        own: true,
        ..any(1, Scope::default())
    };
    let mut engine = engine(vec![own, any(2, circuit(&[]))]);
    let packet = ipv4(A, B, 17, &udp(1, 2, b""));
    assert_eq!(ids(&mut engine, &packet, 0, IN), []);
    assert_eq!(engine.stats().own, 1);
}
