//! The system calls of sending that have no safe wrapper: many messages at once, and a few socket options.
#![expect(
    unsafe_code,
    reason = "sendmmsg, poll and these socket options have no safe interface in the crates we use"
)]

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, socklen_t};
use socket2::SockAddr;

/// The most messages of one call.
pub(super) const MESSAGES: usize = 64;

/// Octets of a control message with one 16-bit number, padding included.
const CONTROL_OCTETS: usize = (size_of::<libc::cmsghdr>() + 2).next_multiple_of(size_of::<usize>());

// The control message is written field by field, so the fields must lie as written.
const _: () = assert!(mem::offset_of!(libc::cmsghdr, cmsg_level) == size_of::<usize>());
const _: () = assert!(mem::offset_of!(libc::cmsghdr, cmsg_type) == size_of::<usize>() + 4);
const _: () = assert!(size_of::<libc::cmsghdr>() == size_of::<usize>() + 8);

/// One message: a datagram, or several of equal length that the kernel cuts apart.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    /// The octets, in pieces.
    pub(super) payload: &'a [IoSlice<'a>],
    /// Length of each datagram but the last, which may be shorter; 0 for one datagram.
    pub(super) segment_octets: u16,
}

/// The control message that asks for segmentation.
fn segmentation(octets: u16) -> [u8; CONTROL_OCTETS] {
    let length = size_of::<libc::cmsghdr>() + size_of::<u16>();
    let fields = length
        .to_ne_bytes()
        .into_iter()
        .chain(libc::SOL_UDP.to_ne_bytes())
        .chain(libc::UDP_SEGMENT.to_ne_bytes())
        .chain(octets.to_ne_bytes());
    let mut control = [0; CONTROL_OCTETS];
    for (place, octet) in control.iter_mut().zip(fields) {
        *place = octet;
    }
    control
}

/// Sends messages to one destination, at most [`MESSAGES`], without waiting; returns how many were sent.
///
/// # Errors
/// What stopped the first one. An error of a later one comes when that is sent again.
pub(super) fn send_many(
    socket: BorrowedFd<'_>,
    destination: &SockAddr,
    messages: &[Message<'_>],
) -> io::Result<usize> {
    // SAFETY: the structure consists of integers and pointers, for which zeros are values.
    let empty: libc::mmsghdr = unsafe { mem::zeroed() };
    let mut headers = [empty; MESSAGES];
    let mut controls = [[0; CONTROL_OCTETS]; MESSAGES];
    let mut count: c_uint = 0;
    for ((header, control), message) in headers.iter_mut().zip(&mut controls).zip(messages) {
        let header = &mut header.msg_hdr;
        header.msg_name = destination.as_ptr().cast_mut().cast();
        header.msg_namelen = destination.len();
        // An `IoSlice` is an `iovec`, by its documentation.
        header.msg_iov = message.payload.as_ptr().cast_mut().cast();
        header.msg_iovlen = message.payload.len();
        if message.segment_octets != 0 {
            *control = segmentation(message.segment_octets);
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_OCTETS;
        }
        count = count.saturating_add(1);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers point to an address, slices and control messages that live until after the call
    // and that the kernel only reads; it writes to `msg_len` in the headers, which are ours.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
    // A negative number is no count.
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// Waits until the socket takes octets again; false if it does not in time, or has an error to report first.
///
/// # Errors
/// What the system says.
pub(super) fn wait_writable(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut descriptor = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: one descriptor structure, which is ours for the time of the call.
    let ready = unsafe { libc::poll(ptr::from_mut(&mut descriptor), 1, timeout) };
    if ready < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(descriptor.revents & libc::POLLOUT != 0)
    }
}

/// Sets a socket option that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let length = socklen_t::try_from(size_of::<c_int>()).unwrap_or(0);
    // SAFETY: the value is `length` octets that live until after the call and are only read.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Reads a socket option that is one number.
///
/// # Errors
/// What the system says.
pub(super) fn option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = socklen_t::try_from(size_of::<c_int>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` octets into the value, and the new length; both are ours.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            ptr::from_mut(&mut length),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
