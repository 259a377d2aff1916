//! Criteria, tables and packets for tests.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "every test binary uses its part"
)]

use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Destination, Entry, FilterTable};
use proptest::prelude::*;

pub(crate) fn entry(id: u64, text: &CriteriaText<'_>) -> Entry {
    Entry::new(id, Criteria::parse(text).unwrap())
}

pub(crate) fn from(id: u64, source: &str) -> Entry {
    let text = CriteriaText {
        source: Some(source),
        ..CriteriaText::default()
    };
    entry(id, &text)
}

pub(crate) fn destination(id: &str, address: &str, source_address: &str) -> Destination {
    Destination {
        id: id.to_owned(),
        address: address.parse().unwrap(),
        port: 30000,
        source_address: source_address.parse().unwrap(),
        source_port: 65534,
        ttl: 255,
        refuse_oversize: false,
        export: true,
        protection: None,
    }
}

pub(crate) fn compile(entries: Vec<Entry>) -> FilterTable {
    FilterTable::compile(entries, Vec::new()).unwrap()
}

pub(crate) fn v4(text: &str) -> Address {
    Address::V4(text.parse::<std::net::Ipv4Addr>().unwrap().to_bits())
}

pub(crate) fn packet(
    source: Address,
    destination: Address,
    protocol: u8,
    ports: (u16, u16),
) -> PacketKey {
    PacketKey {
        source,
        destination,
        protocol: Some(protocol),
        transport: Transport::Ports {
            source: ports.0,
            destination: ports.1,
        },
    }
}

/// The ids of the criteria that a table finds for a packet, ascending.
pub(crate) fn found(table: &FilterTable, key: &PacketKey) -> Vec<u64> {
    let mut slots = Vec::new();
    table.classify(key, &mut slots);
    ids(table, &slots)
}

pub(crate) fn ids(table: &FilterTable, slots: &[u32]) -> Vec<u64> {
    let mut ids: Vec<u64> = slots
        .iter()
        .map(|&slot| table.slot(slot).unwrap().id())
        .collect();
    ids.sort_unstable();
    ids
}

/// What a later fragment finds, by asking every criterion: who decides alone, and whether some cannot.
pub(crate) fn found_alone_linear(table: &FilterTable, key: &PacketKey) -> (Vec<u64>, bool) {
    let (mut alone, mut waits) = (Vec::new(), false);
    for slot in table.slots() {
        if slot.criteria().matches_ignoring_transport(key) {
            if slot.criteria().needs_first_fragment(key) {
                waits = true;
            } else {
                alone.push(slot.id());
            }
        }
    }
    (alone, waits)
}

/// Holds every answer of a table about one packet against asking every criterion.
pub(crate) fn check(table: &FilterTable, key: &PacketKey) -> Result<(), TestCaseError> {
    let mut linear = Vec::new();
    table.classify_linear(key, &mut linear);
    let expected = ids(table, &linear);
    prop_assert_eq!(&found(table, key), &expected);
    prop_assert!(table.may_match(key.source, key.destination) || expected.is_empty());
    let work = table.work(key);
    prop_assert!(work.criteria_asked >= expected.len());
    for &slot in &linear {
        let slot = table.slot(slot).unwrap();
        prop_assert!(slot.criteria().first_rejecting_field(key).is_none());
    }
    let alone = PacketKey {
        transport: Transport::None,
        ..*key
    };
    let mut slots = Vec::new();
    let waits = table.classify_later_fragment(&alone, &mut slots);
    let answer = (ids(table, &slots), waits);
    prop_assert_eq!(&answer, &found_alone_linear(table, &alone));
    // What a later fragment could be part of includes what its datagram matches.
    prop_assert!(waits || expected.iter().all(|id| answer.0.contains(id)));
    Ok(())
}

