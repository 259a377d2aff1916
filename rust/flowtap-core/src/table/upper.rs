//! Criteria of one pair of addresses, told apart by protocol, ports and ICMP type.

use super::level::{Alike, Crowd, Find, Level};
use super::prefix::{Prefix, cover};
use super::register::Register;
use super::trie::Trie;
use crate::criteria::{Criteria, Side, UpperRanges};
use crate::packet::{Address, PacketKey, Transport};
use crate::wire::protocol;

/// Prefixes that one criterion may have in an index of ports. Two ranges make at most 60.
pub(super) const MAXIMUM_PIECES: usize = 64;
/// ICMP types that a criterion may name to be told apart by code as well.
const MAXIMUM_TYPES: usize = 16;
/// Bits of a protocol number.
const PROTOCOL_BITS: u8 = 8;

/// The protocols whose transport fields criteria can name. Number and port, or ICMP type and code, make one key of
/// 18 bits.
#[derive(Clone, Copy, Debug)]
enum Class {
    Tcp,
    Udp,
    Icmp,
}

impl Class {
    const fn key(self, value: u16) -> u32 {
        let class = match self {
            Self::Tcp => 0,
            Self::Udp => 1 << 16,
            Self::Icmp => 2 << 16,
        };
        class | value as u32
    }

    /// The class of a protocol in the family of `address`.
    const fn of(protocol: u8, address: Address) -> Option<Self> {
        match (protocol, address) {
            (protocol::TCP, _) => Some(Self::Tcp),
            (protocol::UDP, _) => Some(Self::Udp),
            (protocol::ICMP, Address::V4(_)) | (protocol::ICMPV6, Address::V6(_)) => {
                Some(Self::Icmp)
            }
            _ => None,
        }
    }
}

/// What a look-up knows of the transport header.
#[derive(Clone, Copy, Debug)]
enum TransportKey {
    /// There is none that criteria look at.
    None,
    Known {
        source: u32,
        destination: u32,
    },
    /// It is in the first fragment, with the transport fields of a class or, where the protocol is not known, of any.
    Elsewhere(Option<Class>),
}

/// What a look-up knows above the addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpperKey {
    protocol: Option<u8>,
    transport: TransportKey,
}

impl UpperKey {
    pub(super) fn of(key: &PacketKey) -> Self {
        let class = key
            .protocol
            .and_then(|number| Class::of(number, key.source));
        let transport = match (class, key.transport) {
            (
                Some(class @ (Class::Tcp | Class::Udp)),
                Transport::Ports {
                    source,
                    destination,
                },
            ) => TransportKey::Known {
                source: class.key(source),
                destination: class.key(destination),
            },
            (Some(class @ Class::Icmp), Transport::Icmp { kind, code }) => TransportKey::Known {
                source: class.key(0),
                destination: class.key(u16::from_be_bytes([kind, code])),
            },
            _ => TransportKey::None,
        };
        Self {
            protocol: key.protocol,
            transport,
        }
    }

    /// For a later fragment.
    pub(super) fn of_later_fragment(key: &PacketKey) -> Self {
        let transport = match key.protocol {
            None => TransportKey::Elsewhere(None),
            Some(number) => match Class::of(number, key.source) {
                None => TransportKey::None,
                class => TransportKey::Elsewhere(class),
            },
        };
        Self {
            protocol: key.protocol,
            transport,
        }
    }

    /// The keys of source and destination, where a transport header is known.
    pub(super) const fn transport(self) -> Option<(u32, u32)> {
        match self.transport {
            TransportKey::Known {
                source,
                destination,
            } => Some((source, destination)),
            TransportKey::None | TransportKey::Elsewhere(_) => None,
        }
    }

    pub(super) const fn protocol(self) -> Option<u8> {
        self.protocol
    }

    pub(super) const fn is_elsewhere(self) -> bool {
        matches!(self.transport, TransportKey::Elsewhere(_))
    }
}

/// What a criterion says above the addresses, as prefixes.
pub(super) enum Pieces {
    Protocols(Vec<Prefix<u32>>),
    Transport {
        source: Vec<Prefix<u32>>,
        destination: Vec<Prefix<u32>>,
        /// TCP, UDP, ICMP.
        classes: [bool; 3],
    },
}

