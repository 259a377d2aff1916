//! Segments on disk: what they hide, and what becomes of them when somebody changes them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use flowtap_core::table::SpoolKind;
use rustix::fs::{CWD, Mode, mkfifoat};

use super::{Folder, KEY, copy, destination, number, on_disk};
use crate::export::spool::disk::{Directory, Held};
use crate::export::spool::queue::Queue;
use crate::export::spool::segment::{
    Header, Kind, SpoolKey, preamble, read_copies, read_destination, seal, write_copies,
    write_destination,
};

const COPIES: u64 = 20;

/// A segment with a few blocks, as a run that ended leaves it; says how many copies are in each block.
fn left(folder: &Folder) -> Vec<u64> {
    let (directory, mut queue) = on_disk(folder, Some(&KEY));
    let mut blocks = Vec::new();
    for block in 0..5 {
        for at in 0..COPIES / 5 {
            queue.push(copy(block * (COPIES / 5) + at, 12));
        }
        queue.flush();
        blocks.push(COPIES / 5);
    }
    queue.finish("the end");
    directory.leave();
    blocks
}

/// What the next run finds: what it counts as found, what comes out, and what was lost.
fn found(folder: &Folder) -> (u64, Vec<u64>, u64, Vec<String>) {
    let (directory, mut recovered) = Directory::open(&folder.0, Some(&KEY)).unwrap();
    let Some((destination, segments)) = recovered.pop() else {
        return (0, Vec::new(), 0, directory.take_notices());
    };
    let mut queue = Queue::on_disk(directory.clone(), destination, segments);
    let waiting = queue.unsent();
    let mut numbers = Vec::new();
    while let Some(copy) = queue.pop() {
        numbers.push(number(&copy));
    }
    let lost = queue
        .take_losses()
        .iter()
        .map(|loss| loss.others.unsent)
        .sum();
    assert!(queue.is_empty());
    (waiting, numbers, lost, directory.take_notices())
}

fn is_in_order(numbers: &[u64]) -> bool {
    numbers.is_sorted_by(|one, next| one < next) && numbers.iter().all(|&each| each < COPIES)
}

