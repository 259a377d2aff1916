//! Several workers on one interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use flowtap_core::decode::{IpPacket, Outer};
use flowtap_core::packet::Transport;
use flowtap_io::packet::{
    Capture, CaptureOptions, Directions, FanoutGroup, FanoutMode, PacketError,
};

use crate::net::{
    Namespace, PATIENCE, SILENCE, assert_silent, is_root, numbered, options, read_numbered, wire,
};

/// Captures of one group, open for everything.
fn group(namespace: &Namespace, options: &CaptureOptions, count: usize) -> Vec<Capture> {
    let mut options = options.clone();
    options.fanout = Some(FanoutGroup::new(FanoutMode::Hash));
    (0..count)
        .map(|_| {
            let capture = namespace.capture_with(options.clone());
            capture.admit_all().unwrap();
            capture
        })
        .collect()
}

/// What each worker got of so many packets in which `key` finds something, and whatever comes on top of them.
fn gather<T>(
    workers: &mut [Capture],
    expected: usize,
    key: impl Fn(&IpPacket<'_>) -> Option<T>,
) -> Vec<Vec<T>> {
    let mut got: Vec<Vec<T>> = workers.iter().map(|_| Vec::new()).collect();
    let mut until = Instant::now() + PATIENCE;
    let mut is_complete = false;
    while Instant::now() < until {
        for (worker, keys) in workers.iter_mut().zip(&mut got) {
            while let Some(mut block) = worker.next_block(Duration::from_millis(10)).unwrap() {
                for frame in block.frames() {
                    let packet = Outer::of(&frame.frame()).map(|outer| outer.packet());
                    keys.extend(packet.as_ref().and_then(&key));
                }
            }
        }
        if !is_complete && got.iter().map(Vec::len).sum::<usize>() >= expected {
            is_complete = true;
            until = Instant::now() + SILENCE;
        }
    }
    assert_eq!(got.iter().map(Vec::len).sum::<usize>(), expected);
    got
}

fn addressed() -> (Namespace, Namespace) {
    let (a, b) = wire();
    a.ip("addr add 192.0.2.1/24 dev va");
    b.ip("addr add 192.0.2.2/24 dev vb");
    (a, b)
}

#[test]
fn every_packet_comes_to_one_worker_and_a_flow_stays_with_it() {
    if !is_root() {
        return;
    }
    let (a, b) = addressed();
    let mut workers = group(&b, &options("vb"), 3);
    let echo = b.run(|| UdpSocket::bind("192.0.2.2:7").unwrap());
    let mut buffer = [0; 100];
    for number in 0..150_u16 {
        let local = ("192.0.2.1", 20_000 + number);
        let socket = a.run(|| UdpSocket::bind(local).unwrap());
        for _ in 0..2 {
            socket
                .send_to(&number.to_be_bytes(), "192.0.2.2:7")
                .unwrap();
            let (length, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..length], from).unwrap();
            socket.recv(&mut buffer).unwrap();
        }
    }
    let flow = |packet: &IpPacket<'_>| match packet.key.transport {
        Transport::Ports {
            source,
            destination,
        } => Some(source.max(destination)),
        _ => None,
    };
    let got = gather(&mut workers, 4 * 150, flow);
    // Two questions and two answers of each flow, all with one worker.
    let mut flows = BTreeMap::new();
    for (worker, packets) in got.iter().enumerate() {
        assert!(packets.len() > 40, "worker {worker} got {}", packets.len());
        for port in packets {
            let (owner, count) = flows.entry(*port).or_insert((worker, 0));
            assert_eq!(*owner, worker);
            *count += 1;
        }
    }
    assert_eq!(flows.len(), 150);
    assert!(flows.values().all(|(_, count)| *count == 4));
    for worker in &workers {
        assert_eq!(worker.statistics().read().dropped, 0);
    }
}

#[test]
fn all_fragments_of_a_datagram_come_to_one_worker() {
    if !is_root() {
        return;
    }
    let (a, b) = addressed();
    for (namespace, interface) in [(&a, "va"), (&b, "vb")] {
        for number in 1..60 {
            let host = if interface == "va" { "1" } else { "2" };
            namespace.ip(&format!(
                "addr add 198.51.{number}.{host}/24 dev {interface}"
            ));
        }
        namespace.run(|| {
            let setting = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            std::fs::write(setting, "0").unwrap();
        });
        for number in 1..60 {
            let host = if interface == "va" { "1" } else { "2" };
            namespace.ip(&format!(
                "addr add 2001:db8:0:{number}::{host}/64 dev {interface} nodad"
            ));
        }
    }
    let mut inbound = options("vb");
    inbound.directions = Directions::Inbound;
    let mut workers = group(&b, &inbound, 2);
    for number in 1..60 {
        for (from, to) in [
            (
                format!("198.51.{number}.1:0"),
                format!("198.51.{number}.2:9"),
            ),
            (
                format!("[2001:db8:0:{number}::1]:0"),
                format!("[2001:db8:0:{number}::2]:9"),
            ),
        ] {
            let socket = a.run(|| UdpSocket::bind(from).unwrap());
            socket.send_to(&[1; 100], &to).unwrap();
            socket.send_to(&[2; 4000], &to).unwrap();
            socket.send_to(&[3; 4000], &to).unwrap();
        }
    }
    let datagram = |packet: &IpPacket<'_>| {
        let fragment = packet.fragment?;
        Some((
            packet.key.source.into(),
            fragment.identification,
            fragment.offset_octets,
        ))
    };
    let got: Vec<Vec<(std::net::IpAddr, u32, u32)>> =
        gather(&mut workers, 3 * 2 * 2 * 59, datagram);
    let mut owners = BTreeMap::new();
    let mut fragments = BTreeSet::new();
    for (worker, packets) in got.iter().enumerate() {
        assert!(packets.len() > 60, "worker {worker} got {}", packets.len());
        for &(source, identification, offset) in packets {
            assert!(fragments.insert((source, identification, offset)));
            let owner = owners.entry((source, identification)).or_insert(worker);
            assert_eq!(*owner, worker);
        }
    }
    // Each datagram in three pieces.
    assert_eq!(owners.len(), 2 * 2 * 59);
}

#[test]
fn a_group_can_hear_inbound_frames_only() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut inbound = options("vb");
    inbound.directions = Directions::Inbound;
    let mut workers = group(&b, &inbound, 1);
    b.sender("vb").send(&[numbered(1, 60)]);
    a.sender("va").send(&[numbered(2, 60)]);
    assert_eq!(read_numbered(&mut workers[0], 1)[0].octets, numbered(2, 60));
    assert_silent(&mut workers[0]);
}

#[test]
fn two_groups_do_not_know_of_each_other_and_none_begins_on_an_interface_that_is_down() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut first = group(&b, &options("vb"), 2);
    let mut second = group(&b, &options("vb"), 2);
    a.sender("va").send(&[numbered(1, 60)]);
    for group in [&mut first, &mut second] {
        let count: usize = group
            .iter_mut()
            .map(|worker| {
                let mut count = 0;
                while let Some(mut block) = worker.next_block(Duration::from_millis(100)).unwrap() {
                    count += block.frames().count();
                }
                count
            })
            .sum();
        assert_eq!(count, 1);
    }
    b.ip("link set vb down");
    let mut options = options("vb");
    options.fanout = Some(FanoutGroup::new(FanoutMode::Hash));
    let error = b.run(|| Capture::open(options)).unwrap_err();
    assert!(
        matches!(error, PacketError::InterfaceDown { .. }),
        "{error}"
    );
}
