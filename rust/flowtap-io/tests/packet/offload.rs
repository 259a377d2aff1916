//! What is left to the network card looks as it does on the wire: two captures of the same traffic, before and after
//! the kernel did the card's work, agree octet by octet.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use etherparse::{IpNumber, Ipv4Header, UdpHeader};
use flowtap_core::frame::Direction;
use flowtap_core::segment::LeftWhole;
use flowtap_io::packet::{Capture, ChecksumState, OnWire, RingOptions};

use crate::net::{ARPHRD_NONE, Namespace, PATIENCE, is_root, options};
use crate::sys;

/// What a capture saw of one direction.
#[derive(Default)]
struct Tally {
    packets: Vec<Vec<u8>>,
    super_frames: usize,
    unfinished: usize,
    whole: Vec<LeftWhole>,
}

/// All packets of one direction and protocol, as they are on the wire, until nothing comes any more.
fn tally(capture: &mut Capture, direction: Direction, protocol: u8) -> Tally {
    let mut tally = Tally::default();
    while let Some(mut block) = capture.next_block(Duration::from_millis(200)).unwrap() {
        for frame in block.frames() {
            let octets = frame.octets();
            let has = match octets.get(12..14) {
                Some([0x08, 0x00]) => octets.get(23),
                Some([0x86, 0xdd]) => octets.get(20),
                _ => None,
            };
            if has != Some(&protocol) || frame.direction() != direction {
                continue;
            }
            if matches!(frame.checksum, ChecksumState::Unfinished(_)) {
                tally.unfinished += 1;
            }
            let on_wire = frame.for_each_packet(|packet| {
                assert_eq!(
                    usize::try_from(packet.original_length_octets).unwrap(),
                    packet.data.len()
                );
                assert_eq!(packet.direction, direction);
                tally.packets.push(packet.data.to_vec());
            });
            match on_wire {
                OnWire::One => {}
                OnWire::Cut(count) => {
                    assert!(count > 1);
                    tally.super_frames += 1;
                }
                OnWire::Whole(reason) => tally.whole.push(reason),
            }
        }
    }
    tally
}

/// Asserts that the same packets were seen in two places. Their order may differ: the kernel queues packets for each
/// processor, so those that one processor sends may overtake those of another.
fn assert_same(mut packets: Vec<Vec<u8>>, wire: &[Vec<u8>]) {
    let mut wire = wire.to_vec();
    packets.sort();
    wire.sort();
    assert_eq!(packets.len(), wire.len());
    for (packet, wire) in packets.iter().zip(&wire) {
        let at = packet
            .iter()
            .zip(wire)
            .position(|(one, other)| one != other);
        assert_eq!(at, None, "{} octets, {}", packet.len(), wire.len());
        assert_eq!(packet.len(), wire.len());
    }
}

/// Three hosts in a row, the middle one a bridge, so that frames pass unchanged: `a1` - `a2` `b1` - `b2`. Between `a1`
/// and `a2` super-frames pass; `b1` has a card that can do nothing, so the kernel cuts them there.
struct Row {
    a: Namespace,
    bridge: Namespace,
    b: Namespace,
}

impl Row {
    fn new(joins: bool) -> Self {
        let (a, bridge, b) = (Namespace::new(), Namespace::new(), Namespace::new());
        bridge.connect("a2", &a, "a1");
        bridge.connect("b1", &b, "b2");
        bridge.ip("link add br0 type bridge");
        bridge.ip("link set a2 master br0");
        bridge.ip("link set b1 master br0");
        bridge.ip("link set br0 up");
        for name in ["tso", "gso", "tx"] {
            bridge.offload("b1", name, false);
        }
        b.offload("b2", "gro", joins);
        for (namespace, interface, host) in [(&a, "a1", 1), (&b, "b2", 2)] {
            namespace.run(|| {
                let setting = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
                std::fs::write(setting, "0").unwrap();
            });
            namespace.ip(&format!("addr add 192.0.2.{host}/24 dev {interface}"));
            namespace.ip(&format!(
                "addr add 2001:db8::{host}/64 dev {interface} nodad"
            ));
        }
        Self { a, bridge, b }
    }

