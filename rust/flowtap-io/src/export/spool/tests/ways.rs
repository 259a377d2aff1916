//! What becomes of copies where the gate is open and the way is not.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::table::{Destination, SpoolKind};

use super::destination;
use super::whole::{Worker, first_wrong, table};
use crate::export::{ExportOptions, Gate, Spools};

/// Everybody on loopback: a socket needs leave for that, which can be given later.
const EVERYBODY: &str = "127.255.255.255";

/// The numbers of the copies that have come.
fn numbers(receiver: &UdpSocket) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 100];
    while receiver.recv(&mut buffer).is_ok() {
        numbers.push(u32::from_be_bytes(buffer[28..32].try_into().unwrap()));
    }
    numbers
}

#[test]
fn what_could_not_leave_keeps_its_place() {
    let receiver = UdpSocket::bind((EVERYBODY, 0)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gate = Arc::new(Gate::new("ttp"));
    let spools = Arc::new(Spools::new(vec![Arc::clone(&gate)], None, None).unwrap());
    let everybody = Destination {
        address: EVERYBODY.parse::<IpAddr>().unwrap(),
        ..destination(port, SpoolKind::Memory, 1 << 20, Duration::ZERO)
    };
    let export = ExportOptions {
        spools: Some(Arc::clone(&spools)),
        socket: Some(Arc::new(sender.try_clone().unwrap().into())),
        ..ExportOptions::default()
    };
    let mut worker = Worker::with(&table(vec![everybody]), export, 1);
    worker.copy(200);
    gate.open();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(250) {
        // It is tried again and again, and some come in meanwhile.
        worker.exporter.tend();
        worker.copy(1);
        std::thread::sleep(Duration::from_millis(5));
    }
    let count = spools.counts().remove(0);
    assert!(count.last_error.unwrap().contains("denied"));
    assert_eq!((count.exported, count.dropped), (0, 0));
    assert_eq!(numbers(&receiver), Vec::<u32>::new());
    sender.set_broadcast(true).unwrap();
    let copied = u32::try_from(count.in_spool).unwrap();
    let mut heard = Vec::new();
    let began = Instant::now();
    while spools.is_draining() && began.elapsed() < Duration::from_secs(20) {
        worker.exporter.tend();
        heard.extend(numbers(&receiver));
        std::thread::sleep(Duration::from_millis(1));
    }
    heard.extend(numbers(&receiver));
    assert_eq!(first_wrong(&heard, 0..copied), None);
    assert_eq!(spools.counts().remove(0).exported, u64::from(copied));
}

#[test]
fn destinations_behind_tunnels_share_no_socket_with_those_in_clear() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    let gate = Arc::new(Gate::new("ttp"));
    gate.open();
    let spools = Arc::new(Spools::new(vec![gate], None, None).unwrap());
    let protected = destination(port, SpoolKind::Memory, 1 << 20, Duration::ZERO);
    let other = Destination {
        id: "cd2".to_owned(),
        ..protected.clone()
    };
    let clear = |id: &str| Destination {
        id: id.to_owned(),
        protection: None,
        ..protected.clone()
    };
    let destinations = vec![protected.clone(), other, clear("cd3"), clear("cd4")];
    let export = ExportOptions {
        spools: Some(spools),
        ..ExportOptions::default()
    };
    let mut worker = Worker::with(&table(destinations), export, 1);
    worker.copy(1);
    let shown = format!("{:?}", worker.exporter);
    assert!(shown.contains("sockets: 2,"), "{shown}");
}
