//! The engine: copies with their outer headers, fragments in any order, lifetimes, accounts.
#![cfg(test)]

mod frames;

use std::sync::Arc;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use flowtap_core::batch::{CopyBatch, NO_DESTINATION};
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::engine::{Engine, EngineOptions, Framing, MatchSink, Verdict};
use flowtap_core::fragments::FragmentLimits;
use flowtap_core::frame::{Frame, LinkType};
use flowtap_core::table::{Destination, Entry, FilterTable, Lifetime, Rate};
use frames::{ethernet, frame, ipv4, ipv4_fragment, ipv6, udp};
use proptest::prelude::*;

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [198, 51, 100, 2];

fn criterion(id: u64, text: &CriteriaText<'_>, destinations: &[u32]) -> Entry {
    Entry {
        destinations: destinations.to_vec(),
        ..Entry::new(id, Criteria::parse(text).unwrap())
    }
}

fn from_a(id: u64, destinations: &[u32]) -> Entry {
    criterion(
        id,
        &CriteriaText {
            source: Some("192.0.2.1"),
            ..CriteriaText::default()
        },
        destinations,
    )
}

fn dns_from_a(id: u64) -> Entry {
    let text = CriteriaText {
        source: Some("192.0.2.1"),
        destination_port: Some("53"),
        ..CriteriaText::default()
    };
    criterion(id, &text, &[0])
}

fn destinations() -> Vec<Destination> {
    let v4 = Destination {
        id: "cd4".to_owned(),
        address: "203.0.113.9".parse().unwrap(),
        port: 30000,
        source_address: "203.0.113.1".parse().unwrap(),
        source_port: 65534,
        ttl: 64,
        refuse_oversize: false,
        export: true,
        protection: None,
    };
    let v6 = Destination {
        id: "cd6".to_owned(),
        address: "2001:db8:9::9".parse().unwrap(),
        source_address: "2001:db8:9::1".parse().unwrap(),
        refuse_oversize: true,
        ..v4.clone()
    };
    vec![v4, v6]
}

fn table(entries: Vec<Entry>) -> Arc<FilterTable> {
    Arc::new(FilterTable::compile(entries, destinations()).unwrap())
}

fn engine(entries: Vec<Entry>, mtu_octets: u32) -> Engine {
    let options = EngineOptions {
        framing: Framing::Datagram { mtu_octets },
        ..EngineOptions::default()
    };
    Engine::new(table(entries), options)
}

/// What a matched frame sink has seen.
#[derive(Default)]
struct Seen(Vec<Vec<u8>>);

impl MatchSink for Seen {
    fn matched(&mut self, frame: &Frame<'_>) {
        self.0.push(frame.data.to_vec());
    }
}

fn process(engine: &mut Engine, data: &[u8], now_ns: u64) -> (Verdict, CopyBatch) {
    let mut batch = CopyBatch::new();
    let verdict = engine.process(&frame(data, LinkType::Raw), now_ns, &mut batch, &mut ());
    engine.stats().check().unwrap();
    (verdict, batch)
}

