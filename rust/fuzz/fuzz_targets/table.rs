//! Any criteria, any changes and any packets: the index answers what asking every criterion answers, a packet that is
//! sorted out early matches nothing, and a table that was changed answers what one that is compiled anew answers.
#![no_main]

use std::collections::BTreeMap;

use flowtap_core::criteria::{Criteria, CriteriaText, IpFamily};
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{Entry, FilterTable, Slot};
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

fn entry(
    id: u64,
    &[source, destination, protocol, from, to, kind, code]: &[u8; 7],
) -> Option<Entry> {
    let text = CriteriaText {
        source: pick(&ADDRESSES, source),
        destination: pick(&ADDRESSES, destination),
        protocol: pick(&NUMBERS, protocol),
        source_port: pick(&PORTS, from),
        destination_port: pick(&PORTS, to),
        icmp_type: pick(&["8", "*"], kind),
        icmp_code: pick(&["0", "*"], code),
        family: [None, Some(IpFamily::V4), Some(IpFamily::V6)][usize::from(code >> 4) % 3],
    };
    Some(Entry::new(id, Criteria::parse(&text).ok()?))
}

/// Ids of the criteria that match, ascending.
fn ids(table: &FilterTable, slots: &[u32]) -> Vec<u64> {
    let slots = slots.iter().filter_map(|&slot| table.slot(slot));
    let mut ids: Vec<u64> = slots.map(Slot::id).collect();
    ids.sort_unstable();
    ids
}

/// What a table finds, by its index and by asking every criterion.
fn found(table: &FilterTable, key: &PacketKey) -> Vec<u64> {
    let (mut indexed, mut linear) = (Vec::new(), Vec::new());
    table.classify(key, &mut indexed);
    table.classify_linear(key, &mut linear);
    let found = ids(table, &indexed);
    assert_eq!(found, ids(table, &linear));
    assert!(table.may_match(key.source, key.destination) || found.is_empty());
    found
}

fuzz_target!(|input: &[u8]| {
    let [count, changes, rest @ ..] = input else {
        return;
    };
    let (criteria, rest) = rest.split_at(rest.len().min(usize::from(count % 64) * 7));
    let entries = criteria.as_chunks::<7>().0.iter().zip(1..);
    let entries: Vec<Entry> = entries
        .filter_map(|(fields, id)| entry(id, fields))
        .collect();
    let mut present: BTreeMap<u64, Entry> = entries
        .iter()
        .cloned()
        .map(|entry| (entry.id, entry))
        .collect();
    let mut table =
        FilterTable::compile(entries, Vec::new()).expect("distinct ids, no destinations");
    // A change: which goes, and what comes in its place, under its id or a new one.
    let (changes, packets) = rest.split_at(rest.len().min(usize::from(changes % 32) * 8));
    for ([which, fields @ ..], new_id) in changes.as_chunks::<8>().0.iter().zip(1000..) {
        let gone = (!present.is_empty())
            .then(|| {
                present
                    .keys()
                    .nth(usize::from(which / 2) % present.len())
                    .copied()
            })
            .flatten();
        if let Some(id) = gone {
            present.remove(&id);
        }
        let id = gone.filter(|_| which % 2 == 0).unwrap_or(new_id);
        let coming = entry(id, fields);
        present.extend(coming.clone().map(|entry| (id, entry)));
        table = table
            .changed(gone.as_slice(), coming.into_iter().collect(), None)
            .expect("what goes is there, what comes is new");
    }
    let anew =
        FilterTable::compile(present.into_values().collect(), Vec::new()).expect("distinct ids");
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
        assert_eq!(found(&table, &key), found(&anew, &key));
        let alone = PacketKey {
            transport: Transport::None,
            ..key
        };
        let (mut changed, mut compiled) = (Vec::new(), Vec::new());
        let waits = table.classify_later_fragment(&alone, &mut changed);
        assert_eq!(waits, anew.classify_later_fragment(&alone, &mut compiled));
        assert_eq!(ids(&table, &changed), ids(&anew, &compiled));
    }
});