    /// Captures where `a` sends, behind the bridge, and where `b` receives.
    fn captures(&self) -> [Capture; 3] {
        [(&self.a, "a1"), (&self.bridge, "b1"), (&self.b, "b2")].map(|(namespace, interface)| {
            let mut options = options(interface);
            options.ring = RingOptions {
                block_octets: 1 << 20,
                blocks: 48,
                retire_ms: 5,
            };
            let capture = namespace.capture_with(options);
            capture.admit_all().unwrap();
            capture
        })
    }

    /// Sends so many octets over TCP from `a` to `b`.
    fn transfer(&self, host: &str, octets: usize) {
        let listener = self.b.run(|| TcpListener::bind((host, 5001)).unwrap());
        // So much may be under way as the queue between two interfaces takes, however slow the receiver is.
        sys::set_option(
            listener.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            256 << 10,
        );
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let sent: Vec<u8> = (0..octets).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
        let mut stream = self.a.run(|| TcpStream::connect((host, 5001)).unwrap());
        for piece in sent.chunks(100_000) {
            stream.write_all(piece).unwrap();
        }
        drop(stream);
        assert!(reader.join().unwrap() == sent);
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

fn tcp_is_cut_as_on_the_wire(host: &str, joins: bool) {
    let row = Row::new(joins);
    let [mut sent, mut between, mut received] = row.captures();
    row.transfer(host, 4_000_000);
    let sent = tally(&mut sent, Direction::Outbound, TCP);
    let between = tally(&mut between, Direction::Outbound, TCP);
    let received = tally(&mut received, Direction::Inbound, TCP);
    assert!(between.packets.len() > 2_500, "{}", between.packets.len());
    // The bridge's card can do nothing: what it sends is what is on the wire.
    assert_eq!(between.super_frames, 0);
    assert_eq!(between.unfinished, 0);
    assert!(sent.super_frames > 20, "{}", sent.super_frames);
    assert!(sent.unfinished >= sent.super_frames);
    assert_eq!(
        received.super_frames > 20,
        joins,
        "{}",
        received.super_frames
    );
    for tally in [sent, received] {
        assert_eq!(tally.whole, []);
        assert_same(tally.packets, &between.packets);
    }
}

#[test]
fn tcp_over_ipv4_is_cut_as_on_the_wire() {
    if is_root() {
        tcp_is_cut_as_on_the_wire("192.0.2.2", false);
    }
}

#[test]
fn tcp_over_ipv6_is_cut_as_on_the_wire() {
    if is_root() {
        tcp_is_cut_as_on_the_wire("2001:db8::2", false);
    }
}

#[test]
fn tcp_over_ipv4_that_the_receiver_joined_is_cut_as_on_the_wire() {
    if is_root() {
        tcp_is_cut_as_on_the_wire("192.0.2.2", true);
    }
}

#[test]
fn tcp_over_ipv6_that_the_receiver_joined_is_cut_as_on_the_wire() {
    if is_root() {
        tcp_is_cut_as_on_the_wire("2001:db8::2", true);
    }
}

#[test]
fn udp_is_cut_as_on_the_wire() {
    if !is_root() {
        return;
    }
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        for connected in [false, true] {
            let row = Row::new(false);
            let [mut sent, mut between, _] = row.captures();
            let sink = row.b.run(|| UdpSocket::bind((to, 443)).unwrap());
            let socket = row.a.run(|| UdpSocket::bind((from, 40_000)).unwrap());
            sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1200);
            if connected {
                socket.connect((to, 443)).unwrap();
            }
            let data: Vec<u8> = (0..40_000_u32).map(|n| (n / 3).to_le_bytes()[0]).collect();
            for octets in [40_000, 1201, 1200, 2400, 100, 30_000] {
                socket.send_to(&data[..octets], (to, 443)).unwrap();
            }
            let mut buffer = [0; 2000];
            assert_eq!(sink.recv(&mut buffer).unwrap(), 1200);
            let sent = tally(&mut sent, Direction::Outbound, UDP);
            let between = tally(&mut between, Direction::Outbound, UDP);
            assert_eq!(between.super_frames, 0);
            assert_eq!(sent.super_frames, 4);
            assert_eq!(sent.whole, []);
            assert_eq!(between.packets.len(), 34 + 2 + 1 + 2 + 1 + 25);
            assert_same(sent.packets, &between.packets);
        }
    }
}

