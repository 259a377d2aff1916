//! Later fragments follow the first, also when they come before it, in bounded memory.
//!
//! The first fragment of a datagram leaves its verdict behind: the ids of the criteria that matched. A later fragment
//! whose first has not been seen, and that some criterion cannot decide alone, is held until the first comes, until
//! its time is up, or until room is needed.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::decode::{Fragment, IpPacket};
use crate::frame::{Direction, Frame, LinkType};
use crate::packet::Address;

/// Bounds of the memory of fragmented datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams remembered at once; the oldest is forgotten for a new one.
    pub datagrams: usize,
    /// Octets of early fragments held at once.
    pub held_octets: usize,
    /// How long a datagram is remembered (RFC 1122 §3.3.2 asks for 60 to 120 s; IPv4 identifications come round sooner).
    pub timeout_ns: u64,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self {
            datagrams: 8192,
            held_octets: 8 << 20,
            timeout_ns: 30_000_000_000,
        }
    }
}

/// Places in the order that datagrams which came again may leave behind, beside as many as are known.
const SUPERSEDED: usize = 64;

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    source: Address,
    destination: Address,
    identification: u32,
    /// IPv4 only: in IPv6 the identification is one for all protocols, and later fragments may not tell theirs.
    protocol: Option<u8>,
}

impl Datagram {
    fn of(packet: &IpPacket<'_>, fragment: &Fragment) -> Self {
        Self {
            source: packet.key.source,
            destination: packet.key.destination,
            identification: fragment.identification,
            protocol: match packet.key.source {
                Address::V4(_) => fragment.protocol,
                Address::V6(_) => None,
            },
        }
    }
}

/// A frame that waits for the verdict on its datagram.
#[derive(Clone, Debug)]
pub struct HeldFrame {
    data: Box<[u8]>,
    link_type: LinkType,
    timestamp_ns: u64,
    original_length_octets: u32,
    interface: u32,
    direction: Direction,
    /// Whether it counts as matched already.
    is_counted: bool,
}

impl HeldFrame {
    fn new(frame: &Frame<'_>, is_counted: bool) -> Self {
        Self {
            data: frame.data.into(),
            link_type: frame.link_type,
            timestamp_ns: frame.timestamp_ns,
            original_length_octets: frame.original_length_octets,
            interface: frame.interface,
            direction: frame.direction,
            is_counted,
        }
    }

    /// Whether it counts as matched already, whatever its datagram's verdict.
    pub const fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// The frame as it came.
    pub fn frame(&self) -> Frame<'_> {
        Frame {
            data: &self.data,
            link_type: self.link_type,
            timestamp_ns: self.timestamp_ns,
            original_length_octets: self.original_length_octets,
            interface: self.interface,
            direction: self.direction,
        }
    }
}

/// What the first fragment of a datagram was, for those that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstVerdict<'a> {
    /// Traffic of the tap itself.
    Own,
    /// Criteria with these ids match.
    Matching(&'a [u64]),
}

/// What is known of one datagram.
#[derive(Debug)]
struct Known {
    /// Ids of the criteria that matched the first fragment; None while it has not been seen.
    verdict: Option<Box<[u64]>>,
    /// Whether the first fragment belonged to the tap.
    is_own: bool,
    held: Vec<HeldFrame>,
    since_ns: u64,
    /// Tells this entry from an earlier one with the same key, in the order of arrival.
    number: u64,
}

/// Held frames whose datagram was forgotten before its first fragment came.
pub type Forgotten = Vec<HeldFrame>;

/// A datagram's place in the order of arrival.
#[derive(Debug)]
struct Arrival {
    datagram: Datagram,
    since_ns: u64,
    number: u64,
}

/// The memory of fragmented datagrams.
#[derive(Debug)]
pub struct FragmentMemory {
    limits: FragmentLimits,
    known: HashMap<Datagram, Known, RandomState>,
    order: VecDeque<Arrival>,
    held_octets: usize,
    next_number: u64,
}

impl FragmentMemory {
    /// An empty memory.
    pub fn new(limits: FragmentLimits) -> Self {
        Self {
            limits,
            known: HashMap::default(),
            order: VecDeque::new(),
            held_octets: 0,
            next_number: 0,
        }
    }

    /// How many frames are held.
    pub fn held_frames(&self) -> usize {
        self.known.values().map(|known| known.held.len()).sum()
    }

    /// Whether any frame is held.
    pub const fn is_waiting(&self) -> bool {
        self.held_octets > 0
    }

