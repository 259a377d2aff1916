//! What criteria have used, in a file that outlives the process.
//!
//! The file is mapped, so that a process that is killed at any moment leaves the truth behind: criteria with a budget or
//! an idle time count in the file itself, before their copies are sent; what the others have counted is written from
//! time to time. Nothing is synchronised to the disk: after a crash of the machine the file belongs to another boot,
//! and nobody trusts its budgets.
//!
//! A header of 64 octets (`FLTPUSE1`, boot id, flags, octets of a record, wall and monotonic time), then one record for
//! each criterion: its id (0 for a free record), packets, octets, last match on the monotonic clock. All numbers are
//! little-endian.

mod sys;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flowtap_core::table::{Used, UsedPlace};

use sys::Map;

const MAGIC: &[u8; 8] = b"FLTPUSE1";
const HEADER_WORDS: usize = 8;
const RECORD_WORDS: usize = 4;
const RECORD_OCTETS: u64 = 32;
/// The run has ended in order: nothing was copied since.
const FINAL: u64 = 1;
const FLAGS_WORD: usize = 3;
const WALL_WORD: usize = 4;
const MONOTONIC_WORD: usize = 5;
/// Records that are made room for at once.
const RECORDS_AT_ONCE: usize = 4_096;
/// The most criteria that a file has room for.
const MAXIMUM_RECORDS: usize = 1 << 20;
/// How long a record stays when its criterion is gone: its end is in the journal long before.
const KEPT_NS: u64 = 60_000_000_000;

/// The counts of one criterion, in the file.
#[derive(Debug)]
pub struct Record {
    map: Arc<Map>,
    word: usize,
    /// Stands in where the mapping could not be looked at, which it always can.
    fallback: Used,
}

impl UsedPlace for Record {
    fn used(&self) -> &Used {
        self.map.used(self.word + 1).unwrap_or(&self.fallback)
    }
}

/// What is known of a criterion's record.
#[derive(Debug)]
struct Known {
    index: usize,
    /// What earlier runs have counted.
    packets: u64,
    octets: u64,
    /// There while somebody counts in the file itself.
    live: Weak<Record>,
    /// When the criterion was seen last.
    seen_ns: u64,
}

#[derive(Debug, Default)]
struct Records {
    by_id: HashMap<u64, Known>,
    free: Vec<usize>,
    /// Records that there is room for.
    room: usize,
    /// Records that have been used.
    end: usize,
    is_published: bool,
}

/// The file.
#[derive(Debug)]
pub struct UsageFile {
    path: PathBuf,
    written: PathBuf,
    file: File,
    map: Arc<Map>,
    records: Mutex<Records>,
}

