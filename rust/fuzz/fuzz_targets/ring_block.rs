//! Any octets as a block of a ring: its frames lie inside it, apart from each other, and are put on the wire without
//! a panic.
#![no_main]

use flowtap_core::decode::decode;
use flowtap_core::frame::LinkType;
use flowtap_io::packet::{Frames, Layout};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[shape, first, frames], octets)) = input.split_first_chunk() else {
        return;
    };
    let links = [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxCooked2];
    let layout = Layout {
        link_type: links[usize::from(shape >> 1) % links.len()],
        has_offload_header: shape & 1 == 0,
        interface: 0,
    };
    let mut octets = octets.to_vec();
    let inside = octets.as_ptr_range();
    // The descriptor has 48 octets.
    let mut walk = Frames::over(&mut octets, 48 + u32::from(first), frames.into(), layout);
    let mut end = inside.start;
    for frame in walk.by_ref() {
        let range = frame.octets().as_ptr_range();
        assert!(end <= range.start && range.end <= inside.end);
        end = range.end;
        frame.for_each_packet(|packet| {
            decode(packet);
        });
    }
    assert!(walk.damaged() <= u32::from(frames).max(1));
});
