//! One worker's capture on one interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::bpf::Instruction;
use flowtap_core::frame::LinkType;
use libc::{c_int, c_uint, sock_filter, tpacket_req3};

use super::block::{Block, Layout, RESERVED_OCTETS};
use super::error::PacketError;
use super::fanout::Membership;
use super::interface::Interface;
use super::options::{CaptureOptions, Directions, LEAST_BLOCKS, RingOptions, Timestamps};
use super::statistics::StatisticsReader;
use super::sys::{self, Ring};
use super::wake::Waker;

/// Octets of a frame as the kernel wants to be told, though in a ring of blocks frames have any length.
const FRAME_OCTETS: usize = 2048;
/// Blocks between two readings of the kernel's counters, which have 32 bits: not even full blocks of the smallest
/// frames fill them in that time.
const BLOCKS_PER_READING: u32 = 256;
/// All protocols, as `bind` wants to be told (`ETH_P_ALL`).
const ALL_PROTOCOLS: u16 = 3;
/// Returns zero: no octet of any frame passes.
const NOTHING: [sock_filter; 1] = [sock_filter {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0,
}];

/// A socket with its ring, as far as it is opened for one interface.
#[derive(Debug)]
struct Opened {
    // In this order: the place in the group is given up after the socket is closed.
    ring: Ring,
    socket: Arc<OwnedFd>,
    _membership: Option<Arc<Membership>>,
    interface: Interface,
    size: RingOptions,
    layout: Layout,
}

/// One worker's capture on one interface: a packet socket and the ring that the kernel fills.
///
/// A capture begins closed: until a filter is attached, or [`Capture::admit_all`] is called, no frame comes into the ring.
/// So there is never a frame in it that the filter did not see, nor one of another interface.
///
/// The interface may go down and up again and change its name while it is captured: frames come again when it is up.
/// Once it was removed, nothing comes any more; when one of its name is there again, [`Capture::reopen`] goes on with it.
/// What happens is told by an [`InterfaceWatch`](super::InterfaceWatch).
#[derive(Debug)]
pub struct Capture {
    opened: Opened,
    options: CaptureOptions,
    statistics: StatisticsReader,
    wake: Waker,
    /// The block that the kernel hands over next.
    next: usize,
    until_reading: u32,
    went_down: u64,
    /// Frames in the blocks that were handed out.
    taken: u64,
}

/// Opens a packet socket for [`Capture::from_socket`], in a process that has the right to.
///
/// # Errors
/// [`PacketError::PermissionMissing`], [`PacketError::NoInterface`], or what the system says.
pub fn open_socket(interface: &str) -> Result<OwnedFd, PacketError> {
    let interface = Interface::find(interface)?;
    sys::packet_socket(interface.socket_type())
        .map_err(|error| PacketError::system(&interface.name, "opening a packet socket", error))
}

impl Capture {
    /// Opens a capture. Needs the right CAP_NET_RAW and no other.
    ///
    /// # Errors
    /// Every [`PacketError`]; the options are looked at before the system is.
    pub fn open(options: CaptureOptions) -> Result<Self, PacketError> {
        let opened = Opened::new(&options, None)?;
        Self::of(opened, options)
    }

    /// Opens a capture on a packet socket that another process opened, and needs no right at all.
    ///
    /// The socket is one of [`open_socket`], or opened like it: with the protocol 0, and of the type that the
    /// interface needs.
    ///
    /// # Errors
    /// Every [`PacketError`].
    pub fn from_socket(socket: OwnedFd, options: CaptureOptions) -> Result<Self, PacketError> {
        let opened = Opened::new(&options, Some(socket))?;
        Self::of(opened, options)
    }

    fn of(opened: Opened, options: CaptureOptions) -> Result<Self, PacketError> {
        let wake = Waker::new()
            .map_err(|error| PacketError::system(&options.interface, "making an event", error))?;
        Ok(Self {
            statistics: StatisticsReader::new(Arc::clone(&opened.socket)),
            opened,
            options,
            wake,
            next: 0,
            until_reading: BLOCKS_PER_READING,
            went_down: 0,
            taken: 0,
        })
    }

