//! The index against asking every criterion, and tables that cannot be.
#![cfg(test)]

use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Destination, Entry, FilterTable, Lifetime, TableError};
use proptest::prelude::*;

fn entry(
    id: u64,
    source: Option<&str>,
    destination: Option<&str>,
    protocol: Option<&str>,
    port: Option<&str>,
) -> Option<Entry> {
    let text = CriteriaText {
        source,
        destination,
        protocol,
        destination_port: port,
        ..CriteriaText::default()
    };
    let criteria = Criteria::parse(&text).ok()?;
    Some(Entry {
        id,
        criteria,
        destinations: Vec::new(),
        lifetime: Lifetime::default(),
        own: false,
    })
}

fn host(id: u64, source: &str) -> Entry {
    entry(id, Some(source), None, None, None).unwrap()
}

fn destination(id: &str, address: &str, source_address: &str) -> Destination {
    Destination {
        id: id.to_owned(),
        address: address.parse().unwrap(),
        port: 30000,
        source_address: source_address.parse().unwrap(),
        source_port: 65534,
        ttl: 255,
        refuse_oversize: false,
        export: true,
    }
}

#[test]
fn tables_that_cannot_be() {
    let twice = FilterTable::compile(vec![host(7, "192.0.2.1"), host(7, "192.0.2.2")], Vec::new());
    assert_eq!(twice.unwrap_err(), TableError::DuplicateId { id: 7 });
    let unknown = Entry {
        destinations: vec![1],
        ..host(7, "192.0.2.1")
    };
    let to = destination("cd", "192.0.2.1", "192.0.2.2");
    assert_eq!(
        FilterTable::compile(vec![unknown], vec![to.clone()]).unwrap_err(),
        TableError::UnknownDestination {
            id: 7,
            index: 1,
            count: 1
        }
    );
    let repeated = Entry {
        destinations: vec![0, 0],
        ..host(7, "192.0.2.1")
    };
    assert_eq!(
        FilterTable::compile(vec![repeated], vec![to]).unwrap_err(),
        TableError::RepeatedDestination { id: 7, index: 0 }
    );
    let mixed = destination("cd", "192.0.2.1", "2001:db8::1");
    assert!(
        FilterTable::compile(Vec::new(), vec![mixed])
            .unwrap_err()
            .to_string()
            .contains("\"cd\"")
    );
}

#[test]
fn hosts_stay_small() {
    let hosts = 10_000_u32;
    let entries = (0..hosts)
        .map(|number| {
            host(
                number.into(),
                &std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(),
            )
        })
        .collect();
    let table = FilterTable::compile(entries, Vec::new()).unwrap();
    let octets = table.memory_octets() / usize::try_from(hosts).unwrap();
    assert!(octets < 200, "{octets} octets a criterion");
}

#[test]
fn few_of_those_that_are_nobody_s_get_past_the_first_look() {
    let entries = (0..2000)
        .map(|number| host(number, &format!("10.{}.{}.1", number / 250, number % 250)))
        .collect();
    let table = FilterTable::compile(entries, Vec::new()).unwrap();
    let others = (0..10_000_u32).filter(|&number| {
        table.may_match(
            Address::V4(0xc612_0000 + number),
            Address::V4(0xc613_0000 + number * 7),
        )
    });
    assert!(others.count() < 500);
}

fn any_addresses() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![
        None,
        Some("*"),
        Some("192.0.2.1"),
        Some("192.0.2.7"),
        Some("192.0.2.0/24"),
        Some("192.0.2.3-192.0.2.17"),
        Some("!192.0.2.5"),
        Some("192.0.2.8-*,!192.0.2.16/29"),
        Some("2001:db8::1"),
        Some("2001:db8::/120"),
        Some("2001:db8::3-*"),
        Some("192.0.2.9,2001:db8::9"),
    ])
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let protocols = prop::sample::select(vec![
        None,
        Some("6"),
        Some("17"),
        Some("1,58"),
        Some("!6"),
        Some("0-40"),
    ]);
    let ports = prop::sample::select(vec![None, Some("53"), Some("50-55"), Some("!53")]);
    prop::collection::vec((any_addresses(), any_addresses(), protocols, ports), 0..40).prop_map(
        |fields| {
            (0..)
                .zip(fields)
                .filter_map(|(id, (source, destination, protocol, port))| {
                    entry(id, source, destination, protocol, port)
                })
                .collect()
        },
    )
}

fn any_key() -> impl Strategy<Value = PacketKey> {
    let protocol = prop::sample::select(vec![None, Some(1), Some(6), Some(17), Some(47), Some(58)]);
    (any::<bool>(), 0_u32..25, 0_u32..25, protocol, 49_u16..57).prop_map(
        |(is_ipv6, from, to, protocol, port)| {
            let at = |last: u32| {
                if is_ipv6 {
                    Address::V6((0x2001_0db8 << 96) | u128::from(last))
                } else {
                    Address::V4(0xc000_0200 + last)
                }
            };
            let transport = match protocol {
                Some(6 | 17) => Transport::Ports {
                    source: 1,
                    destination: port,
                },
                Some(1) if !is_ipv6 => Transport::Icmp { kind: 8, code: 0 },
                Some(58) if is_ipv6 => Transport::Icmp { kind: 128, code: 0 },
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

proptest! {
    #[test]
    fn the_index_answers_what_asking_every_criterion_answers(
        entries in any_entries(), keys in prop::collection::vec(any_key(), 1..40),
    ) {
        let table = FilterTable::compile(entries, Vec::new()).unwrap();
        let (mut indexed, mut linear) = (Vec::new(), Vec::new());
        for key in keys {
            table.classify(&key, &mut indexed);
            table.classify_linear(&key, &mut linear);
            prop_assert_eq!(&indexed, &linear);
            prop_assert!(table.may_match(key.source, key.destination) || linear.is_empty());
            for &slot in &linear {
                let slot = table.slot(slot).unwrap();
                prop_assert!(slot.criteria().first_rejecting_field(&key).is_none());
                prop_assert_eq!(table.slot_of(slot.id()).map(|number| table.slot(number).unwrap().id()), Some(slot.id()));
            }
            // What a later fragment could be part of includes what its datagram matches.
            table.classify_without_transport(&PacketKey { transport: Transport::None, ..key }, &mut indexed);
            prop_assert!(linear.iter().all(|slot| indexed.contains(slot)));
        }
    }
}
