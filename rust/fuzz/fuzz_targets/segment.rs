//! Any octets as a super-frame, cut in any way: every packet has the frame's headers in front, together they carry its
//! data, and a frame that is left whole is as it was.
#![no_main]

use flowtap_core::frame::LinkType;
use flowtap_core::offload::UnfinishedChecksum;
use flowtap_core::segment::{MAXIMUM_HEADER_OCTETS, SegmentKind, Segmentation, SuperFrame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[shape, low, high, start], octets)) = input.split_first_chunk() else {
        return;
    };
    let kinds = [
        SegmentKind::TcpV4,
        SegmentKind::TcpV6,
        SegmentKind::Udp,
        SegmentKind::Unknown,
    ];
    let links = [1, 101, 113, 276];
    let kind = kinds[usize::from(shape % 4)];
    let link_type = LinkType::from_number(links[usize::from(shape / 4 % 4)]);
    let segmentation = Segmentation {
        kind,
        segment_octets: u16::from_le_bytes([low, high]),
        cwr_on_first_only: shape & 0x80 != 0,
    };
    let unfinished = (shape & 0x40 != 0).then_some(UnfinishedChecksum {
        start: start.into(),
        offset: if kind == SegmentKind::Udp { 6 } else { 16 },
    });
    let mut copy = octets.to_vec();
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
    match SuperFrame::new(&mut copy, link_type, length, segmentation, unfinished) {
        Err(_) => assert_eq!(copy, octets),
        Ok(mut frame) => {
            let expected = frame.remaining();
            let mut packets = 0;
            let mut last = Vec::new();
            while let Some(packet) = frame.next_packet() {
                packets += 1;
                assert!(
                    packet.len()
                        <= MAXIMUM_HEADER_OCTETS + usize::from(segmentation.segment_octets)
                );
                last = packet.to_vec();
            }
            assert_eq!(packets, expected);
            // The last octet of the data is the last octet of the last packet.
            assert_eq!(last.last(), octets.last());
        }
    }
    let field = UnfinishedChecksum {
        start: start.into(),
        offset: low.into(),
    };
    let mut copy = octets.to_vec();
    if !field.complete(&mut copy) {
        assert_eq!(copy, octets);
    }
});