    /// Goes on with the interface that has the name now, which may be another one than before. Statistics are added up,
    /// wakers stay, and the capture begins closed again. Frames that were not read yet are lost, and counted as dropped.
    ///
    /// # Errors
    /// Every [`PacketError`]; the capture is as it was then.
    pub fn reopen(&mut self) -> Result<(), PacketError> {
        self.replace(None)
    }

    /// Like [`Capture::reopen`] with a socket that another process opened.
    ///
    /// # Errors
    /// Every [`PacketError`]; the capture is as it was then.
    pub fn reopen_from(&mut self, socket: OwnedFd) -> Result<(), PacketError> {
        self.replace(Some(socket))
    }

    fn replace(&mut self, socket: Option<OwnedFd>) -> Result<(), PacketError> {
        let opened = Opened::new(&self.options, socket)?;
        self.statistics.follow(None);
        self.lose_unread();
        self.statistics.follow(Some(Arc::clone(&opened.socket)));
        self.opened = opened;
        self.next = 0;
        Ok(())
    }

    /// Lets every frame pass that the options ask for, in place of a filter.
    ///
    /// # Errors
    /// What the system says.
    pub fn admit_all(&self) -> Result<(), PacketError> {
        match sys::set_socket(self.as_fd(), libc::SO_DETACH_FILTER, 0) {
            // There is no filter to take away.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(self.failed("taking the filter away", error))
            }
            _ => Ok(()),
        }
    }

    /// Lets no frame pass, as it was at the beginning.
    ///
    /// # Errors
    /// What the system says.
    pub fn admit_nothing(&self) -> Result<(), PacketError> {
        sys::set_filter(self.as_fd(), &NOTHING)
            .map_err(|error| self.failed("attaching a filter", error))
    }

    /// Attaches a classic filter in place of what is there, in one step. The program sees the frame as the kernel has
    /// it: without the VLAN tag that the kernel took out, and a super-frame whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn attach_filter(&self, program: &[Instruction]) -> Result<(), PacketError> {
        let program: Vec<sock_filter> = program
            .iter()
            .map(|&Instruction { code, jt, jf, k }| sock_filter { code, jt, jf, k })
            .collect();
        sys::set_filter(self.as_fd(), &program)
            .map_err(|error| self.failed("attaching a filter", error))
    }

    /// The interface as it was when the capture was opened.
    pub const fn interface(&self) -> &Interface {
        &self.opened.interface
    }

    /// How its frames begin.
    pub const fn link_type(&self) -> LinkType {
        self.opened.layout.link_type
    }

    /// The ring as it is: smaller than asked for where the system had no memory for that.
    pub const fn ring(&self) -> RingOptions {
        self.opened.size
    }

    /// What the kernel counts, readable from any thread at any time.
    pub fn statistics(&self) -> StatisticsReader {
        self.statistics.clone()
    }

    /// What ends a wait of another thread in [`Capture::next_block`].
    pub fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// How often the interface went down, or was removed, while it was captured.
    pub const fn went_down(&self) -> u64 {
        self.went_down
    }

    /// How many frames the kernel has received that were not handed out yet. Where no frame is let pass any more, those are
    /// in the ring, and their block comes at the latest when its time is up.
    pub fn unread(&self) -> u64 {
        self.statistics.read().received.saturating_sub(self.taken)
    }

    /// Counts the frames that were not handed out as dropped: nobody will read them.
    pub fn lose_unread(&self) {
        self.statistics.lose_all_but(self.taken);
    }

    /// The next block of frames, waiting for it at most so long; None where none came in time, after a wake, or after a
    /// signal. An interface that goes down ends no wait: there is nothing to read until it is up again.
    ///
    /// # Errors
    /// What the system says.
    pub fn next_block(&mut self, timeout: Duration) -> Result<Option<Block<'_>>, PacketError> {
        let number = self.next;
        if !self.opened.ring.is_ready(number) && !self.wait(number, timeout)? {
            return Ok(None);
        }
        self.until_reading = self.until_reading.saturating_sub(1);
        if self.until_reading == 0 {
            self.until_reading = BLOCKS_PER_READING;
            self.statistics.read();
        }
        let layout = self.opened.layout;
        let blocks = self.opened.ring.blocks();
        Ok(self.opened.ring.take(number).map(|lent| {
            self.next = (number + 1) % blocks;
            let block = Block::new(lent, layout);
            self.taken += u64::from(block.len());
            block
        }))
    }

    /// Waits for a block; false where none came.
    fn wait(&mut self, number: usize, timeout: Duration) -> Result<bool, PacketError> {
        let until = Instant::now().checked_add(timeout);
        loop {
            let left = until.map_or(timeout, |until| {
                until.saturating_duration_since(Instant::now())
            });
            let readiness = sys::wait(self.as_fd(), self.wake.as_fd(), left)
                .map_err(|error| self.failed("waiting for frames", error))?;
            if readiness.failed {
                self.take_error()?;
            }
            if self.opened.ring.is_ready(number) {
                return Ok(true);
            }
            if readiness.woken {
                self.wake.clear();
            }
            // After an error the rest of the time is waited for.
            if readiness.woken || !(readiness.failed || readiness.readable) || left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Takes the error that the socket reports, so that it reports it no longer.
    fn take_error(&mut self) -> Result<(), PacketError> {
        let number = sys::socket_option(self.as_fd(), libc::SO_ERROR)
            .map_err(|error| self.failed("asking for an error", error))?;
        match number {
            0 => Ok(()),
            libc::ENETDOWN => {
                self.went_down += 1;
                Ok(())
            }
            number => Err(self.failed("waiting for frames", io::Error::from_raw_os_error(number))),
        }
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> PacketError {
        PacketError::system(&self.opened.interface.name, operation, error)
    }
}

impl AsFd for Capture {
    /// The packet socket: for a filter in eBPF (`SO_ATTACH_BPF`), which takes the place of what is there in one step, or
    /// for callers that wait for several things at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.socket.as_fd()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // The last counts, for those who still ask; and the socket is closed when the ring is gone.
        self.statistics.follow(None);
    }
}

impl Opened {
    fn new(options: &CaptureOptions, socket: Option<OwnedFd>) -> Result<Self, PacketError> {
        options.ring.check()?;
        let interface = Interface::find(&options.interface)?;
        let failed = |operation| {
            let name = interface.name.clone();
            move |error| PacketError::system(&name, operation, error)
        };
        let socket = match socket {
            Some(socket) => {
                check_socket(&socket, &interface)?;
                socket
            }
            None => sys::packet_socket(interface.socket_type())
                .map_err(failed("opening a packet socket"))?,
        };
        let descriptor = socket.as_fd();
        // First of all, lest a socket that is bound already bring anything.
        sys::set_filter(descriptor, &NOTHING).map_err(failed("attaching a filter"))?;
        let link_type = interface.link_type();
        let has_offload_header = link_type != LinkType::LinuxCooked2;
        let inbound_only = options.directions == Directions::Inbound || interface.is_loopback();
        set_options(descriptor, options, has_offload_header, inbound_only)
            .map_err(failed("setting an option"))?;
        let (ring, size) = make_ring(descriptor, &interface, options.ring)?;
        sys::bind(descriptor, interface.number(), ALL_PROTOCOLS)
            .map_err(failed("binding the packet socket"))?;
        // An interface that is down leaves an error; that it is down is no error.
        let left = sys::socket_option(descriptor, libc::SO_ERROR)
            .map_err(failed("asking for an error"))?;
        if options.promiscuous {
            sys::set_promiscuous(descriptor, interface.number())
                .map_err(failed("entering promiscuous mode"))?;
        }
        let membership = match &options.fanout {
            Some(_) if left == libc::ENETDOWN => {
                return Err(PacketError::InterfaceDown {
                    name: interface.name,
                });
            }
            Some(group) => {
                let joined = group.join(descriptor, &interface, inbound_only);
                Some(joined.map_err(failed("sharing the interface"))?)
            }
            None => None,
        };
        Ok(Self {
            ring,
            socket: Arc::new(socket),
            _membership: membership,
            size,
            layout: Layout {
                link_type,
                has_offload_header,
                interface: options.number,
            },
            interface,
        })
    }
}

/// Whether a descriptor from outside is the socket that the interface needs.
fn check_socket(socket: &OwnedFd, interface: &Interface) -> Result<(), PacketError> {
    let kind = interface.socket_type();
    let has = |name: c_int, value: c_int| {
        sys::socket_option(socket.as_fd(), name).is_ok_and(|is| is == value)
    };
    if has(libc::SO_DOMAIN, libc::AF_PACKET) && has(libc::SO_TYPE, kind) {
        return Ok(());
    }
    Err(PacketError::WrongDescriptor {
        interface: interface.name.clone(),
        expected: if kind == libc::SOCK_RAW {
            "SOCK_RAW"
        } else {
            "SOCK_DGRAM"
        },
    })
}

/// What must be set before there is a ring.
fn set_options(
    socket: BorrowedFd<'_>,
    options: &CaptureOptions,
    has_offload_header: bool,
    inbound_only: bool,
) -> io::Result<()> {
    let version = libc::tpacket_versions::TPACKET_V3 as c_int;
    sys::set_packet(socket, libc::PACKET_VERSION, version)?;
    let reserved = c_int::try_from(RESERVED_OCTETS).unwrap_or(0);
    sys::set_packet(socket, libc::PACKET_RESERVE, reserved)?;
    if has_offload_header {
        sys::set_packet(socket, libc::PACKET_VNET_HDR, 1)?;
    }
    if options.timestamps == Timestamps::Hardware {
        let hardware = libc::SOF_TIMESTAMPING_RAW_HARDWARE.cast_signed();
        sys::set_packet(socket, libc::PACKET_TIMESTAMP, hardware)?;
    }
    if inbound_only {
        sys::set_packet(socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    }
    Ok(())
}

/// Makes the ring.
fn make_ring(
    socket: BorrowedFd<'_>,
    interface: &Interface,
    wanted: RingOptions,
) -> Result<(Ring, RingOptions), PacketError> {
    let failed = |error| PacketError::system(&interface.name, "making a ring", error);
    let size = shrink(wanted, |size| sys::set_ring(socket, &request(size)))
        .map_err(failed)?
        .ok_or(PacketError::RingMemory {
            octets: wanted.block_octets.saturating_mul(LEAST_BLOCKS),
        })?;
    let ring = Ring::map(socket, size.block_octets, size.blocks).map_err(failed)?;
    Ok((ring, size))
}

/// Asks for a ring, and for one of half as many blocks as long as the system has no memory for it. None where it has
/// none for the smallest.
fn shrink(
    mut size: RingOptions,
    mut ask: impl FnMut(&RingOptions) -> io::Result<()>,
) -> io::Result<Option<RingOptions>> {
    while size.blocks >= LEAST_BLOCKS {
        match ask(&size) {
            Ok(()) => return Ok(Some(size)),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => size.blocks /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A ring as the kernel is asked for it.
fn request(size: &RingOptions) -> tpacket_req3 {
    let number = |octets: usize| c_uint::try_from(octets).unwrap_or(c_uint::MAX);
    let frames = (size.block_octets / FRAME_OCTETS).saturating_mul(size.blocks);
    tpacket_req3 {
        tp_block_size: number(size.block_octets),
        tp_block_nr: number(size.blocks),
        tp_frame_size: number(FRAME_OCTETS),
        tp_frame_nr: number(frames),
        tp_retire_blk_tov: size.retire_ms,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_shrinks_until_there_is_memory() {
        let wanted = RingOptions {
            blocks: 100,
            ..RingOptions::default()
        };
        let none = || io::Error::from_raw_os_error(libc::ENOMEM);
        let mut asked = Vec::new();
        let made = shrink(wanted, |size| {
            asked.push(size.blocks);
            if size.blocks > 20 {
                Err(none())
            } else {
                Ok(())
            }
        });
        assert_eq!(made.unwrap().map(|size| size.blocks), Some(12));
        assert_eq!(asked, [100, 50, 25, 12]);
        assert_eq!(shrink(wanted, |_| Err(none())).unwrap(), None);
        let other = shrink(wanted, |_| Err(io::ErrorKind::InvalidInput.into()));
        assert!(other.is_err());
    }
}
