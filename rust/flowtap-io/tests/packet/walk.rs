//! The walker over blocks, on blocks made by hand.

use flowtap_core::frame::LinkType;
use flowtap_core::offload::UnfinishedChecksum;
use flowtap_core::segment::{SegmentKind, Segmentation};
use flowtap_io::packet::{ChecksumState, Frames, Layout, PacketType, TimestampSource};
use proptest::prelude::*;

/// Octets of a block's descriptor, which the walker does not get.
const DESCRIPTOR: usize = 48;
const SLOT: usize = 68;

/// One frame of a block as a kernel would write it.
#[derive(Clone, Debug)]
struct Slot {
    status: u32,
    tag: (u16, u16),
    offload: [u8; 10],
    packet_type: u8,
    room: usize,
    data: Vec<u8>,
    length: u32,
}

impl Slot {
    fn plain(data: &[u8]) -> Self {
        Self {
            status: 1,
            tag: (0, 0),
            offload: [0; 10],
            packet_type: 0,
            room: 30,
            data: data.to_vec(),
            length: u32::try_from(data.len()).unwrap(),
        }
    }

    fn octets(&self, is_last: bool) -> Vec<u8> {
        let start = SLOT + self.room;
        let length = (start + self.data.len()).next_multiple_of(8);
        let mut slot = Vec::new();
        let next = if is_last { 0 } else { length };
        for number in [
            u32::try_from(next).unwrap(),
            1_700_000_000,
            999_999_999,
            u32::try_from(self.data.len()).unwrap(),
            self.length,
            self.status,
        ] {
            slot.extend(number.to_ne_bytes());
        }
        slot.extend(u16::try_from(start).unwrap().to_ne_bytes());
        slot.extend(u16::try_from(start + 14).unwrap().to_ne_bytes());
        slot.extend(0xdead_beef_u32.to_ne_bytes());
        slot.extend(u32::from(self.tag.0).to_ne_bytes());
        slot.extend(self.tag.1.to_ne_bytes());
        slot.resize(DESCRIPTOR, 0);
        // The address: family, protocol, interface, hardware, type, length, octets.
        slot.extend(17_u16.to_ne_bytes());
        slot.extend([0x86, 0xdd]);
        slot.extend(9_u32.to_ne_bytes());
        slot.extend(778_u16.to_ne_bytes());
        slot.extend([self.packet_type, 4, 192, 0, 2, 1, 0, 0, 0, 0]);
        slot.resize(start - 10, 0xaa);
        slot.extend(self.offload);
        slot.extend(&self.data);
        slot.resize(length, 0xbb);
        slot
    }
}

fn block(slots: &[Slot]) -> Vec<u8> {
    let mut octets = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        octets.extend(slot.octets(number + 1 == slots.len()));
    }
    octets.resize(octets.len() + 100, 0xcc);
    octets
}

const ETHERNET: Layout = Layout {
    link_type: LinkType::Ethernet,
    has_offload_header: true,
    interface: 3,
};

fn first() -> u32 {
    u32::try_from(DESCRIPTOR).unwrap()
}

#[test]
fn every_field_of_a_frame_is_read() {
    let data: Vec<u8> = (0..60).collect();
    let mut unfinished = Slot::plain(&data);
    unfinished.status = 1 | 1 << 3 | 1 << 29;
    unfinished.offload[..2].copy_from_slice(&[1, 0x81]);
    unfinished.offload[4..6].copy_from_slice(&1448_u16.to_ne_bytes());
    unfinished.offload[6..8].copy_from_slice(&34_u16.to_ne_bytes());
    unfinished.offload[8..].copy_from_slice(&16_u16.to_ne_bytes());
    unfinished.packet_type = 4;
    let mut verified = Slot::plain(&data);
    verified.status = 1 | 1 << 7 | 1 << 31;
    verified.packet_type = 3;
    verified.length = 1000;
    let mut tagged = unfinished.clone();
    tagged.status |= 1 << 4 | 1 << 6;
    tagged.tag = (0xa01e, 0x88a8);
    let mut octets = block(&[unfinished, verified, tagged, Slot::plain(&[])]);
    let mut frames = Frames::over(&mut octets, first(), 4, ETHERNET);

    let frame = frames.next().unwrap();
    assert_eq!(frame.octets(), data);
    assert_eq!(frame.timestamp_ns, 1_700_000_000_999_999_999);
    assert_eq!(frame.timestamp_source, TimestampSource::Software);
    assert_eq!(frame.packet_type, PacketType::Outgoing);
    assert_eq!(frame.interface_index, 9);
    assert_eq!(frame.frame().interface, 3);
    let field = UnfinishedChecksum {
        start: 34,
        offset: 16,
    };
    assert_eq!(frame.checksum, ChecksumState::Unfinished(Some(field)));
    let segmentation = Segmentation {
        kind: SegmentKind::TcpV4,
        segment_octets: 1448,
        cwr_on_first_only: true,
    };
    assert_eq!(frame.segmentation, Some(segmentation));

    let frame = frames.next().unwrap();
    assert_eq!(frame.octets(), data);
    assert_eq!(frame.original_length_octets, 1000);
    assert_eq!(frame.timestamp_source, TimestampSource::Hardware);
    assert_eq!(frame.packet_type, PacketType::OtherHost);
    assert_eq!(frame.checksum, ChecksumState::Verified);
    assert_eq!(frame.segmentation, None);

    let frame = frames.next().unwrap();
    let expected = [&data[..12], &[0x88, 0xa8, 0xa0, 0x1e], &data[12..]].concat();
    assert_eq!(frame.octets(), expected);
    assert_eq!(frame.original_length_octets, 64);
    assert_eq!(
        frame.checksum,
        ChecksumState::Unfinished(Some(field.moved(4)))
    );

    let frame = frames.next().unwrap();
    assert_eq!(frame.octets(), []);
    assert_eq!(frame.timestamp_source, TimestampSource::Ring);
    assert_eq!(frame.checksum, ChecksumState::AsReceived);
    assert!(frames.next().is_none());
    assert_eq!(frames.damaged(), 0);
}

