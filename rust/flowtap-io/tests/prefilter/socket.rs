//! Real packet sockets on a real wire: what arrives is what the oracle wants and what the kernel's test said.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{
    AddressCover, FamilyCover, InnerTunnels, Prefilter, PrefilterOptions, Prefix,
};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::frames;
use crate::oracle::{Verdict, verdict};
use crate::wire::{Listener, Received, Wire, has_ebpf, listen_on, with_wire};

/// A frame of an EtherType for experiments, which passes every filter: what was sent before it has arrived.
fn marker() -> Vec<u8> {
    [&frames::MAC[..], &[0x88, 0xb5], &[0; 46]].concat()
}

fn until_marker(listener: &Listener) -> Vec<Received> {
    let marker = marker();
    let mut all = Vec::new();
    loop {
        let received = listener.next().expect("a marker arrives in time");
        if received.frame == marker {
            return all;
        }
        all.push(received);
    }
}

/// A cover and frames, the same in every run.
pub(crate) fn sample(count: usize) -> (AddressCover, Vec<Vec<u8>>) {
    let mut runner = TestRunner::deterministic();
    // An open family would let everything through.
    let closed = frames::cover().prop_filter("closed", |cover| cover.v4.open + cover.v6.open == 0);
    let cover = closed.new_tree(&mut runner).unwrap().current();
    // The sending device wants a whole Ethernet header.
    let frames =
        frames::frame(LinkType::Ethernet).prop_filter("a header", |frame| frame.len() >= 14);
    let frames = vec(frames, count).new_tree(&mut runner).unwrap().current();
    (cover, frames)
}

/// Sends each frame alone, in both directions, and compares what arrives with and without the filter.
pub(crate) fn compare(
    wire: &Wire,
    prefilter: &Prefilter,
    cover: &AddressCover,
    frames: &[Vec<u8>],
) {
    let (all, filtered) = (wire.listen(None), wire.listen(Some(prefilter)));
    let marker = marker();
    let (mut passed, mut dropped, mut stripped) = (0, 0, 0);
    for (number, frame) in frames.iter().enumerate() {
        if number % 2 == 0 {
            wire.send([frame.as_slice(), &marker]);
        } else {
            wire.send_outwards([frame.as_slice(), &marker]);
        }
        let (with, without) = (until_marker(&filtered), until_marker(&all));
        // What the kernel throws away itself, such as a cut tag, neither socket sees.
        let Some(seen) = without.first() else {
            assert!(with.is_empty());
            continue;
        };
        assert_eq!(without.len(), 1);
        assert!(with.len() <= 1);
        stripped += usize::from(seen.tag.is_some());
        let expected = verdict(frame, LinkType::Ethernet, cover, InnerTunnels::default());
        let judged = prefilter.judge(&seen.frame, 1).unwrap().passes;
        assert!(judged || expected != Verdict::Pass, "missed {frame:02x?}");
        assert_eq!(judged, !with.is_empty(), "{frame:02x?}");
        if judged {
            assert_eq!(with[0].frame, seen.frame, "a frame passes whole");
            passed += 1;
        } else {
            dropped += 1;
        }
    }
    assert_eq!((all.dropped(), filtered.dropped()), (0, 0));
    assert!(
        passed > 300 && dropped > 300 && stripped > 100,
        "{passed} passed, {dropped} dropped, {stripped} had a tag"
    );
}

#[test]
fn on_a_socket_it_does_what_the_kernel_tested() {
    if !has_ebpf() {
        return;
    }
    with_wire(|wire| {
        let (cover, frames) = sample(3_000);
        let prefilter = Prefilter::new(&cover, PrefilterOptions::default());
        compare(wire, &prefilter, &cover, &frames);
    });
}

#[test]
fn super_frames_on_the_loopback_device() {
    const OCTETS: usize = 4 << 20;
    if !has_ebpf() {
        return;
    }
    with_wire(|_| {
        let of = |address: u32| AddressCover {
            v4: FamilyCover {
                source: vec![Prefix::host(address)],
                ..FamilyCover::default()
            },
            ..AddressCover::default()
        };
        let wanted = Prefilter::new(&of(0x7f00_0001), PrefilterOptions::default());
        let other = Prefilter::new(&of(0x7f00_0002), PrefilterOptions::default());
        let (all, wanted, other) = (
            listen_on("lo", None),
            listen_on("lo", Some(&wanted)),
            listen_on("lo", Some(&other)),
        );
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().unwrap();
                stream.write_all(&vec![7; OCTETS]).unwrap();
            });
            let mut received = Vec::new();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), OCTETS);
        });
        let lengths = |listener: &Listener| -> Vec<usize> {
            let frames = std::iter::from_fn(|| listener.next_at_once());
            frames.map(|received| received.frame.len()).collect()
        };
        let seen = lengths(&all);
        assert!(seen.iter().any(|&length| length > 10_000), "{seen:?}");
        assert_eq!(lengths(&wanted), seen);
        assert_eq!(lengths(&other), [0_usize; 0]);
    });
}
