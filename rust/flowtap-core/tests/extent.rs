//! How far filters reach, against counting.
#![cfg(test)]

use std::net::Ipv4Addr;

use flowtap_core::criteria::{AddressSpace, Criteria, CriteriaText};
use flowtap_core::packet::{Address, PacketKey, Transport};
use proptest::prelude::*;

fn criteria(source: &str, destination: &str) -> Criteria {
    Criteria::parse(&CriteriaText {
        source: Some(source),
        destination: Some(destination),
        ..CriteriaText::default()
    })
    .unwrap()
}

#[test]
fn narrowness() {
    let cases = [
        ("*", "*", Some(0), Some(0)),
        ("192.0.2.1", "*", Some(32), None),
        ("*", "192.0.2.0/24", Some(24), None),
        ("192.0.2.0/23", "192.0.2.0/28", Some(28), None),
        // Three addresses are wider than two and narrower than four.
        ("192.0.2.1-192.0.2.3", "*", Some(30), None),
        ("192.0.2.1,198.51.100.1", "*", Some(31), None),
        ("2001:db8::/32", "*", None, Some(32)),
        ("2001:db8::1", "*", None, Some(128)),
        ("192.0.2.1,2001:db8::/64", "*", Some(32), Some(64)),
        ("!192.0.2.1", "*", Some(0), Some(0)),
        ("0.0.0.0/0", "*", Some(0), None),
    ];
    for (source, destination, v4, v6) in cases {
        let filter = criteria(source, destination);
        assert_eq!(
            (filter.narrowness_v4(), filter.narrowness_v6()),
            (v4, v6),
            "{source} {destination}"
        );
    }
}

#[test]
fn spaces() {
    let space = AddressSpace::parse("192.0.2.0/24,2001:db8::/32").unwrap();
    for (source, destination, inside) in [
        ("192.0.2.1", "*", true),
        ("*", "192.0.2.1-192.0.2.9", true),
        ("192.0.2.0/23", "*", false),
        ("192.0.2.0/23", "192.0.2.7", true),
        ("*", "*", false),
        ("2001:db8:1::/48", "*", true),
        ("2001:db8::1,192.0.2.1", "*", true),
        // Inside in one family, outside in the other.
        ("2001:db8::1,198.51.100.1", "*", false),
        ("!192.0.2.1", "*", false),
    ] {
        assert_eq!(
            space.covers(&criteria(source, destination)),
            inside,
            "{source} {destination}"
        );
    }
    assert!(AddressSpace::parse("here").is_err());
}

proptest! {
    /// What a space covers matches no packet whose addresses both lie outside.
    #[test]
    fn covered_filters_match_only_inside(
        space in (0_u32..64, 0_u32..16), source in (0_u32..64, 0_u32..16), destination in (0_u32..64, 0_u32..16),
    ) {
        let text = |(first, count): (u32, u32)| {
            format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(first + count))
        };
        let inside = |address: u32| (space.0..=space.0 + space.1).contains(&address);
        let filter = criteria(&text(source), &text(destination));
        let mut counterexample = false;
        for from in 0..80_u32 {
            for to in 0..80_u32 {
                let key = PacketKey {
                    source: Address::V4(from),
                    destination: Address::V4(to),
                    protocol: Some(17),
                    transport: Transport::None,
                };
                counterexample |= filter.matches(&key) && !inside(from) && !inside(to);
            }
        }
        prop_assert_eq!(AddressSpace::parse(&text(space)).unwrap().covers(&filter), !counterexample);
    }
}
