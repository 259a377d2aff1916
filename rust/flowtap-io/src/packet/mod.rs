//! Live capture: packet sockets whose frames come in a ring that is shared with the kernel (AF_PACKET, TPACKET_V3).
//!
//! ```no_run
//! # fn main() -> Result<(), flowtap_io::packet::PacketError> {
//! use std::time::Duration;
//! use flowtap_io::packet::{Capture, CaptureOptions};
//!
//! let mut capture = Capture::open(CaptureOptions::new("eth0"))?;
//! capture.admit_all()?;
//! while let Some(mut block) = capture.next_block(Duration::from_millis(100))? {
//!     for frame in block.frames() {
//!         frame.for_each_packet(|packet| println!("{} octets", packet.data.len()));
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Needs Linux 4.20 or newer, and the right CAP_NET_RAW unless another process hands over the socket.
//!
//! What is captured is what was on the wire, as far as the kernel tells: VLAN tags that it took out are put back,
//! checksums that were left to the card are completed, and super-frames are cut. Where the last two are not wanted for
//! every frame (they cost a look at every octet), [`RingFrame::frame`] gives the frame as the kernel has it, and
//! [`RingFrame::needs_work`] says whether the wire had something else.

mod block;
mod capture;
mod error;
mod fanout;
mod interface;
mod links;
mod options;
mod send;
mod statistics;
mod sys;
mod wake;
mod watch;

pub use block::{
    Block, ChecksumState, Frames, Layout, OnWire, PacketType, RingFrame, TimestampSource,
};
pub use capture::{Capture, open_socket};
pub use error::PacketError;
pub use fanout::{FanoutGroup, FanoutMode};
pub use interface::Interface;
pub use options::{CaptureOptions, Directions, RingOptions, Timestamps};
pub use send::{FRAMES_PER_CALL, FrameSender, SenderOptions};
pub use statistics::{Statistics, StatisticsReader};
pub use wake::Waker;
pub use watch::{Change, InterfaceEvent, InterfaceWatch};
