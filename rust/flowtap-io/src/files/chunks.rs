//! Uncompressed pcap files in chunks, for several threads.
//!
//! Any thread can read any chunk by itself; where a chunk's first record begins is known when the chunk before it has
//! been walked. A walk looks at lengths alone, which is little beside reading and matching, so it goes round from
//! thread to thread. Nothing is guessed, so no payload that looks like records leads anybody astray.
//!
//! A file that is mapped and then cut off would end the process; these are read.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use flowtap_core::frame::Frame;

use super::MAX_RECORD_OCTETS;
use super::error::CaptureError;
use super::input::InputError;
use super::pcap::{self, FILE_HEADER_OCTETS, Layout, Opening, RECORD_HEADER_OCTETS};
use super::reader::{Interface, Step, error};

/// Read behind a chunk at once, so that the rest of its last record seldom has to be asked for.
const BEHIND_OCTETS: usize = 2 << 10;
/// Where chunks begin in memory, so that the kernel copies to whole cache lines.
const ALIGNMENT_OCTETS: usize = 64;

/// A regular, uncompressed pcap file.
#[derive(Debug)]
pub(crate) struct ChunkedFile {
    file: File,
    path: String,
    layout: Layout,
    chunk_octets: usize,
    interface: Interface,
}

/// Some octets of the file, and where records begin in them.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Vec<u8>,
    /// Where the chunk begins in `data`.
    base: usize,
    /// How many octets are there.
    filled: usize,
    /// Where the chunk begins in the file.
    position: u64,
    ended: bool,
    failure: Option<io::Error>,
    /// Where whole records begin, from the start of the chunk.
    records: Vec<u32>,
}

/// Where a walk through a chunk came to.
#[derive(Debug)]
pub(crate) enum Walked {
    /// The next record begins here, in a chunk behind.
    On(u64),
    /// The file ends here, properly.
    End(u64),
    /// The file cannot be read any further.
    Damaged(CaptureError),
}

impl Walked {
    /// Where the next record begins, or would.
    pub(crate) const fn offset_octets(&self) -> u64 {
        match self {
            Self::On(offset) | Self::End(offset) => *offset,
            Self::Damaged(error) => error.offset_octets,
        }
    }
}

impl Chunk {
    /// The octets that are there.
    fn there(&self) -> &[u8] {
        self.data
            .get(self.base..self.base.saturating_add(self.filled))
            .unwrap_or_default()
    }

    fn unread(&self, at: usize) -> &[u8] {
        self.there().get(at..).unwrap_or_default()
    }

    /// Whether a walk has found records.
    pub(crate) const fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Reads until so many octets are there, or the file ends or fails.
    fn fill(&mut self, file: &File, needed: usize) {
        while self.filled < needed && !self.ended {
            let (start, end) = (
                self.base.saturating_add(self.filled),
                self.base.saturating_add(needed),
            );
            let space = self.data.get_mut(start..end).unwrap_or_default();
            let position = self
                .position
                .saturating_add(u64::try_from(self.filled).unwrap_or(u64::MAX));
            match file.read_at(space, position) {
                Ok(0) => self.ended = true,
                Ok(count) => self.filled = self.filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    self.failure = Some(error);
                }
            }
        }
    }
}

impl ChunkedFile {
    /// Opens a file; None for one that is short, is compressed, is not regular, or is no pcap file that can be read: whoever
    /// reads it from front to back finds out what it is.
    pub(crate) fn open(path: &str, chunk_octets: usize, least_octets: u64) -> Option<Self> {
        // Whoever opens a pipe and closes it again has taken it away from its writer.
        let is_long =
            |metadata: &fs::Metadata| metadata.is_file() && metadata.len() >= least_octets;
        fs::metadata(path).ok().filter(is_long)?;
        let file = File::open(path).ok()?;
        file.metadata().ok().filter(is_long)?;
        let mut header = [0; FILE_HEADER_OCTETS];
        file.read_exact_at(&mut header, 0).ok()?;
        let Ok(Opening::Pcap(layout)) = pcap::opening(&header) else {
            return None;
        };
        Some(Self {
            interface: Interface {
                name: None,
                link_type: layout.link_type,
                snapshot_octets: layout.snapshot_octets,
            },
            file,
            path: path.to_owned(),
            layout,
            chunk_octets,
        })
    }

