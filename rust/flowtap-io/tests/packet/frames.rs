//! What comes out of a ring is what was on the wire.

use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flowtap_core::bpf::Instruction;
use flowtap_core::decode::Outer;
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_io::packet::{
    Capture, CaptureOptions, Directions, PacketType, RingOptions, TimestampSource,
};

use crate::net::{
    ARPHRD_NONE, Namespace, assert_silent, is_root, numbered, options, read_numbered, read_until,
    wire,
};
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

#[test]
fn every_frame_comes_whole_and_in_order_on_both_sides() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut there = b.capture("vb");
    let mut here = {
        let mut options = options("va");
        options.number = 5;
        let capture = a.capture_with(options);
        capture.admit_all().unwrap();
        capture
    };
    assert_eq!(there.link_type(), LinkType::Ethernet);
    let sent: Vec<_> = (0..2000_u32)
        .map(|number| {
            numbered(
                number,
                [60, 61, 512, 1513, 1514][usize::try_from(number).unwrap() % 5],
            )
        })
        .collect();
    let before = now_ns();
    a.sender("va").send(&sent);
    let came = read_numbered(&mut there, sent.len());
    let left = read_numbered(&mut here, sent.len());
    let after = now_ns();
    for ((sent, came), left) in sent.iter().zip(&came).zip(&left) {
        assert_eq!(sent, &came.octets);
        assert_eq!(sent, &left.octets);
        assert_eq!(
            usize::try_from(came.original_length_octets).unwrap(),
            sent.len()
        );
        for (seen, direction, packet_type, interface) in [
            (came, Direction::Inbound, PacketType::Broadcast, 0),
            (left, Direction::Outbound, PacketType::Outgoing, 5),
        ] {
            assert_eq!(seen.frame.direction, direction);
            assert_eq!(seen.frame.packet_type, packet_type);
            assert_eq!(seen.frame.interface, interface);
            assert!((before..=after).contains(&seen.frame.timestamp_ns));
            assert_ne!(seen.frame.timestamp_source, TimestampSource::Hardware);
            assert!(!seen.frame.needs_work);
        }
        assert_eq!(came.frame.interface_index, there.interface().index);
    }
    let statistics = there.statistics().read();
    assert_eq!((statistics.dropped, statistics.freezes), (0, 0));
    assert!(statistics.received >= 2000);
}

/// A frame with these tags behind its addresses.
fn tagged(number: u32, tags: &[[u8; 4]]) -> Vec<u8> {
    let mut frame = numbered(number, 100);
    frame.splice(12..12, tags.concat());
    frame
}

#[test]
fn tags_are_where_they_were_on_the_wire() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let (mut there, mut here) = (b.capture("vb"), a.capture("va"));
    let customer = [0x81, 0, 0xa0, 30];
    let service = [0x88, 0xa8, 0x20, 200];
    let priority = [0x81, 0, 0x60, 0];
    let sent: Vec<_> = [
        &[customer][..],
        &[service, customer],
        &[priority],
        &[service],
        &[customer, customer],
        &[],
    ]
    .into_iter()
    .zip(0..)
    .map(|(tags, number)| tagged(number, tags))
    .collect();
    a.sender("va").send(&sent);
    for (capture, side) in [(&mut there, "inbound"), (&mut here, "outbound")] {
        let seen = read_numbered(capture, sent.len());
        for (sent, seen) in sent.iter().zip(seen) {
            assert_eq!(sent, &seen.octets, "{side}");
            assert_eq!(
                usize::try_from(seen.original_length_octets).unwrap(),
                sent.len()
            );
        }
    }
    // The kernel has taken the outermost tag out of what came in; a filter that looks for it would find nothing.
    let type_is_tag = [
        instruction(0x28, 0, 0, 12),
        instruction(0x15, 0, 1, 0x8100),
        instruction(0x06, 0, 0, u32::MAX),
        instruction(0x06, 0, 0, 0),
    ];
    there.attach_filter(&type_is_tag).unwrap();
    let frames = [tagged(1, &[customer]), tagged(2, &[customer, customer])];
    a.sender("va").send(&frames);
    let seen = read_numbered(&mut there, 1);
    assert_eq!(seen[0].octets, frames[1]);
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[test]
fn long_frames_fit() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    a.ip("link set va mtu 65521");
    b.ip("link set vb mtu 65521");
    let mut options = options("vb");
    // The smallest block.
    options.ring.block_octets = 128 << 10;
    let mut there = b.capture_with(options);
    there.admit_all().unwrap();
    let sent: Vec<_> = [9_014, 65_535, 16_000, 65_535, 60]
        .into_iter()
        .zip(0..)
        .map(|(octets, number)| numbered(number, octets))
        .collect();
    a.sender("va").send(&sent);
    let seen = read_numbered(&mut there, sent.len());
    for (sent, seen) in sent.iter().zip(seen) {
        assert!(*sent == seen.octets);
    }
    assert_eq!(there.statistics().read().dropped, 0);
}

