//! The kernel's part of matching: a filter on a packet socket that lets only frames through that could match.
//!
//! What no criterion wants is never copied to user space. The filter is a superset of the table: it looks at the
//! addresses of the outermost IP packet, through VLAN tags, MPLS labels and PPPoE sessions, and at nothing else. It drops
//! a frame only where the decoder would read an IP packet of which no address is wanted. Whatever is truncated, deeper,
//! malformed or no IP passes, so that a tap counts undecodable frames as it does without a filter; of the frames that
//! are dropped it learns nothing.
//!
//! Three ways, and [`Prefilter::kind`] says which one is taken and why: an eBPF program over maps, which takes any number
//! of addresses and needs Linux 5.5 and CAP_BPF (before 5.8 CAP_SYS_ADMIN); classic BPF, for about a hundred hosts; none.
//!
//! Following a table in step: what a new table adds is given to [`Prefilter::add`] before the table is installed, what it
//! no longer needs to [`Prefilter::remove`] after no worker uses the old one. Where that took a new program, the sockets
//! get it by [`Prefilter::attach`], before the table is installed; replacing a program loses no frame. What criteria share
//! is counted, so that each can go alone.
//!
//! Not done: own traffic is not excluded here (the engine does so and counts it); link types other than Ethernet and
//! bare IP are not filtered.

mod assembler;
mod classic;
mod cover;
mod ebpf;
mod maker;
mod maps;
mod program;
mod sys;

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;

pub use flowtap_core::decode::InnerTunnels;
use flowtap_core::frame::LinkType;

use self::classic::Classic;
pub use self::cover::{AddressBits, AddressCover, FamilyCover, Prefix};
use self::cover::{Change, Counts};
use self::ebpf::Ebpf;
use self::maker::Maker;
pub(crate) use self::maker::{descriptors_in, map_for_another, program_for_another};
use crate::broker::Broker;

/// How a [`Prefilter`] filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefilterOptions {
    /// How the frames of the sockets begin.
    pub link_type: LinkType,
    /// Tunnels that are looked into: outer packets of these kinds pass, whatever their addresses.
    pub inner: InnerTunnels,
    /// Whether eBPF may be used; otherwise it is classic BPF or none.
    pub ebpf: bool,
}

impl Default for PrefilterOptions {
    fn default() -> Self {
        Self {
            link_type: LinkType::Ethernet,
            inner: InnerTunnels::default(),
            ebpf: true,
        }
    }
}

/// What the sockets need after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "where there is a new program, the sockets have the old one"]
pub enum Step {
    /// Nothing: the program that they have sees the change.
    Seen,
    /// The new program: [`Prefilter::attach`] for each of them.
    Attach,
}

/// Which way is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefilterKind {
    /// An eBPF program with maps.
    Ebpf {
        /// Instructions.
        instructions: usize,
        /// Whether the kernel compiled it to machine code (`net.core.bpf_jit_enable`) or interprets it; None where it does
        /// not say.
        compiled: Option<bool>,
        /// Addresses and prefixes in its maps.
        entries: usize,
    },
    /// A program of classic BPF.
    Classic {
        /// Instructions.
        instructions: usize,
        /// Why it is not eBPF.
        reason: String,
    },
    /// Every frame goes to user space.
    None {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for PrefilterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ebpf {
                instructions,
                compiled,
                entries,
            } => {
                let how = match compiled {
                    Some(true) => ", compiled",
                    Some(false) => ", interpreted",
                    None => "",
                };
                write!(
                    f,
                    "eBPF, {instructions} instructions{how}, {entries} addresses and prefixes"
                )
            }
            Self::Classic {
                instructions,
                reason,
            } => write!(f, "classic BPF, {instructions} instructions: {reason}"),
            Self::None { reason } => write!(f, "none: {reason}"),
        }
    }
}

/// A filter that could not be attached or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefilterError {
    /// The socket takes no filter; it has none now, so that nothing is missed.
    #[error("the socket takes no {what}, so every frame passes: {source}")]
    Attach {
        /// What it was to take.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The socket takes no new filter and keeps the old one, which may miss what the table wants.
    #[error("the socket keeps its old filter, which may miss frames; close it: {source}")]
    Detach {
        /// What the system says.
        source: io::Error,
    },
    /// The kernel did not run the program.
    #[error("the kernel does not run the program on a frame: {source}")]
    Judge {
        /// What the system says.
        source: io::Error,
    },
}

/// What the filter says of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the frame goes to user space.
    pub passes: bool,
    /// What one run took in the kernel; None where it did not run there.
    pub duration_ns: Option<u32>,
}

#[derive(Debug)]
enum Machine {
    Ebpf(Box<Ebpf>),
    /// Classic BPF where it can hold the addresses.
    FallenBack {
        reason: String,
        classic: Option<Classic>,
    },
    /// Nothing is known of how the frames begin.
    Blind,
}

impl Machine {
    fn new(options: &PrefilterOptions, counts: &Counts, maker: &Maker) -> Self {
        if !program::knows(options.link_type) {
            return Self::Blind;
        }
        let ebpf = if options.ebpf {
            Ebpf::new(options, counts, maker)
        } else {
            Err("eBPF is switched off".to_owned())
        };
        match ebpf {
            Ok(ebpf) => Self::Ebpf(Box::new(ebpf)),
            Err(reason) => Self::fall_back(options, counts, reason),
        }
    }

    fn fall_back(options: &PrefilterOptions, counts: &Counts, reason: String) -> Self {
        Self::FallenBack {
            reason,
            classic: Classic::build(options, counts),
        }
    }
}

