//! The first and the last address of what is wanted, and their neighbours, in maps and in search trees.

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{
    AddressCover, FamilyCover, InnerTunnels, Prefilter, PrefilterKind, PrefilterOptions, Prefix,
    Step,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{Verdict, verdict};
use crate::wire::has_ebpf;

/// A packet without a link header.
fn v4_packet(source: u32, destination: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&destination.to_be_bytes());
    packet.resize(28, 0);
    packet
}

fn v6_packet(source: u128, destination: u128) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&destination.to_be_bytes());
    packet.resize(48, 0);
    packet
}

/// A filter over packets without a link header, in the way that is asked for; None where this machine has it not.
fn prefilter(cover: &AddressCover, ebpf: bool) -> Option<Prefilter> {
    if ebpf && !has_ebpf() {
        return None;
    }
    let options = PrefilterOptions {
        link_type: LinkType::Raw,
        ebpf,
        ..PrefilterOptions::default()
    };
    let prefilter = Prefilter::new(cover, options);
    let kind = prefilter.kind();
    assert!(!matches!(kind, PrefilterKind::None { .. }), "{kind}");
    Some(prefilter)
}

/// The filter is exact for these packets.
fn check(prefilter: &Prefilter, cover: &AddressCover, packets: &[Vec<u8>]) {
    for packet in packets {
        let expected = match verdict(packet, LinkType::Raw, cover, InnerTunnels::default()) {
            Verdict::Pass => true,
            Verdict::Drop => false,
            Verdict::Either => unreachable!("nothing is unusual here"),
        };
        let passes = prefilter.judge(packet, 1).unwrap().passes;
        assert_eq!(passes, expected, "{packet:02x?}");
    }
}

const ELSEWHERE_V4: u32 = 0xc633_6401;
const ELSEWHERE_V6: u128 = 0x3fff << 112 | 1;

fn v4_packets(address: u32) -> [Vec<u8>; 2] {
    [
        v4_packet(address, ELSEWHERE_V4),
        v4_packet(ELSEWHERE_V4, address),
    ]
}

fn v6_packets(address: u128) -> [Vec<u8>; 2] {
    [
        v6_packet(address, ELSEWHERE_V6),
        v6_packet(ELSEWHERE_V6, address),
    ]
}

#[test]
fn the_ends_of_a_prefix_of_every_length() {
    const V4: u32 = 0x0a01_0203;
    const V6: u128 = 0x2001_0db8_0102_0304_0506_0708_090a_0b0c;
    for length in 1..=128 {
        let v4 = Prefix::new(V4, length.min(32)).unwrap();
        let v6 = Prefix::new(V6, length).unwrap();
        let cover = AddressCover {
            v4: FamilyCover {
                source: vec![v4],
                ..FamilyCover::default()
            },
            v6: FamilyCover {
                destination: vec![v6],
                ..FamilyCover::default()
            },
        };
        let (first_v4, first_v6) = (v4.address(), v6.address());
        let last_v4 = first_v4 | u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let last_v6 = first_v6 | u128::MAX.checked_shr(length.into()).unwrap_or(0);
        let mut packets = Vec::new();
        for address in [
            first_v4.wrapping_sub(1),
            first_v4,
            V4,
            last_v4,
            last_v4.wrapping_add(1),
        ] {
            packets.extend(v4_packets(address));
        }
        for address in [
            first_v6.wrapping_sub(1),
            first_v6,
            V6,
            last_v6,
            last_v6.wrapping_add(1),
        ] {
            packets.extend(v6_packets(address));
        }
        for ebpf in [true, false] {
            if let Some(prefilter) = prefilter(&cover, ebpf) {
                check(&prefilter, &cover, &packets);
            }
        }
    }
}