#[test]
fn what_finds_no_room_is_counted() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut options = options("vb");
    options.ring = RingOptions {
        block_octets: 128 << 10,
        blocks: 2,
        retire_ms: 5,
    };
    let mut there = b.capture_with(options);
    // Nobody reads, and no more than the ring has room.
    there.attach_filter(&experiments_only()).unwrap();
    let sent: Vec<_> = (0..3000).map(|number| numbered(number, 1000)).collect();
    let sender = a.sender("va");
    sender.send(&sent);
    let reader = there.statistics();
    let counted = std::thread::spawn(move || reader.read()).join().unwrap();
    assert_eq!(counted.received + counted.dropped, 3000);
    assert!(
        counted.received > 100 && counted.dropped > 1000,
        "{counted:?}"
    );
    assert!(counted.freezes > 0);
    // Sums stay when they are read, and all that was counted as received is there, the oldest frames.
    assert_eq!(there.statistics().read(), counted);
    let seen = read_numbered(&mut there, usize::try_from(counted.received).unwrap());
    for (sent, seen) in sent.iter().zip(&seen) {
        assert_eq!(*sent, seen.octets);
    }
    // The ring is free again.
    sender.send(&sent[..50]);
    read_numbered(&mut there, 50);
    assert_eq!(there.statistics().read().received, counted.received + 50);
}

fn experiments_only() -> [Instruction; 4] {
    [
        instruction(0x28, 0, 0, 12),
        instruction(0x15, 0, 1, 0x88b5),
        instruction(0x06, 0, 0, u32::MAX),
        instruction(0x06, 0, 0, 0),
    ]
}

#[test]
fn nothing_comes_before_it_is_let_through_nor_from_elsewhere() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    a.connect("va2", &b, "vb2");
    let mut there = b.capture_with(options("vb"));
    let (wanted, other) = (a.sender("va"), a.sender("va2"));
    wanted.send(&[numbered(1, 60)]);
    assert_silent(&mut there);
    there.admit_all().unwrap();
    other.send(&[numbered(2, 60)]);
    wanted.send(&[numbered(3, 60)]);
    assert_eq!(read_numbered(&mut there, 1)[0].octets, numbered(3, 60));
    there.admit_nothing().unwrap();
    wanted.send(&[numbered(4, 60)]);
    assert_silent(&mut there);
    // Twice is not wrong.
    there.admit_all().unwrap();
    there.admit_all().unwrap();
    wanted.send(&[numbered(5, 60)]);
    assert_eq!(read_numbered(&mut there, 1)[0].octets, numbered(5, 60));
    let statistics = there.statistics().read();
    assert_eq!((statistics.received, statistics.dropped), (2, 0));
}

#[test]
fn directions_are_told_and_chosen() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut both = b.capture("vb");
    let mut inbound = {
        let mut options = options("vb");
        options.directions = Directions::Inbound;
        let capture = b.capture_with(options);
        capture.admit_all().unwrap();
        capture
    };
    b.sender("vb").send(&[numbered(1, 60)]);
    a.sender("va").send(&[numbered(2, 60)]);
    let seen = read_numbered(&mut both, 2);
    assert_eq!(seen[0].frame.direction, Direction::Outbound);
    assert_eq!(seen[1].frame.direction, Direction::Inbound);
    assert_eq!(read_numbered(&mut inbound, 1)[0].octets, numbered(2, 60));
    assert_silent(&mut inbound);

    // On the loopback interface everything would be there twice.
    let mut loopback = a.capture("lo");
    let (one, two) = a.run(|| {
        (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        )
    });
    for _ in 0..3 {
        one.send_to(&[7; 100], two.local_addr().unwrap()).unwrap();
    }
    let seen = read_until(&mut loopback, |_| true, |seen| seen.len() >= 3);
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|seen| seen.frame.direction == Direction::Inbound)
    );
    assert!(
        loopback
            .next_block(Duration::from_millis(50))
            .unwrap()
            .is_none()
    );
}

