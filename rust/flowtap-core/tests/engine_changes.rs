//! Two engines over the same frames: one goes over to changed tables, the other to tables compiled anew. Copies,
//! accounts and ages are the same.
#![cfg(test)]

mod frames;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::engine::{Engine, EngineOptions, Verdict};
use flowtap_core::frame::LinkType;
use flowtap_core::table::{Destination, Entry, FilterTable, Lifetime};
use frames::{frame, ipv4, udp};
use proptest::prelude::*;
use tables::{destination, from};

const HOSTS: u8 = 6;

fn destinations(ports: &[u16]) -> Vec<Destination> {
    let named = |name: &str, &port: &u16| Destination {
        port,
        ..destination(name, "203.0.113.9", "203.0.113.1")
    };
    ["a", "b"]
        .into_iter()
        .zip(ports)
        .map(|(name, port)| named(name, port))
        .collect()
}

fn criterion(
    id: u64,
    host: u8,
    places: &[bool],
    packets: Option<u64>,
    idle_ns: Option<u64>,
) -> Entry {
    Entry {
        destinations: (0..)
            .zip(places)
            .filter(|&(_, &to)| to)
            .map(|(at, _)| at)
            .collect(),
        lifetime: Lifetime {
            packets,
            idle_ns,
            ..Lifetime::default()
        },
        own: host == 0,
        ..from(id, &format!("192.0.2.{host}"))
    }
}

#[test]
fn an_account_stays_with_its_criterion_whatever_its_neighbours_do() {
    let many: Vec<Entry> = (1..=500)
        .map(|id| from(id, &format!("10.0.{}.{}", id / 250, id % 250)))
        .collect();
    let first = Arc::new(FilterTable::compile(many, Vec::new()).unwrap());
    let mut engine = Engine::new(Arc::clone(&first), EngineOptions::default());
    let mut batch = CopyBatch::new();
    let packet = ipv4([10, 0, 1, 7], [192, 0, 2, 1], 17, &udp(1, 1, b""));
    let mut pass = |engine: &mut Engine| {
        engine.process(&frame(&packet, LinkType::Raw), 0, &mut batch, &mut ());
        let stats = engine.stats();
        stats.check().unwrap();
        stats
            .criteria
            .iter()
            .find(|criterion| criterion.id == 257)
            .map(|criterion| criterion.packets)
    };
    assert_eq!(pass(&mut engine), Some(1));
    let second = Arc::new(
        first
            .changed(&[1, 256], vec![from(900, "10.9.9.9")], None)
            .unwrap(),
    );
    engine.install(Arc::clone(&second));
    assert_eq!(pass(&mut engine), Some(2));
    // Two changes that are installed as one.
    let third = second
        .changed(&[2], vec![from(901, "10.9.9.8")], None)
        .unwrap();
    let fourth = Arc::new(
        third
            .changed(&[900], vec![from(902, "10.9.9.7")], None)
            .unwrap(),
    );
    engine.install(fourth);
    assert_eq!(pass(&mut engine), Some(3));
    // Back to the first, which knows nothing of its successors.
    engine.install(first);
    assert_eq!(pass(&mut engine), Some(4));
    // Gone, and come again: a new account.
    let without = Arc::new(second.changed(&[257], Vec::new(), None).unwrap());
    engine.install(without);
    assert_eq!(pass(&mut engine), None);
    engine.install(second);
    assert_eq!(pass(&mut engine), Some(1));
}

#[test]
fn a_criterion_that_a_change_brings_begins_to_live_with_the_next_frame() {
    let first = FilterTable::compile(vec![from(1, "10.0.0.1")], Vec::new()).unwrap();
    let coming = Entry {
        lifetime: Lifetime {
            total_ns: Some(100),
            ..Lifetime::default()
        },
        ..from(2, "192.0.2.1")
    };
    let second = first.changed(&[1], vec![coming], None).unwrap();
    let mut engine = Engine::new(Arc::new(first), EngineOptions::default());
    let mut batch = CopyBatch::new();
    let packet = ipv4([192, 0, 2, 1], [198, 51, 100, 1], 17, &udp(1, 1, b""));
    let mut pass = |engine: &mut Engine, now_ns| {
        engine.process(&frame(&packet, LinkType::Raw), now_ns, &mut batch, &mut ())
    };
    assert_eq!(pass(&mut engine, 1000), Verdict::Missed);
    engine.install(Arc::new(second));
    assert_eq!(pass(&mut engine, 2000), Verdict::Matched);
    assert_eq!(pass(&mut engine, 2099), Verdict::Matched);
    assert_eq!(pass(&mut engine, 2100), Verdict::Missed);
}

