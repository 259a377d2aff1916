//! What a packet may cost at most, whatever the table holds: counted, not timed.
#![cfg(test)]

mod classbench;
mod tables;

use std::collections::BTreeSet;

use classbench::Random;
use flowtap_core::criteria::CriteriaText;
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Entry, FilterTable, MAXIMUM_IN_VAIN, Work};
use proptest::prelude::*;
use tables::{compile, entry, found, from, packet, v4};

/// Criteria that are looked at for packets, at most.
fn most(table: &FilterTable, keys: impl IntoIterator<Item = PacketKey>) -> Work {
    let mut most = Work::default();
    for key in keys {
        let matches = found(table, &key).len();
        let work = table.work(&key);
        most.probes = most.probes.max(work.probes);
        most.criteria_asked = most.criteria_asked.max(work.criteria_asked - matches);
    }
    most
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

/// Packets of one address with ports all over.
fn of_one_address(count: u32) -> impl Iterator<Item = PacketKey> {
    let mut random = Random::new(1);
    let mut port = move || u16::try_from(random.below(65536)).unwrap();
    (0..count).map(move |number| {
        let protocol = if number % 2 == 0 { 6 } else { 17 };
        packet(
            v4("192.0.2.1"),
            v4("198.51.100.1"),
            protocol,
            (port(), port()),
        )
    })
}

#[test]
fn ten_thousand_ports_of_one_address() {
    let one = Some("192.0.2.1");
    let single = compile(
        (0..10_000)
            .map(|port| with_ports(port, one, None, Some(&port.to_string())))
            .collect(),
    );
    let work = most(&single, of_one_address(2000));
    assert!(work.probes <= 20 && work.criteria_asked == 0, "{work:?}");
}

#[test]
fn ten_thousand_port_ranges_with_and_without_an_address() {
    let mut random = Random::new(2);
    let mut range = || {
        let (first, length) = (random.below(60_000), random.below(500));
        format!("{first}-{}", first + length)
    };
    let ranges: Vec<(String, String)> = (0..10_000).map(|_| (range(), range())).collect();
    for source in [None, Some("192.0.2.1")] {
        let by_destination = ranges
            .iter()
            .zip(0..)
            .map(|((_, to), id)| with_ports(id, source, None, Some(to)));
        let table = compile(by_destination.collect());
        let work = most(&table, of_one_address(400));
        assert!(work.probes <= 60 && work.criteria_asked == 0, "{work:?}");
        let by_both = ranges
            .iter()
            .zip(0..)
            .map(|((from, to), id)| with_ports(id, source, Some(from), Some(to)));
        let table = compile(by_both.collect());
        let work = most(&table, of_one_address(400));
        assert!(work.probes <= 100 && work.criteria_asked <= 80, "{work:?}");
    }
}

#[test]
fn port_ranges_that_all_overlap_are_asked_where_they_match() {
    let nested = (0..10_000)
        .map(|at| with_ports(at, None, None, Some(&format!("{}-{}", at + 1, 65_000 - at))));
    let table = compile(nested.collect());
    let work = most(&table, of_one_address(50));
    assert!(work.probes <= 100 && work.criteria_asked == 0, "{work:?}");
}

#[test]
fn a_packet_that_a_thousand_criteria_match_asks_these_and_no_more() {
    let mut entries: Vec<Entry> = (0..1000).map(|id| from(id, "192.0.2.1")).collect();
    entries.extend((1000..11_000).map(|id| from(id, &format!("10.0.{}.{}", id / 250, id % 250))));
    let table = compile(entries);
    let key = packet(v4("192.0.2.1"), v4("198.51.100.1"), 17, (1, 1));
    assert_eq!(found(&table, &key).len(), 1000);
    assert_eq!(table.work(&key).criteria_asked, 1000);
}

#[test]
fn ten_thousand_overlapping_prefixes() {
    let mut random = Random::new(3);
    // All within one /8, of every length from 8 on.
    let prefixes = (0..10_000).map(|id| {
        let length = 8 + random.below(25);
        let bits = 0x0a00_0000 | random.next() >> 8;
        let masked = bits & !u32::MAX.checked_shr(length).unwrap_or(0);
        from(
            id,
            &format!("{}/{length}", std::net::Ipv4Addr::from(masked)),
        )
    });
    let table = compile(prefixes.collect());
    let keys = (0..500).map(|_| {
        packet(
            Address::V4(0x0a00_0000 | random.next() >> 8),
            v4("198.51.100.1"),
            6,
            (1, 1),
        )
    });
    let keys: Vec<PacketKey> = keys.collect();
    let work = most(&table, keys.iter().copied());
    assert!(work.probes <= 30 && work.criteria_asked == 0, "{work:?}");
    assert!(keys.iter().any(|key| found(&table, key).len() > 10));
}

#[test]
fn every_length_of_ipv6_at_once() {
    let one: u128 = 0x2001_0db8_0123_4567_89ab_cdef_0123_4567;
    let prefix = |length: u32| {
        let bits = one & !u128::MAX.checked_shr(length).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv6Addr::from(bits))
    };
    let pair = |id: u64, source: u32, destination: u32| {
        let (source, destination) = (prefix(source), prefix(destination));
        let text = CriteriaText {
            source: Some(&source),
            destination: Some(&destination),
            ..CriteriaText::default()
        };
        entry(id, &text)
    };
    let lengths =
        (1..=128).flat_map(|source| (1..=128).map(move |destination| (source, destination)));
    let entries = lengths
        .zip(0..)
        .map(|((source, destination), id)| pair(id, source, destination));
    let table = compile(entries.collect());
    // Everything matches the one pair. The source alone leads to 128 places; only those with a few criteria ask them.
    let all = packet(Address::V6(one), Address::V6(one), 6, (1, 1));
    assert_eq!(table.work(&all).criteria_asked, 128 * 128);
    let half = packet(Address::V6(one), Address::V6(!one), 6, (1, 1));
    assert!(found(&table, &half).is_empty());
    let work = table.work(&half);
    assert!(work.criteria_asked <= 10 * MAXIMUM_IN_VAIN, "{work:?}");
    assert!(work.probes <= 40 + 128, "{work:?}");
    // A miss looks at a few lengths, however many there are.
    let miss = packet(Address::V6(!one), Address::V6(!one), 6, (1, 1));
    let work = table.work(&miss);
    assert!(work.criteria_asked == 0 && work.probes <= 30, "{work:?}");
}

