//! Copies that wait, in order: in memory, or most of them on disk.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::table::Destination;

use super::HeldCopy;
use super::disk::{Directory, Held, Reading, Segment};

/// Octets of copies that are encrypted and written together, at most and at least.
const BLOCK_OCTETS: u64 = 64 << 10;
const BLOCK_OCTETS_MIN: u64 = 4 << 10;
/// Octets of a file, at most: it is removed as a whole when all its copies have left.
const FILE_OCTETS: u64 = 1 << 20;
/// How long nothing is read after the system lacked something for it.
const PAUSE: Duration = Duration::from_secs(1);
/// The first file's number; what is to come before all others has a smaller one.
const FIRST: u64 = 1 << 32;

/// Copies that wait until they may leave.
#[derive(Default)]
pub(super) struct Queue {
    /// The first ones.
    front: VecDeque<HeldCopy>,
    held: Held,
    disk: Option<Disk>,
    losses: Vec<Loss>,
}

/// The part of a queue that is on disk or on its way there. It comes after the front.
struct Disk {
    directory: Arc<Directory>,
    destination: Destination,
    segments: VecDeque<Segment>,
    /// The file that the front was read from, until its copies have left.
    read: Option<Segment>,
    /// The last copies, which are not written yet.
    back: VecDeque<HeldCopy>,
    back_octets: u64,
    /// Until when nothing is read, because the system lacked something for it.
    paused_until: Option<Instant>,
    /// How much is written together, and to one file.
    block_octets: u64,
    file_octets: u64,
    next: u64,
}

/// Copies that the disk did not take or give back.
pub(super) struct Loss {
    /// Those that are known,
    pub(super) copies: Vec<HeldCopy>,
    /// and how many others.
    pub(super) others: Held,
    pub(super) reason: String,
}

impl Queue {
    /// A queue on disk; `segments` are what an earlier run has left for the same destination.
    pub(super) fn on_disk(
        directory: Arc<Directory>,
        destination: Destination,
        segments: VecDeque<Segment>,
    ) -> Self {
        let mut held = Held::default();
        for segment in &segments {
            held.add(segment.held());
        }
        let next = segments
            .back()
            .map_or(FIRST, |last| last.sequence.saturating_add(1));
        Self {
            held,
            disk: Some(Disk {
                directory,
                destination,
                segments,
                read: None,
                paused_until: None,
                back: VecDeque::new(),
                back_octets: 0,
                block_octets: BLOCK_OCTETS,
                file_octets: FILE_OCTETS,
                next,
            }),
            ..Self::default()
        }
    }

    /// Goes on with so much room: what is written together is a small part of it.
    pub(super) fn set_room(&mut self, octets: u64) {
        if let Some(disk) = &mut self.disk {
            disk.block_octets = (octets / 16).clamp(BLOCK_OCTETS_MIN, BLOCK_OCTETS);
            disk.file_octets = (octets / 8).clamp(BLOCK_OCTETS_MIN, FILE_OCTETS);
        }
    }

    /// What it holds, and what that takes.
    pub(super) fn octets(&self) -> u64 {
        self.held.octets
    }

    /// How many wait that were never sent.
    pub(super) fn unsent(&self) -> u64 {
        self.held.unsent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.copies == 0
    }

    /// What was lost since this was asked for last.
    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Adds a copy behind all others.
    pub(super) fn push(&mut self, copy: HeldCopy) {
        self.held.add(Held::of(&copy));
        let Some(disk) = &mut self.disk else {
            self.front.push_back(copy);
            return;
        };
        disk.back_octets = disk.back_octets.saturating_add(copy.octets());
        disk.back.push_back(copy);
        if disk.back_octets >= disk.block_octets {
            self.flush();
        }
    }

    /// Puts a copy in front of all others.
    pub(super) fn put_back(&mut self, copy: HeldCopy) {
        self.held.add(Held::of(&copy));
        self.front.push_front(copy);
    }

    /// Takes out the first copy.
    pub(super) fn pop(&mut self) -> Option<HeldCopy> {
        while self.front.is_empty() {
            if !self.read() {
                return None;
            }
        }
        let copy = self.front.pop_front()?;
        self.held.subtract(Held::of(&copy));
        Some(copy)
    }

    /// Reads the next copies from disk; false where there are none, or none can be read now.
    fn read(&mut self) -> bool {
        let Some(disk) = &mut self.disk else {
            return false;
        };
        if disk
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        disk.paused_until = None;
        if let Some(read) = disk.read.take() {
            read.remove();
        }
        let Some(segment) = disk.segments.front_mut() else {
            // What is not written yet need not be.
            std::mem::swap(&mut self.front, &mut disk.back);
            disk.back_octets = 0;
            return !self.front.is_empty();
        };
        match segment.read(&disk.directory) {
            Some(Reading::Copies(copies)) => self.front.extend(copies),
            Some(Reading::Lost(lost)) => {
                self.held.subtract(lost);
                self.losses.push(Loss::unreadable(lost));
            }
            Some(Reading::Later(error)) => {
                disk.directory
                    .notice(format!("copies stay on disk for now: {error}"));
                disk.paused_until = Instant::now().checked_add(PAUSE);
                return false;
            }
            None => {}
        }
        if segment.is_empty() {
            disk.read = disk.segments.pop_front();
        }
        true
    }

