//! The index against asking every criterion, and tables that cannot be.
#![cfg(test)]

mod classbench;
mod tables;

use classbench::{Random, SETS};
use flowtap_core::packet::Address;
use flowtap_core::table::{Entry, FilterTable, Slot, TableError};
use proptest::prelude::*;
use tables::{any_entry, any_key, check, compile, destination, found, from, ids};

#[test]
fn tables_that_cannot_be() {
    let twice = FilterTable::compile(vec![from(7, "192.0.2.1"), from(7, "192.0.2.2")], Vec::new());
    assert_eq!(twice.unwrap_err(), TableError::DuplicateId { id: 7 });
    let unknown = Entry {
        destinations: vec![1],
        ..from(7, "192.0.2.1")
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
        ..from(7, "192.0.2.1")
    };
    assert_eq!(
        FilterTable::compile(vec![repeated], vec![to.clone()]).unwrap_err(),
        TableError::RepeatedDestination { id: 7, index: 0 }
    );
    assert_eq!(
        FilterTable::compile(Vec::new(), vec![to.clone(), to]).unwrap_err(),
        TableError::DuplicateDestination {
            id: "cd".to_owned()
        }
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
fn copies_come_from_one_host_and_go_somewhere() {
    for (address, source, which) in [
        ("192.0.2.1", "0.0.0.0", "source address"),
        ("192.0.2.1", "224.0.0.9", "source address"),
        ("192.0.2.1", "255.255.255.255", "source address"),
        ("0.0.0.0", "192.0.2.1", "address"),
        ("2001:db8::1", "::", "source address"),
        ("2001:db8::1", "ff02::1", "source address"),
        ("::", "2001:db8::1", "address"),
    ] {
        let no_host = TableError::NoHost {
            id: "cd".to_owned(),
            which,
        };
        let to = destination("cd", address, source);
        let compiled = FilterTable::compile(Vec::new(), vec![to.clone()]);
        assert_eq!(compiled.unwrap_err(), no_host, "{address} {source}");
        let changed = compile(Vec::new()).changed(&[], Vec::new(), Some(vec![to]));
        assert_eq!(changed.unwrap_err(), no_host, "{address} {source}");
    }
    let group = destination("cd", "239.1.1.1", "192.0.2.1");
    assert!(FilterTable::compile(Vec::new(), vec![group]).is_ok());
}

/// What a table of so many criteria holds for each of them.
fn octets_each(entries: Vec<Entry>) -> usize {
    let count = entries.len();
    compile(entries).memory_octets() / count
}

#[test]
fn hosts_stay_small() {
    let near = (0..10_000_u32).map(|number| 0x0a00_0000 + number);
    let far = (0..10_000_u32).map(|number| number.wrapping_mul(0x9e37_79b9));
    for addresses in [near.collect::<Vec<_>>(), far.collect()] {
        let v4 = addresses.iter().zip(1..);
        let octets = octets_each(
            v4.map(|(&bits, id)| from(id, &std::net::Ipv4Addr::from(bits).to_string()))
                .collect(),
        );
        assert!(octets < 200, "{octets} octets a criterion");
        let v6 = addresses.iter().zip(1..);
        let octets = octets_each(
            v6.map(|(&bits, id)| {
                let bits = (0x2001_0db8 << 96) | u128::from(bits) << 64 | 1;
                from(id, &std::net::Ipv6Addr::from(bits).to_string())
            })
            .collect(),
        );
        assert!(octets < 200, "{octets} octets a criterion");
    }
}

#[test]
fn few_of_those_that_are_nobody_s_get_past_the_first_look() {
    // The same networks on both sides: only the last octets differ.
    let entries = (0..2000)
        .map(|number| {
            from(
                number,
                &format!("198.{}.{}.1", 18 + number / 250, number % 250),
            )
        })
        .collect();
    let table = compile(entries);
    let others = (0..10_000_u32).filter(|&number| {
        table.may_match(
            Address::V4(0xc612_0002 + number * 4),
            Address::V4(0xc613_0002 + number * 8),
        )
    });
    assert!(others.count() < 500);
}

#[test]
fn every_rule_of_the_sets_finds_its_packets() {
    for (name, _) in SETS {
        let rules = classbench::rules(name);
        let table = compile(classbench::entries(&rules));
        let mut random = Random::new(20_260_302);
        let (mut linear, mut matches) = (Vec::new(), 0);
        for _ in 0..300 {
            let key = classbench::drawn(&rules, &mut random);
            table.classify_linear(&key, &mut linear);
            assert!(!linear.is_empty());
            assert_eq!(found(&table, &key), ids(&table, &linear), "{name} {key:?}");
            assert!(table.may_match(key.source, key.destination));
            matches += linear.len();
        }
        assert!((900..4500).contains(&matches), "{name}: {matches}");
    }
}

proptest! {
    #[test]
    fn the_index_answers_what_asking_every_criterion_answers(
        entries in prop::collection::vec(any_entry(), 0..120),
        keys in prop::collection::vec(any_key(), 1..40),
    ) {
        let entries: Vec<Entry> = entries
            .into_iter()
            .flatten()
            .zip(1..)
            .map(|(entry, id)| Entry { id, ..entry })
            .collect();
        let table = compile(entries);
        for key in keys {
            check(&table, &key)?;
        }
        for (number, slot) in table.slots().numbered() {
            prop_assert_eq!(table.slot_of(slot.id()), Some(number));
            prop_assert_eq!(table.slot(number).map(Slot::id), Some(slot.id()));
        }
    }
}