#[test]
fn a_miss_looks_at_a_few_words() {
    for (name, _) in classbench::SETS {
        let mut rules = classbench::rules(name);
        rules.retain(|rule| !classbench::is_about_benchmark_addresses(rule));
        let table = compile(classbench::entries(&rules));
        let mut random = Random::new(4);
        let mut probes = 0;
        for _ in 0..1000 {
            let source = Address::V4(0xc612_0000 | random.below(1 << 16));
            let destination = Address::V4(0xc613_0000 | random.below(1 << 16));
            let key = packet(source, destination, 17, (5060, 53));
            assert!(found(&table, &key).is_empty());
            probes += table.work(&key).probes;
        }
        assert!(probes <= 20_000, "{name}: {probes} in a thousand packets");
    }
}

#[test]
fn a_later_fragment_asks_no_crowd_either() {
    let one = Some("192.0.2.1");
    let mut entries: Vec<Entry> = (0..10_000)
        .map(|port| with_ports(port, one, None, Some(&port.to_string())))
        .collect();
    entries.extend((10_000..20_000).map(|id| {
        let port = (id - 10_000).to_string();
        let text = CriteriaText {
            source: one,
            destination: Some("10.0.0.0/8"),
            destination_port: Some(&port),
            ..CriteriaText::default()
        };
        entry(id, &text)
    }));
    let table = compile(entries);
    for protocol in [None, Some(6), Some(47)] {
        let key = PacketKey {
            protocol,
            transport: Transport::None,
            ..packet(v4("192.0.2.1"), v4("198.51.100.1"), 6, (0, 0))
        };
        assert_eq!(table.work_of_later_fragment(&key).criteria_asked, 0);
        let waits = table.classify_later_fragment(&key, &mut Vec::new());
        assert_eq!(waits, protocol != Some(47));
    }
}

#[test]
fn the_rule_sets_stay_within_the_bound() {
    for (name, _) in classbench::SETS {
        let rules = classbench::rules(name);
        let table = compile(classbench::entries(&rules));
        let mut random = Random::new(5);
        let work = most(
            &table,
            (0..600).map(|_| classbench::drawn(&rules, &mut random)),
        );
        // Places that a packet comes to are a handful; each asks at most so many in vain.
        assert!(
            work.criteria_asked <= 6 * MAXIMUM_IN_VAIN,
            "{name}: {work:?}"
        );
        assert!(work.probes <= 100, "{name}: {work:?}");
    }
}

#[test]
fn long_lists_in_every_field_take_no_more_room_than_one_long_list() {
    let addresses = |first: u32| {
        let list: Vec<String> = (0..300)
            .map(|at| std::net::Ipv4Addr::from(first + 5 * at).to_string())
            .collect();
        list.join(",")
    };
    let ports = |first: u32| {
        let list: Vec<String> = (0..300).map(|at| (first + 3 * at).to_string()).collect();
        list.join(",")
    };
    let (source, destination) = (addresses(0x0a00_0000), addresses(0x0b00_0000));
    let (source_port, destination_port) = (ports(1), ports(2));
    let text = CriteriaText {
        source: Some(&source),
        destination: Some(&destination),
        source_port: Some(&source_port),
        destination_port: Some(&destination_port),
        ..CriteriaText::default()
    };
    let table = compile((1..=12).map(|id| entry(id, &text)).collect());
    let octets = table.memory_octets() / 12;
    assert!(octets < 400_000, "{octets} octets a criterion");
    let key = packet(v4("10.0.0.5"), v4("11.0.0.10"), 6, (4, 5));
    assert_eq!(found(&table, &key).len(), 12);
    let beside = packet(v4("10.0.0.6"), v4("11.0.0.10"), 6, (4, 5));
    assert!(found(&table, &beside).is_empty());
}

