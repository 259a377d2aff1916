//! An engine whose frames were looked at by screens does what one without them does.
#![cfg(test)]

mod frames;

use std::sync::Arc;

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::decode::InnerTunnels;
use flowtap_core::engine::{
    Engine, EngineOptions, Framing, MatchSink, Screen, Screened, ScreenedCount,
};
use flowtap_core::fragments::FragmentLimits;
use flowtap_core::frame::{Frame, LinkType};
use flowtap_core::own::OwnTraffic;
use flowtap_core::table::{Entry, FilterTable, Rate};
use frames::{frame, ipv4, ipv4_fragment, ipv6, udp};
use proptest::prelude::*;

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [192, 0, 2, 2];

fn entry(id: u64, text: &CriteriaText<'_>) -> Entry {
    Entry::new(id, Criteria::parse(text).unwrap())
}

/// From A; to port 53 of B, at most three; UDP from A for two seconds, and some packets a second only.
fn entries() -> Vec<Entry> {
    let from_a = CriteriaText {
        source: Some("192.0.2.1"),
        ..CriteriaText::default()
    };
    let dns = CriteriaText {
        destination: Some("192.0.2.2"),
        destination_port: Some("53"),
        ..CriteriaText::default()
    };
    let udp_from_a = CriteriaText {
        protocol: Some("17"),
        ..from_a
    };
    let mut entries = vec![entry(1, &from_a), entry(2, &dns), entry(3, &udp_from_a)];
    entries[1].lifetime.packets = Some(3);
    entries[2].lifetime.total_ns = Some(2_000_000_000);
    entries[2].rate = Some(Arc::new(Rate::new(3, 0)));
    entries
}

fn engine(inner: InnerTunnels) -> Engine {
    let options = EngineOptions {
        framing: Framing::Payload,
        inner,
        fragments: FragmentLimits {
            timeout_ns: 1_000_000_000,
            ..FragmentLimits::default()
        },
    };
    let table = FilterTable::compile(entries(), Vec::new()).unwrap();
    Engine::new(Arc::new(table), options)
}

#[derive(Default)]
struct Seen(Vec<Vec<u8>>);

impl MatchSink for Seen {
    fn matched(&mut self, frame: &Frame<'_>) {
        self.0.push(frame.data.to_vec());
    }
}

fn packets() -> impl Strategy<Value = Vec<u8>> {
    let ends = prop_oneof![Just((A, B)), Just((B, A)), Just((B, [198, 51, 100, 9]))];
    let datagram = prop_oneof![Just(53_u16), Just(54)].prop_map(|port| udp(4, port, b"payload"));
    prop_oneof![
        4 => (ends.clone(), datagram.clone()).prop_map(|((a, b), data)| ipv4(a, b, 17, &data)),
        4 => (ends.clone(), datagram.clone(), 0_u16..2, any::<bool>()).prop_map(
            |((a, b), data, identification, is_first)| {
                let (data, at) = if is_first { (data, 0) } else { (vec![9; 8], 16) };
                ipv4_fragment(a, b, 17, &data, at, is_first, identification)
            }
        ),
        1 => (ends, datagram).prop_map(|((a, b), data)| ipv4(B, B, 4, &ipv4(a, b, 17, &data))),
        1 => Just(ipv6(1, 2, 17, &udp(4, 53, b"payload"))),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #[test]
    fn screened_frames_come_to_the_same(
        arrivals in prop::collection::vec((packets(), -300_000_000_i64..500_000_000), 0..60),
        looks_inside in any::<bool>(),
    ) {
        let inner = if looks_inside { InnerTunnels::ALL } else { InnerTunnels::default() };
        let (mut alone, mut screened) = (engine(inner), engine(inner));
        let mut screen = screened.screen().unwrap();
        let (mut copies, mut seen) = (CopyBatch::new(), Seen::default());
        let (mut copies_screened, mut seen_screened) = (CopyBatch::new(), Seen::default());
        let mut count = ScreenedCount::default();
        let mut now_ns = 1_000_000_000_u64;
        for (data, later_ns) in &arrivals {
            now_ns = now_ns.saturating_add_signed(*later_ns);
            let frame = frame(data, LinkType::Raw);
            alone.process(&frame, now_ns, &mut copies, &mut seen);
            let said = screen.look(&frame);
            if let Screened::Missed | Screened::Undecodable = said {
                if count.frames == 0 {
                    count.first_ns = now_ns;
                }
                count.latest_ns = count.latest_ns.max(now_ns);
                count.frames += 1;
                count.octets += u64::try_from(data.len()).unwrap();
                count.undecodable += u64::from(said == Screened::Undecodable);
                continue;
            }
            let (batch, sink) = (&mut copies_screened, &mut seen_screened);
            screened.count_screened(&std::mem::take(&mut count), batch, sink);
            match said {
                Screened::Matching(slots) => {
                    screened.process_matching(&frame, slots, now_ns, batch, sink)
                }
                _ => screened.process(&frame, now_ns, batch, sink),
            };
        }
        screened.count_screened(&count, &mut copies_screened, &mut seen_screened);
        alone.flush(now_ns, &mut copies, &mut seen);
        screened.flush(now_ns, &mut copies_screened, &mut seen_screened);
        prop_assert_eq!(screened.stats(), alone.stats());
        prop_assert_eq!(seen_screened.0, seen.0);
        prop_assert_eq!(copies_screened.records(), copies.records());
        prop_assert_eq!(copies_screened.bytes(), copies.bytes());
    }
}

fn says<'a>(screen: &'a mut Screen, data: &[u8]) -> Screened<'a> {
    screen.look(&frame(data, LinkType::Raw))
}

#[test]
fn a_screen_says_what_depends_on_nothing_else() {
    let mut screen = engine(InnerTunnels::default()).screen().unwrap();
    assert_eq!(says(&mut screen, &[]), Screened::Undecodable);
    let datagram = udp(4, 54, &[]);
    let from_b = ipv4(B, B, 17, &datagram);
    assert_eq!(says(&mut screen, &from_b), Screened::Missed);
    let from_a = ipv4(A, B, 6, &datagram);
    assert_eq!(says(&mut screen, &from_a), Screened::Matching(&[0]));
    let fragment = ipv4_fragment(A, B, 17, &[0; 8], 16, false, 1);
    assert_eq!(says(&mut screen, &fragment), Screened::Open);
    let tunnel = ipv4(B, B, 4, &from_a);
    assert_eq!(says(&mut screen, &tunnel), Screened::Missed);
    let mut screen = engine(InnerTunnels::ALL).screen().unwrap();
    assert_eq!(says(&mut screen, &tunnel), Screened::Open);
}

#[test]
fn there_is_no_screen_where_every_frame_counts() {
    let mut circuit = entry(1, &CriteriaText::default());
    circuit.scope.circuit = true;
    let table = FilterTable::compile(vec![circuit], Vec::new()).unwrap();
    let engine_of_circuits = Engine::new(Arc::new(table), EngineOptions::default());
    assert!(engine_of_circuits.screen().is_none());
    let mut with_own = engine(InnerTunnels::default());
    with_own.set_own_traffic(OwnTraffic::default());
    assert!(with_own.screen().is_none());
}
