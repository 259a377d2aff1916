//! Segments of a spool as files of a directory: written, read and removed in whole blocks, never in clear.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flowtap_core::table::Destination;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::segment::{
    COPY_HEADER_OCTETS, HEADER_OCTETS, Header, KEY_OCTETS, Kind, PREAMBLE_OCTETS, SpoolKey,
    TAG_OCTETS, preamble, random_key, random_number, read_copies, read_destination, read_preamble,
    seal, unseal, write_copies, write_destination,
};
use super::{HELD_OCTETS, HeldCopy, SpoolError};

/// Segments whose key outlives the run, and those that nobody can read after it.
const KEPT: &str = "spool";
const VOLATILE: &str = "run";
const LOCK: &str = "lock";
/// Messages that nobody has asked for yet.
const NOTICES_MAX: usize = 64;

/// The directory of a spool.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    key: SpoolKey,
    /// Whether the key is somebody else's and outlives the run.
    is_kept: bool,
    notices: Mutex<Vec<String>>,
    /// Locked as long as the directory is ours.
    lock: Mutex<Option<File>>,
}

/// Segments of an earlier run, in order, and where their copies go.
pub(super) type Recovered = Vec<(Destination, VecDeque<Segment>)>;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.display().to_string();
    move |error| SpoolError::Directory {
        path,
        message: error.to_string(),
    }
}

impl Directory {
    /// Takes a directory over, and finds what an earlier run with the same key has left in it.
    pub(super) fn open(
        path: &Path,
        key: Option<&[u8; KEY_OCTETS]>,
    ) -> Result<(Arc<Self>, Recovered), SpoolError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(failed(path))?;
        let metadata = fs::metadata(path).map_err(failed(path))?;
        let owner = metadata.uid();
        if owner != geteuid().as_raw() {
            return Err(SpoolError::Directory {
                path: path.display().to_string(),
                message: format!(
                    "it belongs to another user (uid {owner}); whoever runs the tap is right"
                ),
            });
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SpoolError::Directory {
                path: path.display().to_string(),
                message: format!("others may enter it (mode {mode:03o}); 700 is right"),
            });
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path.join(LOCK))
            .map_err(failed(path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_error| {
            SpoolError::InUse {
                path: path.display().to_string(),
            }
        })?;
        let is_kept = key.is_some();
        let key = if let Some(key) = key {
            SpoolKey::new(key)
        } else {
            let key = random_key().map_err(|error| failed(path)(error.into()))?;
            SpoolKey::new(&key)
        };
        let directory = Arc::new(Self {
            path: path.to_owned(),
            key,
            is_kept,
            notices: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        });
        let recovered = directory.recover().map_err(failed(path))?;
        Ok((directory, recovered))
    }

    /// Whether what is there when the tap ends is for the next run.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Leaves it to others: nothing is written any more.
    pub(super) fn leave(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(lock.take());
    }

    /// Says something to whoever asks.
    pub(super) fn notice(&self, text: String) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < NOTICES_MAX {
            notices.push(text);
        }
    }

    /// What there was to say since this was asked for last.
    pub(super) fn take_notices(&self) -> Vec<String> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut notices)
    }

    /// Removes what nobody can read any more, and reads where the copies of the other segments go.
    fn recover(&self) -> io::Result<Recovered> {
        let mut found: Vec<(Destination, Segment)> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(VOLATILE) => fs::remove_file(&path)?,
                Some(KEPT) if self.is_kept => match Segment::find(self, &path) {
                    Ok(Some(segment)) => found.push(segment),
                    Ok(None) => self.notice(format!(
                        "{}: a segment of a spool that the key does not open; it stays as it is",
                        path.display()
                    )),
                    Err(error) => self.notice(format!("{}: {error}", path.display())),
                },
                Some(KEPT) => self.notice(format!(
                    "{}: a segment of a spool with a key, and there is none now; it stays as it is",
                    path.display()
                )),
                _ => {}
            }
        }
        found.sort_by_key(|(_, segment)| (segment.sequence, segment.number));
        // Its copies would come again after every start.
        found.dedup_by(|(_, segment), (_, before)| {
            let is_again = segment.number == before.number;
            if is_again {
                let path = segment.path.display();
                self.notice(format!("{path}: a segment that is there twice is removed"));
                segment.remove();
            }
            is_again
        });
        let mut recovered: HashMap<Destination, VecDeque<Segment>> = HashMap::new();
        for (destination, segment) in found {
            recovered.entry(destination).or_default().push_back(segment);
        }
        Ok(recovered.into_iter().collect())
    }
}

/// Where a block lies, and what it holds.
#[derive(Clone, Copy, Debug)]
struct Block {
    offset: u64,
    header: Header,
    place: u32,
}

