//! The filter in step with a table: counts, growth, new programs, and no frame lost on the way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flowtap_core::frame::LinkType;
use flowtap_io::prefilter::{
    AddressBits, AddressCover, FamilyCover, InnerTunnels, Prefilter, PrefilterKind,
    PrefilterOptions, Prefix, Step,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::frames;
use crate::oracle::{Verdict, verdict};
use crate::sys::Right;
use crate::wire::{has_ebpf, with_wire, without};

fn family<A: AddressBits>(source: Vec<Prefix<A>>) -> FamilyCover<A> {
    FamilyCover {
        source,
        destination: Vec::new(),
        open: 0,
    }
}

fn v4(source: Vec<Prefix<u32>>) -> AddressCover {
    AddressCover {
        v4: family(source),
        ..AddressCover::default()
    }
}

fn hosts(numbers: std::ops::Range<u32>) -> AddressCover {
    v4(numbers
        .map(|number| Prefix::host(0x0a00_0000 + number))
        .collect())
}

/// A packet from one host of 10.0.0.0/8 to 192.0.2.1, with a number in its payload.
fn frame_from(host: u32, number: u32) -> Vec<u8> {
    let mut frame = frames::MAC.to_vec();
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&(0x0a00_0000 + host).to_be_bytes());
    frame.extend_from_slice(&[192, 0, 2, 1, 0, 1, 0, 2, 0, 26, 0, 0]);
    frame.extend_from_slice(&number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn passes(prefilter: &Prefilter, frame: &[u8]) -> bool {
    prefilter.judge(frame, 1).unwrap().passes
}

/// All of them together.
fn sum(covers: &[AddressCover]) -> AddressCover {
    fn join<A: AddressBits>(into: &mut FamilyCover<A>, cover: &FamilyCover<A>) {
        into.source.extend(&cover.source);
        into.destination.extend(&cover.destination);
        into.open += cover.open;
    }
    let mut all = AddressCover::default();
    for cover in covers {
        join(&mut all.v4, &cover.v4);
        join(&mut all.v6, &cover.v6);
    }
    all
}

#[derive(Clone, Debug)]
enum Operation {
    Add(AddressCover),
    Remove(Index),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        3 => frames::cover().prop_map(Operation::Add),
        2 => any::<Index>().prop_map(Operation::Remove),
    ];
    vec(operation, 1..12)
}

proptest! {
    #[test]
    fn what_was_added_and_not_removed_passes(
        ebpf: bool,
        operations in operations(),
        frames in vec(frames::frame(LinkType::Ethernet), 12),
    ) {
        if ebpf && !has_ebpf() {
            return Ok(());
        }
        let options = PrefilterOptions { ebpf, ..PrefilterOptions::default() };
        let mut prefilter = Prefilter::new(&AddressCover::default(), options);
        let mut present = Vec::new();
        for operation in operations {
            let _step = match operation {
                Operation::Add(cover) => {
                    let step = prefilter.add(&cover);
                    present.push(cover);
                    step
                }
                Operation::Remove(_) if present.is_empty() => continue,
                Operation::Remove(which) => {
                    let cover = present.swap_remove(which.index(present.len()));
                    prefilter.remove(&cover)
                }
            };
            let all = sum(&present);
            for frame in &frames {
                match verdict(frame, LinkType::Ethernet, &all, InnerTunnels::default()) {
                    Verdict::Pass => prop_assert!(passes(&prefilter, frame), "{frame:02x?}"),
                    Verdict::Drop if ebpf => {
                        prop_assert!(!passes(&prefilter, frame), "{frame:02x?}");
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_prefix_stays_as_long_as_somebody_needs_it() {
    for ebpf in [true, false] {
        if ebpf && !has_ebpf() {
            continue;
        }
        let options = PrefilterOptions {
            ebpf,
            ..PrefilterOptions::default()
        };
        let frame = frame_from(7, 0);
        for length in [0, 1, 8, 24, 31, 32] {
            let cover = v4(vec![Prefix::new(0x0a00_0007, length).unwrap()]);
            let mut prefilter = Prefilter::new(&cover, options);
            let _step = prefilter.add(&cover);
            let _step = prefilter.remove(&cover);
            assert!(passes(&prefilter, &frame), "/{length}");
            let _step = prefilter.remove(&cover);
            assert!(!passes(&prefilter, &frame), "/{length}");
            // Nobody owes an entry for what was removed once too often.
            assert_eq!(prefilter.remove(&cover), Step::Seen);
            let _step = prefilter.add(&cover);
            assert!(passes(&prefilter, &frame), "/{length}");
        }
    }
}

#[test]
fn roles_of_one_host_are_apart() {
    if !has_ebpf() {
        return;
    }
    let as_destination = AddressCover {
        v4: FamilyCover {
            source: Vec::new(),
            destination: vec![Prefix::host(0x0a00_0007)],
            open: 0,
        },
        ..AddressCover::default()
    };
    let mut prefilter = Prefilter::new(&as_destination, PrefilterOptions::default());
    assert!(!passes(&prefilter, &frame_from(7, 0)));
    assert_eq!(prefilter.add(&hosts(7..8)), Step::Seen);
    assert!(passes(&prefilter, &frame_from(7, 0)));
    assert_eq!(prefilter.remove(&as_destination), Step::Seen);
    assert!(passes(&prefilter, &frame_from(7, 0)));
    assert_eq!(prefilter.remove(&hosts(7..8)), Step::Seen);
    assert!(!passes(&prefilter, &frame_from(7, 0)));
}

#[test]
fn a_full_map_grows_in_few_steps() {
    if !has_ebpf() {
        return;
    }
    let mut prefilter = Prefilter::new(&hosts(0..1), PrefilterOptions::default());
    let mut attached = 0;
    for chunk in 0..200 {
        let numbers = 1 + chunk * 100..101 + chunk * 100;
        if prefilter.add(&hosts(numbers.clone())) == Step::Attach {
            attached += 1;
        }
        for number in [0, numbers.start, numbers.end - 1] {
            assert!(passes(&prefilter, &frame_from(number, 0)), "{number}");
        }
        assert!(!passes(&prefilter, &frame_from(numbers.end, 0)));
    }
    // From 1,024 by doubling.
    assert!((1..=6).contains(&attached), "{attached}");
    let before = prefilter.memory_octets();
    assert!(before > 20_000 * 48, "{before}");
    assert_eq!(prefilter.remove(&hosts(1..20_001)), Step::Seen);
    assert!(passes(&prefilter, &frame_from(0, 0)));
    assert!((1..20_001).all(|number| !passes(&prefilter, &frame_from(number, 0))));
    assert!(matches!(
        prefilter.kind(),
        PrefilterKind::Ebpf { entries: 1, .. }
    ));
}

#[test]
fn the_map_is_used_to_its_last_place() {
    if !has_ebpf() {
        return;
    }
    // The smallest map has room for 1,024.
    let mut prefilter = Prefilter::new(&hosts(0..800), PrefilterOptions::default());
    for number in 800..1_100 {
        let step = prefilter.add(&hosts(number..number + 1));
        assert_eq!(step == Step::Attach, number == 1_024, "{number}");
        assert!(passes(&prefilter, &frame_from(number, 0)));
    }
    assert!((0..1_100).all(|number| passes(&prefilter, &frame_from(number, 0))));
}

#[test]
fn entries_that_come_and_go_need_no_new_map() {
    if !has_ebpf() {
        return;
    }
    let mut prefilter = Prefilter::new(&hosts(0..1), PrefilterOptions::default());
    let networks = |round: u32| {
        let networks = (0..50).map(|number| Prefix::new((round * 50 + number) << 8, 24).unwrap());
        v4(networks.collect())
    };
    assert_eq!(prefilter.add(&networks(0)), Step::Attach);
    for round in 1..100 {
        assert_eq!(
            prefilter.add(&hosts(round * 900..round * 900 + 900)),
            Step::Seen
        );
        assert_eq!(prefilter.add(&networks(round)), Step::Seen);
        assert!(passes(&prefilter, &frame_from(round * 900, 0)));
        assert!(passes(&prefilter, &frame_from(0, 0)));
        assert_eq!(
            prefilter.remove(&hosts(round * 900..round * 900 + 900)),
            Step::Seen
        );
        assert_eq!(prefilter.remove(&networks(round)), Step::Seen);
        assert!(!passes(&prefilter, &frame_from(round * 900, 0)));
    }
    assert!(passes(&prefilter, &frame_from(0, 0)));
}

/// What the maps of one family may hold, or that it is open.
fn shapes<A: AddressBits>(host: A) -> Vec<FamilyCover<A>> {
    let network = Prefix::new(host, A::BITS / 2).unwrap();
    let mut shapes: Vec<FamilyCover<A>> = (0..8)
        .map(|bits| {
            let one = |bit: u8, prefix: Prefix<A>| (bits & bit != 0).then_some(prefix);
            FamilyCover {
                source: [one(1, Prefix::host(host)), one(2, network)]
                    .into_iter()
                    .flatten()
                    .collect(),
                destination: one(4, network).into_iter().collect(),
                open: 0,
            }
        })
        .collect();
    shapes.push(FamilyCover {
        open: 1,
        ..FamilyCover::default()
    });
    shapes
}

/// Every shape that a program can have: for each family what is in its maps, tunnels, link types. CAP_BPF is enough:
/// without CAP_PERFMON the verifier is stricter and guards the program against speculation.
#[test]
fn the_verifier_takes_every_program() {
    let load = |v4: &FamilyCover<u32>, v6: &FamilyCover<u128>, link_type, inner| {
        let cover = AddressCover {
            v4: v4.clone(),
            v6: v6.clone(),
        };
        let options = PrefilterOptions {
            link_type,
            inner,
            ebpf: true,
        };
        let kind = Prefilter::new(&cover, options).kind();
        assert!(
            matches!(kind, PrefilterKind::Ebpf { .. }),
            "{cover:?} {options:?}: {kind}"
        );
    };
    let tunnels = (0..16).map(|bits| InnerTunnels {
        gre: bits & 1 != 0,
        vxlan: bits & 2 != 0,
        gtpu: bits & 4 != 0,
        ipip: bits & 8 != 0,
    });
    let (v4, v6) = (shapes(0x0a00_0001_u32), shapes(0x2001_0db8_u128 << 96));
    without(&[Right::SysAdmin, Right::PerfMon], || {
        for link_type in [
            LinkType::Ethernet,
            LinkType::Raw,
            LinkType::Ipv4,
            LinkType::Ipv6,
        ] {
            for v4 in &v4 {
                for v6 in &v6 {
                    load(v4, v6, link_type, InnerTunnels::default());
                }
            }
            for inner in tunnels.clone() {
                for (v4, v6) in v4.iter().zip(&v6) {
                    load(v4, v6, link_type, inner);
                }
            }
        }
        let prefilter = Prefilter::new(&hosts(7..8), PrefilterOptions::default());
        assert!(passes(&prefilter, &frame_from(7, 0)));
        assert!(!passes(&prefilter, &frame_from(8, 0)));
    });
}

/// Frames of one host under way at once: few enough for the socket to hold.
const UNDER_WAY: usize = 20_000;

/// While somebody changes the filter in every way there is, each frame of a host that is wanted all the time arrives.
#[test]
fn no_frame_is_lost_while_maps_and_programs_change() {
    const FRAMES: usize = 300_000;
    const WANTED: u32 = 0xff_ff_01;
    if !has_ebpf() {
        return;
    }
    with_wire(|wire| {
        let wanted = hosts(WANTED..WANTED + 1);
        let mut prefilter = Prefilter::new(&wanted, PrefilterOptions::default());
        let listener = wire.listen(Some(&prefilter));
        let (received, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (mut attached, mut seen) = (0, 0);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                for number in 0..FRAMES {
                    let frame = listener.next().expect("every frame arrives").frame;
                    let said = u32::from_be_bytes(frame[42..46].try_into().unwrap());
                    assert_eq!(usize::try_from(said).unwrap(), number);
                    received.store(number + 1, Ordering::Release);
                }
            });
            scope.spawn(|| {
                let mut sent = 0;
                while sent < FRAMES && !stop.load(Ordering::Acquire) {
                    if sent >= received.load(Ordering::Acquire) + UNDER_WAY {
                        thread::sleep(Duration::from_micros(50));
                        continue;
                    }
                    let batch: Vec<Vec<u8>> = (sent..sent + 500)
                        .map(|number| frame_from(WANTED, u32::try_from(number).unwrap()))
                        .collect();
                    wire.send(batch.iter().map(Vec::as_slice));
                    sent += 500;
                }
            });
            let networks = v4(vec![Prefix::new(0xc000_0000, 12).unwrap()]);
            let open = AddressCover {
                v4: FamilyCover {
                    open: 1,
                    ..FamilyCover::default()
                },
                ..AddressCover::default()
            };
            let mut size = 100;
            while !reader.is_finished() {
                let others = hosts(0..size);
                size = if size > 20_000 { 100 } else { size * 3 };
                // A second criterion for the same host comes and goes too.
                let mut step = |step: Step, prefilter: &Prefilter| match step {
                    Step::Attach => {
                        prefilter.attach(&listener.socket).unwrap();
                        attached += 1;
                    }
                    Step::Seen => seen += 1,
                };
                for cover in [&others, &wanted, &networks, &open] {
                    let needed = prefilter.add(cover);
                    step(needed, &prefilter);
                }
                for cover in [&open, &networks, &wanted, &others] {
                    let needed = prefilter.remove(cover);
                    step(needed, &prefilter);
                }
                if size == 100 {
                    // From the beginning, as after a restart.
                    prefilter = Prefilter::new(&wanted, PrefilterOptions::default());
                    step(Step::Attach, &prefilter);
                }
            }
            stop.store(true, Ordering::Release);
        });
        assert_eq!(listener.dropped(), 0);
        assert!(attached > 20 && seen > 20, "{attached} {seen}");
        // And what nobody wants is dropped by the last of all these programs.
        wire.send([frame_from(1, 0).as_slice(), &frame_from(WANTED, 77)]);
        assert_eq!(listener.next().unwrap().frame, frame_from(WANTED, 77));
    });
}