/// A filter for packet sockets and the addresses that it lets through, in step with a table.
///
/// Making and changing it cannot fail: where the kernel does not follow, a wider filter takes its place.
#[derive(Debug)]
pub struct Prefilter {
    options: PrefilterOptions,
    counts: Counts,
    machine: Machine,
    maker: Maker,
}

impl Prefilter {
    /// A filter for what a table could match.
    pub fn new(cover: &AddressCover, options: PrefilterOptions) -> Self {
        Self::made_by(Maker::default(), cover, options)
    }

    /// The same, where a broker makes what this process may not.
    pub fn with_broker(
        cover: &AddressCover,
        options: PrefilterOptions,
        broker: Option<Arc<Broker>>,
    ) -> Self {
        Self::made_by(Maker::new(broker), cover, options)
    }

    fn made_by(maker: Maker, cover: &AddressCover, options: PrefilterOptions) -> Self {
        let mut counts = Counts::new();
        counts.change(Change::Add, cover);
        let machine = Machine::new(&options, &counts, &maker);
        Self {
            options,
            counts,
            machine,
            maker,
        }
    }

    /// Lets through what a new table adds; to be called, and its [`Step`] done, before that table is installed.
    pub fn add(&mut self, additions: &AddressCover) -> Step {
        self.change(Change::Add, additions)
    }

    /// Drops what no table needs any longer; to be called when no worker uses the old one. What others have added too
    /// stays.
    pub fn remove(&mut self, removals: &AddressCover) -> Step {
        self.change(Change::Remove, removals)
    }

    fn change(&mut self, change: Change, cover: &AddressCover) -> Step {
        let changes = self.counts.change(change, cover);
        if changes.v4.is_empty() && changes.v6.is_empty() {
            return Step::Seen;
        }
        let reason = match &mut self.machine {
            Machine::Blind => return Step::Seen,
            Machine::Ebpf(ebpf) => {
                match ebpf.follow(&self.options, &changes, &self.counts, &self.maker) {
                    Ok(false) => return Step::Seen,
                    Ok(true) => return Step::Attach,
                    Err(reason) => reason,
                }
            }
            Machine::FallenBack { reason, .. } => mem::take(reason),
        };
        self.machine = Machine::fall_back(&self.options, &self.counts, reason);
        Step::Attach
    }

    /// Makes this the filter of a packet socket (`SOCK_RAW`), in one step with the removal of the one that it has: every
    /// frame meets the old one or the new one.
    ///
    /// # Errors
    /// Attach where the socket has no filter now and everything passes; detach where it keeps the old one.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), PrefilterError> {
        let socket = socket.as_fd();
        let (what, attach): (_, &dyn Fn() -> io::Result<()>) = match &self.machine {
            Machine::Ebpf(ebpf) => ("eBPF program", &|| sys::attach(socket, &ebpf.program)),
            Machine::FallenBack {
                classic: Some(classic),
                ..
            } => ("classic BPF program", &|| classic.attach(socket)),
            Machine::FallenBack { classic: None, .. } | Machine::Blind => {
                return sys::detach(socket).map_err(|source| PrefilterError::Detach { source });
            }
        };
        attach().or_else(|_first| {
            // Both programs may be more than the socket has room for (`net.core.optmem_max`).
            sys::detach(socket).map_err(|source| PrefilterError::Detach { source })?;
            attach().map_err(|source| PrefilterError::Attach { what, source })
        })
    }

    /// Which way is taken.
    pub fn kind(&self) -> PrefilterKind {
        match &self.machine {
            Machine::Ebpf(ebpf) => PrefilterKind::Ebpf {
                instructions: ebpf.program.instructions(),
                compiled: ebpf.program.is_compiled().ok(),
                entries: self.counts.v4.entries() + self.counts.v6.entries(),
            },
            Machine::FallenBack {
                reason,
                classic: Some(classic),
            } => PrefilterKind::Classic {
                instructions: classic.instructions(),
                reason: reason.clone(),
            },
            Machine::FallenBack {
                reason,
                classic: None,
            } => PrefilterKind::None {
                reason: format!("{reason}; too many addresses for classic BPF"),
            },
            Machine::Blind => PrefilterKind::None {
                reason: "frames of this link type are not filtered".to_owned(),
            },
        }
    }

    /// Octets that the filter holds in the kernel, as far as it says.
    pub fn memory_octets(&self) -> u64 {
        match &self.machine {
            Machine::Ebpf(ebpf) => ebpf.memory_octets(),
            Machine::FallenBack { .. } | Machine::Blind => 0,
        }
    }

    /// What the filter says of a frame, as a packet socket shows it: an eBPF program says so in the kernel, `repeat`
    /// times.
    ///
    /// # Errors
    /// The kernel did not run the program.
    pub fn judge(&self, frame: &[u8], repeat: u32) -> Result<Judgement, PrefilterError> {
        match &self.machine {
            Machine::Ebpf(ebpf) => {
                let (octets, duration_ns) = ebpf
                    .program
                    .test(frame, repeat)
                    .map_err(|source| PrefilterError::Judge { source })?;
                Ok(Judgement {
                    passes: octets != 0,
                    duration_ns: Some(duration_ns),
                })
            }
            Machine::FallenBack { classic, .. } => Ok(Judgement {
                passes: classic.as_ref().is_none_or(|classic| classic.passes(frame)),
                duration_ns: None,
            }),
            Machine::Blind => Ok(Judgement {
                passes: true,
                duration_ns: None,
            }),
        }
    }
}
