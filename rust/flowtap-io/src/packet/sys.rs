//! The system calls of capturing that have no safe interface, and the memory that is shared with the kernel.
#![expect(
    unsafe_code,
    reason = "packet sockets, their options and their rings have no safe interface in the crates we use"
)]

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::{
    c_int, c_uint, packet_mreq, sock_filter, sock_fprog, sockaddr_ll, sockaddr_nl, socklen_t,
    tpacket_block_desc, tpacket_req3, tpacket_stats_v3,
};

/// Octets of the descriptor at the start of a block.
pub(super) const DESCRIPTOR_OCTETS: usize = 48;
/// Where a block's status is.
const STATUS: usize = 8;
/// The most frames of one call.
pub(super) const FRAMES: usize = 64;

// What the kernel writes (include/uapi/linux/if_packet.h), as this file and the walker over blocks read it.
const _: () = assert!(size_of::<tpacket_block_desc>() == DESCRIPTOR_OCTETS);
const _: () = assert!(mem::offset_of!(tpacket_block_desc, hdr) == STATUS);
const _: () = assert!(mem::offset_of!(libc::tpacket_hdr_v1, block_status) == 0);
const _: () = assert!(align_of::<tpacket_block_desc>() == 8);
const _: () = assert!(size_of::<tpacket_req3>() == 28);
const _: () = assert!(size_of::<tpacket_stats_v3>() == 12);
const _: () = assert!(size_of::<sockaddr_ll>() == 20);
const _: () = assert!(size_of::<sockaddr_nl>() == 12);
const _: () = assert!(size_of::<packet_mreq>() == 16);
const _: () = assert!(size_of::<sock_filter>() == 8);

/// The result of a call that answers with a descriptor.
fn descriptor(answer: c_int) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just given this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

/// The result of a call that answers with zero.
fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The length of a structure that is handed to the kernel.
fn length_of<T>() -> socklen_t {
    socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// A packet socket that receives nothing yet.
///
/// # Errors
/// What the system says.
pub(super) fn packet_socket(kind: c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes and returns numbers. Protocol 0: no frame of any interface comes before the socket is bound.
    let answer = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    descriptor(answer)
}

/// A socket that hears of every change of an interface where `groups` says so.
///
/// # Errors
/// What the system says.
pub(super) fn link_socket(groups: u32) -> io::Result<OwnedFd> {
    // What is asked for is waited for; what comes by itself is read when it is there.
    let patience = if groups == 0 { 0 } else { libc::SOCK_NONBLOCK };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | patience;
    // SAFETY: takes and returns numbers.
    let answer = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    let socket = descriptor(answer)?;
    // SAFETY: the structure consists of integers, for which zeros are values.
    let mut address: sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or(0);
    address.nl_groups = groups;
    // SAFETY: the address has the length that is said, lives until after the call and is only read.
    let answer = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            length_of::<sockaddr_nl>(),
        )
    };
    done(answer)?;
    Ok(socket)
}

/// A counter that can be waited for; another thread adds to it to end a wait.
///
/// # Errors
/// What the system says.
pub(super) fn event() -> io::Result<OwnedFd> {
    // SAFETY: takes and returns numbers.
    let answer = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    descriptor(answer)
}

/// Binds a packet socket to an interface; `protocol` in host order, 0 for a socket that only sends.
///
/// # Errors
/// What the system says.
pub(super) fn bind(socket: BorrowedFd<'_>, index: c_int, protocol: u16) -> io::Result<()> {
    // SAFETY: the structure consists of integers, for which zeros are values.
    let mut address: sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    // SAFETY: the address has the length that is said, lives until after the call and is only read.
    let answer = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            length_of::<sockaddr_ll>(),
        )
    };
    done(answer)
}

fn set<T: Copy>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value has the length that is said, lives until after the call and is only read.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            length_of::<T>(),
        )
    };
    done(answer)
}

/// Integers, and structures of integers without gaps: any octets are a value.
///
/// # Safety
/// The type must be so.
unsafe trait Integers: Copy {}

// SAFETY: an integer.
unsafe impl Integers for c_int {}

// SAFETY: three integers of one size.
unsafe impl Integers for tpacket_stats_v3 {}

