//! Seeded traffic for measuring: frames between given flows, octet for octet the same wherever the seed is the same.
//!
//! It is a part of the program and not of its tests, because whoever installed flowtap must be able to measure it on
//! his own machine, with files of many millions of frames and at the rate of a live interface.

mod frame;
mod send;

use std::net::IpAddr;
use std::path::Path;

use flowtap_core::frame::{Direction, Frame, LinkType};

pub use self::send::{Sent, TrafficSender};
use crate::files::{CaptureError, CaptureWriter, Format, WriterOptions};

/// The simple IMIX: seven short frames, four of the old default length, one that is full. Octets without the frame
/// check sequence, which captures do not have (64, 594 and 1,518 with it).
const IMIX: [u16; 12] = [60, 60, 60, 60, 60, 60, 60, 590, 590, 590, 590, 1514];
/// When the first frame was captured: 2023-11-14T22:13:20Z.
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;
/// Capture times are this far apart: a million frames a second.
const STEP_NS: u64 = 1_000;
/// The longest frame; a capture file or an interface takes no longer ones without a word.
pub const MAX_FRAME_OCTETS: u16 = 9_014;

/// Packets that belong together: addresses of one family, a protocol, and ports where the protocol has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number. TCP, UDP and ICMP get their headers, others nothing but zeros.
    pub protocol: u8,
    /// Source port; not used where the protocol has none.
    pub source_port: u16,
    /// Destination port; not used where the protocol has none.
    pub destination_port: u16,
}

/// How long frames are, without the frame check sequence. A frame is never shorter than its headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lengths {
    /// 7 parts of 60 octets, 4 of 590, 1 of 1,514.
    #[default]
    Imix,
    /// All the same.
    Octets(u16),
}

/// What frames are drawn from.
#[derive(Clone, Debug, Default)]
pub struct TrafficOptions {
    /// Most frames belong to one of these, each equally often.
    pub flows: Vec<Flow>,
    /// The others belong to one of these.
    pub subjects: Vec<Flow>,
    /// How many frames of a million belong to a subject.
    pub subject_share_ppm: u32,
    /// How long frames are.
    pub lengths: Lengths,
    /// Which of the possible series of frames it is.
    pub seed: u64,
}

/// Traffic that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// A share of the frames has nothing to be drawn from.
    #[error("{which}: none is given, but {share_ppm} of a million frames belong to one")]
    NoFlows {
        /// `flows` or `subjects`.
        which: &'static str,
        /// The share.
        share_ppm: u32,
    },
    /// A share that is more than everything.
    #[error("subject_share_ppm = {share_ppm}: 0 to 1000000 is right")]
    Share {
        /// The share.
        share_ppm: u32,
    },
    /// A flow between the families.
    #[error("{which}[{index}]: source and destination address are of different families")]
    MixedFamilies {
        /// `flows` or `subjects`.
        which: &'static str,
        /// Which of them.
        index: usize,
    },
    /// Frames that are too long.
    #[error("{octets} octets; a frame has at most {MAX_FRAME_OCTETS}")]
    TooLong {
        /// The length.
        octets: u16,
    },
    /// More flows than a number of 32 bits counts.
    #[error("{which}: {count} are given; at most {} are possible", u32::MAX)]
    TooMany {
        /// `flows` or `subjects`.
        which: &'static str,
        /// How many.
        count: usize,
    },
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Six lines of
/// our own: a crate could change its numbers from one version to the next, and with them every file.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, and 0 where there is none.
    fn below(&mut self, end: u32) -> u32 {
        let product = (self.next() >> 32) * u64::from(end);
        u32::try_from(product >> 32).unwrap_or(0)
    }

    /// One of several values.
    fn choose<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        let index = self.below(u32::try_from(values.len()).unwrap_or(u32::MAX));
        values.get(usize::try_from(index).unwrap_or(0)).copied()
    }
}