fn any_addresses() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![
        None,
        Some("*"),
        Some("192.0.2.1"),
        Some("192.0.2.1"),
        Some("192.0.2.7"),
        Some("192.0.2.0/24"),
        Some("192.0.2.0/28"),
        Some("192.0.0.0/9"),
        Some("192.0.2.3-192.0.2.17"),
        Some("!192.0.2.5"),
        Some("192.0.2.8-*,!192.0.2.16/29"),
        Some("128.0.0.0/1"),
        Some("2001:db8::1"),
        Some("2001:db8::/120"),
        Some("2001:db8::/29"),
        Some("2001:db8::3-*"),
        Some("192.0.2.9,2001:db8::9"),
    ])
}

/// Criteria that share much: indexes below indexes occur.
pub(crate) fn any_entry() -> impl Strategy<Value = Option<Entry>> {
    entry_between(any_addresses(), any_addresses())
}

/// Criteria of one source: they all come to one place of the index.
pub(crate) fn any_entry_of_one_source() -> impl Strategy<Value = Option<Entry>> {
    let destinations = prop::sample::select(vec![
        None,
        None,
        None,
        Some("192.0.2.3-192.0.2.17"),
        Some("!192.0.2.5"),
    ]);
    entry_between(Just(Some("192.0.2.1")), destinations)
}

fn entry_between(
    source: impl Strategy<Value = Option<&'static str>>,
    destination: impl Strategy<Value = Option<&'static str>>,
) -> impl Strategy<Value = Option<Entry>> {
    let protocols = prop::sample::select(vec![
        None,
        None,
        Some("6"),
        Some("17"),
        Some("1,58"),
        Some("!6"),
        Some("0-40"),
        Some("17,47,50"),
    ]);
    let ports = || {
        prop::sample::select(vec![
            None,
            None,
            Some("53"),
            Some("50-55"),
            Some("!53"),
            Some("51-*"),
            Some("49,51,53,55"),
        ])
    };
    let icmp =
        || prop::sample::select(vec![None, None, None, Some("8"), Some("!0"), Some("0-127")]);
    let addresses = (source, destination);
    (addresses, protocols, ports(), ports(), icmp(), icmp()).prop_map(
        |((source, destination), protocol, from, to, kind, code)| {
            let text = CriteriaText {
                family: None,
                source,
                destination,
                protocol,
                source_port: from,
                destination_port: to,
                icmp_type: kind,
                icmp_code: code,
            };
            let criteria = Criteria::parse(&text).ok()?;
            Some(Entry::new(0, criteria))
        },
    )
}

/// Packets near these criteria.
pub(crate) fn any_key() -> impl Strategy<Value = PacketKey> {
    let protocol = prop::sample::select(vec![
        None,
        Some(1),
        Some(6),
        Some(17),
        Some(47),
        Some(50),
        Some(58),
        Some(132),
    ]);
    let far = prop::bool::weighted(0.1);
    let transport = (49_u16..57, 49_u16..57, any::<bool>());
    (
        any::<bool>(),
        0_u32..25,
        0_u32..25,
        far,
        protocol,
        transport,
    )
        .prop_map(
            |(is_ipv6, from, to, far, protocol, (from_port, to_port, readable))| {
                let at = |last: u32| match (is_ipv6, far) {
                    (false, false) => Address::V4(0xc000_0200 + last),
                    (false, true) => Address::V4(last << 27),
                    (true, false) => Address::V6((0x2001_0db8 << 96) | u128::from(last)),
                    (true, true) => Address::V6(u128::from(last) << 92),
                };
                let transport = match protocol {
                    _ if !readable => Transport::None,
                    Some(6 | 17 | 132) => Transport::Ports {
                        source: from_port,
                        destination: to_port,
                    },
                    Some(1) if !is_ipv6 => Transport::Icmp { kind: 8, code: 0 },
                    Some(58) if is_ipv6 => Transport::Icmp { kind: 128, code: 1 },
                    _ => Transport::None,
                };
                PacketKey {
                    source: at(from),
                    destination: at(to),
                    protocol,
                    transport,
                }
            },
        )
}