// Ledger: T-031
#[test]
fn the_outer_header_is_as_tasked_and_right() {
    let mut engine = engine(vec![from_a(7, &[0, 1])], 1500);
    let packet = ipv4(A, B, 17, &udp(1024, 53, b"query"));
    let padded = [ethernet(&[&[8, 0]], &packet), vec![0; 30]].concat();
    let mut batch = CopyBatch::new();
    let mut seen = Seen::default();
    let mut whole = frame(&padded, LinkType::Ethernet);
    whole.timestamp_ns = 99;
    assert_eq!(
        engine.process(&whole, 0, &mut batch, &mut seen),
        Verdict::Matched
    );
    assert_eq!(seen.0, std::slice::from_ref(&padded));
    assert_eq!(batch.len(), 2);
    for (at, (source, ttl_offset)) in [("203.0.113.1", 8), ("2001:db8:9::1", 7)]
        .into_iter()
        .enumerate()
    {
        let copy = batch.copy(at).unwrap();
        let record = batch.records()[at];
        assert_eq!((record.criteria_id, record.timestamp_ns), (7, 99));
        assert_eq!(
            usize::try_from(record.original_length_octets).unwrap(),
            packet.len()
        );
        assert_eq!(copy[ttl_offset], 64);
        let outer = SlicedPacket::from_ip(copy).unwrap();
        let Some(TransportSlice::Udp(datagram)) = outer.transport else {
            panic!("no UDP")
        };
        assert_eq!(
            (datagram.source_port(), datagram.destination_port()),
            (65534, 30000)
        );
        assert_eq!(datagram.payload(), packet);
        assert_eq!(
            &copy[usize::try_from(record.header_octets).unwrap()..],
            packet
        );
        let header = datagram.to_header();
        let checksum = match outer.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
                assert_eq!(
                    (ip.dont_fragment, ip.more_fragments, copy[1]),
                    (false, false, 0)
                );
                assert_eq!(std::net::Ipv4Addr::from(ip.source).to_string(), source);
                header.calc_checksum_ipv4(&ip, datagram.payload()).unwrap()
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.source_addr().to_string(), source);
                header.calc_checksum_ipv6(&ip, datagram.payload()).unwrap()
            }
            _ => panic!("no IP"),
        };
        assert_eq!(checksum, header.checksum);
    }
}

#[test]
fn a_criterion_without_destinations_counts_one_copy_that_goes_nowhere() {
    let mut engine = engine(vec![from_a(1, &[])], 1500);
    let packet = ipv4(A, B, 6, &[0; 20]);
    let (_, batch) = process(&mut engine, &packet, 0);
    assert_eq!(batch.copy(0), Some(&packet[..]));
    assert_eq!(batch.records()[0].destination, NO_DESTINATION);
    let stats = engine.stats();
    assert_eq!(
        (stats.wanted, stats.copied, stats.criteria[0].copies),
        (1, 1, 1)
    );
}

#[test]
fn what_is_too_long_is_refused_and_counted_or_cut() {
    let packet = ipv4(A, B, 17, &udp(1, 2, &[7; 1400]));
    let mut engine = engine(vec![from_a(1, &[0, 1])], 600);
    let (_, batch) = process(&mut engine, &packet, 0);
    let stats = engine.stats();
    assert_eq!((stats.wanted, stats.copied, stats.refused), (2, 1, 1));
    assert_eq!(
        (stats.destinations[0].copied, stats.destinations[1].refused),
        (1, 1)
    );
    // The fragments of the one that is cut make up its datagram again.
    let mut whole = Vec::new();
    for (at, record) in batch.records().iter().enumerate() {
        let piece = batch.copy(at).unwrap();
        assert!(piece.len() <= 600);
        let ip = etherparse::Ipv4HeaderSlice::from_slice(piece).unwrap();
        assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
        assert_eq!(
            usize::from(ip.fragments_offset().byte_offset()),
            whole.len()
        );
        assert_eq!(ip.more_fragments(), at + 1 < batch.len());
        whole.extend_from_slice(&piece[20..]);
        assert_eq!(record.destination, 0);
    }
    assert_eq!(&whole[8..], packet);
}

#[test]
fn own_traffic_is_never_copied() {
    let own = Entry {
        own: true,
        ..dns_from_a(9)
    };
    let mut engine = engine(vec![from_a(1, &[0]), own], 1500);
    let (verdict, batch) = process(&mut engine, &ipv4(A, B, 17, &udp(1, 53, b"")), 0);
    assert_eq!((verdict, batch.len()), (Verdict::Own, 0));
    let (verdict, _) = process(&mut engine, &ipv4(A, B, 17, &udp(1, 54, b"")), 0);
    assert_eq!(verdict, Verdict::Matched);
    let stats = engine.stats();
    assert_eq!((stats.frames, stats.own, stats.matched), (2, 1, 1));
}

/// The fragments of one DNS query from A.
fn fragments(identification: u16) -> Vec<Vec<u8>> {
    let datagram = udp(1024, 53, &[5; 40]);
    datagram
        .chunks(16)
        .enumerate()
        .map(|(at, data)| {
            let offset = u16::try_from(at * 16).unwrap();
            ipv4_fragment(A, B, 17, data, offset, at < 2, identification)
        })
        .collect()
}

