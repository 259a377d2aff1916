//! What takes the place of eBPF where the kernel does not give it, and sockets that take no filter.

use std::fs::File;

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{
    AddressCover, FamilyCover, Prefilter, PrefilterError, PrefilterKind, PrefilterOptions, Prefix,
    Step,
};

use crate::frames::MAC;
use crate::socket::{compare, sample};
use crate::sys::{self, Right};
use crate::wire::{with_wire, without};

/// Bound on what classic BPF holds, as its own limit of instructions sets it.
const FEW: u32 = 100;
const MANY: u32 = 2_000;

/// Each of these may load eBPF.
const NO_EBPF: [Right; 2] = [Right::Bpf, Right::SysAdmin];

fn hosts(count: u32) -> AddressCover {
    let all: Vec<Prefix<u32>> = (0..count)
        .map(|number| Prefix::host(0x0a00_0000 + number * 3))
        .collect();
    AddressCover {
        v4: FamilyCover {
            source: all.clone(),
            destination: all,
            open: 0,
        },
        ..AddressCover::default()
    }
}

fn frame_from(host: u32) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&(0x0a00_0000 + host * 3).to_be_bytes());
    frame.extend_from_slice(&[192, 0, 2, 1]);
    frame.resize(60, 0);
    frame
}

fn passes(prefilter: &Prefilter, frame: &[u8]) -> bool {
    prefilter.judge(frame, 1).unwrap().passes
}

#[test]
fn without_the_right_it_is_classic_for_few_addresses_and_none_for_many() {
    without(&NO_EBPF, || {
        let mut prefilter = Prefilter::new(&hosts(FEW), PrefilterOptions::default());
        let kind = prefilter.kind();
        assert!(
            matches!(&kind, PrefilterKind::Classic { reason, .. } if reason.contains("CAP_BPF")),
            "{kind}"
        );
        assert!(passes(&prefilter, &frame_from(FEW - 1)));
        assert!(!passes(&prefilter, &frame_from(FEW)));
        assert_eq!(prefilter.add(&hosts(MANY)), Step::Attach);
        let kind = prefilter.kind();
        let PrefilterKind::None { reason } = &kind else {
            panic!("{kind}");
        };
        assert!(
            reason.contains("CAP_BPF") && reason.contains("too many"),
            "{kind}"
        );
        assert!(passes(&prefilter, &frame_from(MANY)));
        // What was once too much need not stay so.
        assert_eq!(prefilter.remove(&hosts(MANY)), Step::Attach);
        assert!(matches!(prefilter.kind(), PrefilterKind::Classic { .. }));
        assert!(passes(&prefilter, &frame_from(FEW - 1)));
        assert!(!passes(&prefilter, &frame_from(FEW)));
        assert_eq!(prefilter.add(&hosts(1)), Step::Seen);
    });
}

#[test]
fn classic_on_a_socket() {
    with_wire(|wire| {
        let (cover, frames) = sample(3_000);
        let options = PrefilterOptions {
            ebpf: false,
            ..PrefilterOptions::default()
        };
        compare(wire, &Prefilter::new(&cover, options), &cover, &frames);
    });
}

#[test]
fn a_right_that_is_lost_later_makes_the_filter_wider() {
    with_wire(|wire| {
        let mut prefilter = Prefilter::new(&hosts(1), PrefilterOptions::default());
        assert!(matches!(prefilter.kind(), PrefilterKind::Ebpf { .. }));
        let listener = wire.listen(Some(&prefilter));
        sys::give_up(&NO_EBPF).unwrap();
        // There is room in the map, and since Linux 6.0 whoever holds it may change it.
        if prefilter.add(&hosts(2)) == Step::Attach {
            prefilter.attach(&listener.socket).unwrap();
        }
        wire.send([frame_from(5).as_slice(), &frame_from(1)]);
        assert_eq!(listener.next().unwrap().frame, frame_from(1));
        // There is none for so many, and no new map.
        assert_eq!(prefilter.add(&hosts(MANY)), Step::Attach);
        assert!(matches!(prefilter.kind(), PrefilterKind::None { .. }));
        prefilter.attach(&listener.socket).unwrap();
        wire.send([frame_from(MANY + 1).as_slice(), &frame_from(1)]);
        assert_eq!(listener.next().unwrap().frame, frame_from(MANY + 1));
        assert_eq!(listener.next().unwrap().frame, frame_from(1));
        assert_eq!(prefilter.remove(&hosts(MANY)), Step::Attach);
        prefilter.attach(&listener.socket).unwrap();
        wire.send([frame_from(5).as_slice(), &frame_from(1)]);
        assert_eq!(listener.next().unwrap().frame, frame_from(1));
    });
}

#[test]
fn frames_of_an_unknown_kind_pass() {
    for link_type in [LinkType::LinuxCooked, LinkType::Null, LinkType::Other(147)] {
        let options = PrefilterOptions {
            link_type,
            ..PrefilterOptions::default()
        };
        let mut prefilter = Prefilter::new(&hosts(1), options);
        let kind = prefilter.kind();
        assert!(
            matches!(&kind, PrefilterKind::None { reason } if reason.contains("link type")),
            "{kind}"
        );
        assert!(passes(&prefilter, &frame_from(9)));
        assert_eq!(prefilter.add(&hosts(2)), Step::Seen);
        assert_eq!(prefilter.memory_octets(), 0);
    }
}

#[test]
fn a_socket_without_room_for_two_programs_takes_the_new_one() {
    with_wire(|wire| {
        let prefilter = Prefilter::new(&hosts(1), PrefilterOptions::default());
        let PrefilterKind::Ebpf { instructions, .. } = prefilter.kind() else {
            panic!("{}", prefilter.kind());
        };
        let limit =
            |octets: usize| std::fs::write("/proc/sys/net/core/optmem_max", octets.to_string());
        if limit(instructions * 8 * 3 / 2).is_err() {
            eprintln!("not run: before Linux 6.9 the limit is one for all networks");
            return;
        }
        let listener = wire.listen(Some(&prefilter));
        prefilter.attach(&listener.socket).unwrap();
        wire.send([frame_from(5).as_slice(), &frame_from(0)]);
        assert_eq!(listener.next().unwrap().frame, frame_from(0));
        // Room for none: everything passes, and the error says so.
        limit(instructions * 8 / 2).unwrap();
        let error = prefilter.attach(&listener.socket).unwrap_err();
        assert!(matches!(error, PrefilterError::Attach { .. }), "{error}");
        wire.send([frame_from(5).as_slice()]);
        assert_eq!(listener.next().unwrap().frame, frame_from(5));
    });
}

#[test]
fn what_is_no_socket_keeps_what_it_has() {
    let file = File::open("/dev/null").unwrap();
    let options = PrefilterOptions {
        ebpf: false,
        ..PrefilterOptions::default()
    };
    let error = Prefilter::new(&hosts(1), options)
        .attach(&file)
        .unwrap_err();
    assert!(matches!(error, PrefilterError::Detach { .. }), "{error}");
}
