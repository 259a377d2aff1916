//! The queue against a plain list, what is sent again or in doubt, and the spools of a tap over loopback.

mod segments;
mod ways;
mod whole;

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowtap_core::table::{Destination, Protection, SpoolKind};
use proptest::prelude::*;

use super::HeldCopy;
use super::disk::{Directory, Held};
use super::queue::{Loss, Queue};
use super::segment::KEY_OCTETS;
use super::sent::{Kept, SentCounts};

pub(super) const KEY: [u8; KEY_OCTETS] = [7; KEY_OCTETS];

/// A directory that is gone with the test.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowtap-spool-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Makes it, as a spool would.
    pub(super) fn make(&self) {
        fs::DirBuilder::new().mode(0o700).create(&self.0).unwrap();
    }

    /// The files of segments, in order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = paths.filter(|path| !path.ends_with("lock")).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

pub(super) fn destination(
    port: u16,
    spool: SpoolKind,
    octets: u64,
    resend: Duration,
) -> Destination {
    Destination {
        id: "cd1".to_owned(),
        address: "127.0.0.1".parse().unwrap(),
        port,
        source_address: "127.0.0.1".parse().unwrap(),
        source_port: 0,
        ttl: 64,
        refuse_oversize: false,
        export: true,
        protection: Some(Arc::new(Protection {
            tunnel: "ttp".to_owned(),
            spool,
            spool_octets: octets,
            resend,
        })),
    }
}

pub(super) fn copy(number: u64, length: usize) -> HeldCopy {
    let mut octets = number.to_le_bytes().to_vec();
    octets.resize(length.max(8), b'.');
    HeldCopy::new(number % 3, &octets)
}

pub(super) fn number(copy: &HeldCopy) -> u64 {
    u64::from_le_bytes(copy.octets[..8].try_into().unwrap())
}

pub(super) fn on_disk(folder: &Folder, key: Option<&[u8; KEY_OCTETS]>) -> (Arc<Directory>, Queue) {
    let (directory, mut recovered) = Directory::open(&folder.0, key).unwrap();
    let wanted = destination(9, SpoolKind::Disk, 0, Duration::ZERO);
    assert!(recovered.len() <= 1);
    let segments = recovered
        .pop()
        .map_or_else(VecDeque::new, |(found, segments)| {
            assert_eq!(found, wanted);
            segments
        });
    let queue = Queue::on_disk(Arc::clone(&directory), wanted, segments);
    (directory, queue)
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, bool),
    Pop(usize),
    PutBack(usize, bool),
    Flush,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8_usize..200, 1_000_usize..3_000];
    let step = prop_oneof![
        8 => (length.clone(), any::<bool>()).prop_map(|(length, sent)| Step::Push(length, sent)),
        4 => (0_usize..20).prop_map(Step::Pop),
        2 => (length, any::<bool>()).prop_map(|(length, sent)| Step::PutBack(length, sent)),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..100)
}

fn held(copies: &VecDeque<(u64, usize, bool)>) -> Held {
    let mut all = Held::default();
    for &(number, length, was_sent) in copies {
        all.add(Held::of(&HeldCopy {
            was_sent,
            ..copy(number, length)
        }));
    }
    all
}