#[test]
fn hundreds_of_hosts_and_their_neighbours() {
    // Far enough apart that each has neighbours that are not wanted, and some that touch.
    let v4: Vec<u32> = (0..60_u32)
        .flat_map(|number| {
            let host = number.wrapping_mul(0x9e37_79b1);
            [host, host.wrapping_add(1)]
        })
        .collect();
    let v6: Vec<u128> = (0..20_u128)
        .map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
        .collect();
    let cover = AddressCover {
        v4: FamilyCover {
            source: v4.iter().copied().map(Prefix::host).collect(),
            destination: v4.iter().rev().copied().map(Prefix::host).collect(),
            open: 0,
        },
        v6: FamilyCover {
            source: v6.iter().copied().map(Prefix::host).collect(),
            destination: v6.iter().copied().map(Prefix::host).collect(),
            open: 0,
        },
    };
    let mut packets = Vec::new();
    for host in v4 {
        for address in [host.wrapping_sub(1), host, host.wrapping_add(1)] {
            packets.extend(v4_packets(address));
        }
    }
    for host in v6 {
        // One bit away in each word, as well.
        for bit in [0, 33, 70, 127] {
            packets.extend(v6_packets(host ^ (1 << bit)));
        }
        packets.extend(v6_packets(host));
    }
    for ebpf in [true, false] {
        if let Some(prefilter) = prefilter(&cover, ebpf) {
            check(&prefilter, &cover, &packets);
        }
    }
}

/// Addresses whose 32-bit words are few and touch.
fn worded() -> impl Strategy<Value = u128> {
    let word = select(vec![0_u32, 1, 2, u32::MAX - 1, u32::MAX]);
    [word.clone(), word.clone(), word.clone(), word].prop_map(|words| {
        words
            .iter()
            .fold(0, |address, &word| address << 32 | u128::from(word))
    })
}

fn worded_prefixes() -> impl Strategy<Value = Vec<Prefix<u128>>> {
    let length = select(vec![
        30_u8, 31, 32, 33, 64, 65, 95, 96, 97, 127, 128, 128, 128,
    ]);
    let prefix = (worded(), length);
    vec(
        prefix.prop_map(|(address, length)| Prefix::new(address, length).unwrap()),
        0..12,
    )
}

proptest! {
    #[test]
    fn words_that_touch(
        ebpf: bool,
        source in worded_prefixes(),
        destination in worded_prefixes(),
        pairs in vec((worded(), worded()), 40),
    ) {
        let cover = AddressCover {
            v6: FamilyCover { source, destination, open: 0 },
            ..AddressCover::default()
        };
        if let Some(prefilter) = prefilter(&cover, ebpf) {
            let packets: Vec<Vec<u8>> = pairs
                .into_iter()
                .map(|(source, destination)| v6_packet(source, destination))
                .collect();
            check(&prefilter, &cover, &packets);
        }
    }
}

/// What a gate sees of an address depends on its shortest prefixes, so a much shorter one takes new maps.
#[test]
fn a_gate_is_made_anew_for_prefixes_that_would_fill_it() {
    let of = |length: u8| AddressCover {
        v4: FamilyCover {
            source: vec![Prefix::new(0x8000_0000, length).unwrap()],
            ..FamilyCover::default()
        },
        ..AddressCover::default()
    };
    let Some(mut prefilter) = prefilter(&of(24), true) else {
        return;
    };
    assert_eq!(prefilter.add(&of(23)), Step::Seen);
    assert_eq!(prefilter.add(&of(2)), Step::Attach);
    let mut all = of(24);
    all.v4.source.extend(of(2).v4.source);
    let packets: Vec<Vec<u8>> = [0x7fff_ffff, 0x8000_0000, 0xbfff_ffff, 0xc000_0000]
        .into_iter()
        .flat_map(v4_packets)
        .collect();
    check(&prefilter, &all, &packets);
    assert_eq!(prefilter.remove(&of(2)), Step::Seen);
    assert_eq!(prefilter.remove(&of(23)), Step::Seen);
    check(&prefilter, &of(24), &packets);
}