impl Block {
    fn held(&self) -> Held {
        let copies = u64::from(self.header.copies);
        let before = u64::from(TAG_OCTETS) + copies * u64::from(COPY_HEADER_OCTETS);
        Held {
            copies,
            unsent: copies.saturating_sub(self.header.again.into()),
            octets: u64::from(self.header.length).saturating_sub(before) + copies * HELD_OCTETS,
        }
    }
}

/// How much is held somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) copies: u64,
    /// Of these, how many were not sent before.
    pub(super) unsent: u64,
    pub(super) octets: u64,
}

impl Held {
    pub(super) fn of(copy: &HeldCopy) -> Self {
        Self {
            copies: 1,
            unsent: u64::from(!copy.was_sent),
            octets: copy.octets(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.copies = self.copies.saturating_add(other.copies);
        self.unsent = self.unsent.saturating_add(other.unsent);
        self.octets = self.octets.saturating_add(other.octets);
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.copies = self.copies.saturating_sub(other.copies);
        self.unsent = self.unsent.saturating_sub(other.unsent);
        self.octets = self.octets.saturating_sub(other.octets);
    }
}

/// One file of copies.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    pub(super) sequence: u64,
    number: u64,
    /// Octets of the blocks that are there.
    length: u64,
    /// The place of the next block.
    place: u32,
    /// Blocks with copies that are still to be read.
    blocks: VecDeque<Block>,
    /// Whether some have been read.
    is_begun: bool,
    /// Whether no more are added.
    is_ended: bool,
}

impl Segment {
    /// A new file, without copies.
    pub(super) fn create(
        directory: &Directory,
        sequence: u64,
        destination: &Destination,
    ) -> io::Result<Self> {
        let number = random_number()?;
        let extension = if directory.is_kept { KEPT } else { VOLATILE };
        let name = format!("{sequence:016x}-{number:016x}.{extension}");
        let mut segment = Self {
            path: directory.path.join(name),
            sequence,
            number,
            length: 0,
            place: 0,
            blocks: VecDeque::new(),
            is_begun: false,
            is_ended: false,
        };
        let content = write_destination(destination)
            .ok_or_else(|| io::Error::other("the name of the destination or tunnel is too long"))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&segment.path)?;
        let written = file
            .write_all_at(&preamble(sequence, number), 0)
            .and_then(|()| {
                segment.length = u64::try_from(PREAMBLE_OCTETS).unwrap_or(u64::MAX);
                segment.write(directory, &file, Kind::Destination, content, (0, 0))
            });
        match written {
            Ok(_) => Ok(segment),
            Err(error) => {
                segment.remove();
                Err(error)
            }
        }
    }

    /// Reads which blocks a file has; None where it is no segment that the key opens.
    fn find(directory: &Directory, path: &Path) -> io::Result<Option<(Destination, Self)>> {
        let mut file = open_file(path)?;
        let mut beginning = [0; PREAMBLE_OCTETS];
        if file.read_exact(&mut beginning).is_err() {
            return Ok(None);
        }
        // Not from its name, which anybody can change.
        let Some((sequence, number)) = read_preamble(&beginning) else {
            return Ok(None);
        };
        let mut segment = Self {
            path: path.to_owned(),
            sequence,
            number,
            length: u64::try_from(PREAMBLE_OCTETS).unwrap_or(u64::MAX),
            place: 0,
            blocks: VecDeque::new(),
            is_begun: false,
            is_ended: true,
        };
        let mut destination = None;
        let mut is_whole = false;
        while let Some(header) = header_at(&file, segment.length)? {
            let block = Block {
                offset: segment.length,
                header,
                place: segment.place,
            };
            segment.length = segment.length.saturating_add(block_octets(&header));
            segment.place = segment.place.saturating_add(1);
            match header.kind {
                Kind::Destination => {
                    let content = segment.content(directory, &file, &block)?;
                    destination = content.as_deref().and_then(read_destination);
                    if destination.is_none() {
                        return Ok(None);
                    }
                }
                Kind::Copies => segment.blocks.push_back(block),
                Kind::End => {
                    is_whole = segment.content(directory, &file, &block)?.is_some();
                    break;
                }
            }
        }
        if !is_whole {
            directory.notice(format!(
                "{}: the segment has no end: the run that wrote it was cut off, or the file",
                path.display()
            ));
        }
        Ok(destination.map(|destination| (destination, segment)))
    }