impl UsageFile {
    /// Makes the file that will be at `path`. What is there stays until [`UsageFile::publish`].
    ///
    /// # Errors
    /// The system cannot make it.
    pub fn create(path: &Path, boot_id: [u8; 16]) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let written = path.with_file_name(name);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&written)?;
        let mut header = Vec::with_capacity(64);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&boot_id);
        header.extend_from_slice(&(RECORD_OCTETS << 32).to_le_bytes());
        header.resize(HEADER_WORDS * 8, 0);
        file.write_all(&header)?;
        let map = Map::new(&file, (HEADER_WORDS + MAXIMUM_RECORDS * RECORD_WORDS) * 8)?;
        Ok(Self {
            path: path.to_owned(),
            written,
            file,
            map: Arc::new(map),
            records: Mutex::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a criterion, with what it has used so far. It counts in the file while the record is held; when
    /// nobody holds it, [`UsageFile::write`] brings its counts.
    ///
    /// # Errors
    /// The disk is full, or there are too many criteria.
    pub fn reserve(
        &self,
        id: u64,
        packets: u64,
        octets: u64,
        last_match_ns: Option<u64>,
        now_ns: u64,
    ) -> io::Result<Arc<Record>> {
        let mut records = self.lock();
        if let Some(known) = records.by_id.get_mut(&id) {
            known.seen_ns = now_ns;
            if let Some(record) = known.live.upgrade() {
                return Ok(record);
            }
            let record = self.record(known.index);
            record.used().raise(packets, octets, last_match_ns);
            known.live = Arc::downgrade(&record);
            return Ok(record);
        }
        let index = match records.free.pop() {
            Some(index) => index,
            None => self.next(&mut records)?,
        };
        let record = self.record(index);
        record.used().raise(packets, octets, last_match_ns);
        // Whoever sees the id sees its counts.
        if let Some(word) = self.map.word(record.word) {
            word.store(id, Ordering::Release);
        }
        let known = Known {
            index,
            packets,
            octets,
            live: Arc::downgrade(&record),
            seen_ns: now_ns,
        };
        records.by_id.insert(id, known);
        Ok(record)
    }

    fn record(&self, index: usize) -> Arc<Record> {
        Arc::new(Record {
            map: Arc::clone(&self.map),
            word: HEADER_WORDS + index * RECORD_WORDS,
            fallback: Used::default(),
        })
    }

    /// A record that was never used; the file grows where there is none.
    fn next(&self, records: &mut Records) -> io::Result<usize> {
        if records.end == records.room {
            if records.room >= MAXIMUM_RECORDS {
                return Err(io::Error::other(format!(
                    "the usage file has room for {MAXIMUM_RECORDS} criteria"
                )));
            }
            let octets = |count: usize| u64::try_from(count * RECORD_WORDS * 8).unwrap_or(u64::MAX);
            let header = u64::try_from(HEADER_WORDS * 8).unwrap_or(u64::MAX);
            sys::allocate(
                &self.file,
                header.saturating_add(octets(records.room)),
                octets(RECORDS_AT_ONCE),
            )?;
            records.room += RECORDS_AT_ONCE;
        }
        let index = records.end;
        records.end += 1;
        Ok(index)
    }

    /// Puts the file in the place of that of an earlier run, once: when it has the counts of all that goes on.
    ///
    /// # Errors
    /// The system cannot.
    pub fn publish(&self) -> io::Result<()> {
        let mut records = self.lock();
        if !records.is_published {
            std::fs::rename(&self.written, &self.path)?;
            records.is_published = true;
        }
        Ok(())
    }

    /// Writes what this run has counted for those criteria that do not count in the file itself (id, packets, octets,
    /// last match), and a sign of life. Records of criteria that are not named any more become free after a minute.
    pub fn write(
        &self,
        counts: impl Iterator<Item = (u64, u64, u64, Option<u64>)>,
        wall_ns: u64,
        monotonic_ns: u64,
    ) {
        let mut records = self.lock();
        let Records { by_id, free, .. } = &mut *records;
        for (id, packets, octets, last_match_ns) in counts {
            let Some(known) = by_id.get_mut(&id) else {
                continue;
            };
            known.seen_ns = monotonic_ns;
            if known.live.strong_count() > 0 {
                continue;
            }
            if let Some(used) = self.used(known.index) {
                used.raise(
                    known.packets.saturating_add(packets),
                    known.octets.saturating_add(octets),
                    last_match_ns,
                );
            }
        }
        by_id.retain(|_, known| {
            let is_kept = known.live.strong_count() > 0
                || monotonic_ns.saturating_sub(known.seen_ns) < KEPT_NS;
            if !is_kept {
                self.clear(known.index);
                free.push(known.index);
            }
            is_kept
        });
        for (word, value) in [(WALL_WORD, wall_ns), (MONOTONIC_WORD, monotonic_ns)] {
            if let Some(word) = self.map.word(word) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }

    fn used(&self, index: usize) -> Option<&Used> {
        self.map.used(HEADER_WORDS + index * RECORD_WORDS + 1)
    }

    fn clear(&self, index: usize) {
        for word in 0..RECORD_WORDS {
            if let Some(word) = self.map.word(HEADER_WORDS + index * RECORD_WORDS + word) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Says that nothing is copied any more.
    pub fn finish(&self) {
        if let Some(word) = self.map.word(FLAGS_WORD) {
            word.fetch_or(FINAL, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &Path) -> Vec<u64> {
        let octets = std::fs::read(path).unwrap();
        let word = |octets: &[u8]| u64::from_le_bytes(octets.try_into().unwrap());
        octets.chunks(8).map(word).collect()
    }

    fn records(path: &Path) -> Vec<[u64; 4]> {
        let record = |words: &[u64]| <[u64; 4]>::try_from(words).unwrap();
        let all = words(path);
        let mut found: Vec<_> = all[HEADER_WORDS..].chunks(4).map(record).collect();
        found.retain(|record| record[0] != 0);
        found
    }

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("flowtap-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_is_counted_is_in_the_file() {
        let folder = scratch("usage");
        let path = folder.join("usage");
        let file = UsageFile::create(&path, [7; 16]).unwrap();
        let limited = file.reserve(5, 10, 1_000, Some(3), 0).unwrap();
        drop(file.reserve(9, 1, 64, None, 0).unwrap());
        assert!(!path.exists());
        file.publish().unwrap();
        file.publish().unwrap();
        let lifetime = flowtap_core::table::Lifetime {
            packets: Some(12),
            ..Default::default()
        };
        assert!(limited.used().take(&lifetime, 100, 8));
        assert_eq!(records(&path), [[5, 11, 1_100, 8], [9, 1, 64, 0]]);
        // The first counts for itself; what it is said to have counted is not asked for.
        let counts = [
            (5, 900, 900, Some(900)),
            (9, 4, 400, Some(12)),
            (77, 1, 1, None),
        ];
        file.write(counts.into_iter(), 50, 60);
        assert_eq!(records(&path), [[5, 11, 1_100, 8], [9, 5, 464, 12]]);
        assert!(limited.used().take(&lifetime, 100, 9));
        assert!(!limited.used().take(&lifetime, 100, 10));
        let again = file.reserve(5, 0, 0, None, 60).unwrap();
        assert!(Arc::ptr_eq(&limited, &again));
        let all = words(&path);
        assert_eq!(all[0], u64::from_le_bytes(*MAGIC));
        assert_eq!(all[1], u64::from_le_bytes([7; 8]));
        assert_eq!(all[3..6], [32 << 32, 50, 60]);
        file.finish();
        assert_eq!(words(&path)[3], 32 << 32 | 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_is_used_again_a_minute_after_its_criterion_has_gone() {
        let folder = scratch("usage-free");
        let path = folder.join("usage");
        let file = UsageFile::create(&path, [0; 16]).unwrap();
        file.publish().unwrap();
        let held = file.reserve(1, 0, 0, None, 0).unwrap();
        drop(file.reserve(2, 7, 7, Some(7), 0).unwrap());
        file.write(std::iter::empty(), 0, KEPT_NS - 1);
        assert_eq!(records(&path).len(), 2);
        file.write(std::iter::empty(), 0, KEPT_NS);
        assert_eq!(records(&path), [[1, 0, 0, 0]]);
        drop(file.reserve(3, 0, 0, None, KEPT_NS).unwrap());
        assert_eq!(records(&path), [[1, 0, 0, 0], [3, 0, 0, 0]]);
        drop(held);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_file_grows_with_its_criteria() {
        let folder = scratch("usage-grows");
        let path = folder.join("usage");
        let file = UsageFile::create(&path, [0; 16]).unwrap();
        file.publish().unwrap();
        for id in 1..=10_000 {
            file.reserve(id, id, 0, None, 0).unwrap();
        }
        let found = records(&path);
        assert_eq!(found.len(), 10_000);
        assert!(found.iter().all(|record| record[0] == record[1]));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
