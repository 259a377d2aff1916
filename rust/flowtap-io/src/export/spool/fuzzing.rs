//! A way in for the fuzzer: any octets as a segment, and as what its blocks hold.

use std::fs;
use std::path::Path;

use super::disk::{Directory, Held};
use super::queue::Queue;
use super::segment::{
    KEY_OCTETS, Kind, SpoolKey, preamble, read_copies, read_destination, seal, write_copies,
    write_destination,
};

const KEY: [u8; KEY_OCTETS] = [1; KEY_OCTETS];
const NUMBER: u64 = 1;

/// Reads octets as a segment of an empty directory; where they are `authentic`, as the blocks of a segment that the key
/// opens: kind, length and content of one after the other. Whatever they are, each copy that is counted comes out or is
/// counted as lost.
///
/// # Panics
/// Where that is not so.
#[expect(clippy::unwrap_used, reason = "the fuzzer is to see what goes wrong")]
pub fn read_segment(directory: &Path, octets: &[u8], authentic: bool) {
    let mut file = octets.to_vec();
    if authentic {
        file = preamble(NUMBER, NUMBER).to_vec();
        let (mut rest, key) = (octets, SpoolKey::new(&KEY));
        let mut place = 0;
        while let Some((&[kind, length, copies, again], after)) = rest.split_first_chunk() {
            let (content, after) = after.split_at(usize::from(length).min(after.len()));
            rest = after;
            if let Some(copies) = read_copies(content) {
                assert_eq!(write_copies(copies.iter()).0.len(), content.len());
            }
            if let Some(destination) = read_destination(content) {
                let written = write_destination(&destination).unwrap();
                assert_eq!(read_destination(&written), Some(destination));
            }
            let kind = [Kind::Destination, Kind::Copies, Kind::End][usize::from(kind % 3)];
            let counts = (copies.into(), again.into());
            file.extend(
                seal(
                    &key,
                    (NUMBER, NUMBER),
                    place,
                    kind,
                    counts,
                    content.to_vec(),
                )
                .unwrap_or_default(),
            );
            place += 1;
        }
    }
    let path = directory.join(format!("{NUMBER:016x}-{NUMBER:016x}.spool"));
    let (opened, _) = Directory::open(directory, Some(&KEY)).unwrap();
    opened.leave();
    fs::write(&path, file).unwrap();
    let (opened, recovered) = Directory::open(directory, Some(&KEY)).unwrap();
    for (destination, segments) in recovered {
        let mut queue = Queue::on_disk(opened.clone(), destination, segments);
        let mut held = Held {
            unsent: queue.unsent(),
            octets: queue.octets(),
            ..Held::default()
        };
        while let Some(copy) = queue.pop() {
            held.subtract(Held {
                copies: 0,
                ..Held::of(&copy)
            });
        }
        for loss in queue.take_losses() {
            held.subtract(Held {
                copies: 0,
                ..loss.others
            });
        }
        assert_eq!(held, Held::default());
        assert!(queue.is_empty());
    }
    fs::remove_file(&path).unwrap_or_default();
}
