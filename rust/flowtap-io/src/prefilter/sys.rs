//! bpf(2), and the socket options that attach a filter.
#![expect(
    unsafe_code,
    reason = "bpf(2) and attaching filters have no safe interface in the crates we use"
)]

use std::ffi::CStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use libc::{c_int, c_uint, socklen_t};

use super::assembler::Instruction;

/// Commands of bpf(2), numbered as in `linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapCreate = 0,
    MapUpdate = 2,
    MapDelete = 3,
    ProgramLoad = 5,
    ProgramTest = 10,
    ObjectInfo = 15,
    MapUpdateBatch = 26,
}

/// The kinds of maps that the filter uses, numbered as in `linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    /// Can be mapped into memory.
    Array = 2,
    /// Finds the longest prefix; its memory grows with its entries.
    PrefixTrie = 11,
}

/// `BPF_PROG_TYPE_SOCKET_FILTER`.
const SOCKET_FILTER: u32 = 1;
/// `BPF_F_NO_PREALLOC`, without which the kernel makes no prefix trie.
const NO_PREALLOCATION: u32 = 1;
/// `BPF_F_MMAPABLE`, since Linux 5.5.
const MAPPABLE: u32 = 1 << 10;
/// Non-GPL functions are all that the program calls.
const LICENSE: &CStr = c"MIT OR Apache-2.0";
/// Room for what the verifier says.
const LOG_OCTETS: usize = 1 << 20;
/// Octets that a program tested by the kernel finds in front of its frame: the test takes an Ethernet header off.
const TEST_HEADER_OCTETS: usize = 14;
/// `ENOTSUPP`, which is the kernel's own and leaks.
const NOT_SUPPORTED: c_int = 524;

/// `BPF_MAP_CREATE`.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_octets: u32,
    value_octets: u32,
    entries: u32,
    flags: u32,
}
const _: () = assert!(size_of::<MapCreate>() == 20);

/// `BPF_MAP_*_ELEM`.
#[derive(Default)]
#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
const _: () = assert!(size_of::<MapElement>() == 32 && offset_of!(MapElement, key) == 8);

/// `BPF_MAP_*_BATCH`.
#[derive(Default)]
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}
const _: () = assert!(size_of::<MapBatch>() == 56 && offset_of!(MapBatch, count) == 32);

/// `BPF_PROG_LOAD`.
#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_octets: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}
const _: () = assert!(size_of::<ProgramLoad>() == 64 && offset_of!(ProgramLoad, name) == 48);

/// `BPF_PROG_TEST_RUN`.
#[derive(Default)]
#[repr(C)]
struct ProgramTest {
    program: u32,
    result: u32,
    octets_in: u32,
    octets_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
}
const _: () = assert!(size_of::<ProgramTest>() == 40 && offset_of!(ProgramTest, repeat) == 32);

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[derive(Default)]
#[repr(C)]
struct ObjectInfo {
    descriptor: u32,
    octets: u32,
    info: u64,
}
const _: () = assert!(size_of::<ObjectInfo>() == 16);

/// The beginning of `struct bpf_prog_info`; the kernel fills as much as there is.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    compiled_octets: u32,
    verified_octets: u32,
}
const _: () = assert!(size_of::<ProgramInfo>() == 24);

const _: () = assert!(size_of::<Instruction>() == 8 && align_of::<Instruction>() == 4);
const _: () = assert!(size_of::<libc::sock_filter>() == 8);

/// Calls bpf(2).
///
/// # Safety
/// `T` is the structure of `command`, and every address in it leads to as many octets as the command reads or writes
/// there.
unsafe fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<c_int> {
    let length = c_uint::try_from(size_of::<T>()).unwrap_or(0);
    let attributes = ptr::from_mut(attributes);
    // SAFETY: the structure is `length` octets that are ours for the time of the call; the rest is promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as c_int, attributes, length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        c_int::try_from(result).map_err(io::Error::other)
    }
}

/// The address of octets as the structures hold it.
fn address<T>(octets: &[T]) -> u64 {
    octets.as_ptr().expose_provenance() as u64
}

/// A count as the structures hold it.
fn count(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(|_too_many| io::ErrorKind::InvalidInput.into())
}

/// A descriptor as the structures hold it.
fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn wrong_size() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

/// A map in the kernel.
#[derive(Debug)]
pub(super) struct Map {
    descriptor: OwnedFd,
    key_octets: usize,
    value_octets: usize,
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl MapKind {
    /// The kind with this number.
    pub(super) const fn of_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Hash),
            2 => Some(Self::Array),
            11 => Some(Self::PrefixTrie),
            _ => None,
        }
    }
}

impl Map {
    /// Takes over a map that somebody else has made, with keys and values of these sizes.
    pub(super) const fn adopt(descriptor: OwnedFd, key_octets: usize, value_octets: usize) -> Self {
        Self {
            descriptor,
            key_octets,
            value_octets,
        }
    }

