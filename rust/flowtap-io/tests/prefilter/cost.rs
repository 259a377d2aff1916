//! What the filter costs: a measurement, run by name.
//!
//! `cargo test --release -p flowtap-io --test prefilter -- --ignored --nocapture cost`

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flowtap_io::prefilter::{AddressCover, FamilyCover, Prefilter, PrefilterOptions, Prefix};

use crate::frames::MAC;
use crate::sys::{self, Right};
use crate::wire::{Listener, Wire, has_ebpf, with_wire, without};

/// Frames that are timed together.
const BATCH: usize = 256;
/// Batches of one turn; the first ones warm the caches and are not counted.
const TURN: usize = 64;
const WARM: usize = 16;
const TURNS: usize = 60;
const FRAMES: usize = 4_096;

/// A sequence of numbers that looks like chance and is the same every time.
struct Sequence(u64);

impl Iterator for Sequence {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 32).ok()
    }
}

/// UDP in 60 octets, between addresses of 198.18.0.0/15.
fn flood(v6: bool) -> Vec<Vec<u8>> {
    let mut numbers = Sequence(1);
    let mut address = || {
        let low = (0xc612_0000 | numbers.next().unwrap() & 0x1_ffff).to_be_bytes();
        if v6 {
            let mut whole = [0_u8; 16];
            whole[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
            whole[12..].copy_from_slice(&low);
            whole.to_vec()
        } else {
            low.to_vec()
        }
    };
    let mut frames = Vec::new();
    for _ in 0..FRAMES {
        let mut frame = MAC.to_vec();
        if v6 {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 6, 17, 64]);
        } else {
            frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
        }
        frame.extend(address());
        frame.extend(address());
        frame.resize(60, 0);
        frames.push(frame);
    }
    frames
}

fn hosts(count: usize) -> AddressCover {
    let all: Vec<Prefix<u32>> = Sequence(2)
        .take(count)
        .map(|number| Prefix::host(0x0a00_0000 | number >> 8))
        .collect();
    let v6: Vec<Prefix<u128>> = Sequence(3)
        .take(count)
        .map(|number| Prefix::host(0x2001_0db8_0001 << 80 | u128::from(number)))
        .collect();
    AddressCover {
        v4: FamilyCover {
            source: all.clone(),
            destination: all,
            open: 0,
        },
        v6: FamilyCover {
            source: v6.clone(),
            destination: v6,
            open: 0,
        },
    }
}

fn prefixes(count: usize, under: u32) -> AddressCover {
    let mut numbers = Sequence(5);
    let all: Vec<Prefix<u32>> = (0..count)
        .map(|_| {
            let length = 16 + u8::try_from(numbers.next().unwrap() % 16).unwrap();
            Prefix::new(under | numbers.next().unwrap() >> 8, length).unwrap()
        })
        .collect();
    AddressCover {
        v4: FamilyCover {
            source: all.clone(),
            destination: all,
            open: 0,
        },
        v6: FamilyCover::default(),
    }
}

/// What listens at the far end.
enum Ear {
    None,
    Filter(Box<Prefilter>),
    /// What tcpdump makes of its words, on a socket like ours.
    Classic(Vec<libc::sock_filter>),
    Tcpdump(&'static str),
    Deaf,
}

fn tcpdump_program(words: &str) -> Vec<libc::sock_filter> {
    let output = Command::new("tcpdump")
        .args(["-ddd", "-y", "EN10MB", "-i", "far0", words])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            libc::sock_filter {
                code: numbers[0].try_into().unwrap(),
                jt: numbers[1].try_into().unwrap(),
                jf: numbers[2].try_into().unwrap(),
                k: numbers[3],
            }
        })
        .collect()
}

fn start_tcpdump(interface: &str, words: &str) -> Child {
    let mut child = Command::new("tcpdump")
        .args(["-i", interface, "-n", "-w", "/dev/null", words])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 256];
    let stderr = child.stderr.as_mut().unwrap();
    let length = std::io::Read::read(stderr, &mut said).unwrap();
    assert!(length > 0);
    thread::sleep(Duration::from_millis(100));
    child
}

/// What must live as long as the ear is to hear.
enum Hearing {
    Nobody,
    Socket { _listener: Listener },
    Program(Child),
}

