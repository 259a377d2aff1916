//! The engine on frames: decoding, misses and matches with few and many hosts, and the rule sets.
//!
//! `cargo bench -p flowtap-core --bench packets`
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may stop where its set-up is wrong"
)]

#[path = "../tests/classbench/mod.rs"]
mod classbench;
#[path = "../tests/frames/mod.rs"]
mod frames;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use classbench::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::decode::{decode, decode_packet};
use flowtap_core::engine::{Engine, EngineOptions, Framing};
use flowtap_core::frame::LinkType;
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Entry, FilterTable};
use frames::{ethernet, frame, ipv4, udp};

const FRAMES: u32 = 4096;

/// The frame of a packet as criteria see it.
fn frame_of(key: &PacketKey) -> Vec<u8> {
    let octets = |address| match address {
        Address::V4(bits) => bits.to_be_bytes(),
        Address::V6(_) => [0; 4],
    };
    let payload = match key.transport {
        Transport::Ports {
            source,
            destination,
        } => udp(source, destination, &[0; 18]),
        Transport::Icmp { kind, code } => [kind, code].repeat(10),
        Transport::None => vec![0; 20],
    };
    let packet = ipv4(
        octets(key.source),
        octets(key.destination),
        key.protocol.unwrap_or(0),
        &payload,
    );
    ethernet(&[&[8, 0]], &packet)
}

/// Traffic between addresses of the range that RFC 2544 sets apart for measuring.
fn traffic() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let key = |_| PacketKey {
        source: Address::V4(0xc612_0002 + random.below(0xfffd)),
        destination: Address::V4(0xc613_0002 + random.below(0xfffd)),
        protocol: Some(17),
        transport: Transport::Ports {
            source: 5060,
            destination: 53,
        },
    };
    (0..FRAMES).map(key).map(|key| frame_of(&key)).collect()
}

fn engine(entries: Vec<Entry>) -> Engine {
    let options = EngineOptions {
        framing: Framing::Count,
        ..EngineOptions::default()
    };
    let table = FilterTable::compile(entries, Vec::new()).expect("distinct ids");
    Engine::new(Arc::new(table), options)
}

fn host(id: u64, address: u32) -> Entry {
    let address = Ipv4Addr::from(address).to_string();
    let text = CriteriaText {
        source: Some(&address),
        ..CriteriaText::default()
    };
    Entry::new(id, Criteria::parse(&text).expect("a host"))
}

fn measure(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: BenchmarkId,
    engine: &mut Engine,
    frames: &[Vec<u8>],
) {
    let mut batch = CopyBatch::new();
    group.throughput(Throughput::Elements(u64::try_from(frames.len()).unwrap()));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for data in black_box(frames) {
                engine.process(&frame(data, LinkType::Ethernet), 0, &mut batch, &mut ());
            }
        });
    });
}

fn decoding(criterion: &mut Criterion) {
    let frames = traffic();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES.into()));
    group.bench_function("outermost packet", |bencher| {
        bencher.iter(|| {
            for data in black_box(&frames) {
                black_box(decode_packet(&frame(data, LinkType::Ethernet)));
            }
        });
    });
    group.bench_function("every layer", |bencher| {
        bencher.iter(|| {
            for data in black_box(&frames) {
                black_box(decode(&frame(data, LinkType::Ethernet)));
            }
        });
    });
}

fn hosts(criterion: &mut Criterion) {
    let frames = traffic();
    let mut group = criterion.benchmark_group("engine hosts");
    for count in [1, 10, 100, 1000, 10_000, 100_000_u32] {
        // One in the range of the traffic, not met; the others elsewhere.
        let elsewhere = (1..count).map(|number| host(number.into(), 0x0a00_0000 + number));
        let entries = std::iter::once(host(0, 0xc612_0001)).chain(elsewhere);
        let mut missing = engine(entries.collect());
        measure(
            &mut group,
            BenchmarkId::new("miss", count),
            &mut missing,
            &frames,
        );
        // Every source is met, until there are not enough criteria.
        let sources = (0..count).map(|number| host(number.into(), 0xc612_0000 + number));
        let mut matching = engine(sources.collect());
        measure(
            &mut group,
            BenchmarkId::new("some match", count),
            &mut matching,
            &frames,
        );
    }
}

fn rule_sets(criterion: &mut Criterion) {
    let traffic = traffic();
    let mut group = criterion.benchmark_group("engine classbench");
    for (name, _) in classbench::SETS {
        let mut rules = classbench::rules(name);
        let mut random = Random::new(2);
        let drawn: Vec<Vec<u8>> = (0..16 * FRAMES)
            .map(|_| frame_of(&classbench::drawn(&rules, &mut random)))
            .collect();
        let mut all = engine(classbench::entries(&rules));
        measure(
            &mut group,
            BenchmarkId::new("drawn", name),
            &mut all,
            &drawn,
        );
        rules.retain(|rule| !classbench::is_about_benchmark_addresses(rule));
        let mut others = engine(classbench::entries(&rules));
        measure(
            &mut group,
            BenchmarkId::new("miss", name),
            &mut others,
            &traffic,
        );
    }
}

criterion_group!(benches, decoding, hosts, rule_sets);
criterion_main!(benches);