/// Reads an option; `value` is what stays where the kernel writes less.
fn read<T: Integers>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    mut value: T,
) -> io::Result<T> {
    let mut length = length_of::<T>();
    // SAFETY: the kernel writes at most `length` octets into the value, and the new length; both are ours, and any
    // octets are a value.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            ptr::from_mut(&mut length),
        )
    };
    done(answer)?;
    Ok(value)
}

/// Sets an option of the socket that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn set_socket(socket: BorrowedFd<'_>, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, name, &value)
}

/// Reads an option of the socket that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn socket_option(socket: BorrowedFd<'_>, name: c_int) -> io::Result<c_int> {
    read(socket, libc::SOL_SOCKET, name, 0)
}

/// Sets an option of packet sockets that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn set_packet(socket: BorrowedFd<'_>, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, name, &value)
}

/// Reads an option of packet sockets that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn packet_option(socket: BorrowedFd<'_>, name: c_int) -> io::Result<c_int> {
    read(socket, libc::SOL_PACKET, name, 0)
}

/// Asks for a ring.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring(socket: BorrowedFd<'_>, request: &tpacket_req3) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, request)
}

/// Makes the interface take frames that are not for this host, as long as the socket is open.
///
/// # Errors
/// What the system says.
pub(super) fn set_promiscuous(socket: BorrowedFd<'_>, index: c_int) -> io::Result<()> {
    let membership = packet_mreq {
        mr_ifindex: index,
        mr_type: u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or(0),
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &membership,
    )
}

/// Attaches a classic filter in place of the one that is there.
///
/// # Errors
/// What the system says.
pub(super) fn set_filter(socket: BorrowedFd<'_>, program: &[sock_filter]) -> io::Result<()> {
    let program = sock_fprog {
        len: u16::try_from(program.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?,
        // The kernel copies the program and does not write to it.
        filter: program.as_ptr().cast_mut(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// What the kernel counted since it was asked last.
///
/// # Errors
/// What the system says.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<tpacket_stats_v3> {
    let empty = tpacket_stats_v3 {
        tp_packets: 0,
        tp_drops: 0,
        tp_freeze_q_cnt: 0,
    };
    read(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, empty)
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    /// The socket has something to be read.
    pub(super) readable: bool,
    /// The socket has an error to be fetched.
    pub(super) failed: bool,
    /// Somebody wants the wait to end.
    pub(super) woken: bool,
}

/// Waits until the socket has something to read or to report, or `wake` is added to; all false where nothing came in
/// time, or a signal came.
///
/// # Errors
/// What the system says.
pub(super) fn wait(
    socket: BorrowedFd<'_>,
    wake: BorrowedFd<'_>,
    timeout: Duration,
) -> io::Result<Readiness> {
    let mut descriptors = [socket, wake].map(|descriptor| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // Part of a millisecond is waited for as a whole one, lest a short wait become a busy loop.
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let timeout = c_int::try_from(milliseconds).unwrap_or(c_int::MAX);
    // SAFETY: two descriptor structures, which are ours for the time of the call.
    let answer = unsafe { libc::poll(descriptors.as_mut_ptr(), 2, timeout) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(Readiness::default())
        } else {
            Err(error)
        };
    }
    let [socket, wake] = descriptors;
    Ok(Readiness {
        readable: socket.revents & libc::POLLIN != 0,
        failed: socket.revents & (libc::POLLERR | libc::POLLNVAL) != 0,
        woken: wake.revents != 0,
    })
}

/// Sends frames through a bound packet socket, at most [`FRAMES`], without waiting; returns how many were taken.
///
/// # Errors
/// What stopped the first one.
pub(super) fn send_frames(socket: BorrowedFd<'_>, frames: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: the structure consists of integers and pointers, for which zeros are values.
    let empty: libc::mmsghdr = unsafe { mem::zeroed() };
    let mut headers = [empty; FRAMES];
    let mut count: c_uint = 0;
    for (header, frame) in headers.iter_mut().zip(frames) {
        // An `IoSlice` is an `iovec`, by its documentation.
        header.msg_hdr.msg_iov = ptr::from_ref(frame).cast_mut().cast();
        header.msg_hdr.msg_iovlen = 1;
        count = count.saturating_add(1);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers point to slices that live until after the call and that the kernel only reads;
    // it writes to `msg_len` in the headers, which are ours.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
    // A negative number is no count.
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// A mapped ring of blocks.
///
/// A block belongs to the kernel or to us, as its status says. While it is ours the kernel writes to no octet of it
/// (Documentation/networking/packet_mmap.rst), and reads nothing but the status, to see whether it is its own again.
/// Until then no Rust reference to it exists but the atomic one to the status: everything else is reached through
/// [`Lent`], of which there is at most one, because it borrows the ring for writing.
#[derive(Debug)]
pub(super) struct Ring {
    start: NonNull<u8>,
    block_octets: usize,
    blocks: usize,
}

// SAFETY: the mapping belongs to no thread, and whoever owns the `Ring` is the only one to reach it.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring that was asked for with these sizes; a block has more octets than its descriptor.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        block_octets: usize,
        blocks: usize,
    ) -> io::Result<Self> {
        let octets = block_octets
            .checked_mul(blocks)
            .filter(|_| block_octets > DESCRIPTOR_OCTETS)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at a place that the kernel chooses; it overlaps nothing that Rust knows of. The kernel
        // refuses a length that is not the ring's.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            start,
            block_octets,
            blocks,
        })
    }

    /// How many blocks there are.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// A block; the last one for a number that is too large.
    fn block(&self, number: usize) -> Block {
        let number = number.min(self.blocks.saturating_sub(1));
        // SAFETY: the block lies inside the mapping, whose length fits into `isize` as that of any mapping.
        Block(unsafe { self.start.add(number * self.block_octets) })
    }

    /// Whether a block is ours.
    pub(super) fn is_ready(&self, number: usize) -> bool {
        // Acquire: the kernel has written the block before it wrote the status, with a write barrier between; what we
        // read of the block after this must not be older.
        let status = self.block(number).status().load(Ordering::Acquire);
        status & libc::TP_STATUS_USER != 0
    }

    /// Takes a block that is ours; None while it is the kernel's. It is returned when the result is dropped.
    pub(super) fn take(&mut self, number: usize) -> Option<Lent<'_>> {
        self.is_ready(number).then_some(Lent { ring: self, number })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let octets = self.block_octets * self.blocks;
        // SAFETY: the mapping is the one that `map` made, whole, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), octets) };
    }
}