    /// How much it holds that is still to be read.
    pub(super) fn held(&self) -> Held {
        let mut all = Held::default();
        for block in &self.blocks {
            all.add(block.held());
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether some of it has been read.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Whether copies may be added, up to a length.
    pub(super) fn has_room(&self, octets: u64) -> bool {
        !self.is_ended && self.length < octets
    }

    /// Adds a block of copies. After an error nothing more is added.
    pub(super) fn append<'a>(
        &mut self,
        directory: &Directory,
        copies: impl Iterator<Item = &'a HeldCopy>,
    ) -> io::Result<()> {
        let (content, counts) = write_copies(copies);
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let block = self.write(directory, &file, Kind::Copies, content, counts)?;
        self.blocks.push_back(block);
        Ok(())
    }

    /// Notes that it is whole; where that cannot be written it looks cut off, and its copies are there all the same.
    pub(super) fn end(&mut self, directory: &Directory) {
        if self.is_ended {
            return;
        }
        self.is_ended = true;
        let file = OpenOptions::new().write(true).open(&self.path);
        let ended =
            file.and_then(|file| self.write(directory, &file, Kind::End, Vec::new(), (0, 0)));
        if let Err(error) = ended {
            let path = self.path.display();
            directory.notice(format!("{path}: the end of a segment: {error}"));
        }
    }

    fn write(
        &mut self,
        directory: &Directory,
        file: &File,
        kind: Kind,
        content: Vec<u8>,
        counts: (u32, u32),
    ) -> io::Result<Block> {
        let octets = seal(
            &directory.key,
            (self.sequence, self.number),
            self.place,
            kind,
            counts,
            content,
        );
        let octets = octets.ok_or_else(|| io::Error::other("too much for one block"))?;
        let header = Header::parse(&octets).ok_or_else(|| io::Error::other("no block"))?;
        // A place is used once, whatever becomes of what is written there.
        let place = self.place;
        self.place = place
            .checked_add(1)
            .ok_or_else(|| io::Error::other("too many blocks"))?;
        let offset = self.length;
        if let Err(error) = file.write_all_at(&octets, offset) {
            self.is_ended = true;
            // What is there of it is of no use.
            file.set_len(offset).unwrap_or_default();
            return Err(error);
        }
        self.length = offset.saturating_add(block_octets(&header));
        Ok(Block {
            offset,
            header,
            place,
        })
    }

    /// The content of a block; None where it is not what was written.
    fn content(
        &self,
        directory: &Directory,
        file: &File,
        block: &Block,
    ) -> io::Result<Option<Vec<u8>>> {
        if header_at(file, block.offset)? != Some(block.header) {
            return Ok(None);
        }
        let mut content = vec![0; usize::try_from(block.header.length).unwrap_or(0)];
        let header = u64::try_from(HEADER_OCTETS).unwrap_or(u64::MAX);
        match file.read_exact_at(&mut content, block.offset.saturating_add(header)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let key = &directory.key;
        Ok(unseal(
            key,
            (self.sequence, self.number),
            block.place,
            &block.header,
            content,
        ))
    }

    /// Reads the next block of copies; None where there is none.
    pub(super) fn read(&mut self, directory: &Directory) -> Option<Reading> {
        let block = self.blocks.pop_front()?;
        let read = || {
            let file = open_file(&self.path)?;
            let content = self.content(directory, &file, &block)?;
            let copies = content.as_deref().and_then(read_copies);
            // As many as were counted.
            let is_true = |copies: &Vec<HeldCopy>| {
                let mut held = Held::default();
                for copy in copies {
                    held.add(Held::of(copy));
                }
                held == block.held()
            };
            Ok(copies.filter(is_true))
        };
        let why = match read() {
            Ok(Some(copies)) => {
                self.is_begun = true;
                return Some(Reading::Copies(copies));
            }
            Err(error) if is_for_now(&error) => {
                self.blocks.push_front(block);
                return Some(Reading::Later(error));
            }
            Ok(None) => "a block is not as it was written".to_owned(),
            Err::<_, io::Error>(error) => error.to_string(),
        };
        self.is_begun = true;
        let path = self.path.display();
        directory.notice(format!(
            "{path}: {} copies are lost: {why}",
            block.header.copies
        ));
        Some(Reading::Lost(block.held()))
    }

    /// Removes the file.
    pub(super) fn remove(&self) {
        // Where it is not there, it need not be removed; where it cannot be, nobody reads it without the key.
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

/// What came of reading a block.
pub(super) enum Reading {
    Copies(Vec<HeldCopy>),
    /// The block cannot be read, now or ever.
    Lost(Held),
    /// The block is untouched: the system lacks something for now.
    Later(io::Error),
}

/// Whether an error says nothing of the file.
fn is_for_now(error: &io::Error) -> bool {
    let of_the_system = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR];
    error
        .raw_os_error()
        .is_some_and(|code| of_the_system.contains(&code))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // What is no file holds nobody up.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Octets of a block with its header.
fn block_octets(header: &Header) -> u64 {
    let before = u64::try_from(HEADER_OCTETS).unwrap_or(u64::MAX);
    before.saturating_add(header.length.into())
}

/// The header at an offset of a file; None where there is none.
fn header_at(file: &File, offset: u64) -> io::Result<Option<Header>> {
    let mut octets = [0; HEADER_OCTETS];
    match file.read_exact_at(&mut octets, offset) {
        Ok(()) => Ok(Header::parse(&octets)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
