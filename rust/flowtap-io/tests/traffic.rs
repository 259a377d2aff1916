//! Seeded traffic, seen by an independent decoder.
#![cfg(test)]

use std::net::IpAddr;

use etherparse::{SlicedPacket, TransportSlice};
use flowtap_io::files::CaptureReader;
use flowtap_io::traffic::{Flow, Lengths, Traffic, TrafficError, TrafficOptions, create_capture};
use proptest::prelude::*;

fn flow(source: &str, destination: &str, protocol: u8) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: 40_000,
        destination_port: 53,
    }
}

fn options() -> TrafficOptions {
    TrafficOptions {
        flows: vec![
            flow("198.18.0.1", "198.19.0.1", 17),
            flow("198.18.0.2", "198.19.0.2", 6),
            flow("2001:2::1", "2001:2::2", 6),
        ],
        subjects: vec![flow("198.18.0.3", "198.19.0.3", 1)],
        subject_share_ppm: 100_000,
        seed: 7,
        ..TrafficOptions::default()
    }
}

fn frames(options: TrafficOptions, count: usize) -> Vec<Vec<u8>> {
    let mut traffic = Traffic::new(options).unwrap();
    (0..count).map(|_| traffic.next_frame().to_vec()).collect()
}

/// FNV-1a, to compare many octets with a number that can be written down.
fn digest(frames: &[Vec<u8>]) -> u64 {
    frames
        .iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[test]
fn the_same_everywhere() {
    // A change of this number means that no figure can be compared with an older one.
    assert_eq!(digest(&frames(options(), 1000)), 0xdc2e_f013_d517_c695);
}

#[test]
fn another_seed_gives_other_frames() {
    let other = TrafficOptions {
        seed: 8,
        ..options()
    };
    assert_ne!(frames(options(), 100), frames(other, 100));
}

#[test]
fn lengths_and_shares_are_those_asked_for() {
    let made = frames(options(), 120_000);
    let share = |wanted: &dyn Fn(&[u8]) -> bool| {
        let count = made.iter().filter(|frame| wanted(frame)).count();
        f64::from(u32::try_from(count).unwrap()) / 120_000.0
    };
    // IPv6 with TCP needs 74 octets where the others take 60.
    let lengths = [
        (60..=74, 7.0 / 12.0),
        (590..=590, 4.0 / 12.0),
        (1514..=1514, 1.0 / 12.0),
    ];
    for (range, expected) in lengths {
        let found = share(&|frame| range.contains(&frame.len()));
        assert!((found - expected).abs() < 0.01, "{range:?}: {found}");
    }
    let subject = share(&|frame| frame[12..14] == [8, 0] && frame[23] == 1);
    assert!((subject - 0.1).abs() < 0.005, "{subject}");
    let v6 = share(&|frame| frame[12..14] == [0x86, 0xdd]);
    assert!((v6 - 0.3).abs() < 0.01, "{v6}");
}

#[test]
fn a_capture_holds_the_frames_in_order() {
    let directory = std::env::temp_dir().join(format!("flowtap-traffic-{}", std::process::id()));
    let mut traffic = Traffic::new(options()).unwrap();
    let mut writer = create_capture(&directory).unwrap();
    traffic.write(&mut writer, 700).unwrap();
    traffic.write(&mut writer, 300).unwrap();
    writer.finish().unwrap();
    let mut reader = CaptureReader::open(directory.to_str().unwrap()).unwrap();
    let mut read = Vec::new();
    let mut last_ns = 0;
    while let Some(frame) = reader.next_frame().unwrap() {
        assert!(frame.timestamp_ns > last_ns);
        last_ns = frame.timestamp_ns;
        read.push(frame.data.to_vec());
    }
    std::fs::remove_file(directory).unwrap();
    assert_eq!(read, frames(options(), 1000));
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |options: TrafficOptions| Traffic::new(options).unwrap_err();
    assert_eq!(
        refused(TrafficOptions::default()),
        TrafficError::NoFlows {
            which: "flows",
            share_ppm: 1_000_000
        }
    );
    assert_eq!(
        refused(TrafficOptions {
            subjects: Vec::new(),
            ..options()
        }),
        TrafficError::NoFlows {
            which: "subjects",
            share_ppm: 100_000
        }
    );
    assert_eq!(
        refused(TrafficOptions {
            subject_share_ppm: 1_000_001,
            ..options()
        }),
        TrafficError::Share {
            share_ppm: 1_000_001
        }
    );
    assert_eq!(
        refused(TrafficOptions {
            flows: vec![
                flow("198.18.0.1", "198.19.0.1", 17),
                flow("198.18.0.1", "2001:2::1", 17)
            ],
            ..options()
        }),
        TrafficError::MixedFamilies {
            which: "flows",
            index: 1
        }
    );
    assert_eq!(
        refused(TrafficOptions {
            lengths: Lengths::Octets(9_015),
            ..options()
        }),
        TrafficError::TooLong { octets: 9_015 }
    );
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let addresses = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ];
    let protocol = prop_oneof![Just(6), Just(17), Just(47), Just(58)];
    (addresses, protocol, any::<(u16, u16)>()).prop_map(
        |((source, destination), protocol, (source_port, destination_port))| Flow {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        },
    )
}

proptest! {
    #[test]
    fn a_decoder_finds_the_flow_and_right_checksums(
        flow in any_flow(),
        octets in 0_u16..2000,
        seed: u64,
    ) {
        let options = TrafficOptions {
            flows: vec![flow],
            lengths: Lengths::Octets(octets),
            seed,
            ..TrafficOptions::default()
        };
        let frame = &frames(options, 1)[0];
        prop_assert!(frame.len() >= usize::from(octets));
        prop_assert!(frame.len() <= usize::from(octets).max(74));
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(usize::from(header.total_len) + 14, frame.len());
                (header.source.into(), header.destination.into())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(usize::from(header.payload_length) + 54, frame.len());
                (header.source.into(), header.destination.into())
            }
            other @ etherparse::NetSlice::Arp(_) => panic!("{other:?}"),
        };
        prop_assert_eq!((source, destination), (flow.source, flow.destination));
        match sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (flow.source_port, flow.destination_port));
                let header = tcp.to_header();
                let computed = match (flow.source, flow.destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), tcp.payload()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), tcp.payload()),
                    _ => panic!("mixed"),
                };
                prop_assert_eq!(computed.unwrap(), tcp.checksum());
            }
            Some(TransportSlice::Udp(udp)) => {
                prop_assert_eq!((udp.source_port(), udp.destination_port()), (flow.source_port, flow.destination_port));
                let header = udp.to_header();
                let computed = match (flow.source, flow.destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload()),
                    _ => panic!("mixed"),
                };
                prop_assert_eq!(computed.unwrap(), udp.checksum());
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let echo = etherparse::Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 });
                prop_assert_eq!(icmp.icmp_type(), echo);
                if let (IpAddr::V6(a), IpAddr::V6(b)) = (flow.source, flow.destination) {
                    let computed = echo.calc_checksum(a.octets(), b.octets(), icmp.payload()).unwrap();
                    prop_assert_eq!(computed, icmp.checksum());
                }
            }
            Some(TransportSlice::Icmpv4(_)) | None => prop_assert!(![6, 17].contains(&flow.protocol)),
        }
    }
}