fn only_file(folder: &Folder) -> std::path::PathBuf {
    let files = folder.files();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

#[test]
fn what_was_left_is_found_whole() {
    let folder = Folder::new();
    left(&folder);
    let (waiting, numbers, lost, notices) = found(&folder);
    assert_eq!((waiting, lost, notices), (COPIES, 0, Vec::new()));
    assert_eq!(numbers, (0..COPIES).collect::<Vec<_>>());
    assert_eq!(folder.files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn nothing_of_a_copy_is_on_disk_in_clear_and_nothing_twice() {
    let folder = Folder::new();
    let (_directory, mut queue) = on_disk(&folder, None);
    let secret = copy(1, 20);
    let nowhere = destination(9, SpoolKind::Disk, 0, Duration::ZERO);
    let mut clear = write_destination(&nowhere).unwrap();
    clear.extend_from_slice(&secret.octets);
    for _ in 0..500 {
        queue.push(copy(1, 400));
    }
    queue.flush();
    let mut seen = std::collections::HashSet::new();
    let mut octets = 0;
    for path in folder.files() {
        let written = fs::read(path).unwrap();
        octets += written.len();
        // Parts that are long enough not to be in any text sooner or later.
        for part in clear.windows(8) {
            assert!(!written.windows(part.len()).any(|window| window == part));
        }
        // Equal copies never look equal.
        for window in written.chunks_exact(16) {
            assert!(seen.insert(window.to_vec()));
        }
    }
    assert!(octets > 500 * 400);
}

#[test]
fn a_segment_that_is_cut_off_anywhere_gives_what_is_whole() {
    let whole = Folder::new();
    left(&whole);
    let octets = fs::read(only_file(&whole)).unwrap();
    for length in 0..octets.len() {
        let folder = Folder::new();
        folder.make();
        let path = folder.0.join(only_file(&whole).file_name().unwrap());
        fs::write(path, &octets[..length]).unwrap();
        let (waiting, numbers, lost, notices) = found(&folder);
        assert!(!notices.is_empty(), "{length}: nobody says it");
        assert_eq!(
            waiting,
            lost + u64::try_from(numbers.len()).unwrap(),
            "{length}"
        );
        assert_eq!(numbers, (0..waiting - lost).collect::<Vec<_>>(), "{length}");
        // No more than one block is neither whole nor absent.
        assert!(lost <= COPIES / 5, "{length}");
    }
}

#[test]
fn a_segment_that_is_changed_anywhere_gives_nothing_that_was_not_written() {
    let whole = Folder::new();
    left(&whole);
    let octets = fs::read(only_file(&whole)).unwrap();
    for at in 0..octets.len() {
        let folder = Folder::new();
        folder.make();
        let path = folder.0.join(only_file(&whole).file_name().unwrap());
        let mut changed = octets.clone();
        changed[at] ^= 0x10;
        fs::write(path, changed).unwrap();
        let (waiting, numbers, lost, notices) = found(&folder);
        assert!(!notices.is_empty(), "{at}: nobody says it");
        assert_eq!(
            waiting,
            lost + u64::try_from(numbers.len()).unwrap(),
            "{at}"
        );
        assert!(is_in_order(&numbers), "{at}: {numbers:?}");
        assert!(
            numbers.len() < usize::try_from(COPIES).unwrap() || lost == 0,
            "{at}"
        );
    }
}

/// The octets of each block of a file, and what is in front of them.
fn blocks(octets: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (preamble, mut rest) = octets.split_at(super::super::segment::PREAMBLE_OCTETS);
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let header = Header::parse(&rest[..13]).unwrap();
        let (block, after) = rest.split_at(13 + usize::try_from(header.length).unwrap());
        blocks.push(block.to_vec());
        rest = after;
    }
    (preamble.to_vec(), blocks)
}

#[test]
fn blocks_in_another_order_or_from_another_segment_are_none() {
    let one = Folder::new();
    left(&one);
    let other = Folder::new();
    left(&other);
    let read = |folder: &Folder| blocks(&fs::read(only_file(folder)).unwrap());
    let (preamble, mine) = read(&one);
    let (_, theirs) = read(&other);
    assert_eq!(mine.len(), 7);
    let write = |parts: &[&[u8]]| {
        let folder = Folder::new();
        folder.make();
        let path = folder.0.join(only_file(&one).file_name().unwrap());
        fs::write(path, [&preamble[..], &parts.concat()].concat()).unwrap();
        let (waiting, numbers, lost, notices) = found(&folder);
        assert!(!notices.is_empty());
        assert_eq!(waiting, lost + u64::try_from(numbers.len()).unwrap());
        assert!(is_in_order(&numbers));
        numbers
    };
    // The destination, five blocks with four copies each, and the end.
    let order = |places: &[usize]| {
        let parts: Vec<&[u8]> = places.iter().map(|&place| &mine[place][..]).collect();
        write(&parts)
    };
    assert_eq!(order(&[0, 2, 1, 3, 4, 5, 6]), (8..20).collect::<Vec<_>>());
    assert_eq!(order(&[0, 1, 3, 4, 5, 6]), [0, 1, 2, 3]);
    assert_eq!(order(&[0, 1, 1, 2, 3, 4, 5, 6]), [0, 1, 2, 3]);
    assert_eq!(order(&[0, 1, 2, 3, 4, 5]), (0..20).collect::<Vec<_>>());
    assert_eq!(order(&[1, 2, 3, 4, 5, 6]), Vec::<u64>::new());
    let foreign = write(&[
        &mine[0], &mine[1], &theirs[2], &mine[3], &mine[4], &mine[5], &mine[6],
    ]);
    assert_eq!(foreign, (0..4).chain(8..20).collect::<Vec<_>>());
}

#[test]
fn copies_that_were_not_sent_come_before_those_that_came_later_also_after_a_restart() {
    let folder = Folder::new();
    let (directory, mut queue) = on_disk(&folder, Some(&KEY));
    queue.set_room(1 << 18);
    for each in 0..300 {
        queue.push(copy(each, 900));
    }
    assert!(folder.files().len() >= 3);
    // Some are read, some of these sent, and the others put back, as when the way is closed.
    let read: Vec<_> = (0..100).map_while(|_| queue.pop()).collect();
    for each in read.into_iter().skip(40).rev() {
        queue.put_back(each);
    }
    queue.finish("the end");
    assert_eq!(queue.unsent(), 260);
    directory.leave();
    drop(queue);
    let (waiting, numbers, lost, notices) = found(&folder);
    assert_eq!((waiting, lost, notices), (260, 0, Vec::new()));
    assert_eq!(numbers, (40..300).collect::<Vec<_>>());
}

#[test]
fn what_a_killed_run_has_written_is_found() {
    let folder = Folder::new();
    let (directory, mut queue) = on_disk(&folder, Some(&KEY));
    for each in 0..100 {
        queue.push(copy(each, 900));
    }
    queue.flush();
    queue.push(copy(100, 900));
    // Nobody ends anything.
    directory.leave();
    let (waiting, numbers, lost, notices) = found(&folder);
    assert_eq!((waiting, lost), (100, 0));
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert!(notices[0].contains("no end"));
    drop(queue);
}

#[test]
fn files_that_vanish_are_counted_and_the_others_come() {
    let folder = Folder::new();
    let (directory, mut queue) = on_disk(&folder, None);
    queue.set_room(1 << 18);
    for each in 0..400 {
        queue.push(copy(each, 900));
    }
    queue.flush();
    let files = folder.files();
    assert!(files.len() >= 3);
    fs::remove_file(&files[1]).unwrap();
    let (mut count, mut last) = (0, None);
    while let Some(each) = queue.pop() {
        assert!(last < Some(number(&each)));
        last = Some(number(&each));
        count += 1;
    }
    let lost: Held = queue
        .take_losses()
        .iter()
        .fold(Held::default(), |mut sum, loss| {
            sum.add(loss.others);
            sum
        });
    assert!(lost.copies > 20);
    assert_eq!(count + lost.copies, 400);
    assert_eq!(last, Some(399));
    assert!(
        directory
            .take_notices()
            .iter()
            .all(|said| said.contains("lost"))
    );
}

#[test]
fn any_octets_are_copies_and_destinations_or_none() {
    let mut octets: Vec<u8> = (0..=255).collect();
    for round in 0..2_000_u32 {
        octets.rotate_left(7);
        let place = usize::try_from(round).unwrap() % octets.len();
        octets[place] = octets[place].wrapping_mul(31).wrapping_add(1);
        let part = &octets[..place];
        let _copies = read_copies(part).map(|copies| copies.len());
        let _destination = read_destination(part).is_some();
        let _header = Header::parse(part);
    }
}

#[test]
fn a_key_shows_itself_to_nobody() {
    let folder = Folder::new();
    let (directory, _) = Directory::open(&folder.0, Some(&KEY)).unwrap();
    let shown = format!("{directory:?}");
    assert!(
        shown.contains("SpoolKey") && !shown.contains("7, 7"),
        "{shown}"
    );
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    let folder = Folder::new();
    folder.make();
    std::os::unix::fs::symlink(Path::new("/etc/hostname"), folder.0.join("lock")).unwrap();
    assert!(Directory::open(&folder.0, None).is_err());
}

#[test]
fn the_order_of_segments_is_not_for_whoever_renames_files() {
    let folder = Folder::new();
    let (directory, mut queue) = on_disk(&folder, Some(&KEY));
    queue.set_room(1 << 17);
    for each in 0..100 {
        queue.push(copy(each, 900));
    }
    queue.finish("the end");
    directory.leave();
    let files = folder.files();
    assert!(files.len() >= 3);
    // Two change places, and one is there twice.
    let (first, last) = (&files[0], &files[files.len() - 1]);
    let aside = folder.0.join("aside");
    fs::rename(first, &aside).unwrap();
    fs::rename(last, first).unwrap();
    fs::rename(&aside, last).unwrap();
    let again = folder.0.join("ffffffff00000000-0000000000000000.spool");
    fs::copy(&files[1], again).unwrap();
    let (waiting, numbers, lost, notices) = found(&folder);
    assert_eq!((waiting, lost), (100, 0));
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("twice"), "{notices:?}");
    assert_eq!(folder.files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_authentic_block_with_another_count_than_it_holds_is_lost_as_a_whole() {
    let folder = Folder::new();
    folder.make();
    let (number, place) = (5, 0);
    let key = SpoolKey::new(&KEY);
    let destination = write_destination(&destination(9, SpoolKind::Disk, 0, Duration::ZERO));
    let copies: Vec<_> = (0..4).map(|each| copy(each, 20)).collect();
    let (content, _) = write_copies(copies.iter());
    let mut octets = preamble(number, number).to_vec();
    let blocks = [
        (Kind::Destination, (0, 0), destination.unwrap()),
        (Kind::Copies, (3, 0), content.clone()),
        (Kind::Copies, (4, 1), content.clone()),
        (Kind::Copies, (4, 0), content),
        (Kind::End, (0, 0), Vec::new()),
    ];
    for ((kind, counts, content), place) in blocks.into_iter().zip(place..) {
        octets.extend(seal(&key, (number, number), place, kind, counts, content).unwrap());
    }
    fs::write(folder.0.join("0-5.spool"), octets).unwrap();
    let (waiting, numbers, lost, notices) = found(&folder);
    // Three, and three that were not sent before, and four.
    assert_eq!((waiting, lost), (10, 6));
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(notices.len(), 2);
}

#[test]
fn what_is_no_file_holds_nobody_up() {
    let folder = Folder::new();
    folder.make();
    let pipe = |name: &str| {
        // A program would hold the locks of tests beside this one for a moment.
        mkfifoat(CWD, folder.0.join(name), Mode::RWXU).unwrap();
    };
    let opened = |path: std::path::PathBuf| {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let opened = Directory::open(&path, Some(&KEY));
            done.send(opened.map(|(directory, _)| directory.take_notices()))
        });
        is_done.recv_timeout(Duration::from_secs(5)).unwrap()
    };
    pipe("0000000000000001-0000000000000001.spool");
    assert!(opened(folder.0.clone()).unwrap()[0].contains("stays as it is"));
    fs::remove_file(folder.0.join("lock")).unwrap();
    pipe("lock");
    assert!(opened(folder.0.clone()).is_err());
}

#[test]
fn the_directory_of_another_user_is_none() {
    let folder = Folder::new();
    folder.make();
    if std::os::unix::fs::chown(&folder.0, Some(1), None).is_err() {
        // Only root gives away what is his.
        return;
    }
    let error = Directory::open(&folder.0, Some(&KEY)).unwrap_err();
    assert!(error.to_string().contains("another user"), "{error}");
    assert_eq!(folder.files(), Vec::<std::path::PathBuf>::new());
}
