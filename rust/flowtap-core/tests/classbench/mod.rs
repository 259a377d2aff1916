//! The rule sets of a classifier generator as criteria, and packets drawn from them.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "every test binary and benchmark uses its part"
)]

use std::net::Ipv4Addr;

use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::Entry;

/// The sets by name.
pub(crate) const SETS: [(&str, &str); 4] = [
    ("acl1_1000", include_str!("../data/classbench/acl1_1000")),
    ("acl1_10000", include_str!("../data/classbench/acl1_10000")),
    ("fw1_1000", include_str!("../data/classbench/fw1_1000")),
    ("fw1_10000", include_str!("../data/classbench/fw1_10000")),
];

/// A prefix: the first address and its length.
type Prefix = (u32, u32);

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    source: Prefix,
    destination: Prefix,
    source_port: (u16, u16),
    destination_port: (u16, u16),
    protocol: Option<u8>,
}

/// A seeded generator (xorshift), the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap()
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }
}

/// The rules of a set.
pub(crate) fn rules(name: &str) -> Vec<Rule> {
    let (_, text) = SETS.iter().find(|set| set.0 == name).unwrap();
    text.lines().map(rule).collect()
}

fn rule(line: &str) -> Rule {
    let fields: Vec<&str> = line.strip_prefix('@').unwrap().split('\t').collect();
    let prefix = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        let length = length.parse().unwrap();
        let bits = address.parse::<Ipv4Addr>().unwrap().to_bits();
        (bits & mask(length), length)
    };
    let range = |text: &str| {
        let (first, last) = text.split_once(" : ").unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    };
    let (protocol, protocol_mask) = fields[4].split_once('/').unwrap();
    let protocol = u8::from_str_radix(protocol.strip_prefix("0x").unwrap(), 16).unwrap();
    Rule {
        source: prefix(fields[0]),
        destination: prefix(fields[1]),
        source_port: range(fields[2]),
        destination_port: range(fields[3]),
        protocol: (protocol_mask == "0xFF").then_some(protocol),
    }
}

fn mask(length: u32) -> u32 {
    !u32::MAX.checked_shr(length).unwrap_or(0)
}

/// Whether some packet from and to addresses of 198.18.0.0/15 matches.
pub(crate) fn is_about_benchmark_addresses(rule: &Rule) -> bool {
    let overlaps = |prefix: Prefix| (prefix.0 ^ 0xc612_0000) & mask(prefix.1.min(15)) == 0;
    overlaps(rule.source) && overlaps(rule.destination)
}

/// Every rule as a criterion, numbered from 1.
pub(crate) fn entries(rules: &[Rule]) -> Vec<Entry> {
    let prefix = |(bits, length)| format!("{}/{length}", Ipv4Addr::from(bits));
    let range = |(first, last)| format!("{first}-{last}");
    let entry = |rule: &Rule| {
        let source = (rule.source.1 > 0).then(|| prefix(rule.source));
        let destination = (rule.destination.1 > 0).then(|| prefix(rule.destination));
        let protocol = rule.protocol.map(|number| number.to_string());
        let all = (0, u16::MAX);
        let source_port = (rule.source_port != all).then(|| range(rule.source_port));
        let destination_port = (rule.destination_port != all).then(|| range(rule.destination_port));
        Criteria::parse(&CriteriaText {
            source: source.as_deref(),
            destination: destination.as_deref(),
            protocol: protocol.as_deref(),
            source_port: source_port.as_deref(),
            destination_port: destination_port.as_deref(),
            ..CriteriaText::default()
        })
        .unwrap()
    };
    rules
        .iter()
        .zip(1..)
        .map(|(rule, id)| Entry::new(id, entry(rule)))
        .collect()
}

/// A packet that matches one of the rules, and others by chance.
pub(crate) fn drawn(rules: &[Rule], random: &mut Random) -> PacketKey {
    let rule = rules[usize::try_from(random.below(u32::try_from(rules.len()).unwrap())).unwrap()];
    let mut address = |(bits, length): Prefix| Address::V4(bits | random.next() & !mask(length));
    let (source, destination) = (address(rule.source), address(rule.destination));
    let mut port = |(first, last): (u16, u16)| {
        let offset = random.below(u32::from(last - first) + 1);
        first + u16::try_from(offset).unwrap()
    };
    let ports = (port(rule.source_port), port(rule.destination_port));
    let protocol = rule
        .protocol
        .unwrap_or_else(|| if random.below(2) == 0 { 6 } else { 17 });
    let transport = match protocol {
        6 | 17 => Transport::Ports {
            source: ports.0,
            destination: ports.1,
        },
        1 => Transport::Icmp { kind: 8, code: 0 },
        _ => Transport::None,
    };
    PacketKey {
        source,
        destination,
        protocol: Some(protocol),
        transport,
    }
}