impl Pieces {
    /// Cut into at most `limit` pieces for each side.
    pub(super) fn of(criteria: &Criteria, limit: usize) -> Self {
        match criteria.upper() {
            UpperRanges::Protocols(ranges) => {
                let ranges: Vec<(u32, u32)> = ranges
                    .iter()
                    .map(|&(first, last)| (first.into(), last.into()))
                    .collect();
                Self::Protocols(cover(&ranges, limit))
            }
            UpperRanges::Ports {
                tcp,
                udp,
                source,
                destination,
            } => {
                let cut = |ranges: &[(u16, u16)]| {
                    let mut keys: Vec<(u32, u32)> = Vec::new();
                    for class in [tcp.then_some(Class::Tcp), udp.then_some(Class::Udp)] {
                        let Some(class) = class else { continue };
                        keys.extend(
                            ranges
                                .iter()
                                .map(|&(first, last)| (class.key(first), class.key(last))),
                        );
                    }
                    cover(&keys, limit)
                };
                Self::Transport {
                    source: cut(&source),
                    destination: cut(&destination),
                    classes: [tcp, udp, false],
                }
            }
            UpperRanges::Icmp { kind, code } => {
                let numbers = |ranges: &[(u16, u16)]| -> Vec<u16> {
                    ranges
                        .iter()
                        .flat_map(|&(first, last)| first..=last)
                        .collect()
                };
                let types = numbers(&kind);
                let any_code = vec![(0, u16::from(u8::MAX))];
                let code = if types.len() > MAXIMUM_TYPES {
                    any_code
                } else {
                    code
                };
                let mut keys: Vec<(u32, u32)> = Vec::new();
                for kind in types {
                    keys.extend(code.iter().map(|&(first, last)| {
                        (
                            Class::Icmp.key(kind << 8 | first),
                            Class::Icmp.key(kind << 8 | last),
                        )
                    }));
                }
                let all = [(Class::Icmp.key(0), Class::Icmp.key(u16::MAX))];
                Self::Transport {
                    source: cover(&all, 1),
                    destination: cover(&keys, limit),
                    classes: [false, false, true],
                }
            }
        }
    }

    /// The pieces of one side; none for a criterion without transport fields.
    fn of_side(criteria: &Criteria, side: Side, limit: usize) -> Vec<Prefix<u32>> {
        match Self::of(criteria, limit) {
            Self::Protocols(_) => Vec::new(),
            Self::Transport {
                source,
                destination,
                ..
            } => match side {
                Side::Source => source,
                Side::Destination => destination,
            },
        }
    }
}

/// Which of two covers says more, by its widest prefix and then by their number: the side to look criteria up by.
pub(super) fn anchor_side<K>(source: &[Prefix<K>], destination: &[Prefix<K>]) -> Side {
    let cost = |prefixes: &[Prefix<K>]| {
        let widest = prefixes.iter().map(|prefix| prefix.host_bits).max();
        (widest, prefixes.len())
    };
    if cost(source) <= cost(destination) {
        Side::Source
    } else {
        Side::Destination
    }
}

/// The criteria of one pair of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Upper {
    /// Those that name no transport fields.
    by_protocol: Trie<u32, Level<Alike>>,
    by_source: Trie<u32, Level<OtherPort>>,
    by_destination: Trie<u32, Level<OtherPort>>,
    /// Those that name transport fields of TCP, of UDP, of ICMP.
    naming: [u32; 3],
    count: usize,
}

impl Upper {
    const fn side(&mut self, side: Side) -> &mut Trie<u32, Level<OtherPort>> {
        match side {
            Side::Source => &mut self.by_source,
            Side::Destination => &mut self.by_destination,
        }
    }

    /// Whether some criterion names transport fields of this class; of any where it is not known.
    fn names_transport_of(&self, class: Option<Class>) -> bool {
        let [tcp, udp, icmp] = self.naming;
        let count = match class {
            None => tcp.max(udp).max(icmp),
            Some(Class::Tcp) => tcp,
            Some(Class::Udp) => udp,
            Some(Class::Icmp) => icmp,
        };
        count > 0
    }
}

impl Crowd for Upper {
    type Field = ();
    type Key = UpperKey;

    fn add(&mut self, slot: u32, _field: (), register: &Register) {
        let Some((criteria, fineness)) = register.cut(slot) else {
            return;
        };
        self.count += 1;
        match Pieces::of(criteria, fineness.pieces()) {
            Pieces::Protocols(pieces) => {
                for piece in pieces {
                    if let Some(level) = self.by_protocol.entry(piece) {
                        level.add(slot, (), register);
                    }
                }
            }
            Pieces::Transport {
                source,
                destination,
                classes,
            } => {
                for (count, has) in self.naming.iter_mut().zip(classes) {
                    *count += u32::from(has);
                }
                let side = anchor_side(&source, &destination);
                let pieces = match side {
                    Side::Source => source,
                    Side::Destination => destination,
                };
                for piece in pieces {
                    if let Some(level) = self.side(side).entry(piece) {
                        level.add(slot, side.other(), register);
                    }
                }
            }
        }
    }

