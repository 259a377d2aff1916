//! How a live capture is opened.

use super::error::PacketError;
use super::fanout::FanoutGroup;

/// Octets of the smallest block: a frame of 64 KiB must fit, and a block consists of pages, which have 64 KiB on some
/// machines.
const LEAST_BLOCK_OCTETS: usize = 128 << 10;
/// Octets of the largest block.
const MOST_BLOCK_OCTETS: usize = 64 << 20;
/// The kernel fills one block while another is read.
pub(super) const LEAST_BLOCKS: usize = 2;
const MOST_BLOCKS: usize = 16_384;
const MOST_RETIRE_MS: u32 = 10_000;

/// The ring that the kernel fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// Octets of a block: a power of two from 128 KiB to 64 MiB. No frame can be longer than a block. Linux makes
    /// super-frames of up to 512 KiB where it is told to (BIG TCP); a longer frame than a block would be cut short.
    pub block_octets: usize,
    /// How many blocks there are, 2 to 16,384.
    pub blocks: usize,
    /// How long a block waits for more frames before it is handed over, 1 to 10,000 ms.
    pub retire_ms: u32,
}

impl Default for RingOptions {
    /// 64 MiB.
    fn default() -> Self {
        Self {
            block_octets: 1 << 20,
            blocks: 64,
            retire_ms: 10,
        }
    }
}

impl RingOptions {
    /// Octets of the whole ring.
    pub const fn octets(&self) -> usize {
        self.block_octets.saturating_mul(self.blocks)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`PacketError::Option`].
    pub fn check(&self) -> Result<(), PacketError> {
        let refuse = |option, value: String, rule| {
            Err(PacketError::Option {
                option,
                value,
                rule,
            })
        };
        if !self.block_octets.is_power_of_two()
            || !(LEAST_BLOCK_OCTETS..=MOST_BLOCK_OCTETS).contains(&self.block_octets)
        {
            return refuse(
                "block_octets",
                self.block_octets.to_string(),
                "a power of two from 131072 to 67108864 is right",
            );
        }
        if !(LEAST_BLOCKS..=MOST_BLOCKS).contains(&self.blocks) {
            return refuse("blocks", self.blocks.to_string(), "2 to 16384 are right");
        }
        if !(1..=MOST_RETIRE_MS).contains(&self.retire_ms) {
            return refuse(
                "retire_ms",
                self.retire_ms.to_string(),
                "1 to 10000 are right",
            );
        }
        Ok(())
    }
}

/// Which frames are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directions {
    /// What comes in and what goes out.
    #[default]
    Both,
    /// What comes in. (Within a group of workers this needs Linux 5.16; before, both come.)
    Inbound,
}

/// Who is to take the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// The kernel.
    #[default]
    Software,
    /// The card, for the frames to which it gives a time; the kernel for the others. Whether the card takes the time is
    /// for the operator to set (`hwstamp_ctl`, ptp4l): it is one setting for all programs.
    Hardware,
}

/// How a live capture is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaptureOptions {
    /// The interface's name.
    pub interface: String,
    /// What [`flowtap_core::frame::Frame::interface`] of its frames is to say.
    pub number: u32,
    /// The ring.
    pub ring: RingOptions,
    /// Whether the interface is to take frames that are for other hosts, as long as the capture is open.
    pub promiscuous: bool,
    /// Which frames are wanted. On a loopback interface every packet goes out and comes in at once, so there only
    /// what comes in is captured, whatever this says.
    pub directions: Directions,
    /// Who is to take the time.
    pub timestamps: Timestamps,
    /// The workers that share the interface; None for one.
    pub fanout: Option<FanoutGroup>,
}

impl CaptureOptions {
    /// One worker that captures everything on an interface.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            number: 0,
            ring: RingOptions::default(),
            promiscuous: false,
            directions: Directions::default(),
            timestamps: Timestamps::default(),
            fanout: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_numbers_are_named() {
        let good = RingOptions::default();
        good.check().unwrap();
        for (options, message) in [
            (
                RingOptions {
                    block_octets: 3 << 20,
                    ..good
                },
                "block_octets = 3145728: a power of two from 131072 to 67108864 is right",
            ),
            (
                RingOptions { blocks: 1, ..good },
                "blocks = 1: 2 to 16384 are right",
            ),
            (
                RingOptions {
                    retire_ms: 0,
                    ..good
                },
                "retire_ms = 0: 1 to 10000 are right",
            ),
        ] {
            assert_eq!(options.check().unwrap_err().to_string(), message);
        }
        assert!(
            RingOptions {
                block_octets: 64 << 10,
                ..good
            }
            .check()
            .is_err()
        );
        assert!(
            RingOptions {
                block_octets: 128 << 20,
                ..good
            }
            .check()
            .is_err()
        );
        assert!(
            RingOptions {
                blocks: 16_385,
                ..good
            }
            .check()
            .is_err()
        );
        assert!(
            RingOptions {
                retire_ms: 10_001,
                ..good
            }
            .check()
            .is_err()
        );
    }
}