#[test]
fn all_fragments_follow_the_first_in_any_order() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut engine = engine(vec![dns_from_a(1)], 1500);
        let (mut batch, mut seen) = (CopyBatch::new(), Seen::default());
        for at in order {
            let data = &fragments(7)[at];
            engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut seen);
            engine.stats().check().unwrap();
        }
        assert_eq!(batch.len(), 3, "{order:?}");
        seen.0.sort();
        let mut all = fragments(7);
        all.sort();
        assert_eq!(seen.0, all);
        assert_eq!(engine.stats().held, 0);
    }
}

#[test]
fn a_first_fragment_that_misses_lets_the_others_miss() {
    let mut engine = engine(vec![dns_from_a(1)], 1500);
    let other = ipv4_fragment(A, B, 17, &udp(1, 54, &[0; 8]), 0, true, 7);
    assert_eq!(process(&mut engine, &fragments(7)[1], 0).0, Verdict::Held);
    assert_eq!(process(&mut engine, &other, 0).0, Verdict::Missed);
    assert_eq!(process(&mut engine, &fragments(7)[2], 0).0, Verdict::Missed);
    assert_eq!(engine.stats().matched, 0);
}

#[test]
fn fragments_whose_first_never_comes_are_decided_by_what_they_tell() {
    let mut engine = engine(vec![dns_from_a(1), from_a(2, &[0])], 1500);
    let mut batch = CopyBatch::new();
    for data in &fragments(7)[1..] {
        let verdict = engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut ());
        assert_eq!(verdict, Verdict::Held);
    }
    assert_eq!(engine.stats().held, 2);
    engine.flush(0, &mut batch, &mut ());
    let stats = engine.stats();
    assert_eq!(
        (
            stats.held,
            stats.criteria[0].packets,
            stats.criteria[1].packets
        ),
        (0, 0, 2)
    );
    // Where no criterion needs the first fragment, nothing waits.
    let mut alone = self::engine(vec![from_a(2, &[0])], 1500);
    assert_eq!(process(&mut alone, &fragments(7)[1], 0).0, Verdict::Matched);
}

#[test]
fn a_fragment_waits_no_longer_than_its_time_whatever_comes_meanwhile() {
    const TIME_NS: u64 = 30_000_000_000;
    let ends_at_its_time = Entry {
        lifetime: Lifetime {
            total_ns: Some(TIME_NS + 1),
            ..Lifetime::default()
        },
        ..from_a(3, &[0])
    };
    let entries = vec![dns_from_a(1), from_a(2, &[0]), ends_at_its_time];
    let others = [ipv4(B, B, 6, &[]), vec![1, 2, 3], ipv4(A, B, 6, &[])];
    for (other, matching) in others.iter().zip([0, 0, 1]) {
        let mut engine = engine(entries.clone(), 1500);
        let mut batch = CopyBatch::new();
        let mut come = |data: &[u8], now_ns| {
            batch.clear();
            engine.process(&frame(data, LinkType::Raw), now_ns, &mut batch, &mut ());
            (batch.len(), engine.stats().held)
        };
        assert_eq!(come(&fragments(7)[1], 0), (0, 1));
        // A criterion gets it that had not ended when its time was up, however late that is seen.
        let (before, _) = come(other, TIME_NS);
        assert_eq!(before, matching * 2);
        assert_eq!(come(other, TIME_NS * 3), (2 + matching, 0));
        assert_eq!(come(other, TIME_NS * 6), (matching, 0));
    }
    // Who has a clock and no frames asks for it; what has ended by then gets nothing.
    let mut engine = engine(entries, 1500);
    let mut batch = CopyBatch::new();
    process(&mut engine, &fragments(7)[1], 0);
    for (now_ns, copies) in [(TIME_NS, 0), (TIME_NS + 1, 1), (TIME_NS * 3, 1)] {
        engine.pass_time(now_ns, &mut batch, &mut ());
        assert_eq!(batch.len(), copies);
    }
}

