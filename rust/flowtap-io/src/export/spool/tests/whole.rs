//! An exporter with gates, over loopback: what leaves, in which order, and how it is accounted for.

use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::engine::{Engine, EngineOptions, Framing};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::table::{Destination, Entry, FilterTable, SpoolKind};
use proptest::prelude::*;
use socket2::SockRef;

use super::{Folder, KEY, destination};
use crate::export::DRAIN_PPS;
use crate::export::spool::{HELD_OCTETS, ORPHANS_MAX};
use crate::export::sys::set_option;
use crate::export::{ExportCount, ExportOptions, Exporter, Gate, Spools};

const PACKET_OCTETS: usize = 40;
/// What one copy takes in a spool.
const TAKES: u64 = 40 + HELD_OCTETS;
const LONG: Duration = Duration::from_secs(3_600);

/// A packet with a number, from one of several subjects.
fn packet(subject: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend([192, 0, 2, subject, 198, 51, 100, 1]);
    packet.extend([0x9c, 0x40, 0, 53, 0, 20, 0, 0]);
    packet.extend(number.to_be_bytes());
    packet.extend([subject; 8]);
    packet
}

/// Everything is delivered to all destinations.
pub(super) fn table(destinations: Vec<Destination>) -> Arc<FilterTable> {
    let everything = Criteria::parse(&CriteriaText {
        protocol: Some("17"),
        ..CriteriaText::default()
    });
    let entry = Entry {
        destinations: (0..).take(destinations.len()).collect(),
        ..Entry::new(7, everything.unwrap())
    };
    Arc::new(FilterTable::compile(vec![entry], destinations).unwrap())
}

/// Where numbers are not all of a range in their order.
pub(super) fn first_wrong(numbers: &[u32], range: Range<u32>) -> Option<(usize, Option<u32>)> {
    let all = numbers.iter().copied().eq(range.clone());
    let wrong = numbers
        .iter()
        .copied()
        .zip(range)
        .position(|(one, other)| one != other);
    let at = wrong.unwrap_or(numbers.len());
    (!all).then(|| (at, numbers.get(at).copied()))
}

struct Scene {
    receiver: UdpSocket,
    gate: Arc<Gate>,
    spools: Arc<Spools>,
    worker: Worker,
}

/// What a worker of a tap has.
pub(super) struct Worker {
    engine: Engine,
    pub(super) exporter: Exporter,
    next: u32,
    subject: u8,
}

impl Worker {
    fn new(table: &Arc<FilterTable>, spools: &Arc<Spools>, subject: u8) -> Self {
        let export = ExportOptions {
            spools: Some(Arc::clone(spools)),
            ..ExportOptions::default()
        };
        Self::with(table, export, subject)
    }

    pub(super) fn with(table: &Arc<FilterTable>, export: ExportOptions, subject: u8) -> Self {
        let options = EngineOptions {
            framing: Framing::Payload,
            ..EngineOptions::default()
        };
        Self {
            engine: Engine::new(Arc::clone(table), options),
            exporter: Exporter::new(Arc::clone(table), export),
            next: 0,
            subject,
        }
    }

    pub(super) fn copy(&mut self, count: u32) {
        let mut batch = CopyBatch::new();
        for _ in 0..count {
            let data = packet(self.subject, self.next);
            self.next += 1;
            let frame = Frame {
                data: &data,
                link_type: LinkType::Ipv4,
                timestamp_ns: 0,
                original_length_octets: 40,
                interface: 0,
                direction: Direction::Inbound,
            };
            self.engine.process(&frame, 0, &mut batch, &mut ());
        }
        self.exporter.send(&batch);
    }

    fn install(&mut self, table: &Arc<FilterTable>) {
        self.exporter.install(Arc::clone(table));
        self.engine.install(Arc::clone(table));
    }
}

impl Scene {
    fn new(spool: SpoolKind, octets: u64, resend: Duration) -> Self {
        Self::with(Spools::new, spool, octets, resend)
    }