#[test]
fn unfinished_checksums_are_completed_as_the_kernel_completes_them() {
    if !is_root() {
        return;
    }
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let row = Row::new(false);
        let [mut sent, mut between, _] = row.captures();
        let _sink = row.b.run(|| UdpSocket::bind((to, 53)).unwrap());
        let socket = row.a.run(|| UdpSocket::bind((from, 40_000)).unwrap());
        for octets in 0..300 {
            socket.send_to(&vec![0x5a; octets], (to, 53)).unwrap();
        }
        for (protocol, least) in [(UDP, 300), (TCP, 4)] {
            if protocol == TCP {
                row.transfer(to, 5000);
            }
            let sent = tally(&mut sent, Direction::Outbound, protocol);
            let between = tally(&mut between, Direction::Outbound, protocol);
            assert!(sent.packets.len() >= least);
            assert!(sent.unfinished >= least);
            assert_eq!(between.unfinished, 0);
            assert_same(sent.packets, &between.packets);
        }
    }
}

/// An offload header for a frame whose UDP header begins at `start`.
fn offload_header(kind: u8, segment_octets: u16, start: u16) -> Vec<u8> {
    let mut header = vec![1, kind];
    for number in [42, segment_octets, start, 6] {
        header.extend(u16::to_ne_bytes(number));
    }
    header
}

#[test]
fn what_cannot_be_cut_is_whole_and_said() {
    if !is_root() {
        return;
    }
    // An IPv4 packet that is a super-frame of UDP, inside UDP: a tunnel of which the kernel was told by nobody.
    let data = [7; 3000];
    let mut inner_udp = UdpHeader::without_ipv4_checksum(5000, 6000, data.len()).unwrap();
    inner_udp.checksum = 0x1234;
    let inner = [&inner_udp.to_bytes()[..], &data].concat();
    let length = u16::try_from(inner.len()).unwrap();
    let ip = Ipv4Header::new(length, 64, IpNumber(17), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    let inner = [&ip.to_bytes()[..], &inner].concat();
    let outer_udp = UdpHeader::without_ipv4_checksum(4000, 4001, inner.len()).unwrap();
    let outer = [&outer_udp.to_bytes()[..], &inner].concat();
    let length = u16::try_from(outer.len()).unwrap();
    let ip = Ipv4Header::new(length, 64, IpNumber(17), [192, 0, 2, 1], [192, 0, 2, 2]).unwrap();
    let packet = [&ip.to_bytes()[..], &outer].concat();
    let namespace = Namespace::new();
    let mut tunnel = namespace.tunnel(ARPHRD_NONE, true);
    let mut capture = namespace.capture("t0");
    let start = 28 + 20_u16;
    let with_header = [offload_header(5, 1000, start), packet.clone()].concat();
    tunnel.write_all(&with_header).unwrap();
    let mut block = capture.next_block(PATIENCE).unwrap().unwrap();
    let frame = block.frames().next().unwrap();
    assert!(frame.needs_work());
    let mut packets = Vec::new();
    let on_wire = frame.for_each_packet(|packet| packets.push(packet.data.to_vec()));
    assert_eq!(on_wire, OnWire::Whole(LeftWhole::Tunnel));
    // Whole, and the inner checksum is completed: all but its two octets are as they were sent.
    let at = usize::from(start) + 6;
    let [seen] = packets.try_into().unwrap();
    assert_eq!(seen[..at], packet[..at]);
    assert_ne!(seen[at..at + 2], packet[at..at + 2]);
    assert_eq!(seen[at + 2..], packet[at + 2..]);
}