    /// The file as the caller named it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The one interface that a pcap file has.
    pub(crate) const fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where the file's first record begins.
    pub(crate) fn first_record() -> u64 {
        u64::try_from(FILE_HEADER_OCTETS).unwrap_or(0)
    }

    /// Memory for a chunk and the longest record behind it.
    pub(crate) fn chunk(&self) -> Chunk {
        let behind = BEHIND_OCTETS.max(RECORD_HEADER_OCTETS + MAX_RECORD_OCTETS);
        let data = vec![0; self.chunk_octets.saturating_add(behind + ALIGNMENT_OCTETS)];
        let base = data.as_ptr().align_offset(ALIGNMENT_OCTETS);
        Chunk {
            base: base.min(ALIGNMENT_OCTETS),
            data,
            filled: 0,
            position: 0,
            ended: false,
            failure: None,
            records: Vec::new(),
        }
    }

    /// Reads a chunk of the file; an error shows in the walk.
    pub(crate) fn read(&self, number: u64, chunk: &mut Chunk) {
        let octets = u64::try_from(self.chunk_octets).unwrap_or(u64::MAX);
        chunk.position = number.saturating_mul(octets);
        chunk.filled = 0;
        chunk.ended = false;
        chunk.failure = None;
        chunk.records.clear();
        chunk.fill(&self.file, self.chunk_octets.saturating_add(BEHIND_OCTETS));
    }

    /// Finds the records that begin in a chunk; `first` is where the first of them begins in the file, or a later one.
    pub(crate) fn walk(&self, chunk: &mut Chunk, first: u64) -> Walked {
        let mut at = usize::try_from(first.saturating_sub(chunk.position)).unwrap_or(usize::MAX);
        let begins = chunk.position;
        let offset = |at| begins.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
        let mut records = std::mem::take(&mut chunk.records);
        let walked = loop {
            let there = chunk.there();
            while at < self.chunk_octets
                && let Some(octets) = there
                    .get(at..)
                    .and_then(|unread| self.layout.record_octets(unread))
            {
                records.push(u32::try_from(at).unwrap_or(u32::MAX));
                at = at.saturating_add(octets);
            }
            if at >= self.chunk_octets {
                break Walked::On(offset(at));
            }
            match self.read_record(chunk, at) {
                Ok(true) => {}
                Ok(false) => break Walked::End(offset(at)),
                Err(step) => break Walked::Damaged(error(&self.path, offset(at), step)),
            }
        };
        chunk.records = records;
        walked
    }

    /// Reads the rest of a record that is not all in the chunk; false at a proper end of the file.
    #[cold]
    fn read_record(&self, chunk: &mut Chunk, at: usize) -> Result<bool, Step> {
        chunk.fill(&self.file, at.saturating_add(RECORD_HEADER_OCTETS));
        let needed = self.layout.needed_octets(chunk.unread(at))?;
        chunk.fill(&self.file, at.saturating_add(needed));
        if self.layout.record_octets(chunk.unread(at)).is_some() {
            return Ok(true);
        }
        match chunk.failure.take() {
            Some(failure) => Err(Step::Input(InputError::Io(failure))),
            None => self.layout.cut_off(chunk.unread(at)).map_or(Ok(false), Err),
        }
    }