/// Where a block of a living mapping begins.
#[derive(Clone, Copy, Debug)]
struct Block(NonNull<u8>);

impl Block {
    /// The status, which says whose the block is.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: inside the block, which is longer than its descriptor.
        let place = unsafe { self.0.add(STATUS) };
        // SAFETY: blocks are page-aligned, so the number is aligned; it lies inside the mapping, which is there as long as
        // the `Ring` or `Lent` that uses this. The kernel writes it at any time, but with one store of a whole number,
        // and here it is only read and written atomically.
        unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) }
    }
}

/// A block that is ours.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    /// Borrowed for writing, so that no other block is lent meanwhile.
    ring: &'a mut Ring,
    number: usize,
}

impl Lent<'_> {
    /// The descriptor.
    pub(super) fn descriptor(&self) -> [u8; DESCRIPTOR_OCTETS] {
        let start = self.ring.block(self.number).0;
        // SAFETY: the block is ours and longer than its descriptor; octets need no alignment and any are right. The kernel
        // may read the status meanwhile, and so do we.
        unsafe { start.cast().read() }
    }

    /// The octets behind the descriptor. They may be written to: they are ours until the block is returned, and the
    /// kernel reads none of them.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "there must be no second slice while one is written to"
    )]
    pub(super) fn octets(&mut self) -> &mut [u8] {
        let start = self.ring.block(self.number).0;
        // SAFETY: a block is longer than its descriptor.
        let start = unsafe { start.add(DESCRIPTOR_OCTETS) };
        let length = self.ring.block_octets - DESCRIPTOR_OCTETS;
        // SAFETY: the octets lie inside the block, which is ours alone until it is returned in `drop`, and that cannot
        // be while the slice lives; the mapping outlives it too. Pages of a ring come zeroed, so all are initialised.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let block = self.ring.block(self.number);
        // Release: all that was read from the block and written to it came before, so the kernel cannot overwrite what
        // is still being read.
        block
            .status()
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}
