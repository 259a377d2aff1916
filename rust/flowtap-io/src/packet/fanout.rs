//! Several workers on one interface: each frame goes to exactly one of them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use libc::{c_int, c_uint};

use super::interface::Interface;
use super::sys;

/// How frames are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FanoutMode {
    /// By addresses, protocol and ports, both directions of a flow to the same worker. The kernel leaves out the ports of
    /// every fragment, the first one too, so all fragments of a datagram come to one worker, whose memory of fragments
    /// needs no other. (The first fragments of a flow may then be with another worker than its whole packets, which
    /// does not matter: nothing else is remembered from packet to packet.)
    ///
    /// The kernel is not asked to put fragments together (`PACKET_FANOUT_FLAG_DEFRAG`): a tap copies what was on the
    /// wire.
    #[default]
    Hash,
    /// By the processor that received the frame: right for cards that share out flows themselves. Fragments stay
    /// together only if the card keeps them together.
    Processor,
    /// By the card's queue; like [`FanoutMode::Processor`].
    Queue,
}

impl FanoutMode {
    const fn number(self) -> c_uint {
        match self {
            Self::Hash => libc::PACKET_FANOUT_HASH,
            Self::Processor => libc::PACKET_FANOUT_CPU,
            Self::Queue => libc::PACKET_FANOUT_QM,
        }
    }
}

/// The kernel's group for one interface, while a socket is in it.
#[derive(Debug, Default)]
struct Present {
    interface: u32,
    id: c_uint,
    members: Weak<Membership>,
}

/// A place in a group; dropped after its socket was closed.
#[derive(Debug)]
pub(super) struct Membership {
    _private: (),
}

/// Workers that share an interface. Every capture that is opened with the same group gets its part; one that is opened
/// again after the interface appeared again finds the others there.
#[derive(Clone, Debug)]
pub struct FanoutGroup {
    mode: FanoutMode,
    present: Arc<Mutex<Present>>,
}

impl FanoutGroup {
    /// A group without members.
    pub fn new(mode: FanoutMode) -> Self {
        Self {
            mode,
            present: Arc::default(),
        }
    }

    /// Adds a bound socket to the group of its interface.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn join(
        &self,
        socket: BorrowedFd<'_>,
        interface: &Interface,
        inbound_only: bool,
    ) -> io::Result<Arc<Membership>> {
        // The socket's own wish to hear only what comes in does not count in a group; the group has one of its own.
        let flags = if inbound_only {
            libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        } else {
            0
        };
        let kind = (self.mode.number() | flags) << 16;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(membership) = present
            .members
            .upgrade()
            .filter(|_| present.interface == interface.index)
        {
            set(socket, kind | present.id)?;
            return Ok(membership);
        }
        // The kernel picks a number that no other program uses.
        set(socket, kind | libc::PACKET_FANOUT_FLAG_UNIQUEID << 16)?;
        let id = sys::packet_option(socket, libc::PACKET_FANOUT)?;
        let membership = Arc::new(Membership { _private: () });
        *present = Present {
            interface: interface.index,
            id: id.cast_unsigned() & 0xffff,
            members: Arc::downgrade(&membership),
        };
        Ok(membership)
    }
}

fn set(socket: BorrowedFd<'_>, value: c_uint) -> io::Result<()> {
    let value: c_int = value.cast_signed();
    sys::set_packet(socket, libc::PACKET_FANOUT, value)
}
