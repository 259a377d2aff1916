//! The system calls that the tests need: a network namespace for a thread, packet sockets, fewer capabilities.
#![expect(
    unsafe_code,
    reason = "namespaces, packet addresses, statistics and capabilities have no safe interface in the crates we use"
)]

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_void, socklen_t};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

fn done(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Gives this thread a network of its own; it is gone when the thread and what it started are.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// The number of an interface.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends in a zero and lives until after the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(index)
    }
}

/// A raw packet socket that hears nothing yet.
pub(crate) fn packet_socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))
}

/// Binds a packet socket to an interface; with `hears`, every frame of it arrives.
pub(crate) fn bind(socket: &Socket, interface: u32, hears: bool) -> io::Result<()> {
    let protocol = if hears { 0x0003_u16.to_be() } else { 0 };
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: the storage is zeroed and larger than any address.
        let address = unsafe { &mut *address };
        address.sll_family = 17;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface.cast_signed();
        // SAFETY: the length is ours to set.
        unsafe { *length = socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap() };
        Ok(())
    };
    // SAFETY: the storage is filled with an address of the length that is set.
    let ((), address) = unsafe { SockAddr::try_init(fill) }?;
    socket.bind(&address)
}

/// Sets an option of packet sockets that is one number.
pub(crate) fn set_packet_option(socket: &Socket, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is as long as said and lives until after the call.
    done(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            ptr::from_ref(&value).cast(),
            socklen_t::try_from(size_of::<c_int>()).unwrap(),
        )
    })
}

/// Packets that the kernel gave to a socket, and those that it dropped for want of room, since the last call.
pub(crate) fn packet_statistics(socket: &Socket) -> io::Result<(u32, u32)> {
    let mut statistics = [0_u32; 2];
    let mut length = socklen_t::try_from(size_of::<[u32; 2]>()).unwrap();
    // SAFETY: the kernel writes at most `length` octets into the statistics, and the new length; both are ours.
    done(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            ptr::from_mut(&mut length),
        )
    })?;
    Ok((statistics[0], statistics[1]))
}

/// Octets of a receive buffer, beyond what the system allows to everybody.
pub(crate) fn force_receive_buffer(socket: &Socket, octets: c_int) -> io::Result<()> {
    // SAFETY: the value is as long as said and lives until after the call.
    done(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            ptr::from_ref(&octets).cast(),
            socklen_t::try_from(size_of::<c_int>()).unwrap(),
        )
    })
}

/// Attaches classic BPF as another program compiled it.
pub(crate) fn attach_classic(socket: &Socket, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len().try_into().unwrap(),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the option takes this structure and reads `len` instructions, which are there.
    done(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            ptr::from_ref(&program).cast::<c_void>(),
            socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap(),
        )
    })
}

/// The next frame, and the VLAN tag that the kernel took off it. None where nothing comes in time.
pub(crate) fn receive(socket: &Socket, flags: c_int) -> io::Result<Option<(Vec<u8>, Option<u16>)>> {
    let mut frame = vec![0_u8; 65_536];
    let mut control = [0_u64; 32];
    let mut piece = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    // SAFETY: the structure consists of integers and pointers, for which zeros are values.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = ptr::from_mut(&mut piece);
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message leads to a buffer and room for control messages that live until after the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), ptr::from_mut(&mut message), flags) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
    };
    frame.truncate(length);
    // SAFETY: the kernel has filled the message's control part.
    let header = unsafe { libc::CMSG_FIRSTHDR(ptr::from_ref(&message)) };
    // SAFETY: the header, where there is one, lies within the control part.
    let Some(&libc::cmsghdr {
        cmsg_level,
        cmsg_type,
        ..
    }) = (unsafe { header.as_ref() })
    else {
        return Ok(Some((frame, None)));
    };
    if (cmsg_level, cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return Ok(Some((frame, None)));
    }
    // SAFETY: the data behind a header that is there.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a control message of this type holds this structure.
    let auxiliary = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
    let stripped = auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
    Ok(Some((frame, stripped.then_some(auxiliary.tp_vlan_tci))))
}

/// Sends frames, as many as one call takes; returns how many that were.
pub(crate) fn send_many(socket: &Socket, frames: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: the structure consists of integers and pointers, for which zeros are values.
    let empty: libc::mmsghdr = unsafe { mem::zeroed() };
    let mut headers = vec![empty; frames.len()];
    for (header, frame) in headers.iter_mut().zip(frames) {
        // An `IoSlice` is an `iovec`, by its documentation.
        header.msg_hdr.msg_iov = ptr::from_ref(frame).cast_mut().cast();
        header.msg_hdr.msg_iovlen = 1;
    }
    let count = u32::try_from(headers.len()).unwrap();
    // SAFETY: the headers lead to slices that live until after the call and that the kernel only reads; it writes to
    // `msg_len` in the headers, which are ours.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// Rights that matter here, numbered as in `linux/capability.h`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Right {
    SysAdmin = 21,
    PerfMon = 38,
    Bpf = 39,
}

/// Takes rights from this thread, for the rest of its life.
pub(crate) fn give_up(rights: &[Right]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    // Effective, permitted, inheritable; the lower half of all first.
    let mut header = [VERSION_3, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: the third version reads two numbers and writes two times three.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    done(c_int::try_from(read).unwrap())?;
    for right in rights.iter().map(|&right| right as u32) {
        for set in &mut sets[usize::from(right >= 32)] {
            *set &= !(1 << (right % 32));
        }
    }
    // SAFETY: the third version reads two numbers and two times three.
    let written = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    done(c_int::try_from(written).unwrap())
}
