//! The system calls that only the tests need: network namespaces for threads, what a card does by itself, a tunnel end.
#![expect(
    unsafe_code,
    reason = "namespaces and interface settings have no safe interface in the crates we use"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_short, c_ulong, socklen_t};

fn done(answer: c_int) {
    assert!(answer >= 0, "{}", io::Error::last_os_error());
}

/// Gives the calling thread a network namespace of its own.
pub(crate) fn leave_namespace() {
    // SAFETY: takes and returns numbers; other threads stay where they are.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) });
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter_namespace(namespace: &File) {
    // SAFETY: takes and returns numbers; other threads stay where they are.
    done(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) });
}

/// An interface's name and something about it, as the calls for interfaces take it (`struct ifreq`).
#[repr(C)]
union Something {
    value: *mut Value,
    flags: c_short,
    _room: [u8; 24],
}

#[repr(C)]
struct Request {
    name: [u8; 16],
    something: Something,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn name_of(interface: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    name
}

/// Does what `ethtool -K` does with one of its old commands (`ETHTOOL_STSO` and so on).
pub(crate) fn set_offload(socket: BorrowedFd<'_>, interface: &str, command: u32, on: bool) {
    let mut value = Value {
        command,
        data: on.into(),
    };
    let mut request = Request {
        name: name_of(interface),
        something: Something {
            value: ptr::from_mut(&mut value),
        },
    };
    // SAFETY: the request has the shape that the call expects, and lives as its value does until after the call.
    done(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCETHTOOL,
            ptr::from_mut(&mut request),
        )
    });
}

/// Makes a tunnel interface out of an open `/dev/net/tun`; `hardware` is what it says to be (`ARPHRD_*`). What is written
/// to it begins with an offload header where that is wanted.
pub(crate) fn make_tunnel(device: &File, interface: &str, hardware: u16, offload_header: bool) {
    let offload = if offload_header {
        libc::IFF_VNET_HDR
    } else {
        0
    };
    let mut request = Request {
        name: name_of(interface),
        something: Something {
            flags: c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI | offload).unwrap(),
        },
    };
    // SAFETY: the request has the shape that the call expects, and lives until after the call.
    done(unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            libc::TUNSETIFF,
            ptr::from_mut(&mut request),
        )
    });
    // SAFETY: takes and returns numbers.
    done(unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            libc::TUNSETLINK,
            c_ulong::from(hardware),
        )
    });
}

/// Sets a socket option that is one number.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) {
    let length = socklen_t::try_from(size_of::<c_int>()).unwrap();
    // SAFETY: the value is `length` octets that live until after the call and are only read.
    done(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            length,
        )
    });
}