#[test]
fn a_cooked_header_says_what_the_kernel_said() {
    let layout = Layout {
        link_type: LinkType::LinuxCooked2,
        has_offload_header: false,
        interface: 0,
    };
    let mut tagged = Slot::plain(&[0x60, 1, 2]);
    tagged.status = 1 | 1 << 4;
    tagged.tag = (30, 0);
    let mut super_frame = Slot::plain(&[0x60, 1, 2]);
    super_frame.status = 1 | 1 << 8 | 1 << 3;
    let mut octets = block(&[tagged, super_frame]);
    let frames: Vec<_> = Frames::over(&mut octets, first(), 2, layout).collect();
    let between = [0, 0, 0, 0, 0, 9, 0x03, 0x0a, 0, 4, 192, 0, 2, 1, 0, 0, 0, 0];
    let expected = [
        &[0x81, 0x00],
        &between[..],
        &[0, 30, 0x86, 0xdd],
        &[0x60, 1, 2],
    ]
    .concat();
    assert_eq!(frames[0].octets(), expected);
    assert_eq!(frames[0].original_length_octets, 27);
    let expected = [&[0x86, 0xdd], &between[..], &[0x60, 1, 2]].concat();
    assert_eq!(frames[1].octets(), expected);
    assert_eq!(frames[1].checksum, ChecksumState::Unfinished(None));
    let segmentation = frames[1].segmentation.unwrap();
    assert_eq!(segmentation.kind, SegmentKind::Unknown);
}

#[test]
fn a_damaged_block_ends_and_says_how_much_was_lost() {
    let slots = vec![Slot::plain(&[1; 60]); 5];
    let good = block(&slots);
    let second = slots[0].octets(false).len();
    for (at, value) in [
        // The offset of the next frame: none, too small, too large.
        (second, 0),
        (second, 67),
        (second, u32::MAX),
        // The captured length, and where the frame begins.
        (second + 12, 1_000_000),
        (second + 12, u32::MAX),
        (second + 24, 10),
        (second + 24, 0xffff),
    ] {
        let mut octets = good.clone();
        octets[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        let mut frames = Frames::over(&mut octets, first(), 5, ETHERNET);
        assert_eq!(frames.by_ref().count(), 1, "{value} at {at}");
        assert_eq!(frames.damaged(), 4);
    }
    for start in [0, 47, u32::MAX, u32::try_from(good.len() + 48).unwrap()] {
        let mut octets = good.clone();
        let mut frames = Frames::over(&mut octets, start, 5, ETHERNET);
        assert!(frames.next().is_none());
        assert_eq!(frames.damaged(), 5);
    }
}

proptest! {
    #[test]
    fn any_octets_are_walked_to_an_end(
        damage in proptest::collection::vec((0_usize..700, any::<u8>()), 0..40),
        frames in 0_u32..20,
        start in 40_u32..200,
        cooked: bool,
    ) {
        let mut slot = Slot::plain(&[1; 60]);
        slot.status = 1 | 1 << 4 | 1 << 3;
        let mut octets = block(&vec![slot; 4]);
        for (at, octet) in damage {
            let at = at % octets.len();
            octets[at] = octet;
        }
        let layout = Layout {
            link_type: if cooked { LinkType::LinuxCooked2 } else { LinkType::Ethernet },
            ..ETHERNET
        };
        let mut walk = Frames::over(&mut octets, start, frames, layout);
        let mut count = 0;
        for frame in walk.by_ref() {
            count += 1;
            frame.for_each_packet(|_| {});
        }
        prop_assert!(count + walk.damaged() <= frames.max(1));
        prop_assert!(count + walk.damaged() >= frames);
    }
}