    fn with(
        make: impl FnOnce(
            Vec<Arc<Gate>>,
            Option<&std::path::Path>,
            Option<&[u8; 32]>,
        ) -> Result<Spools, crate::export::SpoolError>,
        spool: SpoolKind,
        octets: u64,
        resend: Duration,
    ) -> Self {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_nonblocking(true).unwrap();
        // Room for what a worker may send at once; without the right for that, as much as there is.
        let socket = SockRef::from(&receiver);
        if set_option(
            socket.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            8 << 20,
        )
        .is_err()
        {
            socket.set_recv_buffer_size(8 << 20).unwrap();
        }
        let port = receiver.local_addr().unwrap().port();
        let gate = Arc::new(Gate::new("ttp"));
        let spools = Arc::new(make(vec![Arc::clone(&gate)], None, None).unwrap());
        let table = table(vec![destination(port, spool, octets, resend)]);
        let worker = Worker::new(&table, &spools, 1);
        Self {
            receiver,
            gate,
            spools,
            worker,
        }
    }

    fn port(&self) -> u16 {
        self.receiver.local_addr().unwrap().port()
    }

    /// Who was heard since this was asked for last: subject and number.
    fn heard(&self) -> Vec<(u8, u32)> {
        let mut heard = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(length) = self.receiver.recv(&mut buffer) {
            assert_eq!(length, PACKET_OCTETS);
            let number = u32::from_be_bytes(buffer[28..32].try_into().unwrap());
            heard.push((buffer[15], number));
        }
        heard
    }

    fn numbers(&self) -> Vec<u32> {
        self.heard().into_iter().map(|(_, number)| number).collect()
    }

    fn count(&self) -> ExportCount {
        let mut counts = ExportCount::merged(self.spools.counts().into_iter());
        assert_eq!(counts.len(), 1);
        counts.remove(0)
    }

    /// Drains until nothing waits, and returns the numbers that came meanwhile.
    fn drained(&mut self) -> Vec<u32> {
        let began = Instant::now();
        let mut numbers = self.numbers();
        loop {
            self.worker.exporter.tend();
            numbers.extend(self.numbers());
            if !self.spools.is_draining() {
                return numbers;
            }
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Copy(u32),
    Open,
    Shut,
    Lose,
    Tend,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u32..120).prop_map(Step::Copy),
        2 => Just(Step::Open),
        1 => Just(Step::Shut),
        1 => Just(Step::Lose),
        2 => Just(Step::Tend),
    ];
    proptest::collection::vec(step, 0..30)
}

proptest! {
    /// Whatever happens, nothing leaves while the gate is shut, every copy is in one account at every moment, and in the
    /// end each has arrived in its turn: once, or again after a loss.
    #[test]
    fn copies_leave_through_an_open_gate_in_order(steps in steps(), again: bool) {
        let resend = if again { LONG } else { Duration::ZERO };
        let mut scene = Scene::new(SpoolKind::Memory, 1 << 30, resend);
        let mut heard: Vec<u32> = Vec::new();
        for step in steps {
            match step {
                Step::Copy(count) => scene.worker.copy(count),
                Step::Open => scene.gate.open(),
                Step::Shut => scene.gate.shut(Duration::ZERO),
                Step::Lose => scene.gate.shut(LONG),
                Step::Tend => scene.worker.exporter.tend(),
            }
            let new = scene.numbers();
            prop_assert!(new.is_empty() || scene.gate.is_open());
            heard.extend(new);
            let count = scene.count();
            let copied = u64::from(scene.worker.next);
            prop_assert_eq!(copied, count.exported + count.in_spool + count.dropped);
            let arrived = u64::try_from(heard.len()).unwrap();
            prop_assert_eq!(arrived, count.exported + count.resent);
            prop_assert!(count.exported_in_doubt <= count.exported);
        }
        scene.gate.open();
        heard.extend(scene.drained());
        let count = scene.count();
        prop_assert_eq!((count.in_spool, count.dropped), (0, 0));
        prop_assert_eq!(count.exported, u64::from(scene.worker.next));
        let mut first: Vec<u32> = Vec::new();
        for &number in &heard {
            if first.last().is_none_or(|&last| number > last) {
                first.push(number);
            }
        }
        prop_assert_eq!(first_wrong(&first, 0..scene.worker.next), None);
        if again {
            prop_assert_eq!(count.exported_in_doubt, 0);
        } else {
            prop_assert_eq!(heard.len(), usize::try_from(scene.worker.next).unwrap());
        }
    }
}

#[test]
fn a_full_spool_drops_what_waited_longest_and_names_whose_it_was() {
    let mut scene = Scene::new(SpoolKind::Memory, 10 * TAKES, Duration::ZERO);
    scene.worker.copy(25);
    let count = scene.count();
    assert_eq!((count.in_spool, count.dropped), (10, 15));
    assert_eq!(count.lost.iter().collect::<Vec<_>>(), [(7, 15, 15 * 40)]);
    assert!(count.last_error.unwrap().contains("full"));
    scene.gate.open();
    assert_eq!(first_wrong(&scene.drained(), 15..25), None);
}