    /// Writes what is gathered.
    pub(super) fn flush(&mut self) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        if disk.back.is_empty() {
            return;
        }
        let copies = std::mem::take(&mut disk.back);
        disk.back_octets = 0;
        if let Err(error) = disk.append(&copies) {
            for copy in &copies {
                self.held.subtract(Held::of(copy));
            }
            self.losses.push(Loss::unwritten(copies, &error));
        }
    }

    /// Ends the queue with the tap. What the next run can read stays on disk and goes on being held; the rest is lost, and
    /// returned.
    pub(super) fn finish(&mut self, reason: &str) -> Loss {
        match &self.disk {
            Some(disk) if disk.directory.is_kept() => {
                self.persist();
                Loss {
                    copies: Vec::new(),
                    others: Held::default(),
                    reason: reason.to_owned(),
                }
            }
            _ => self.abandon(reason),
        }
    }

    /// Writes all that is in memory, so that it is there after a restart.
    fn persist(&mut self) {
        self.flush();
        let mut front = std::mem::take(&mut self.front);
        let Some(disk) = &mut self.disk else {
            return;
        };
        let mut read: Vec<Segment> = disk.read.take().into_iter().collect();
        // Of a file that was read in part, what was read would come twice.
        if disk.segments.front().is_some_and(Segment::is_begun)
            && let Some(mut segment) = disk.segments.pop_front()
        {
            loop {
                match segment.read(&disk.directory) {
                    Some(Reading::Copies(copies)) => front.extend(copies),
                    Some(Reading::Lost(lost)) => {
                        self.held.subtract(lost);
                        self.losses.push(Loss::unreadable(lost));
                    }
                    // Rather twice than not at all: the file stays, with what was read of it.
                    Some(Reading::Later(_)) => {
                        disk.segments.push_front(segment);
                        break;
                    }
                    None => {
                        read.push(segment);
                        break;
                    }
                }
            }
        }
        let mut written = disk.prepend(front.make_contiguous());
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            )
        };
        if written.as_ref().is_err_and(is_full) {
            // What it was read from has been kept so far, in case that all ends here; on a full disk it makes room.
            for segment in read.drain(..) {
                segment.remove();
            }
            written = disk.prepend(front.make_contiguous());
        }
        if let Err(error) = written {
            for copy in &front {
                self.held.subtract(Held::of(copy));
            }
            self.losses.push(Loss::unwritten(front, &error));
            // The files from which some of it was read stay: it may come again with the next run.
            read.clear();
        }
        for segment in &mut disk.segments {
            segment.end(&disk.directory);
        }
        for segment in read {
            segment.remove();
        }
    }

    /// Gives up all that it holds.
    pub(super) fn abandon(&mut self, reason: &str) -> Loss {
        let mut copies: Vec<HeldCopy> = self.front.drain(..).collect();
        if let Some(disk) = &mut self.disk {
            copies.extend(disk.back.drain(..));
            disk.back_octets = 0;
            for segment in disk.segments.drain(..).chain(disk.read.take()) {
                segment.remove();
            }
        }
        for copy in &copies {
            self.held.subtract(Held::of(copy));
        }
        Loss {
            copies,
            others: std::mem::take(&mut self.held),
            reason: reason.to_owned(),
        }
    }
}

impl Loss {
    fn unreadable(others: Held) -> Self {
        Self {
            copies: Vec::new(),
            others,
            reason: "the spool on disk cannot be read, or has been changed".to_owned(),
        }
    }

    fn unwritten(copies: VecDeque<HeldCopy>, error: &io::Error) -> Self {
        Self {
            copies: copies.into(),
            others: Held::default(),
            reason: format!("the spool on disk takes no more: {error}"),
        }
    }
}

impl Disk {
    /// Writes copies behind all others.
    fn append(&mut self, copies: &VecDeque<HeldCopy>) -> io::Result<()> {
        let has_room = |last: &Segment| last.has_room(self.file_octets);
        if !self.segments.back().is_some_and(has_room) {
            if let Some(last) = self.segments.back_mut() {
                last.end(&self.directory);
            }
            let segment = Segment::create(&self.directory, self.next, &self.destination)?;
            self.next = self.next.saturating_add(1);
            self.segments.push_back(segment);
        }
        let Some(last) = self.segments.back_mut() else {
            return Ok(());
        };
        let written = last.append(&self.directory, copies.iter());
        if last.is_empty()
            && let Some(last) = self.segments.pop_back()
        {
            last.remove();
        }
        written
    }

    /// Writes copies to a file that comes before all others.
    fn prepend(&mut self, copies: &[HeldCopy]) -> io::Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let first = self
            .segments
            .front()
            .map_or(self.next, |first| first.sequence);
        let sequence = first.saturating_sub(1);
        let mut segment = Segment::create(&self.directory, sequence, &self.destination)?;
        let mut rest = copies;
        while !rest.is_empty() {
            let mut octets: u64 = 0;
            let block = rest.iter().take_while(|copy| {
                let is_room = octets < self.block_octets;
                octets = octets.saturating_add(copy.octets());
                is_room
            });
            let (block, after) = rest.split_at_checked(block.count()).unwrap_or((rest, &[]));
            if let Err(error) = segment.append(&self.directory, block.iter()) {
                segment.remove();
                return Err(error);
            }
            rest = after;
        }
        self.segments.push_front(segment);
        Ok(())
    }
}
