//! No packet costs an allocation: not one that is missed, not one that is copied and sent, once the worker is warm.
#![cfg(test)]

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{Engine, EngineOptions, Framing, Verdict};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::table::{Destination, Entry, FilterTable, Lifetime, Rate, Scope};
use flowtap_io::export::{ExportOptions, Exporter};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const HOSTS: u32 = 10_000;
const ROUNDS: u64 = 1_000;

fn entry(id: u64, source: Ipv4Addr) -> Entry {
    let source = source.to_string();
    let text = CriteriaText {
        source: Some(&source),
        ..CriteriaText::default()
    };
    Entry {
        destinations: vec![0],
        ..Entry::new(id, Criteria::parse(&text).unwrap())
    }
}

/// Many hosts, and for one of them a few criteria with everything that a criterion may have.
fn table(port: u16) -> FilterTable {
    let mut entries: Vec<Entry> = (0..HOSTS)
        .map(|at| entry(u64::from(at) + 1, Ipv4Addr::from(0x0a00_0000 + at)))
        .collect();
    let limited = Lifetime {
        idle_ns: Some(u64::MAX),
        packets: Some(u64::MAX),
        ..Lifetime::default()
    };
    entries.push(Entry {
        id: 1_000_000,
        lifetime: limited,
        rate: Some(Arc::new(Rate::new(1 << 40, 0))),
        scope: Scope {
            inputs: vec!["eth0".to_owned()],
            ..Scope::default()
        },
        ..entry(0, Ipv4Addr::new(10, 0, 0, 1))
    });
    let destination = Destination {
        id: "cd1".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
        port,
        source_address: Ipv4Addr::LOCALHOST.into(),
        source_port: 0,
        ttl: 64,
        refuse_oversize: false,
        export: true,
        protection: None,
    };
    FilterTable::compile(entries, vec![destination]).unwrap()
}

fn packet(source: Ipv4Addr, fragment: [u8; 2]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 0, 1];
    packet.extend(fragment);
    packet.extend([64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend([198, 51, 100, 1]);
    packet.extend([0x9c, 0x40, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet
}

fn frame(data: &[u8]) -> Frame<'_> {
    Frame {
        data,
        link_type: LinkType::Ipv4,
        timestamp_ns: 0,
        original_length_octets: u32::try_from(data.len()).unwrap(),
        interface: 0,
        direction: Direction::Inbound,
    }
}

/// How often memory was asked for meanwhile.
fn allocations(mut work: impl FnMut()) -> u64 {
    let before = dhat::HeapStats::get().total_blocks;
    work();
    dhat::HeapStats::get().total_blocks - before
}

#[test]
fn the_hot_path_asks_for_no_memory() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let arrival = UdpSocket::bind("127.0.0.1:0").unwrap();
    let table = Arc::new(table(arrival.local_addr().unwrap().port()));
    let missed = packet(Ipv4Addr::new(192, 0, 2, 1), [0, 0]);
    let near = packet(Ipv4Addr::new(10, 200, 0, 1), [0, 0]);
    let matched = packet(Ipv4Addr::new(10, 0, 0, 1), [0, 0]);
    let other = packet(Ipv4Addr::new(10, 0, 0, 9), [0, 0]);
    let later = packet(Ipv4Addr::new(10, 0, 0, 9), [0, 5]);
    for (framing, inner) in [
        (Framing::Count, InnerTunnels::default()),
        (Framing::Payload, InnerTunnels::ALL),
        (
            Framing::Datagram { mtu_octets: 1500 },
            InnerTunnels::default(),
        ),
    ] {
        let options = EngineOptions {
            framing,
            inner,
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(Arc::clone(&table), options);
        engine.name_interfaces(vec![Some("eth0".to_owned())]);
        let mut exporter = Exporter::new(Arc::clone(&table), ExportOptions::default());
        let mut batch = CopyBatch::new();
        let mut round = |now_ns| {
            for data in [&missed, &near] {
                let verdict = engine.process(&frame(data), now_ns, &mut batch, &mut ());
                assert_eq!(verdict, Verdict::Missed);
            }
            // Where tunnels are looked into, a later fragment may hold anything and is kept until its first comes.
            let waits = inner == InnerTunnels::ALL;
            let last = if waits { &other } else { &later };
            for data in [&matched, &other, last] {
                let verdict = engine.process(&frame(data), now_ns, &mut batch, &mut ());
                assert_ne!(verdict, Verdict::Missed);
            }
            if framing == Framing::Payload {
                exporter.send(&batch);
            }
            batch.clear();
        };
        for now_ns in 1..100 {
            round(now_ns);
        }
        let asked = allocations(|| (100..100 + ROUNDS).for_each(&mut round));
        assert_eq!(asked, 0, "{framing:?}");
    }
}