    /// The verdict on the datagram of a later fragment, None where its first has not been seen.
    pub fn verdict(
        &self,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        now_ns: u64,
    ) -> Option<FirstVerdict<'_>> {
        let known = self.known.get(&Datagram::of(packet, fragment))?;
        if now_ns.saturating_sub(known.since_ns) > self.limits.timeout_ns {
            return None;
        }
        if known.is_own {
            return Some(FirstVerdict::Own);
        }
        known.verdict.as_deref().map(FirstVerdict::Matching)
    }

    /// Remembers the verdict on a first fragment and returns the later ones that waited for it.
    pub fn first(
        &mut self,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        verdict: FirstVerdict<'_>,
        now_ns: u64,
    ) -> Vec<HeldFrame> {
        let datagram = Datagram::of(packet, fragment);
        let waiting = self
            .known
            .remove(&datagram)
            .map(|known| known.held)
            .unwrap_or_default();
        self.held_octets -= octets(&waiting);
        self.remember(datagram, Some(verdict), Vec::new(), now_ns);
        waiting
    }

    /// Holds a later fragment until its first comes. `is_counted`: it counts as matched already.
    pub fn hold(
        &mut self,
        frame: &Frame<'_>,
        packet: &IpPacket<'_>,
        fragment: &Fragment,
        is_counted: bool,
        now_ns: u64,
    ) {
        let held = HeldFrame::new(frame, is_counted);
        let datagram = Datagram::of(packet, fragment);
        self.held_octets += frame.data.len();
        match self.known.get_mut(&datagram) {
            Some(known) if known.verdict.is_none() => known.held.push(held),
            // A verdict that is too old to be followed: another datagram begins.
            _ => self.remember(datagram, None, vec![held], now_ns),
        }
    }

    fn remember(
        &mut self,
        datagram: Datagram,
        verdict: Option<FirstVerdict<'_>>,
        held: Vec<HeldFrame>,
        now_ns: u64,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        self.order.push_back(Arrival {
            datagram,
            since_ns: now_ns,
            number,
        });
        self.known.insert(
            datagram,
            Known {
                verdict: match verdict {
                    Some(FirstVerdict::Matching(ids)) => Some(ids.into()),
                    Some(FirstVerdict::Own) => Some(Box::default()),
                    None => None,
                },
                is_own: verdict == Some(FirstVerdict::Own),
                held,
                since_ns: now_ns,
                number,
            },
        );
        // A datagram that came again is in the order twice; who sends one again and again must not fill the memory.
        if self.order.len() > 2 * self.known.len() + SUPERSEDED {
            let known = &self.known;
            self.order.retain(|arrival| {
                known
                    .get(&arrival.datagram)
                    .is_some_and(|known| known.number == arrival.number)
            });
        }
    }

    fn is_past(&self, since_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(since_ns) > self.limits.timeout_ns
    }

    /// What is known of the datagram that arrived then, None where it came again since.
    fn remove(&mut self, arrival: &Arrival) -> Option<Known> {
        let current = self.known.get(&arrival.datagram)?;
        if current.number != arrival.number {
            return None;
        }
        let known = self.known.remove(&arrival.datagram)?;
        self.held_octets -= octets(&known.held);
        Some(known)
    }

    /// Forgets what is too old or too much, and returns the frames that waited in vain.
    pub fn forget(&mut self, now_ns: u64) -> Forgotten {
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.order.front() {
            let is_current = self
                .known
                .get(&oldest.datagram)
                .is_some_and(|known| known.number == oldest.number);
            if is_current
                && !self.is_past(oldest.since_ns, now_ns)
                && self.known.len() <= self.limits.datagrams
                && self.held_octets <= self.limits.held_octets
            {
                break;
            }
            if let Some(oldest) = self.order.pop_front()
                && let Some(known) = self.remove(&oldest)
            {
                forgotten.extend(known.held);
            }
        }
        forgotten
    }

    /// Whether [`Self::overdue`] has something to do.
    pub fn is_overdue(&self, now_ns: u64) -> bool {
        let is_past = |oldest: &Arrival| self.is_past(oldest.since_ns, now_ns);
        self.is_waiting() && self.order.front().is_some_and(is_past)
    }

    /// Forgets what is too old as long as frames wait, and returns those that waited in vain, each with the time at which
    /// its own was up.
    pub fn overdue(&mut self, now_ns: u64) -> Vec<(HeldFrame, u64)> {
        let mut overdue = Vec::new();
        while self.is_overdue(now_ns)
            && let Some(oldest) = self.order.pop_front()
        {
            let due_ns = oldest.since_ns.saturating_add(self.limits.timeout_ns);
            let held = self.remove(&oldest).map(|known| known.held);
            overdue.extend(held.into_iter().flatten().map(|frame| (frame, due_ns)));
        }
        overdue
    }

    /// Forgets everything and returns the frames that still waited.
    pub fn drain(&mut self) -> Forgotten {
        let mut forgotten = Vec::new();
        for arrival in std::mem::take(&mut self.order) {
            let known = self.remove(&arrival);
            forgotten.extend(known.into_iter().flat_map(|known| known.held));
        }
        forgotten
    }
}

fn octets(frames: &[HeldFrame]) -> usize {
    frames.iter().map(|frame| frame.data.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_packet;

    /// A first fragment of 192.0.2.1 to 192.0.2.2.
    fn first_fragment(identification: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, identification, 0x20, 0, 64, 17, 0, 0];
        packet.extend([192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    }

    fn arrive(memory: &mut FragmentMemory, identification: u8, now_ns: u64) {
        let data = first_fragment(identification);
        let frame = Frame {
            data: &data,
            link_type: LinkType::Ipv4,
            timestamp_ns: 0,
            original_length_octets: 28,
            interface: 0,
            direction: Direction::Unknown,
        };
        let packet = decode_packet(&frame).unwrap();
        let fragment = packet.fragment.unwrap();
        memory.first(&packet, &fragment, FirstVerdict::Matching(&[]), now_ns);
        memory.forget(now_ns);
    }

    #[test]
    fn a_datagram_that_is_sent_again_and_again_takes_no_more_memory() {
        let mut memory = FragmentMemory::new(FragmentLimits::default());
        // The oldest stays good, so that nothing behind it is looked at.
        arrive(&mut memory, 1, 0);
        for now_ns in 1..100_000 {
            arrive(&mut memory, 2, now_ns);
        }
        assert_eq!(memory.known.len(), 2);
        assert!(memory.order.len() < 1000, "{}", memory.order.len());
    }
}