/// A criterion of prefixes and single ports: addresses share their first bits with these two.
#[derive(Clone, Copy, Debug)]
struct Simple {
    source: u32,
    destination: u32,
    protocol: Option<u8>,
    ports: Ports,
}

const SOURCE: u32 = 0xc000_0201;
const DESTINATION: u32 = 0xc633_6407;

impl Simple {
    fn entry(self, id: u64) -> Entry {
        let prefix = |bits, length| format!("{}/{length}", std::net::Ipv4Addr::from(bits));
        let text = |port: u16| port.to_string();
        let (source, destination) = (
            prefix(SOURCE, self.source),
            prefix(DESTINATION, self.destination),
        );
        let protocol = self.protocol.map(|number| number.to_string());
        let (from, to) = (self.ports.0.map(text), self.ports.1.map(text));
        let text = CriteriaText {
            source: Some(&source),
            destination: Some(&destination),
            protocol: protocol.as_deref(),
            source_port: from.as_deref(),
            destination_port: to.as_deref(),
            ..CriteriaText::default()
        };
        entry(id, &text)
    }
}

/// Places that a packet comes to, by the prefixes that it has in common with criteria.
fn places(criteria: &[Simple], key: &PacketKey, lengths: (u32, u32)) -> Places {
    let Transport::Ports {
        source,
        destination,
    } = key.transport
    else {
        return Places::default();
    };
    let mut places = Places::default();
    for each in criteria {
        let by_source = each.source >= each.destination;
        let (anchor, holds) = if by_source {
            (each.source, each.source <= lengths.0)
        } else {
            (each.destination, each.destination <= lengths.1)
        };
        if !holds {
            continue;
        }
        places.anchors.insert((by_source, anchor));
        if each.source > lengths.0 || each.destination > lengths.1 {
            continue;
        }
        let pair = (each.source, each.destination);
        places.pairs.insert(pair);
        let is_led_to = match each.ports {
            (None, None) => each
                .protocol
                .is_none_or(|number| Some(number) == key.protocol),
            (from, to) => from == Some(source) || to == Some(destination),
        };
        if is_led_to {
            places.uppers.insert((pair, each.protocol, each.ports));
        }
    }
    places
}

/// The ports that a criterion names.
type Ports = (Option<u16>, Option<u16>);

/// Kept apart for the bound, which counts them differently.
#[derive(Debug, Default)]
struct Places {
    anchors: BTreeSet<(bool, u32)>,
    pairs: BTreeSet<(u32, u32)>,
    uppers: BTreeSet<((u32, u32), Option<u8>, Ports)>,
}

proptest! {
    #[test]
    fn the_bound_that_is_written_down_holds(
        criteria in prop::collection::vec(
            (
                prop::sample::select(vec![0_u32, 1, 8, 16, 24, 31, 32]),
                prop::sample::select(vec![0_u32, 1, 8, 16, 24, 31, 32]),
                prop::option::of(prop::sample::select(vec![6_u8, 17])),
                prop::option::of(1_u16..4),
                prop::option::of(1_u16..4),
            ),
            0..300,
        ),
        lengths in (0_u32..=32, 0_u32..=32),
        ports in (1_u16..4, 1_u16..4),
    ) {
        let criteria: Vec<Simple> = criteria
            .into_iter()
            .map(|(source, destination, protocol, from, to)| Simple { source, destination, protocol, ports: (from, to) })
            .collect();
        let table = compile((1..).zip(&criteria).map(|(id, each)| each.entry(id)).collect());
        // An address that agrees in so many bits and no more.
        let near = |bits: u32, length: u32| Address::V4(bits ^ 0x8000_0000_u32.checked_shr(length).unwrap_or(0));
        let key = packet(near(SOURCE, lengths.0), near(DESTINATION, lengths.1), 17, ports);
        let places = places(&criteria, &key, lengths);
        let (anchors, pairs, uppers) = (places.anchors.len(), places.pairs.len(), places.uppers.len());
        let work = table.work(&key);
        let matches = found(&table, &key).len();
        prop_assert!(work.criteria_asked <= matches + MAXIMUM_IN_VAIN * (anchors + pairs + uppers), "{work:?} {places:?}");
        prop_assert!(work.probes <= 25 + 4 * 7 + 7 * anchors + 11 * pairs + 4 * uppers, "{work:?} {places:?}");
    }
}