    /// Hands the map over.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }

    /// Makes a map.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn create(
        kind: MapKind,
        key_octets: usize,
        value_octets: usize,
        entries: u32,
    ) -> io::Result<Self> {
        let mut attributes = MapCreate {
            kind: kind as u32,
            key_octets: count(key_octets)?,
            value_octets: count(value_octets)?,
            entries,
            flags: match kind {
                MapKind::Hash => 0,
                MapKind::Array => MAPPABLE,
                MapKind::PrefixTrie => NO_PREALLOCATION,
            },
        };
        // SAFETY: the command's structure, which holds no address.
        let descriptor = unsafe { bpf(Command::MapCreate, &mut attributes) }?;
        // SAFETY: the kernel has just made the descriptor, for us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self {
            descriptor,
            key_octets,
            value_octets,
        })
    }

    /// Puts values under keys, new ones or in place of those that are there.
    ///
    /// # Errors
    /// What the system says; a part may have been done. Invalid input where keys and values have not the map's sizes.
    pub(super) fn update(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        match self.update_together(keys, values) {
            // Before Linux 5.6 there are no batches, and some maps learned them later.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINVAL | libc::EOPNOTSUPP | NOT_SUPPORTED)
                ) =>
            {
                self.update_each(keys, values)
            }
            done => done,
        }
    }

    fn update_together(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let entries = keys.len() / self.key_octets;
        if keys.len() != entries * self.key_octets || values.len() != entries * self.value_octets {
            return Err(wrong_size());
        }
        if entries <= 1 {
            return self.update_each(keys, values);
        }
        let mut attributes = MapBatch {
            keys: address(keys),
            values: address(values),
            count: count(entries)?,
            map: number(self.as_fd()),
            ..MapBatch::default()
        };
        // SAFETY: the command's structure; it reads `count` keys and values of the map's sizes, which are there.
        unsafe { bpf(Command::MapUpdateBatch, &mut attributes) }.map(drop)
    }

    fn update_each(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let keys = keys.chunks_exact(self.key_octets);
        for (key, value) in keys.zip(values.chunks_exact(self.value_octets)) {
            let mut attributes = MapElement {
                map: number(self.as_fd()),
                key: address(key),
                value: address(value),
                ..MapElement::default()
            };
            // SAFETY: the command's structure; it reads one key and one value of the map's sizes, which are there.
            unsafe { bpf(Command::MapUpdate, &mut attributes) }?;
        }
        Ok(())
    }

    /// Takes keys out; those that are not there are no error.
    ///
    /// # Errors
    /// What the system says; a part may have been done.
    pub(super) fn delete(&self, keys: &[u8]) -> io::Result<()> {
        for key in keys.chunks_exact(self.key_octets) {
            let mut attributes = MapElement {
                map: number(self.as_fd()),
                key: address(key),
                ..MapElement::default()
            };
            // SAFETY: the command's structure; it reads one key of the map's size, which is there.
            match unsafe { bpf(Command::MapDelete, &mut attributes) } {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Words in a map of one value, which both the kernel's program and we have in memory.
#[derive(Debug)]
pub(super) struct SharedWords {
    map: Map,
    mapping: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to no thread, and its words are atomic.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl SharedWords {
    /// The only value of a map, so many words, all zero at first.
    ///
    /// # Errors
    /// What the system says; invalid input where the value has another size.
    pub(super) fn over(map: Map, words: usize) -> io::Result<Self> {
        let octets = words
            .checked_mul(size_of::<AtomicU64>())
            .filter(|&octets| octets == map.value_octets)
            .ok_or_else(wrong_size)?;
        // SAFETY: a new mapping anywhere; it ends within the map's only value or the last page of that.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast()).ok_or_else(wrong_size)?;
        Ok(Self {
            map,
            mapping,
            words,
        })
    }

    /// The words.
    pub(super) fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, holds so many words, each of them valid whatever it is, and lives as long
        // as we; everybody else, the kernel included, writes whole words only.
        unsafe { slice::from_raw_parts(self.mapping.as_ptr(), self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let octets = self.words * size_of::<AtomicU64>();
        // SAFETY: the mapping is ours, of this length, and nobody borrows its words any more.
        let _result = unsafe { libc::munmap(self.mapping.as_ptr().cast(), octets) };
    }
}

/// A program that the kernel did not take.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the system says.
    pub(super) source: io::Error,
    /// What the verifier says, empty where it was not asked.
    pub(super) log: String,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    descriptor: OwnedFd,
    instructions: usize,
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Program {
    /// Loads a socket filter.
    ///
    /// # Errors
    /// What the system says, and what the verifier says of a program that it refuses.
    pub(super) fn load(instructions: &[Instruction]) -> Result<Self, Refused> {
        Self::load_with_log(instructions, &mut []).or_else(|source| {
            if matches!(
                source.raw_os_error(),
                Some(libc::EPERM | libc::ENOSYS | libc::ENOMEM)
            ) {
                return Err(Refused {
                    source,
                    log: String::new(),
                });
            }
            // Once more, for the reason.
            let mut log = vec![0; LOG_OCTETS];
            Self::load_with_log(instructions, &mut log).map_err(|_same| Refused {
                source,
                log: CStr::from_bytes_until_nul(&log)
                    .map(|log| log.to_string_lossy().into_owned())
                    .unwrap_or_default(),
            })
        })
    }

    fn load_with_log(instructions: &[Instruction], log: &mut [u8]) -> io::Result<Self> {
        let mut attributes = ProgramLoad {
            kind: SOCKET_FILTER,
            instruction_count: count(instructions.len())?,
            instructions: address(instructions),
            license: address(LICENSE.to_bytes_with_nul()),
            log_level: u32::from(!log.is_empty()),
            log_octets: count(log.len())?,
            log: if log.is_empty() {
                0
            } else {
                log.as_mut_ptr().expose_provenance() as u64
            },
            ..ProgramLoad::default()
        };
        for (place, octet) in attributes.name.iter_mut().zip(b"flowtap") {
            *place = *octet;
        }
        // SAFETY: the command's structure; it reads the instructions and the license, which ends in a zero, and writes
        // into the log, all of which live until after the call.
        let descriptor = unsafe { bpf(Command::ProgramLoad, &mut attributes) }?;
        // SAFETY: the kernel has just made the descriptor, for us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self {
            descriptor,
            instructions: instructions.len(),
        })
    }

    /// Takes over a program that somebody else has loaded.
    pub(super) const fn adopt(descriptor: OwnedFd, instructions: usize) -> Self {
        Self {
            descriptor,
            instructions,
        }
    }

    /// Hands the program over.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }

    /// Instructions, as they were loaded.
    pub(super) const fn instructions(&self) -> usize {
        self.instructions
    }

    /// Whether the kernel compiled the program to machine code.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn is_compiled(&self) -> io::Result<bool> {
        let mut info = [ProgramInfo::default()];
        let mut attributes = ObjectInfo {
            descriptor: number(self.as_fd()),
            octets: count(size_of::<ProgramInfo>())?,
            info: info.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the command's structure; it writes `octets` octets into `info`, which has as many.
        unsafe { bpf(Command::ObjectInfo, &mut attributes) }?;
        let [info] = info;
        Ok(info.compiled_octets != 0)
    }

    /// Runs the program over a frame, `repeat` times, as a packet socket would: the octets that the filter accepts, and
    /// nanoseconds for one run.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn test(&self, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
        // A packet socket runs its filter from the link header on; the test begins behind an Ethernet header, which
        // nobody looks at.
        let data = [&[0; TEST_HEADER_OCTETS], frame].concat();
        let mut attributes = ProgramTest {
            program: number(self.as_fd()),
            octets_in: count(data.len())?,
            data_in: address(&data),
            repeat,
            ..ProgramTest::default()
        };
        // SAFETY: the command's structure; it reads `octets_in` octets, and writes none where there is no place for them.
        unsafe { bpf(Command::ProgramTest, &mut attributes) }?;
        Ok((attributes.result, attributes.duration_ns))
    }
}

/// Sets an option of the socket level.
///
/// # Safety
/// `T` is what the kernel reads for this option, and every address in it leads to as many octets as it reads there.
unsafe fn set_option<T>(socket: BorrowedFd<'_>, name: c_int, value: &T) -> io::Result<()> {
    let length = socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let value = ptr::from_ref(value).cast();
    // SAFETY: the value is `length` octets that live until after the call and are only read; the rest is promised by the
    // caller.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes a program the filter of a socket, in one step with the removal of the one before.
///
/// # Errors
/// What the system says; the old filter is then still there.
pub(super) fn attach(socket: BorrowedFd<'_>, program: &Program) -> io::Result<()> {
    let descriptor: c_int = program.as_fd().as_raw_fd();
    // SAFETY: the option takes one descriptor.
    unsafe { set_option(socket, libc::SO_ATTACH_BPF, &descriptor) }
}

/// The same for a program of classic BPF.
///
/// # Errors
/// What the system says; the old filter is then still there.
pub(super) fn attach_classic(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_too_many| wrong_size())?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the option takes this structure and reads `len` instructions, which are there.
    unsafe { set_option(socket, libc::SO_ATTACH_FILTER, &program) }
}

/// Takes the filter off a socket; one that has none is no error.
///
/// # Errors
/// What the system says.
pub(super) fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nothing: c_int = 0;
    // SAFETY: the option reads no value, but wants the room of one.
    match unsafe { set_option(socket, libc::SO_DETACH_FILTER, &nothing) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}
