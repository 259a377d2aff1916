//! Traffic onto an interface, as fast as it takes it.

use std::io::{self, IoSlice};
use std::thread;
use std::time::{Duration, Instant};

use super::Traffic;
use crate::packet::{FRAMES_PER_CALL, FrameSender, PacketError, SenderOptions};

/// Frames that are made in advance and sent again and again: enough for every length and share to occur, few enough to
/// stay in the cache, so that the sender's own work does not count.
const RING_FRAMES: usize = 4_096;
/// How long to wait where the interface takes nothing.
const PAUSE: Duration = Duration::from_micros(20);
/// An interface that takes nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has been sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Octets of them, without the frame check sequence.
    pub octets: u64,
    /// How often the interface took nothing.
    pub pauses: u64,
}

/// Sends the frames of a traffic on one interface, past its queue. Needs the right CAP_NET_RAW.
#[derive(Debug)]
pub struct TrafficSender {
    sender: FrameSender,
    ring: Vec<Vec<u8>>,
    /// The frame of the ring that comes next.
    at: usize,
    sent: Sent,
}

impl TrafficSender {
    /// Opens the interface and makes the frames.
    ///
    /// # Errors
    /// As [`FrameSender::open`].
    pub fn open(interface: &str, mut traffic: Traffic) -> Result<Self, PacketError> {
        let options = SenderOptions {
            bypass_queue: true,
            ..SenderOptions::default()
        };
        let sender = FrameSender::open(interface, options)?;
        let ring = (0..RING_FRAMES)
            .map(|_| traffic.next_frame().to_vec())
            .collect();
        Ok(Self {
            sender,
            ring,
            at: 0,
            sent: Sent::default(),
        })
    }

    /// Sends so many frames; returns when the interface has taken the last one.
    ///
    /// # Errors
    /// What the system says. What was sent before is in [`sent`](Self::sent).
    pub fn send(&mut self, frames: u64) -> io::Result<()> {
        let mut left = usize::try_from(frames).unwrap_or(usize::MAX);
        let mut stuck_since = None;
        while left > 0 {
            let rest = self.ring.get(self.at..).unwrap_or_default();
            let call: Vec<IoSlice<'_>> = rest
                .iter()
                .take(left.min(FRAMES_PER_CALL))
                .map(|frame| IoSlice::new(frame))
                .collect();
            match self.sender.send(&call) {
                Ok(count) => {
                    stuck_since = None;
                    let octets: usize = call.iter().take(count).map(|frame| frame.len()).sum();
                    left = left.saturating_sub(count);
                    self.sent.frames += u64::try_from(count).unwrap_or(0);
                    self.sent.octets += u64::try_from(octets).unwrap_or(0);
                    self.at = (self.at + count) % self.ring.len().max(1);
                }
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) =>
                {
                    let since = *stuck_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    self.sent.pauses += 1;
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What has been sent so far.
    pub const fn sent(&self) -> Sent {
        self.sent
    }
}
