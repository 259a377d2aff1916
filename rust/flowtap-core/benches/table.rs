//! The table alone: looks at packets, worst cases, building and changing.
//!
//! `cargo bench -p flowtap-core --bench table`
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may stop where its set-up is wrong"
)]

#[path = "../tests/classbench/mod.rs"]
mod classbench;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use classbench::Random;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::engine::{Engine, EngineOptions};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Entry, FilterTable};

const COUNTS: [u32; 6] = [1, 10, 100, 1000, 10_000, 100_000];

fn entry(id: u64, text: &CriteriaText<'_>) -> Entry {
    Entry::new(
        id,
        Criteria::parse(text).expect("a filter that makes sense"),
    )
}

/// Every second address of a range, so that there are neighbours that match nothing.
fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc612_0000 + 2 * number)
}

fn hosts(count: u32) -> Vec<Entry> {
    let source = |number| {
        let text = CriteriaText {
            source: Some(&host(number).to_string()),
            ..CriteriaText::default()
        };
        entry(u64::from(number) + 1, &text)
    };
    (0..count).map(source).collect()
}

fn compile(entries: Vec<Entry>) -> FilterTable {
    FilterTable::compile(entries, Vec::new()).expect("distinct ids")
}

fn key(source: u32, destination: u32, ports: (u16, u16)) -> PacketKey {
    PacketKey {
        source: Address::V4(source),
        destination: Address::V4(destination),
        protocol: Some(17),
        transport: Transport::Ports {
            source: ports.0,
            destination: ports.1,
        },
    }
}

/// What the engine asks for every packet.
fn look(table: &FilterTable, keys: &[PacketKey], slots: &mut Vec<u32>) -> usize {
    let mut found = 0;
    for key in keys {
        if table.may_match(key.source, key.destination) {
            table.classify(key, slots);
            found += slots.len();
        }
    }
    found
}

const KEYS: u32 = 4096;

fn measure(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: BenchmarkId,
    table: &FilterTable,
    keys: &[PacketKey],
) {
    let mut slots = Vec::new();
    group.throughput(Throughput::Elements(u64::try_from(keys.len()).unwrap()));
    group.bench_function(name, |bencher| {
        bencher.iter(|| black_box(look(table, black_box(keys), &mut slots)));
    });
}

fn host_look_ups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hosts");
    for count in COUNTS {
        let table = compile(hosts(count));
        let mut random = Random::new(1);
        let elsewhere: Vec<PacketKey> = (0..KEYS)
            .map(|_| key(0x0a00_0000 | random.next() >> 8, random.next(), (1, 1)))
            .collect();
        measure(
            &mut group,
            BenchmarkId::new("miss", count),
            &table,
            &elsewhere,
        );
        // Neighbours: odd addresses of the same range on both sides.
        let near: Vec<PacketKey> = (0..KEYS)
            .map(|_| {
                let mut odd = || u32::from(host(random.below(100_000))) | 1;
                key(odd(), odd(), (1, 1))
            })
            .collect();
        measure(
            &mut group,
            BenchmarkId::new("neighbours", count),
            &table,
            &near,
        );
        let met: Vec<PacketKey> = (0..KEYS)
            .map(|_| key(host(random.below(count)).into(), random.next(), (1, 1)))
            .collect();
        measure(&mut group, BenchmarkId::new("hit", count), &table, &met);
    }
}

fn with_ports(id: u64, source: Option<&str>, from: Option<&str>, to: Option<&str>) -> Entry {
    let text = CriteriaText {
        source,
        source_port: from,
        destination_port: to,
        ..CriteriaText::default()
    };
    entry(id, &text)
}

