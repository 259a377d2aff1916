//! Descriptors that come as numbers, from a language that has no owners.
#![expect(
    unsafe_code,
    reason = "a number becomes an owned descriptor; the safe interface takes owned ones only"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor of our own for the same thing; closed when a program is started.
///
/// # Errors
/// The number is no open descriptor, or there are too many.
pub(super) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory; a number that is no descriptor is an error.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
