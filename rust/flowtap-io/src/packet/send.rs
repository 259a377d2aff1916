//! Sends frames as they are on an interface: for traffic generators and tests, never for copies, which would go around
//! routing and IPsec that way.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::PacketError;
use super::interface::Interface;
use super::sys::{self, FRAMES};

/// The most frames that one call sends.
pub const FRAMES_PER_CALL: usize = FRAMES;

/// How a [`FrameSender`] sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderOptions {
    /// Frames go to the driver at once, past the interface's queue (and past every capture on this interface).
    pub bypass_queue: bool,
    /// Each frame begins with an offload header (`struct virtio_net_hdr`, 10 octets), which may leave its checksum
    /// unfinished or make it a super-frame.
    pub offload_header: bool,
}

/// Sends frames on one interface. Needs the right CAP_NET_RAW.
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
}

impl FrameSender {
    /// Opens a sender.
    ///
    /// # Errors
    /// [`PacketError::PermissionMissing`], [`PacketError::NoInterface`], or what the system says.
    pub fn open(interface: &str, options: SenderOptions) -> Result<Self, PacketError> {
        let interface = Interface::find(interface)?;
        let failed = |operation| {
            let name = interface.name.as_str();
            move |error| PacketError::system(name, operation, error)
        };
        let socket = sys::packet_socket(libc::SOCK_RAW).map_err(failed("opening a sender"))?;
        prepare(socket.as_fd(), &interface, options).map_err(failed("preparing a sender"))?;
        Ok(Self { socket })
    }

    /// Sends frames, at most [`FRAMES_PER_CALL`], without waiting; returns how many were taken.
    ///
    /// # Errors
    /// What stopped the first one: `WouldBlock` or `ENOBUFS` where there is no room at the moment.
    pub fn send(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        sys::send_frames(self.socket.as_fd(), frames)
    }
}

fn prepare(
    socket: BorrowedFd<'_>,
    interface: &Interface,
    options: SenderOptions,
) -> io::Result<()> {
    if options.bypass_queue {
        sys::set_packet(socket, libc::PACKET_QDISC_BYPASS, 1)?;
    }
    if options.offload_header {
        sys::set_packet(socket, libc::PACKET_VNET_HDR, 1)?;
    }
    sys::bind(socket, interface.number(), 0)
}

impl AsFd for FrameSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