#[test]
fn ipv6_fragments_wait_for_a_protocol_too() {
    let text = CriteriaText {
        source: Some("2001:db8::1"),
        protocol: Some("17"),
        ..CriteriaText::default()
    };
    let mut engine = engine(vec![criterion(1, &text, &[0])], 1500);
    let later = ipv6(
        1,
        2,
        44,
        &[&[60, 0, 0, 24, 0, 0, 0, 9][..], &[0; 8]].concat(),
    );
    let options_and_udp = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(1, 53, &[0; 8])].concat();
    let first = ipv6(
        1,
        2,
        44,
        &[&[60, 0, 0, 1, 0, 0, 0, 9][..], &options_and_udp].concat(),
    );
    assert_eq!(process(&mut engine, &later, 0).0, Verdict::Held);
    let (verdict, batch) = process(&mut engine, &first, 0);
    assert_eq!((verdict, batch.len()), (Verdict::Matched, 2));
}

#[test]
fn the_memory_of_fragments_is_bounded_in_number_octets_and_time() {
    let limits = FragmentLimits {
        datagrams: 10,
        held_octets: 400,
        timeout_ns: 1000,
    };
    let options = EngineOptions {
        fragments: limits,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(table(vec![dns_from_a(1)]), options);
    let mut batch = CopyBatch::new();
    for identification in 0..1000 {
        let data = &fragments(identification)[1];
        engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut ());
        assert!(engine.stats().held * 36 <= 400);
    }
    assert!(engine.stats().held > 5);
    // A verdict that is too old is another datagram's.
    let mut engine = Engine::new(table(vec![dns_from_a(1)]), options);
    process(&mut engine, &fragments(7)[0], 0);
    assert_eq!(
        process(&mut engine, &fragments(7)[1], 1000).0,
        Verdict::Matched
    );
    assert_eq!(
        process(&mut engine, &fragments(7)[1], 1001).0,
        Verdict::Held
    );
}

#[test]
fn lifetimes_end_criteria_and_the_last_packet_is_copied() {
    let lifetimes = [
        Lifetime {
            packets: Some(2),
            ..Lifetime::default()
        },
        Lifetime {
            octets: Some(50),
            ..Lifetime::default()
        },
        Lifetime {
            total_ns: Some(100),
            ..Lifetime::default()
        },
        Lifetime {
            idle_ns: Some(40),
            ..Lifetime::default()
        },
    ];
    let entries = (1..)
        .zip(lifetimes)
        .map(|(id, lifetime)| Entry {
            lifetime,
            ..from_a(id, &[0])
        })
        .collect();
    let mut engine = engine(entries, 1500);
    let packet = ipv4(A, B, 6, &[0; 20]);
    process(&mut engine, &ipv4(B, A, 6, &[0; 20]), 1000);
    for now_ns in [1010, 1030, 1060, 1099, 1100, 1200] {
        process(&mut engine, &packet, now_ns);
    }
    let packets: Vec<u64> = engine
        .stats()
        .criteria
        .iter()
        .map(|criterion| criterion.packets)
        .collect();
    // The last one: matched at 1010, 1030, 1060, 1099 and, within 40 ns, at 1100.
    assert_eq!(packets, [2, 2, 4, 5]);
    assert_eq!(engine.stats().criteria[3].last_match_ns, Some(1100));
}

#[test]
fn lifetimes_may_begin_before_the_first_frame() {
    let total = Lifetime {
        total_ns: Some(100),
        total_since_ns: Some(950),
        ..Lifetime::default()
    };
    let idle = Lifetime {
        idle_ns: Some(40),
        idle_since_ns: Some(1030),
        ..Lifetime::default()
    };
    let entries = (1..).zip([total, idle]).map(|(id, lifetime)| Entry {
        lifetime,
        ..from_a(id, &[0])
    });
    let mut engine = engine(entries.collect(), 1500);
    let packet = ipv4(A, B, 6, &[0; 20]);
    for now_ns in [1000, 1049, 1050, 1069, 1110, 1200] {
        process(&mut engine, &packet, now_ns);
    }
    let packets: Vec<u64> = engine
        .stats()
        .criteria
        .iter()
        .map(|criterion| criterion.packets)
        .collect();
    assert_eq!(packets, [2, 4]);
}

