//! A file in memory, as words that several threads may change.
#![expect(
    unsafe_code,
    reason = "mapping a file and looking at it as atomic words have no safe interface"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use flowtap_core::table::Used;

const _: () = assert!(size_of::<Used>() == 24 && align_of::<Used>() == 8);
const _: () = assert!(size_of::<AtomicU64>() == 8);
// The words are written as they are.
const _: () = assert!(cfg!(target_endian = "little"));

/// A shared mapping of the beginning of a file, which may still be shorter.
#[derive(Debug)]
pub(super) struct Map {
    start: NonNull<AtomicU64>,
    octets: usize,
}

// SAFETY: the mapping is only reached through atomic words, and stays where it is until it is dropped.
unsafe impl Send for Map {}
// SAFETY: as for `Send`.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `octets` of a file for reading and writing.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn new(file: &File, octets: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let descriptor = file.as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that is there.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                protection,
                libc::MAP_SHARED,
                descriptor,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, octets })
            .ok_or_else(|| io::Error::other("a mapping at address 0"))
    }

    fn contains(&self, word: usize, words: usize) -> bool {
        word.checked_add(words)
            .is_some_and(|end| end <= self.octets / size_of::<AtomicU64>())
    }

    /// One word. The file must reach so far by now: its owner makes it long enough before it asks.
    pub(super) fn word(&self, word: usize) -> Option<&AtomicU64> {
        if !self.contains(word, 1) {
            return None;
        }
        // SAFETY: the offset was compared with the mapping's length.
        let place = unsafe { self.start.add(word) };
        // SAFETY: the mapping is page-aligned, lives as long as the reference, and is only changed atomically.
        Some(unsafe { place.as_ref() })
    }

    /// Three words as counts.
    pub(super) fn used(&self, word: usize) -> Option<&Used> {
        if !self.contains(word, 3) {
            return None;
        }
        // SAFETY: the offset was compared with the mapping's length.
        let place = unsafe { self.start.add(word) };
        // SAFETY: `Used` is three atomic words in their order, and the mapping lives as long as the reference.
        Some(unsafe { place.cast::<Used>().as_ref() })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that was made, and references to it have ended with the borrow of `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.octets) };
    }
}

/// Makes sure that the disk has room for a part of a file, so that no later write to it can fail.
///
/// # Errors
/// The disk is full, or the file cannot grow.
pub(super) fn allocate(file: &File, from: u64, octets: u64) -> io::Result<()> {
    let invalid = |_error| io::Error::from(io::ErrorKind::InvalidInput);
    let from = libc::off_t::try_from(from).map_err(invalid)?;
    let octets = libc::off_t::try_from(octets).map_err(invalid)?;
    // SAFETY: the call touches no memory of ours.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), from, octets) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
