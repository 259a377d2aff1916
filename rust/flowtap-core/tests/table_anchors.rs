//! A packet that some criterion matches is led to it by the addresses that the table names.
#![cfg(test)]

mod classbench;
mod tables;

use classbench::{Random, SETS};
use flowtap_core::packet::{Address, PacketKey};
use flowtap_core::table::{AnchorPrefix, Anchors, Entry};
use proptest::prelude::*;
use tables::{any_entry, any_key, compile, found, from};

/// What a filter in front of the table would do with a packet.
fn passes(anchors: &Anchors, key: &PacketKey) -> bool {
    let v4 = |prefixes: &[AnchorPrefix<u32>], bits: u32| {
        let holds = |prefix: &AnchorPrefix<u32>| (bits ^ prefix.bits) >> (32 - prefix.length) == 0;
        prefixes.iter().any(holds)
    };
    let v6 = |prefixes: &[AnchorPrefix<u128>], bits: u128| {
        let holds =
            |prefix: &AnchorPrefix<u128>| (bits ^ prefix.bits) >> (128 - prefix.length) == 0;
        prefixes.iter().any(holds)
    };
    match (key.source, key.destination) {
        (Address::V4(source), Address::V4(destination)) => {
            let Anchors { v4: family, .. } = anchors;
            family.is_open || v4(&family.source, source) || v4(&family.destination, destination)
        }
        (Address::V6(source), Address::V6(destination)) => {
            let Anchors { v6: family, .. } = anchors;
            family.is_open || v6(&family.source, source) || v6(&family.destination, destination)
        }
        _ => false,
    }
}

#[test]
fn hosts_lead_by_themselves() {
    let anchors = compile(vec![from(1, "192.0.2.1"), from(2, "2001:db8::/32")]).anchors();
    let host = AnchorPrefix {
        bits: 0xc000_0201,
        length: 32,
    };
    let network = AnchorPrefix {
        bits: 0x2001_0db8 << 96,
        length: 32,
    };
    assert_eq!(anchors.v4.source, [host]);
    assert_eq!(anchors.v6.source, [network]);
    assert!(anchors.v4.destination.is_empty() && !anchors.v4.is_open && !anchors.v6.is_open);
}

#[test]
fn what_no_address_leads_to_is_open() {
    let anchors = compile(vec![from(1, "*")]).anchors();
    assert!(anchors.v4.is_open && anchors.v6.is_open);
    assert!(anchors.v4.source.is_empty() && anchors.v4.destination.is_empty());
}

#[test]
fn packets_of_the_sets_pass() {
    for (name, _) in SETS {
        let rules = classbench::rules(name);
        let mut narrow = classbench::entries(&rules);
        // Those about any address would make the test pass whatever the others do.
        let table = compile(narrow.clone());
        assert!(table.anchors().v4.is_open);
        narrow.retain(|entry| {
            !entry
                .criteria
                .normal_form()
                .to_string()
                .starts_with("protocol")
        });
        narrow.retain(|entry| {
            entry.criteria.normal_form().to_string().contains("source=")
                || entry
                    .criteria
                    .normal_form()
                    .to_string()
                    .contains("destination=")
        });
        let table = compile(narrow);
        let anchors = table.anchors();
        assert!(!anchors.v4.is_open, "{name}");
        let mut random = Random::new(7);
        for _ in 0..500 {
            let key = classbench::drawn(&rules, &mut random);
            assert!(passes(&anchors, &key) || found(&table, &key).is_empty());
        }
    }
}

proptest! {
    #[test]
    fn whoever_matches_passes(
        entries in prop::collection::vec(any_entry(), 0..12),
        keys in prop::collection::vec(any_key(), 1..40),
    ) {
        let entries = entries.into_iter().flatten().zip(1..);
        let table = compile(entries.map(|(entry, id)| Entry { id, ..entry }).collect());
        let anchors = table.anchors();
        for key in keys {
            prop_assert!(passes(&anchors, &key) || found(&table, &key).is_empty());
        }
    }
}