    /// The frames of the records that a walk has found.
    pub(crate) fn frames<'a>(&'a self, chunk: &'a Chunk) -> impl Iterator<Item = (u32, Frame<'a>)> {
        self.frames_of(chunk, 0..u32::MAX)
    }

    /// Those of the records that begin in this range.
    pub(crate) fn frames_of<'a>(
        &'a self,
        chunk: &'a Chunk,
        range: Range<u32>,
    ) -> impl Iterator<Item = (u32, Frame<'a>)> {
        let there = chunk.there();
        let place = |at| chunk.records.partition_point(|&record| record < at);
        let records = chunk.records.get(place(range.start)..place(range.end));
        records
            .unwrap_or_default()
            .iter()
            .filter_map(move |&record| Some((record, self.frame_at(there, record)?)))
    }

    /// The frame of one of these records.
    pub(crate) fn frame<'a>(&self, chunk: &'a Chunk, record: u32) -> Option<Frame<'a>> {
        self.frame_at(chunk.there(), record)
    }

    #[inline]
    fn frame_at<'a>(&self, there: &'a [u8], record: u32) -> Option<Frame<'a>> {
        let at = usize::try_from(record).ok()?;
        Some(self.layout.located(there.get(at..)?, at)?.frame(there))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of records of 84 octets.
    fn file(name: &str, records: u8) -> String {
        let mut octets = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        octets.extend([0, 0, 4, 0, 1, 0, 0, 0]);
        for number in 0..records {
            octets.extend([number, 0, 0, 0, 0, 0, 0, 0, 68, 0, 0, 0, 68, 0, 0, 0]);
            octets.extend([number; 68]);
        }
        let name = format!("flowtap-chunks-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, octets).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn numbers(file: &ChunkedFile, chunk: &Chunk) -> Vec<u8> {
        let frames = file.frames(chunk);
        frames.map(|(_, frame)| frame.data[0]).collect()
    }

    #[test]
    fn chunks_together_have_every_record_once() {
        let path = file("together", 100);
        for chunk_octets in [1, 7, 83, 84, 85, 1000, 100_000] {
            let file = ChunkedFile::open(&path, chunk_octets, 0).unwrap();
            let mut chunk = file.chunk();
            let mut seen = Vec::new();
            let mut next = ChunkedFile::first_record();
            for number in 0.. {
                file.read(number, &mut chunk);
                let walked = file.walk(&mut chunk, next);
                seen.extend(numbers(&file, &chunk));
                next = walked.offset_octets();
                match walked {
                    Walked::On(_) => {}
                    Walked::End(offset) => {
                        assert_eq!(offset, 24 + 84 * 100);
                        break;
                    }
                    Walked::Damaged(error) => panic!("{error}"),
                }
            }
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_off_while_it_is_read_is_an_error_and_no_signal() {
        let path = file("shrinks", 100);
        let file = ChunkedFile::open(&path, 1000, 0).unwrap();
        let mut chunk = file.chunk();
        file.read(0, &mut chunk);
        let next = file.walk(&mut chunk, ChunkedFile::first_record());
        assert_eq!(next.offset_octets(), 24 + 84 * 12);
        let writer = File::options().write(true).open(&path).unwrap();
        writer.set_len(1100).unwrap();
        file.read(1, &mut chunk);
        let walked = file.walk(&mut chunk, next.offset_octets());
        let Walked::Damaged(error) = walked else {
            panic!("{walked:?}");
        };
        assert_eq!(
            (error.offset_octets, error.kind.id()),
            (1032, "truncated-record")
        );
        assert!(numbers(&file, &chunk).is_empty());
        // What was there when it was read is good; what lies before the chunk's first record is an end like any other.
        writer.set_len(900).unwrap();
        file.read(1, &mut chunk);
        assert!(matches!(file.walk(&mut chunk, 1032), Walked::End(1032)));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_long_regular_pcap_files_are_taken() {
        let path = file("taken", 3);
        assert!(ChunkedFile::open(&path, 1000, 276).is_some());
        assert!(ChunkedFile::open(&path, 1000, 277).is_none());
        fs::write(&path, [0x0a, 0x0d, 0x0d, 0x0a].repeat(100)).unwrap();
        assert!(ChunkedFile::open(&path, 1000, 0).is_none());
        assert!(ChunkedFile::open("/dev/null", 1000, 0).is_none());
        fs::remove_file(path).unwrap();
    }
}