#[test]
fn what_is_kept_makes_room_before_what_waits() {
    let mut scene = Scene::new(SpoolKind::Memory, 10 * TAKES, LONG);
    scene.gate.open();
    scene.worker.copy(6);
    assert_eq!(scene.drained(), [0, 1, 2, 3, 4, 5]);
    scene.gate.shut(Duration::ZERO);
    scene.worker.copy(7);
    // Three of the six are still kept; the others would be in doubt.
    let count = scene.count();
    assert_eq!((count.in_spool, count.dropped), (7, 0));
    scene.gate.open();
    scene.gate.shut(LONG);
    let count = scene.count();
    assert_eq!((count.in_spool, count.exported_in_doubt), (7, 3));
    // Of those that wait the oldest go, and these were exported: nobody counts them as dropped.
    scene.worker.copy(2);
    let count = scene.count();
    assert_eq!(
        (count.in_spool, count.dropped, count.exported_in_doubt),
        (9, 0, 5)
    );
    scene.gate.open();
    assert_eq!(
        scene.drained(),
        [&[5][..], &(6..15).collect::<Vec<_>>()].concat()
    );
    let count = scene.count();
    assert_eq!((count.exported, count.resent, count.in_spool), (15, 1, 0));
}

#[test]
fn what_was_sent_within_the_doubt_is_counted() {
    let mut scene = Scene::new(SpoolKind::Memory, 1 << 20, Duration::ZERO);
    scene.gate.open();
    let mut sent = Vec::new();
    for _ in 0..30 {
        let before = Instant::now();
        scene.worker.copy(5);
        sent.push(before);
        std::thread::sleep(Duration::from_millis(10));
    }
    let now = Instant::now();
    let doubt = Duration::from_millis(120);
    scene.gate.shut(doubt);
    let since = now.checked_sub(doubt).unwrap();
    let within = sent.iter().filter(|&&each| each >= since).count() * 5;
    let in_doubt = usize::try_from(scene.count().exported_in_doubt).unwrap();
    assert!(in_doubt >= within, "{in_doubt} of {within}");
    // Rounded by a slot at most.
    let slot = Duration::from_millis(100);
    let around = sent.iter().filter(|&&each| each + slot >= since).count() * 5;
    assert!(in_doubt <= around + 5, "{in_doubt} of {around}");
    assert!(in_doubt < 150);
}

#[test]
fn a_backlog_leaves_at_a_bounded_rate() {
    let mut scene = Scene::new(SpoolKind::Memory, 1 << 20, Duration::ZERO);
    scene.worker.copy(2_000);
    std::thread::sleep(Duration::from_millis(50));
    scene.gate.open();
    let began = Instant::now();
    scene.worker.exporter.tend();
    let rate = u64::from(DRAIN_PPS.get());
    // What 20 ms are for, however long nobody has looked.
    let burst = rate / 50;
    let at_once = u64::try_from(scene.numbers().len()).unwrap();
    assert!((1..=burst).contains(&at_once), "{at_once}");
    assert_eq!(
        scene.worker.exporter.wait(LONG),
        Duration::from_millis(5),
        "so that pieces stay small"
    );
    scene.drained();
    assert_eq!(scene.count().exported, 2_000);
    let least = Duration::from_millis((2_000 - 2 * burst) * 1_000 / rate);
    assert!(began.elapsed() >= least);
    assert_eq!(scene.worker.exporter.wait(LONG), LONG);
}