proptest! {
    /// A queue, in memory or on disk, is a list: whatever was done, the same copies come out in the same order, and what
    /// it says of them is true. A restart changes nothing.
    #[test]
    fn a_queue_is_a_list(steps in steps(), is_on_disk: bool, small: bool) {
        let folder = Folder::new();
        let mut place = None;
        let mut queue = Queue::default();
        if is_on_disk {
            let (directory, made) = on_disk(&folder, Some(&KEY));
            (place, queue) = (Some(directory), made);
        }
        let mut model: VecDeque<(u64, usize, bool)> = VecDeque::new();
        let room = if small { 1 << 16 } else { 1 << 30 };
        queue.set_room(room);
        for (step, number) in steps.into_iter().zip(0..) {
            match step {
                Step::Push(length, was_sent) => {
                    queue.push(HeldCopy { was_sent, ..copy(number, length) });
                    model.push_back((number, length, was_sent));
                }
                Step::PutBack(length, was_sent) => {
                    queue.put_back(HeldCopy { was_sent, ..copy(number, length) });
                    model.push_front((number, length, was_sent));
                }
                Step::Pop(count) => for _ in 0..count {
                    let popped = queue.pop();
                    let popped = popped.map(|each| {
                        assert_eq!(each.criteria_id, super::tests::number(&each) % 3);
                        (super::tests::number(&each), each.octets.len(), each.was_sent)
                    });
                    prop_assert_eq!(popped, model.pop_front());
                },
                Step::Flush => queue.flush(),
                Step::Restart => if let Some(directory) = place.take() {
                    let left = queue.finish("the end");
                    prop_assert!(left.copies.is_empty() && left.others == Held::default());
                    prop_assert_eq!(queue.unsent(), held(&model).unsent);
                    directory.leave();
                    let (directory, made) = on_disk(&folder, Some(&KEY));
                    prop_assert_eq!(directory.take_notices(), Vec::<String>::new());
                    (place, queue) = (Some(directory), made);
                    queue.set_room(room);
                },
            }
            let held = held(&model);
            prop_assert_eq!(queue.octets(), held.octets);
            prop_assert_eq!(queue.unsent(), held.unsent);
            prop_assert_eq!(queue.is_empty(), model.is_empty());
        }
        prop_assert!(queue.take_losses().is_empty());
        let (expected, count) = (held(&model), u64::try_from(model.len()).unwrap());
        let Loss { copies, others, .. } = queue.abandon("the end");
        let mut all = others;
        for each in &copies {
            all.add(Held::of(each));
        }
        prop_assert_eq!(all, expected);
        prop_assert_eq!(all.copies, count);
        if is_on_disk {
            prop_assert_eq!(folder.files(), Vec::<PathBuf>::new());
        }
    }

    /// What is taken out is never less than what was sent since, and nothing is taken twice.
    #[test]
    fn what_is_in_doubt_is_never_counted_too_low(
        sends in proptest::collection::vec((0_u64..30_000, 1_u64..50), 0..800),
        asks in proptest::collection::vec(0_u64..9_000_000, 0..4),
    ) {
        let began = Instant::now();
        let mut counts = SentCounts::default();
        let mut model: Vec<(Instant, u64)> = Vec::new();
        let mut now = began;
        for (pause_ms, count) in sends {
            now += Duration::from_millis(pause_ms);
            counts.add(now, count);
            model.push((now, count));
        }
        prop_assert_eq!(counts.last(), model.last().map(|&(sent, _)| sent));
        for ago_ms in asks {
            let since = now.checked_sub(Duration::from_millis(ago_ms)).unwrap_or(began).max(began);
            match counts.take_since(since) {
                None => prop_assert!(model.iter().all(|&(sent, _)| sent < since)),
                Some((count, from)) => {
                    // Exactly what was sent since the moment that it names, which is not later than the one asked for.
                    let taken: u64 = model.iter().filter(|&&(sent, _)| sent >= from).map(|&(_, count)| count).sum();
                    prop_assert_eq!(count, taken);
                    model.retain(|&(sent, _)| sent < from);
                    prop_assert!(model.iter().all(|&(sent, _)| sent < since));
                }
            }
        }
    }
}

#[test]
fn a_slot_is_rounded_by_no_more_than_its_length() {
    let began = Instant::now();
    let mut counts = SentCounts::default();
    for step in 0..50 {
        counts.add(began + Duration::from_millis(step * 10), 1);
    }
    let since = began + Duration::from_millis(350);
    let (count, from) = counts.take_since(since).unwrap();
    assert!((15..=25).contains(&count), "{count}");
    assert!(since - from < Duration::from_millis(100));
}

#[test]
fn memory_of_what_was_sent_is_bounded_and_forgets_nothing() {
    let began = Instant::now();
    let mut counts = SentCounts::default();
    for step in 0..100_000 {
        counts.add(began + Duration::from_secs(step), 2);
    }
    assert!(format!("{counts:?}").matches("Slot").count() < 1_000);
    assert_eq!(counts.take_since(began), Some((200_000, began)));
    assert_eq!(counts.take_since(began), None);
}

#[test]
fn kept_copies_go_when_their_time_is_over_and_come_back_last_first() {
    let began = Instant::now();
    let at = |second| began + Duration::from_secs(second);
    let mut kept = Kept::default();
    for second in 0..10 {
        kept.push(at(second), copy(second, 20));
    }
    assert_eq!(kept.octets(), 10 * copy(0, 20).octets());
    kept.forget_before(at(2));
    assert!(kept.forget_oldest());
    let taken: Vec<u64> = kept.take_since(at(7)).map(|each| number(&each)).collect();
    assert_eq!(taken, [9, 8, 7]);
    assert_eq!(kept.octets(), 4 * copy(0, 20).octets());
    assert_eq!(kept.take_since(at(0)).count(), 4);
    assert!(kept.is_empty() && kept.octets() == 0 && !kept.forget_oldest());
}
