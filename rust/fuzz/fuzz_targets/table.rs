//! Any criteria and any packets: the index answers what asking every criterion answers, and a packet that is sorted out
//! early matches nothing.
#![no_main]

use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Entry, FilterTable, Lifetime};
use libfuzzer_sys::fuzz_target;

const ADDRESSES: [&str; 8] = [
    "*",
    "192.0.2.1",
    "192.0.2.0/24",
    "!192.0.2.1",
    "192.0.2.1-192.0.2.77,2001:db8::/32",
    "2001:db8::1-*",
    "*-192.0.2.128,!192.0.2.64/26",
    "0.0.0.0/0",
];
const NUMBERS: [&str; 6] = ["*", "6", "17", "!6", "0-63,65-*", "1,58"];
const PORTS: [&str; 5] = ["*", "53", "1-1023", "!53", "*-52,54-*"];

fn pick<'a>(list: &[&'a str], octet: u8) -> Option<&'a str> {
    list.get(usize::from(octet) % (list.len() + 1)).copied()
}

fn address(kind: u8, low: u8) -> (Address, Address) {
    let v4 = Address::V4(0xc000_0200 | u32::from(low));
    let v6 = Address::V6((0x2001_0db8 << 96) | u128::from(low));
    match kind % 4 {
        0 => (v4, Address::V4(0xc000_0201)),
        1 => (Address::V4(u32::from(low) << 24), v4),
        2 => (v6, Address::V6(1)),
        _ => (Address::V6(u128::MAX), v6),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else {
        return;
    };
    let (criteria, packets) = rest.split_at(rest.len().min(usize::from(count % 32) * 7));
    let entries: Vec<Entry> = criteria
        .as_chunks::<7>()
        .0
        .iter()
        .zip(1..)
        .filter_map(
            |(&[source, destination, protocol, from, to, kind, code], id)| {
                let text = CriteriaText {
                    source: pick(&ADDRESSES, source),
                    destination: pick(&ADDRESSES, destination),
                    protocol: pick(&NUMBERS, protocol),
                    source_port: pick(&PORTS, from),
                    destination_port: pick(&PORTS, to),
                    icmp_type: pick(&["8", "*"], kind),
                    icmp_code: pick(&["0", "*"], code),
                };
                let criteria = Criteria::parse(&text).ok()?;
                Some(Entry {
                    id,
                    criteria,
                    destinations: Vec::new(),
                    lifetime: Lifetime::default(),
                    own: false,
                })
            },
        )
        .collect();
    let table = FilterTable::compile(entries, Vec::new()).expect("distinct ids, no destinations");
    let (mut indexed, mut linear) = (Vec::new(), Vec::new());
    for &[kind, low, protocol, transport, port] in packets.as_chunks::<5>().0 {
        let (source, destination) = address(kind, low);
        let key = PacketKey {
            source,
            destination,
            protocol: Some([1, 6, 17, 58, protocol][usize::from(protocol) % 5])
                .filter(|_| kind & 4 == 0),
            transport: match transport % 3 {
                0 => Transport::None,
                1 => Transport::Ports {
                    source: port.into(),
                    destination: 53,
                },
                _ => Transport::Icmp {
                    kind: 8,
                    code: port & 1,
                },
            },
        };
        table.classify(&key, &mut indexed);
        table.classify_linear(&key, &mut linear);
        assert_eq!(indexed, linear);
        assert!(table.may_match(source, destination) || linear.is_empty());
    }
});