#[test]
fn when_a_gate_is_shut_the_last_copy_has_left() {
    let scene = Scene::new(SpoolKind::None, 0, Duration::ZERO);
    let Scene {
        gate,
        mut worker,
        receiver,
        ..
    } = scene;
    let stop = Arc::new(AtomicBool::new(false));
    let in_thread = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        while !in_thread.load(Ordering::Relaxed) {
            worker.copy(50);
        }
    });
    let mut buffer = [0; 100];
    let mut heard = 0;
    for _ in 0..200 {
        gate.open();
        std::thread::sleep(Duration::from_micros(300));
        gate.shut(Duration::ZERO);
        while receiver.recv(&mut buffer).is_ok() {
            heard += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
        assert!(receiver.recv(&mut buffer).is_err());
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    assert!(heard > 100, "{heard}");
}

#[test]
fn workers_share_a_spool_and_each_keeps_its_order() {
    let mut scene = Scene::new(SpoolKind::Memory, 1 << 30, Duration::ZERO);
    let table = table(vec![destination(
        scene.port(),
        SpoolKind::Memory,
        1 << 30,
        Duration::ZERO,
    )]);
    let copied = 4_000;
    let threads: Vec<_> = (2..5)
        .map(|subject| {
            let mut worker = Worker::new(&table, &scene.spools, subject);
            std::thread::spawn(move || {
                while worker.next < copied {
                    worker.copy(20);
                    worker.exporter.tend();
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        })
        .collect();
    let mut heard = Vec::new();
    while threads.iter().any(|thread| !thread.is_finished()) {
        scene.gate.open();
        heard.extend(scene.heard());
        scene.gate.shut(Duration::ZERO);
        heard.extend(scene.heard());
    }
    for thread in threads {
        thread.join().unwrap();
    }
    scene.gate.open();
    let began = Instant::now();
    while scene.spools.is_draining() && began.elapsed() < Duration::from_secs(20) {
        scene.worker.exporter.tend();
        heard.extend(scene.heard());
    }
    heard.extend(scene.heard());
    for subject in 2..5 {
        let mine = heard.iter().filter(|(from, _)| *from == subject);
        let numbers: Vec<u32> = mine.map(|&(_, number)| number).collect();
        assert_eq!(first_wrong(&numbers, 0..copied), None);
    }
}

#[test]
fn too_many_destinations_that_left_are_given_up_and_counted() {
    let mut scene = Scene::new(SpoolKind::Memory, 1 << 20, Duration::ZERO);
    let many = ORPHANS_MAX + 100;
    let one = destination(scene.port(), SpoolKind::Memory, 1 << 20, Duration::ZERO);
    let destinations = (0..many).map(|number| Destination {
        id: format!("cd{number}"),
        ..one.clone()
    });
    scene.worker.install(&table(destinations.collect()));
    scene.worker.copy(1);
    scene.worker.install(&table(Vec::new()));
    let mut all = (0, 0, 0);
    for count in scene.spools.counts() {
        all = (
            all.0 + count.exported,
            all.1 + usize::try_from(count.in_spool).unwrap(),
            all.2 + usize::try_from(count.dropped).unwrap(),
        );
    }
    // That of the scene itself, where nothing waits, went first.
    assert_eq!(all, (0, ORPHANS_MAX, 100));
    // Nobody goes on holding what was given up, however long the gate stays shut.
    let way = &scene.spools.ways["ttp"];
    assert_eq!(way.waiting.load(Ordering::Relaxed), ORPHANS_MAX);
    let listed = way.arrivals.lock().unwrap().len() + way.round.lock().unwrap().spools.len();
    assert_eq!(listed, ORPHANS_MAX);
    scene.gate.open();
    scene.drained();
    let counts = scene.spools.counts();
    let exported: u64 = counts.iter().map(|count| count.exported).sum();
    assert_eq!(exported, u64::try_from(ORPHANS_MAX).unwrap());
}

#[test]
fn a_spool_on_disk_takes_more_than_memory_would_and_gives_it_back_in_order() {
    let folder = Folder::new();
    let make = |gates, _: Option<&std::path::Path>, _: Option<&[u8; 32]>| {
        Spools::new(gates, Some(&folder.0), Some(&KEY))
    };
    let mut scene = Scene::with(make, SpoolKind::Disk, 1 << 20, Duration::ZERO);
    scene.worker.copy(5_000);
    assert!(!folder.files().is_empty());
    let count = scene.count();
    assert_eq!((count.in_spool, count.dropped), (5_000, 0));
    scene.worker.copy(10_000);
    let count = scene.count();
    assert_eq!(count.in_spool + count.dropped, 15_000);
    let kept = u32::try_from(count.in_spool).unwrap();
    assert_eq!(u64::from(kept), (1 << 20) / TAKES);
    scene.gate.open();
    scene.worker.copy(10);
    let heard = scene.drained();
    // The last ten made the first ten go.
    assert_eq!(first_wrong(&heard, 15_010 - kept..15_010), None);
    let count = scene.count();
    assert_eq!((count.in_spool, count.exported), (0, u64::from(kept)));
    // Of what has left nothing stays but the last file, until the next is read.
    assert!(folder.files().len() <= 1);
}