proptest! {
    #[test]
    fn changing_and_compiling_anew_give_the_same_accounts(
        steps in prop::collection::vec(
            (
                prop::collection::vec((1_u64..30, any::<bool>(), 0..HOSTS, prop::collection::vec(any::<bool>(), 2),
                    prop::option::of(1_u64..5), prop::option::of(1_u64..4)), 0..10),
                prop::collection::vec(0..HOSTS, 0..12),
                1_u16..4,
            ),
            1..8,
        ),
    ) {
        let mut model: BTreeMap<u64, Entry> = BTreeMap::new();
        let empty = || Arc::new(FilterTable::compile(Vec::new(), destinations(&[1, 1])).unwrap());
        let mut table = empty();
        let mut following = Engine::new(empty(), EngineOptions::default());
        let mut compiling = Engine::new(empty(), EngineOptions::default());
        for (now_ns, (edits, hosts, port)) in (10..).zip(steps) {
            let (mut remove, mut add) = (Vec::new(), BTreeMap::new());
            for (id, stays, host, places, packets, idle_ns) in edits {
                if remove.contains(&id) || add.contains_key(&id) {
                    continue;
                }
                if model.remove(&id).is_some() {
                    remove.push(id);
                }
                if stays {
                    let entry = criterion(id, host, &places, packets, idle_ns);
                    model.insert(id, entry.clone());
                    add.insert(id, entry);
                }
            }
            let list = destinations(&[port, 7]);
            table = Arc::new(table.changed(&remove, add.into_values().collect(), Some(list.clone())).unwrap());
            following.install(Arc::clone(&table));
            let anew = FilterTable::compile(model.values().cloned().collect(), list).unwrap();
            compiling.install(Arc::new(anew));
            let (mut left, mut right) = (CopyBatch::new(), CopyBatch::new());
            for host in hosts {
                let packet = ipv4([192, 0, 2, host], [198, 51, 100, 1], 17, &udp(1, 1, b"x"));
                let verdict = following.process(&frame(&packet, LinkType::Raw), now_ns, &mut left, &mut ());
                let expected = compiling.process(&frame(&packet, LinkType::Raw), now_ns, &mut right, &mut ());
                prop_assert_eq!(verdict, expected);
            }
            prop_assert_eq!(left.records(), right.records());
            prop_assert_eq!(left.bytes(), right.bytes());
            let stats = following.stats();
            prop_assert!(stats.check().is_ok());
            prop_assert!(stats.criteria.is_sorted_by_key(|criterion| criterion.id));
            prop_assert_eq!(stats, compiling.stats());
        }
    }
}

/// Engines that share a table share budgets, and what is used stays used when the table changes.
#[test]
fn budgets_are_shared() {
    let limited = |packets| Entry {
        lifetime: Lifetime {
            packets: Some(packets),
            ..Lifetime::default()
        },
        ..from(1, "192.0.2.1")
    };
    let table = Arc::new(FilterTable::compile(vec![limited(5)], Vec::new()).unwrap());
    let options = EngineOptions::default();
    let mut engines = [
        Engine::new(Arc::clone(&table), options),
        Engine::new(table, options),
    ];
    let packet = ipv4([192, 0, 2, 1], [198, 51, 100, 1], 17, &udp(1, 2, b""));
    let matched = |engine: &mut Engine| {
        let mut batch = CopyBatch::new();
        let frame = frame(&packet, LinkType::Raw);
        engine.process(&frame, 1, &mut batch, &mut ()) == Verdict::Matched
    };
    for at in 0..8 {
        assert_eq!(matched(&mut engines[at % 2]), at < 5);
    }
    // The same criterion with a larger budget, in a table that knows nothing of the old one.
    let renewed = Arc::new(FilterTable::compile(vec![limited(7)], Vec::new()).unwrap());
    for engine in &mut engines {
        engine.install(Arc::clone(&renewed));
    }
    for at in 0..4 {
        assert_eq!(matched(&mut engines[at % 2]), at < 2);
    }
    let changed = engines[0].table().changed(&[1], vec![limited(8)], None);
    let changed = Arc::new(changed.unwrap());
    for engine in &mut engines {
        engine.install(Arc::clone(&changed));
    }
    for at in 0..4 {
        assert_eq!(matched(&mut engines[at % 2]), at < 1);
    }
    let packets = engines
        .iter()
        .map(|engine| engine.stats().criteria[0].packets);
    assert_eq!(packets.sum::<u64>(), 8);
}