#[test]
fn accounts_and_ages_follow_the_ids_to_another_table() {
    let limited = Entry {
        lifetime: Lifetime {
            packets: Some(3),
            ..Lifetime::default()
        },
        ..from_a(2, &[0])
    };
    let mut engine = engine(vec![from_a(1, &[0]), limited.clone()], 1500);
    let packet = ipv4(A, B, 6, &[0; 20]);
    process(&mut engine, &packet, 0);
    process(&mut engine, &packet, 0);
    engine.install(table(vec![limited, from_a(3, &[1])]));
    process(&mut engine, &packet, 0);
    process(&mut engine, &packet, 0);
    let stats = engine.stats();
    let counted: Vec<(u64, u64)> = stats
        .criteria
        .iter()
        .map(|criterion| (criterion.id, criterion.packets))
        .collect();
    assert_eq!(counted, [(2, 3), (3, 2)]);
    assert_eq!((stats.matched, stats.copied), (4, 7));
    stats.check().unwrap();
}

proptest! {
    #[test]
    fn any_frames_leave_an_account_that_is_right(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..30),
        good in 0_usize..20,
    ) {
        let mut engine = engine(vec![from_a(1, &[0, 1]), dns_from_a(2)], 100);
        let mut batch = CopyBatch::new();
        for data in &frames {
            engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut ());
        }
        for at in 0..good {
            let data = &fragments(1)[at % 3];
            engine.process(&frame(data, LinkType::Raw), 0, &mut batch, &mut ());
        }
        engine.flush(0, &mut batch, &mut ());
        let stats = engine.stats();
        prop_assert!(stats.check().is_ok());
        prop_assert_eq!(stats.frames, u64::try_from(frames.len() + good).unwrap());
        prop_assert_eq!(stats.held, 0);
        for at in 0..batch.len() {
            prop_assert!(SlicedPacket::from_ip(batch.copy(at).unwrap()).is_ok());
        }
    }
}

/// What is more than a control source may have is refused, counted, and told of each criterion and destination.
#[test]
fn a_rate_is_shared_and_what_exceeds_it_is_refused() {
    let rate = Arc::new(Rate::new(10, 0));
    let limited = |entry: Entry| Entry {
        rate: Some(Arc::clone(&rate)),
        ..entry
    };
    let entries = vec![
        limited(from_a(1, &[0, 1])),
        limited(dns_from_a(2)),
        from_a(3, &[]),
    ];
    let mut engine = engine(entries, 1500);
    let packet = ipv4(A, B, 17, &udp(1, 53, b"0123"));
    for _ in 0..5 {
        process(&mut engine, &packet, 0);
    }
    let stats = engine.stats();
    stats.check().unwrap();
    // A burst of two passes, one of each: three copies; the criterion without a rate has all of its own.
    assert_eq!((stats.wanted, stats.copied, stats.refused), (20, 8, 12));
    let packets: Vec<u64> = stats.criteria.iter().map(|each| each.packets).collect();
    assert_eq!(packets, [5, 5, 5]);
    let mut refused = stats.refused_copies;
    refused.sort_by(|one, other| {
        (one.criteria_id, &one.destination_id).cmp(&(other.criteria_id, &other.destination_id))
    });
    let told: Vec<(u64, &str, u64, u64)> = refused
        .iter()
        .map(|each| {
            (
                each.criteria_id,
                each.destination_id.as_str(),
                each.copies,
                each.octets,
            )
        })
        .collect();
    assert_eq!(
        told,
        [(1, "cd4", 4, 128), (1, "cd6", 4, 128), (2, "cd4", 4, 128)]
    );
    // With other destinations it is told under their names, and forgotten with the criterion.
    let swapped: Vec<Destination> = destinations().into_iter().rev().collect();
    let table = engine
        .table()
        .changed(&[1], Vec::new(), Some(swapped))
        .unwrap();
    engine.install(Arc::new(table));
    let refused = engine.stats().refused_copies;
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].criteria_id, refused[0].destination_id.as_str()),
        (2, "cd4")
    );
}
