//! The filter language: what is accepted, what it matches, what is refused and how.
#![cfg(test)]

use std::net::IpAddr;

use flowtap_core::criteria::{Criteria, CriteriaError, CriteriaText, Field, MAXIMUM_ELEMENTS};
use flowtap_core::packet::{Address, PacketKey, Transport};
use proptest::prelude::*;

fn parse(fields: [&str; 7]) -> Result<Criteria, CriteriaError> {
    let given = fields.map(|field| Some(field).filter(|field| !field.is_empty()));
    let [
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        icmp_type,
        icmp_code,
    ] = given;
    Criteria::parse(&CriteriaText {
        family: None,
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        icmp_type,
        icmp_code,
    })
}

fn source(text: &str) -> Result<Criteria, CriteriaError> {
    parse([text, "", "", "", "", "", ""])
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn packet(from: &str, to: &str, protocol: u8, transport: Transport) -> PacketKey {
    PacketKey {
        source: address(from),
        destination: address(to),
        protocol: Some(protocol),
        transport,
    }
}

fn ports(source: u16, destination: u16) -> Transport {
    Transport::Ports {
        source,
        destination,
    }
}

// Ledger: T-091
#[test]
fn addresses() {
    let cases: [(&str, &[&str], &[&str]); 11] = [
        (
            "192.0.2.1",
            &["192.0.2.1"],
            &["192.0.2.2", "::ffff:192.0.2.1"],
        ),
        (
            "192.0.2.77/24",
            &["192.0.2.0", "192.0.2.255"],
            &["192.0.3.0"],
        ),
        ("0.0.0.0/0", &["255.255.255.255"], &["::"]),
        (
            "192.0.2.1-192.0.2.3",
            &["192.0.2.1", "192.0.2.3"],
            &["192.0.2.0", "192.0.2.4"],
        ),
        (
            "192.0.2.9-*",
            &["192.0.2.9", "255.255.255.255"],
            &["192.0.2.8", "2001:db8::1"],
        ),
        (
            "*-192.0.2.9",
            &["0.0.0.0", "192.0.2.9"],
            &["192.0.2.10", "::1"],
        ),
        ("*", &["0.0.0.0", "::", "2001:db8::1"], &[]),
        (
            "192.0.2.0/24,!192.0.2.9",
            &["192.0.2.8"],
            &["192.0.2.9", "192.0.3.1"],
        ),
        (
            "!192.0.2.0/24",
            &["192.0.3.1", "2001:db8::1"],
            &["192.0.2.1"],
        ),
        (
            "2001:db8::/32, 192.0.2.1",
            &["2001:db8::9", "192.0.2.1"],
            &["2001:db9::1"],
        ),
        (
            "2001:db8::ffff/128",
            &["2001:db8::ffff"],
            &["2001:db8::fffe"],
        ),
    ];
    for (text, inside, outside) in cases {
        let criteria = source(text).unwrap();
        let matches = |from: &str| {
            let to = if from.contains(':') {
                "::1"
            } else {
                "127.0.0.1"
            };
            criteria.matches(&packet(from, to, 6, ports(1, 2)))
        };
        assert!(inside.iter().all(|from| matches(from)), "{text}");
        assert!(!outside.iter().any(|from| matches(from)), "{text}");
    }
}

// Ledger: T-091
#[test]
fn ports_are_looked_at_in_tcp_and_udp_only() {
    let dns = parse(["", "", "", "", "53,5060-5070,40000-*", "", ""]).unwrap();
    for (protocol, port, expected) in [
        (17, 53, true),
        (6, 5065, true),
        (17, 65535, true),
        (17, 54, false),
        (132, 53, false),
        (47, 53, false),
    ] {
        let key = packet("192.0.2.1", "192.0.2.2", protocol, ports(9, port));
        assert_eq!(dns.matches(&key), expected, "{protocol} {port}");
    }
    assert!(!dns.matches(&packet("192.0.2.1", "192.0.2.2", 17, Transport::None)));
    let any = parse(["", "", "", "*", "0-65535", "", ""]).unwrap();
    assert!(any.matches(&packet("192.0.2.1", "192.0.2.2", 47, Transport::None)));
}

// Ledger: T-091
#[test]
fn icmp_is_that_of_the_packet_s_family() {
    let echo = parse(["", "", "", "", "", "8,128", "0"]).unwrap();
    let icmp = |kind| Transport::Icmp { kind, code: 0 };
    assert!(echo.matches(&packet("192.0.2.1", "192.0.2.2", 1, icmp(8))));
    assert!(echo.matches(&packet("::1", "::2", 58, icmp(128))));
    assert!(!echo.matches(&packet("::1", "::2", 1, icmp(8))));
    assert!(!echo.matches(&packet("192.0.2.1", "192.0.2.2", 1, icmp(9))));
    assert!(!echo.matches(&packet("192.0.2.1", "192.0.2.2", 17, ports(8, 0))));
}

#[test]
fn refusals_name_field_and_value_and_what_would_be_right() {
    let cases: [([&str; 7], Field, bool); 27] = [
        (
            ["192.0.2.1/33", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (
            ["2001:db8::/129", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (
            ["192.0.2.256", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (
            ["192.0.2.9-192.0.2.1", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (
            ["192.0.2.9-2001:db8::1", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (["!*", "", "", "", "", "", ""], Field::Source, false),
        (
            ["192.0.2.1,!192.0.2.0/24", "", "", "", "", "", ""],
            Field::Source,
            false,
        ),
        (["here", "", "", "", "", "", ""], Field::Source, true),
        (["192.0.2.1/x", "", "", "", "", "", ""], Field::Source, true),
        (["192.0.2.1/", "", "", "", "", "", ""], Field::Source, true),
        (
            ["192.0.2.1,,192.0.2.2", "", "", "", "", "", ""],
            Field::Source,
            true,
        ),
        (["192.0.2.1,", "", "", "", "", "", ""], Field::Source, true),
        (["!!192.0.2.1", "", "", "", "", "", ""], Field::Source, true),
        (["*-*", "", "", "", "", "", ""], Field::Source, true),
        (["192.0.2.1 ", "", "", "", "", "", ""], Field::Source, true),
        (
            ["192.0.2.1", "2001:db8::1", "", "", "", "", ""],
            Field::Destination,
            false,
        ),
        (["", "", "256", "", "", "", ""], Field::Protocol, false),
        (["", "", "6-5", "", "", "", ""], Field::Protocol, false),
        (["", "", "tcp", "", "", "", ""], Field::Protocol, true),
        (["", "", "1000", "", "", "", ""], Field::Protocol, true),
        (["", "", "", "65536", "", "", ""], Field::SourcePort, false),
        (
            ["", "", "1", "", "53", "", ""],
            Field::DestinationPort,
            false,
        ),
        (["", "", "47", "1-2", "", "", ""], Field::SourcePort, false),
        (["", "", "17", "", "", "8", ""], Field::IcmpType, false),
        (["", "", "58", "", "", "8", ""], Field::IcmpType, true),
        (["", "", "", "", "53", "", "0"], Field::IcmpCode, false),
        (["", "", "", "", "", "", "-"], Field::IcmpCode, true),
    ];
    for (fields, field, syntax) in cases {
        // ICMPv6 alone is possible: IPv6 packets have it.
        if fields[2] == "58" {
            assert!(parse(fields).is_ok());
            continue;
        }
        let error = parse(fields).unwrap_err();
        assert_eq!(
            (error.field(), error.is_syntax()),
            (field, syntax),
            "{fields:?}: {error}"
        );
        let said = error.to_string();
        assert!(said.starts_with(field.name()), "{said}");
        // What is an address stays with the value; an error's text goes into logs.
        if matches!(field, Field::Source | Field::Destination) {
            for text in [said.clone(), format!("{error:?}")] {
                for told in [
                    "192.0.2.1",
                    "192.0.2.9",
                    "192.0.2.256",
                    "2001:db8::",
                    "here",
                ] {
                    assert!(!text.contains(told), "{text}");
                }
            }
        }
        assert_eq!(
            error.value(),
            fields[match field {
                Field::Source => 0,
                Field::Destination => 1,
                Field::Protocol => 2,
                Field::SourcePort => 3,
                Field::DestinationPort => 4,
                Field::IcmpType => 5,
                _ => 6,
            }]
        );
    }
    let long = "1,".repeat(MAXIMUM_ELEMENTS) + "1";
    assert!(
        !parse(["", "", &long, "", "", "", ""])
            .unwrap_err()
            .is_syntax()
    );
    let error = source(&"x".repeat(10_000)).unwrap_err();
    assert!(error.value().len() < 200);
}

#[test]
fn the_field_that_rejects_is_named() {
    let criteria = parse([
        "192.0.2.0/24",
        "198.51.100.0/24",
        "17",
        "1024-*",
        "53",
        "",
        "",
    ])
    .unwrap();
    let key = |from, to, protocol, transport| packet(from, to, protocol, transport);
    for (packet, field) in [
        (
            key("192.0.3.1", "198.51.100.1", 17, ports(2000, 53)),
            Some(Field::Source),
        ),
        (
            key("192.0.2.1", "198.51.101.1", 17, ports(2000, 53)),
            Some(Field::Destination),
        ),
        (
            key("192.0.2.1", "198.51.100.1", 6, ports(2000, 53)),
            Some(Field::Protocol),
        ),
        (
            key("192.0.2.1", "198.51.100.1", 17, ports(200, 53)),
            Some(Field::SourcePort),
        ),
        (
            key("192.0.2.1", "198.51.100.1", 17, ports(2000, 54)),
            Some(Field::DestinationPort),
        ),
        (
            key("192.0.2.1", "198.51.100.1", 17, Transport::None),
            Some(Field::SourcePort),
        ),
        (key("192.0.2.1", "198.51.100.1", 17, ports(2000, 53)), None),
    ] {
        assert_eq!(criteria.first_rejecting_field(&packet), field);
        assert_eq!(criteria.matches(&packet), field.is_none());
    }
    let icmp = parse(["", "", "", "", "", "8", "0"]).unwrap();
    let echo = |kind, code| packet("192.0.2.1", "192.0.2.2", 1, Transport::Icmp { kind, code });
    assert_eq!(
        icmp.first_rejecting_field(&echo(9, 0)),
        Some(Field::IcmpType)
    );
    assert_eq!(
        icmp.first_rejecting_field(&echo(8, 1)),
        Some(Field::IcmpCode)
    );
    assert_eq!(icmp.first_rejecting_field(&echo(8, 0)), None);
}

#[test]
fn normal_forms() {
    for (left, right) in [
        (
            ["192.0.2.0-192.0.2.255", "", "", "", "", "", ""],
            "source=192.0.2.0/24",
        ),
        (
            ["192.0.2.77/24,192.0.2.5", "*", "", "*", "", "", ""],
            "source=192.0.2.0/24",
        ),
        (["", "", "6,7,8", "", "", "", ""], "protocol=6-8"),
        (["", "", "", "", "", "", ""], "*"),
        (
            ["!192.0.2.1", "", "", "", "!53", "", ""],
            "source=0.0.0.0-192.0.2.0,192.0.2.2-255.255.255.255,::/0 destination_port=0-52,54-65535",
        ),
    ] {
        assert_eq!(parse(left).unwrap().normal_form().to_string(), right);
    }
}

fn any_list() -> impl Strategy<Value = String> {
    let element = prop::sample::select(vec![
        "192.0.2.1",
        "192.0.2.0/24",
        "192.0.2.0/30",
        "192.0.2.2-192.0.2.40",
        "192.0.2.3-*",
        "*-192.0.2.9",
        "*",
        "2001:db8::1",
        "2001:db8::/64",
        "2001:db8::2-2001:db8::9",
    ]);
    prop::collection::vec((any::<bool>(), element), 1..4).prop_map(|elements| {
        let parts: Vec<String> = elements
            .into_iter()
            .map(|(negated, text)| {
                if negated {
                    format!("!{text}")
                } else {
                    text.to_owned()
                }
            })
            .collect();
        parts.join(",")
    })
}

fn any_packet() -> impl Strategy<Value = PacketKey> {
    (
        any::<bool>(),
        0_u32..50,
        0_u32..50,
        prop::sample::select(vec![1, 6, 17, 47, 58]),
        50_u16..56,
        50_u16..56,
    )
        .prop_map(|(is_ipv6, from, to, protocol, source, destination)| {
            let at = |last: u32| {
                if is_ipv6 {
                    Address::V6((0x2001_0db8 << 96) | u128::from(last))
                } else {
                    Address::V4(0xc000_0200 + last)
                }
            };
            let transport = match protocol {
                6 | 17 => ports(source, destination),
                1 | 58 => Transport::Icmp { kind: 8, code: 0 },
                _ => Transport::None,
            };
            PacketKey {
                source: at(from),
                destination: at(to),
                protocol: Some(protocol),
                transport,
            }
        })
}

proptest! {
    #[test]
    fn the_canonical_text_means_the_same(list in any_list(), key in any_packet()) {
        if let Ok(criteria) = source(&list) {
            let form = criteria.normal_form().to_string();
            let again = source(form.strip_prefix("source=").unwrap_or("*")).unwrap();
            prop_assert_eq!(&again, &criteria);
            prop_assert_eq!(again.matches(&key), criteria.matches(&key));
        }
    }

    #[test]
    fn what_matches_both_overlaps(
        a in any_list(), b in any_list(), port in 50_u16..56, key in any_packet(),
    ) {
        let left = parse([&a, "", "", "", &port.to_string(), "", ""]);
        let right = parse([&b, "", "6,17,1", "", "50-53", "", ""]);
        if let (Ok(left), Ok(right)) = (left, right) {
            prop_assert_eq!(left.overlaps(&right), right.overlaps(&left));
            if left.matches(&key) && right.matches(&key) {
                prop_assert!(left.overlaps(&right));
            }
            if port > 53 {
                prop_assert!(!left.overlaps(&right));
            }
        }
    }
}