#[test]
fn promiscuous_mode_lasts_as_long_as_the_capture() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let promiscuity = || {
        let text = b.ip("-d link show vb");
        let words: Vec<_> = text.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| *word == "promiscuity")
            .unwrap();
        words[at + 1].to_owned()
    };
    assert_eq!(promiscuity(), "0");
    let mut options = options("vb");
    options.promiscuous = true;
    let mut there = b.capture_with(options);
    there.admit_all().unwrap();
    assert_eq!(promiscuity(), "1");
    let mut frame = numbered(1, 60);
    frame[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    a.sender("va").send(&[frame]);
    let seen = read_numbered(&mut there, 1);
    assert_eq!(seen[0].frame.packet_type, PacketType::OtherHost);
    assert_eq!(seen[0].frame.direction, Direction::Inbound);
    drop(there);
    assert_eq!(promiscuity(), "0");
}

/// An IPv4 UDP packet of which only the addresses matter.
fn packet(number: u8) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 32, 0, number, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    packet.extend([4, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, number]);
    packet
}

/// A kind of hardware with a header of its own.
const ARPHRD_IPGRE: u16 = 778;

#[test]
fn tunnels_have_no_link_header_and_other_hardware_a_cooked_one() {
    if !is_root() {
        return;
    }
    for (hardware, link_type) in [
        (ARPHRD_NONE, LinkType::Raw),
        (ARPHRD_IPGRE, LinkType::LinuxCooked2),
    ] {
        let namespace = Namespace::new();
        let mut tunnel = namespace.tunnel(hardware, false);
        let mut capture = namespace.capture("t0");
        assert_eq!(capture.link_type(), link_type);
        tunnel.write_all(&packet(7)).unwrap();
        namespace.ip("addr add 192.0.2.1/24 dev t0");
        let socket = namespace.run(|| UdpSocket::bind("192.0.2.1:5000").unwrap());
        socket.send_to(&[9; 20], "192.0.2.2:53").unwrap();
        let seen = read_until(&mut capture, |_| true, |seen| seen.len() >= 2);
        let in_front = if link_type == LinkType::Raw { 0 } else { 20 };
        let directions = [Direction::Inbound, Direction::Outbound];
        for (seen, direction) in seen.iter().zip(directions) {
            assert_eq!(seen.frame.direction, direction);
            assert_eq!(
                usize::try_from(seen.original_length_octets).unwrap(),
                seen.octets.len()
            );
            let frame = Frame {
                data: &seen.octets,
                link_type,
                timestamp_ns: 0,
                original_length_octets: seen.original_length_octets,
                interface: 0,
                direction,
            };
            let found = Outer::of(&frame).unwrap();
            assert_eq!(found.offset, in_front);
            if direction == Direction::Outbound && link_type == LinkType::LinuxCooked2 {
                let index = seen.frame.interface_index.to_be_bytes();
                let [h0, h1] = hardware.to_be_bytes();
                let header = [&[8, 0, 0, 0], &index[..], &[h0, h1, 4]].concat();
                assert_eq!(seen.octets[..11], header);
            }
        }
        assert_eq!(seen[0].octets[in_front..], packet(7));
    }
}

#[test]
fn wrong_options_are_refused_by_name() {
    if !is_root() {
        return;
    }
    let (_a, b) = wire();
    let mut options = options("vb");
    options.ring.blocks = 1;
    let error = b.run(|| Capture::open(options)).unwrap_err();
    assert_eq!(error.to_string(), "blocks = 1: 2 to 16384 are right");
    let missing = b
        .run(|| Capture::open(CaptureOptions::new("vc")))
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no interface \"vc\"; there are: lo, vb"
    );
}