fn worst_cases(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("worst");
    let mut random = Random::new(2);
    let one = Some("192.0.2.1");
    let mut keys = |count: u32| -> Vec<PacketKey> {
        (0..count)
            .map(|_| {
                let mut port = || u16::try_from(random.below(65536)).unwrap();
                key(0xc000_0201, 0xc633_6401, (port(), port()))
            })
            .collect()
    };
    let keys = keys(KEYS);
    let ports: Vec<Entry> = (0..10_000)
        .map(|port| with_ports(port, one, None, Some(&port.to_string())))
        .collect();
    measure(
        &mut group,
        BenchmarkId::from_parameter("10,000 ports of one address"),
        &compile(ports),
        &keys,
    );
    let mut range = || {
        let (first, length) = (random.below(60_000), random.below(500));
        format!("{first}-{}", first + length)
    };
    let ranges: Vec<(String, String)> = (0..10_000).map(|_| (range(), range())).collect();
    for (name, source) in [
        ("10,000 pairs of port ranges of one address", one),
        ("10,000 pairs of port ranges of any address", None),
    ] {
        let entries = ranges
            .iter()
            .zip(0..)
            .map(|((from, to), id)| with_ports(id, source, Some(from), Some(to)));
        let table = compile(entries.collect());
        measure(&mut group, BenchmarkId::from_parameter(name), &table, &keys);
    }
    let alike = (0..1000).map(|id| with_ports(id, one, None, None));
    let table = compile(alike.collect());
    let name = BenchmarkId::from_parameter("1,000 matches");
    measure(&mut group, name, &table, &keys[..64]);
    let prefixes = (0..10_000).map(|id| {
        let length = 8 + random.below(25);
        let bits = 0x0a00_0000 | random.next() >> 8;
        let source = format!("{}/{length}", Ipv4Addr::from(bits));
        with_ports(id, Some(&source), None, None)
    });
    let table = compile(prefixes.collect());
    let keys: Vec<PacketKey> = (0..KEYS)
        .map(|_| key(0x0a00_0000 | random.next() >> 8, 0xc633_6401, (1, 1)))
        .collect();
    let name = BenchmarkId::from_parameter("10,000 overlapping prefixes");
    measure(&mut group, name, &table, &keys);
}

fn building(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10);
    for count in [1000, 100_000] {
        let entries = hosts(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_with_input(
            BenchmarkId::new("hosts", count),
            &entries,
            |bencher, entries| {
                bencher.iter_batched(|| entries.clone(), compile, BatchSize::PerIteration);
            },
        );
    }
    for (name, _) in classbench::SETS {
        let entries = classbench::entries(&classbench::rules(name));
        group.throughput(Throughput::Elements(u64::try_from(entries.len()).unwrap()));
        group.bench_with_input(
            BenchmarkId::from_parameter(name),
            &entries,
            |bencher, entries| {
                bencher.iter_batched(|| entries.clone(), compile, BatchSize::PerIteration);
            },
        );
    }
}

/// One criterion goes, another comes, and an engine goes over: the work of a stop and a start together.
fn changing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    for count in [1000, 100_000] {
        let mut entries = hosts(count + 1);
        let mut outside = entries.pop().unwrap();
        let mut table = Arc::new(compile(entries));
        let mut engine = Engine::new(Arc::clone(&table), EngineOptions::default());
        let mut random = Random::new(3);
        group.bench_function(BenchmarkId::new("one host for another", count), |bencher| {
            bencher.iter(|| {
                let id = loop {
                    let id = u64::from(random.below(count)) + 1;
                    if table.slot_of(id).is_some() {
                        break id;
                    }
                };
                let slot = table.slot(table.slot_of(id).unwrap()).unwrap();
                let next = Entry {
                    id,
                    criteria: slot.criteria().clone(),
                    ..outside.clone()
                };
                let coming = std::mem::replace(&mut outside, next);
                table = Arc::new(table.changed(&[id], vec![coming], None).unwrap());
                engine.install(Arc::clone(&table));
            });
        });
    }
}

criterion_group!(benches, host_look_ups, worst_cases, building, changing);
criterion_main!(benches);