/// A series of frames that does not end.
#[derive(Clone, Debug)]
pub struct Traffic {
    options: TrafficOptions,
    random: Random,
    number: u64,
    frame: Vec<u8>,
}

impl Traffic {
    /// The series from its first frame on.
    ///
    /// # Errors
    /// [`TrafficError`] says what is wrong with the options.
    pub fn new(options: TrafficOptions) -> Result<Self, TrafficError> {
        let share_ppm = options.subject_share_ppm;
        let other_ppm = PARTS
            .checked_sub(share_ppm)
            .ok_or(TrafficError::Share { share_ppm })?;
        check("flows", &options.flows, other_ppm)?;
        check("subjects", &options.subjects, share_ppm)?;
        match options.lengths {
            Lengths::Octets(octets) if octets > MAX_FRAME_OCTETS => {
                return Err(TrafficError::TooLong { octets });
            }
            Lengths::Octets(_) | Lengths::Imix => {}
        }
        Ok(Self {
            random: Random(options.seed),
            options,
            number: 0,
            frame: Vec::with_capacity(usize::from(MAX_FRAME_OCTETS)),
        })
    }

    /// The next frame; Ethernet.
    pub fn next_frame(&mut self) -> &[u8] {
        let drawn = self.random.below(PARTS);
        let of = if drawn < self.options.subject_share_ppm {
            &self.options.subjects
        } else {
            &self.options.flows
        };
        let flow = self.random.choose(of);
        let octets = match self.options.lengths {
            Lengths::Octets(octets) => Some(octets),
            Lengths::Imix => self.random.choose(&IMIX),
        };
        let identification = u16::try_from(self.number & 0xffff).unwrap_or(0);
        self.number = self.number.wrapping_add(1);
        if let Some((flow, octets)) = flow.zip(octets) {
            frame::build(&flow, identification, usize::from(octets), &mut self.frame);
        }
        &self.frame
    }

    /// When the frame that came last was captured, in nanoseconds since the epoch.
    pub const fn timestamp_ns(&self) -> u64 {
        let steps = self.number.saturating_sub(1);
        BEGIN_NS.saturating_add(steps.saturating_mul(STEP_NS))
    }

    /// Appends so many frames to a capture.
    ///
    /// # Errors
    /// Where the capture cannot be written.
    pub fn write(&mut self, writer: &mut CaptureWriter, frames: u64) -> Result<(), CaptureError> {
        for _ in 0..frames {
            self.next_frame();
            writer.write_frame(&Frame {
                data: &self.frame,
                link_type: LinkType::Ethernet,
                timestamp_ns: self.timestamp_ns(),
                original_length_octets: u32::try_from(self.frame.len()).unwrap_or(u32::MAX),
                interface: 0,
                direction: Direction::Unknown,
            })?;
        }
        Ok(())
    }
}

/// What shares are parts of.
const PARTS: u32 = 1_000_000;

fn check(which: &'static str, flows: &[Flow], share_ppm: u32) -> Result<(), TrafficError> {
    if flows.is_empty() && share_ppm > 0 {
        return Err(TrafficError::NoFlows { which, share_ppm });
    }
    let count = flows.len();
    if u32::try_from(count).is_err() {
        return Err(TrafficError::TooMany { which, count });
    }
    let mixed = |flow: &Flow| flow.source.is_ipv4() != flow.destination.is_ipv4();
    match flows.iter().position(mixed) {
        Some(index) => Err(TrafficError::MixedFamilies { which, index }),
        None => Ok(()),
    }
}

/// Creates a capture for traffic: classic pcap with microseconds, which every other program reads as well.
///
/// # Errors
/// Where the file cannot be created.
pub fn create_capture(path: &Path) -> Result<CaptureWriter, CaptureError> {
    let options = WriterOptions {
        nanosecond: false,
        ..WriterOptions::default()
    };
    CaptureWriter::create(path, Format::Pcap, options)
}