impl Drop for Hearing {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn start(ear: &Ear, wire: &Wire) -> Hearing {
    match ear {
        Ear::None => Hearing::Nobody,
        Ear::Filter(prefilter) => Hearing::Socket {
            _listener: wire.listen(Some(prefilter)),
        },
        Ear::Deaf => Hearing::Socket {
            _listener: wire.listen(None),
        },
        Ear::Classic(program) => {
            let listener = wire.listen(None);
            sys::attach_classic(&listener.socket, program).unwrap();
            Hearing::Socket {
                _listener: listener,
            }
        }
        Ear::Tcpdump(words) => Hearing::Program(start_tcpdump(&wire.far, words)),
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_one_program_run() {
    if !has_ebpf() {
        return;
    }
    let v4 = &flood(false)[0];
    let v6 = &flood(true)[0];
    let mut tagged = v4.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    for count in [0, 1, 100, 10_000, 100_000] {
        let begin = Instant::now();
        let prefilter = Prefilter::new(&hosts(count), PrefilterOptions::default());
        let made = begin.elapsed();
        let ns = |frame: &[u8]| {
            let runs = (0..5).map(|_| prefilter.judge(frame, 1_000_000).unwrap());
            runs.map(|run| run.duration_ns.unwrap()).min().unwrap()
        };
        println!(
            "{count:>7} hosts of each family: made in {made:?}, {} KiB; IPv4 {} ns, IPv6 {} ns, IPv4 behind a tag {} ns; {}",
            prefilter.memory_octets() / 1024,
            ns(v4),
            ns(v6),
            ns(&tagged),
            prefilter.kind()
        );
    }
    for (name, cover) in [
        ("1,000 prefixes elsewhere", prefixes(1_000, 0x0a00_0000)),
        ("10,000 prefixes elsewhere", prefixes(10_000, 0x0a00_0000)),
        ("10,000 prefixes all around", prefixes(10_000, 0xc600_0000)),
    ] {
        let begin = Instant::now();
        let prefilter = Prefilter::new(&cover, PrefilterOptions::default());
        let made = begin.elapsed();
        let runs = (0..5).map(|_| prefilter.judge(v4, 1_000_000).unwrap());
        let ns = runs.map(|run| run.duration_ns.unwrap()).min().unwrap();
        println!(
            "{name}: made in {made:?}, {} KiB; IPv4 {ns} ns",
            prefilter.memory_octets() / 1024
        );
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_for_a_sender() {
    with_wire(|_| {
        let ebpf = |cover: &AddressCover| {
            Ear::Filter(Box::new(Prefilter::new(cover, PrefilterOptions::default())))
        };
        // The verifier guards the programs against speculation that come without CAP_PERFMON.
        let guarded = |cover: &AddressCover| {
            let mut made = None;
            without(&[Right::SysAdmin, Right::PerfMon], || {
                made = Some(ebpf(cover));
            });
            made.unwrap()
        };
        let classic = |count: usize| {
            let options = PrefilterOptions {
                ebpf: false,
                ..PrefilterOptions::default()
            };
            let prefilter = Prefilter::new(&hosts(count), options);
            println!("{}", prefilter.kind());
            Ear::Filter(Box::new(prefilter))
        };
        let words = "host 192.0.2.1";
        let cases = [
            ("no socket", Ear::None),
            ("tcpdump, one host", Ear::Tcpdump(words)),
            (
                "its program on our socket",
                Ear::Classic(tcpdump_program(words)),
            ),
            ("eBPF, 1 host", ebpf(&hosts(1))),
            ("eBPF, 1,000 hosts", ebpf(&hosts(1_000))),
            ("eBPF, 100,000 hosts", ebpf(&hosts(100_000))),
            ("the same, CAP_BPF alone", guarded(&hosts(100_000))),
            (
                "eBPF, 10,000 prefixes",
                ebpf(&prefixes(10_000, 0x0a00_0000)),
            ),
            (
                "eBPF, 10,000 prefixes around",
                ebpf(&prefixes(10_000, 0xc600_0000)),
            ),
            ("classic, 1 host", classic(1)),
            ("classic, 20 hosts", classic(20)),
            ("no filter, nobody reads", Ear::Deaf),
        ];
        // Each case has a wire of its own, and all of them their turn within milliseconds: what else the machine does
        // falls on all alike, and batches that it interrupts are not in the lower half.
        let wires: Vec<Wire> = (1..=cases.len()).map(Wire::new).collect();
        let hearing = cases.iter().zip(&wires);
        let hearing: Vec<Hearing> = hearing.map(|((_, ear), wire)| start(ear, wire)).collect();
        for v6 in [false, true] {
            let frames = flood(v6);
            let mut turns = vec![Vec::new(); cases.len()];
            for _ in 0..TURNS {
                for (wire, turns) in wires.iter().zip(&mut turns) {
                    for (number, batch) in frames.chunks(BATCH).cycle().take(TURN).enumerate() {
                        let begin = Instant::now();
                        wire.send(batch.iter().map(Vec::as_slice));
                        let took = begin.elapsed();
                        if number >= WARM {
                            turns.push(took / u32::try_from(BATCH).unwrap());
                        }
                    }
                }
            }
            let version = if v6 { 6 } else { 4 };
            println!(
                "IPv{version}, 60 octets, median and first quartile of batches of {BATCH} frames:"
            );
            let mut none = None;
            for ((name, _), turns) in cases.iter().zip(&mut turns) {
                turns.sort_unstable();
                let of = |at: usize| turns[at].as_secs_f64() * 1e9;
                let found = [of(turns.len() / 2), of(turns.len() / 4)];
                let none = none.get_or_insert(found);
                println!(
                    "  {name:<30} {:5.0} {:5.0} ns a frame, {:+4.0} {:+4.0}; ratio {:.3} {:.3}",
                    found[0],
                    found[1],
                    found[0] - none[0],
                    found[1] - none[1],
                    none[0] / found[0],
                    none[1] / found[1],
                );
            }
        }
        drop(hearing);
    });
}
