//! Any octets as a frame of any link type: both ways through the decoder agree, and nothing lies outside the frame.
#![no_main]

use flowtap_core::decode::{Outer, decode};
use flowtap_core::frame::{Direction, Frame, LinkType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, data)) = input.split_first() else {
        return;
    };
    let numbers = [1, 0, 101, 108, 113, 276, 228, 229, 147];
    let Some(&number) = numbers.get(usize::from(*kind) % numbers.len()) else {
        return;
    };
    let frame = Frame {
        data,
        link_type: LinkType::from_number(number),
        timestamp_ns: 0,
        original_length_octets: u32::try_from(data.len()).unwrap_or(u32::MAX),
        interface: 0,
        direction: Direction::Unknown,
    };
    let decoded = decode(&frame);
    assert!(
        decoded
            .layers
            .iter()
            .all(|layer| layer.offset <= data.len())
    );
    let packet = Outer::of(&frame).map(|outer| outer.packet());
    assert_eq!(decoded.ip.map(|ip| ip.key), packet.map(|packet| packet.key));
    if let Some(packet) = packet {
        assert!(packet.offset + packet.octets.len() <= data.len());
    }
});
