//! Programs as the kernel itself runs them over a frame, and the classic ones as our interpreter does.

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{
    AddressCover, FamilyCover, InnerTunnels, Prefilter, PrefilterKind, PrefilterOptions, Prefix,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::frames::{self, MAC};
use crate::oracle::{Verdict, verdict};
use crate::socket::sample;
use crate::wire::has_ebpf;

const LINK_TYPES: [LinkType; 4] = [
    LinkType::Ethernet,
    LinkType::Raw,
    LinkType::Ipv4,
    LinkType::Ipv6,
];

fn prefilter(
    cover: &AddressCover,
    link_type: LinkType,
    inner: InnerTunnels,
    ebpf: bool,
) -> Prefilter {
    let prefilter = Prefilter::new(
        cover,
        PrefilterOptions {
            link_type,
            inner,
            ebpf,
        },
    );
    let kind = prefilter.kind();
    match kind {
        PrefilterKind::Ebpf { .. } => assert!(ebpf),
        PrefilterKind::Classic { .. } => assert!(!ebpf),
        PrefilterKind::None { .. } => panic!("{kind}"),
    }
    prefilter
}

fn passes(prefilter: &Prefilter, frame: &[u8]) -> bool {
    prefilter.judge(frame, 1).unwrap().passes
}

/// Everything that one case of a property needs: a cover, tunnels, and frames of one link type.
fn cases() -> impl Strategy<Value = (LinkType, AddressCover, InnerTunnels, Vec<Vec<u8>>)> {
    let link_type = prop_oneof![4 => Just(LinkType::Ethernet), 3 => select(&LINK_TYPES[1..])];
    let inner = prop_oneof![Just(InnerTunnels::default()), frames::tunnels()];
    (link_type, frames::cover(), inner).prop_flat_map(|(link_type, cover, inner)| {
        let frames = vec(frames::frame(link_type), 40);
        (Just(link_type), Just(cover), Just(inner), frames)
    })
}

/// Compares a filter with the oracle; says what is wrong with a frame.
fn complaint(
    prefilter: &Prefilter,
    frame: &[u8],
    link_type: LinkType,
    cover: &AddressCover,
    inner: InnerTunnels,
) -> Option<&'static str> {
    // Classic BPF looks for nothing behind a tag, a label or a session.
    let is_plain = matches!(prefilter.kind(), PrefilterKind::Ebpf { .. })
        || link_type != LinkType::Ethernet
        || matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
    match (
        verdict(frame, link_type, cover, inner),
        passes(prefilter, frame),
    ) {
        (Verdict::Pass, false) => Some("missed"),
        (Verdict::Drop, true) if is_plain => Some("not dropped"),
        _ => None,
    }
}

proptest! {
    #[test]
    fn what_nobody_wants_is_dropped_and_nothing_else(
        ebpf: bool,
        (link_type, cover, inner, frames) in cases(),
    ) {
        if ebpf && !has_ebpf() {
            return Ok(());
        }
        let prefilter = prefilter(&cover, link_type, inner, ebpf);
        for frame in &frames {
            let complaint = complaint(&prefilter, frame, link_type, &cover, inner);
            prop_assert!(complaint.is_none(), "{} {frame:02x?}", complaint.unwrap_or_default());
        }
    }
}

#[test]
fn frames_cut_at_every_length() {
    let inner = InnerTunnels::default();
    let (cover, frames) = sample(200);
    for ebpf in [true, false] {
        if ebpf && !has_ebpf() {
            continue;
        }
        let prefilter = prefilter(&cover, LinkType::Ethernet, inner, ebpf);
        let mut counts = [0; 2];
        for frame in &frames {
            for length in 1..=frame.len() {
                let cut = &frame[..length];
                let complaint = complaint(&prefilter, cut, LinkType::Ethernet, &cover, inner);
                assert_eq!(complaint, None, "{cut:02x?}");
                counts[usize::from(passes(&prefilter, cut))] += 1;
            }
        }
        assert!(counts.iter().all(|&count| count > 300), "{counts:?}");
    }
}

/// The same packet, in the ways that it may come: through every one of them its addresses are found.
#[test]
fn addresses_behind_tags_labels_and_sessions() {
    if !has_ebpf() {
        return;
    }
    let v4 = {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2, 0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    };
    let v6 = {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        for last in [1, 2] {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            address[15] = last;
            packet.extend_from_slice(&address);
        }
        packet.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    };
    let tag = |kind: u16| [&kind.to_be_bytes()[..], &[0, 7]].concat();
    let labels = |count: usize| {
        let mut stack = vec![0x88, 0x47];
        for number in 1..=count {
            stack.extend_from_slice(&[0, 1, u8::from(number == count), 64]);
        }
        stack
    };
    let session =
        |protocol: u8, length: u8| vec![0x88, 0x64, 0x11, 0, 0, 7, 0, length + 2, 0, protocol];
    let ways = |ether_type: &[u8], ppp: u8, length: u8| {
        [
            vec![ether_type.to_vec()],
            vec![tag(0x8100), ether_type.to_vec()],
            vec![tag(0x88a8), tag(0x8100), ether_type.to_vec()],
            vec![
                tag(0x9100),
                tag(0x9200),
                tag(0x8100),
                tag(0x8100),
                ether_type.to_vec(),
            ],
            vec![labels(1)],
            vec![labels(2)],
            vec![tag(0x8100), labels(8)],
            vec![session(ppp, length)],
            vec![tag(0x88a8), tag(0x8100), session(ppp, length)],
        ]
        .map(|headers| [MAC.to_vec(), headers.concat()].concat())
    };
    let cover_of = |v4: Option<u32>, v6: Option<u128>| AddressCover {
        v4: FamilyCover {
            destination: v4.map(Prefix::host).into_iter().collect(),
            ..FamilyCover::default()
        },
        v6: FamilyCover {
            destination: v6.map(Prefix::host).into_iter().collect(),
            ..FamilyCover::default()
        },
    };
    let base = 0x2001_0db8_u128 << 96;
    let none = InnerTunnels::default();
    let wanted = cover_of(Some(0xc633_6402), Some(base | 2));
    let others = cover_of(Some(0xc000_0201), Some(base | 1));
    let wanted = prefilter(&wanted, LinkType::Ethernet, none, true);
    let others = prefilter(&others, LinkType::Ethernet, none, true);
    // 60 octets, as frames have at least: what IPv4 leaves is padding.
    for (ways, packet) in [
        (ways(&[8, 0], 0x21, 28), v4),
        (ways(&[0x86, 0xdd], 0x57, 48), v6),
    ] {
        for way in ways {
            let mut frame = [way.as_slice(), &packet].concat();
            frame.resize(frame.len().max(60), 0);
            assert!(passes(&wanted, &frame), "{frame:02x?}");
            assert!(!passes(&others, &frame), "{frame:02x?}");
        }
    }
}