    fn remove(&mut self, slot: u32, _field: (), register: &Register) {
        let Some((criteria, fineness)) = register.cut(slot) else {
            return;
        };
        self.count = self.count.saturating_sub(1);
        match Pieces::of(criteria, fineness.pieces()) {
            Pieces::Protocols(pieces) => {
                for piece in pieces {
                    self.by_protocol
                        .reduce(piece, |level| level.remove(slot, (), register));
                }
            }
            Pieces::Transport {
                source,
                destination,
                classes,
            } => {
                for (count, has) in self.naming.iter_mut().zip(classes) {
                    *count = count.saturating_sub(has.into());
                }
                let side = anchor_side(&source, &destination);
                let pieces = match side {
                    Side::Source => source,
                    Side::Destination => destination,
                };
                for piece in pieces {
                    self.side(side)
                        .reduce(piece, |level| level.remove(slot, side.other(), register));
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.count
    }

    fn members(&self) -> Vec<u32> {
        let plain = self
            .by_protocol
            .iter()
            .flat_map(|(_, level)| level.members());
        let by_port = [&self.by_source, &self.by_destination]
            .into_iter()
            .flat_map(Trie::iter)
            .flat_map(|(_, level)| level.members());
        plain.chain(by_port).collect()
    }

    #[inline]
    fn visit<F: Find>(&self, key: UpperKey, find: &mut F) {
        if let Some(protocol) = key.protocol {
            self.by_protocol
                .walk(protocol.into(), find, |level, find| level.visit((), find));
        } else if !self.by_protocol.is_empty() {
            // Only what says nothing about protocols matches; a later fragment's datagram may have any.
            let any = Prefix {
                bits: 0,
                host_bits: PROTOCOL_BITS,
            };
            if let Some(level) = self.by_protocol.get(any) {
                level.visit((), find);
            }
            if key.is_elsewhere() && self.by_protocol.iter().any(|(prefix, _)| prefix != any) {
                find.wait();
            }
        }
        match key.transport {
            TransportKey::None => {}
            TransportKey::Elsewhere(class) => {
                if self.names_transport_of(class) {
                    find.wait();
                }
            }
            TransportKey::Known {
                source,
                destination,
            } => {
                self.by_destination
                    .walk(destination, find, |level, find| level.visit(source, find));
                self.by_source
                    .walk(source, find, |level, find| level.visit(destination, find));
            }
        }
    }

    fn heap_octets(&self) -> usize {
        self.by_protocol.heap_octets(Level::heap_octets)
            + self.by_source.heap_octets(Level::heap_octets)
            + self.by_destination.heap_octets(Level::heap_octets)
    }
}

/// Criteria that have one port in common, told apart by the other.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherPort {
    other: Trie<u32, Level<Alike>>,
    count: usize,
}

impl Crowd for OtherPort {
    type Field = Side;
    type Key = u32;

    fn add(&mut self, slot: u32, field: Side, register: &Register) {
        let Some((criteria, fineness)) = register.cut(slot) else {
            return;
        };
        self.count += 1;
        for piece in Pieces::of_side(criteria, field, fineness.other_pieces()) {
            if let Some(level) = self.other.entry(piece) {
                level.add(slot, (), register);
            }
        }
    }

    fn remove(&mut self, slot: u32, field: Side, register: &Register) {
        let Some((criteria, fineness)) = register.cut(slot) else {
            return;
        };
        self.count = self.count.saturating_sub(1);
        for piece in Pieces::of_side(criteria, field, fineness.other_pieces()) {
            self.other
                .reduce(piece, |level| level.remove(slot, (), register));
        }
    }

    fn len(&self) -> usize {
        self.count
    }

    fn members(&self) -> Vec<u32> {
        self.other
            .iter()
            .flat_map(|(_, level)| level.members())
            .collect()
    }

    #[inline]
    fn visit<F: Find>(&self, key: u32, find: &mut F) {
        self.other
            .walk(key, find, |level, find| level.visit((), find));
    }

    fn heap_octets(&self) -> usize {
        self.other.heap_octets(Level::heap_octets)
    }
}
