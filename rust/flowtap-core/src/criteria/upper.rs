//! What a filter says above the addresses: protocol, ports, ICMP type and code.

use std::borrow::Cow;

use super::Field;
use super::set::NumberSet;
use crate::packet::{Address, PacketKey, Transport};
use crate::wire::protocol;

/// A set of numbers, however it is held.
pub(super) trait Numbers {
    fn is_any(&self) -> bool;
    fn contains(&self, number: u16) -> bool;
}

impl Numbers for NumberSet {
    fn is_any(&self) -> bool {
        self.is_any()
    }

    #[inline]
    fn contains(&self, number: u16) -> bool {
        self.contains(number)
    }
}

/// One inclusive range; that of all 16-bit numbers is "any", whatever the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Range {
    first: u16,
    last: u16,
}

impl Range {
    const ANY: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// None for a set that is no range.
    const fn of(set: &NumberSet) -> Option<Self> {
        match set {
            NumberSet::Any => Some(Self::ANY),
            NumberSet::One(first, last) => Some(Self {
                first: *first,
                last: *last,
            }),
            NumberSet::Many(_) => None,
        }
    }
}

impl From<Range> for NumberSet {
    fn from(range: Range) -> Self {
        if range == Range::ANY {
            Self::Any
        } else {
            Self::One(range.first, range.last)
        }
    }
}

impl Numbers for Range {
    fn is_any(&self) -> bool {
        *self == Self::ANY
    }

    #[inline]
    fn contains(&self, number: u16) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

/// What a filter says about transport fields; at least one of them is not "any".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TransportFilter<S> {
    Ports { source: S, destination: S },
    Icmp { kind: S, code: S },
}

/// What a filter says above the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UpperFilter<S> {
    pub(super) protocol: S,
    pub(super) transport: Option<TransportFilter<S>>,
}

/// The same, small where every field is one range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Upper {
    Ranges(UpperFilter<Range>),
    Lists(Box<UpperFilter<NumberSet>>),
}

impl Upper {
    pub(super) fn new(filter: UpperFilter<NumberSet>) -> Self {
        let ranges = || {
            let transport = match &filter.transport {
                None => None,
                Some(TransportFilter::Ports {
                    source,
                    destination,
                }) => Some(TransportFilter::Ports {
                    source: Range::of(source)?,
                    destination: Range::of(destination)?,
                }),
                Some(TransportFilter::Icmp { kind, code }) => Some(TransportFilter::Icmp {
                    kind: Range::of(kind)?,
                    code: Range::of(code)?,
                }),
            };
            Some(UpperFilter {
                protocol: Range::of(&filter.protocol)?,
                transport,
            })
        };
        match ranges() {
            Some(ranges) => Self::Ranges(ranges),
            None => Self::Lists(Box::new(filter)),
        }
    }

    /// With sets, whatever the form.
    pub(super) fn sets(&self) -> Cow<'_, UpperFilter<NumberSet>> {
        match self {
            Self::Lists(filter) => Cow::Borrowed(filter),
            Self::Ranges(filter) => {
                let transport = match filter.transport {
                    None => None,
                    Some(TransportFilter::Ports {
                        source,
                        destination,
                    }) => Some(TransportFilter::Ports {
                        source: source.into(),
                        destination: destination.into(),
                    }),
                    Some(TransportFilter::Icmp { kind, code }) => Some(TransportFilter::Icmp {
                        kind: kind.into(),
                        code: code.into(),
                    }),
                };
                Cow::Owned(UpperFilter {
                    protocol: filter.protocol.into(),
                    transport,
                })
            }
        }
    }

    #[inline]
    pub(super) fn matches(&self, key: &PacketKey) -> bool {
        match self {
            Self::Ranges(filter) => filter.matches(key),
            Self::Lists(filter) => filter.matches(key),
        }
    }

    pub(super) fn first_rejecting_field(&self, key: &PacketKey) -> Option<Field> {
        match self {
            Self::Ranges(filter) => filter.first_rejecting_field(key),
            Self::Lists(filter) => filter.first_rejecting_field(key),
        }
    }

    /// Nothing that a later fragment tells speaks against the filter.
    pub(super) fn matches_ignoring_transport(&self, key: &PacketKey) -> bool {
        match self {
            Self::Ranges(filter) => filter.matches_ignoring_transport(key),
            Self::Lists(filter) => filter.matches_ignoring_transport(key),
        }
    }

    pub(super) fn is_any_protocol(&self) -> bool {
        match self {
            Self::Ranges(filter) => filter.protocol.is_any(),
            Self::Lists(filter) => filter.protocol.is_any(),
        }
    }

    pub(super) const fn names_transport(&self) -> bool {
        match self {
            Self::Ranges(filter) => filter.transport.is_some(),
            Self::Lists(filter) => filter.transport.is_some(),
        }
    }

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Ranges(_) => 0,
            Self::Lists(filter) => {
                let transport = match &filter.transport {
                    None => 0,
                    Some(
                        TransportFilter::Ports {
                            source: left,
                            destination: right,
                        }
                        | TransportFilter::Icmp {
                            kind: left,
                            code: right,
                        },
                    ) => left.heap_octets() + right.heap_octets(),
                };
                size_of::<UpperFilter<NumberSet>>() + filter.protocol.heap_octets() + transport
            }
        }
    }
}

impl<S: Numbers> UpperFilter<S> {
    #[inline]
    fn matches(&self, key: &PacketKey) -> bool {
        self.protocol_matches(key)
            && self
                .transport
                .as_ref()
                .is_none_or(|filter| filter.matches(key))
    }

    #[inline]
    fn protocol_matches(&self, key: &PacketKey) -> bool {
        self.protocol.is_any()
            || key
                .protocol
                .is_some_and(|number| self.protocol.contains(u16::from(number)))
    }

    fn first_rejecting_field(&self, key: &PacketKey) -> Option<Field> {
        if !self.protocol_matches(key) {
            return Some(Field::Protocol);
        }
        match (self.transport.as_ref(), key.transport) {
            (None, _) => None,
            (
                Some(TransportFilter::Ports {
                    source,
                    destination,
                }),
                transport,
            ) => {
                let ports = match transport {
                    Transport::Ports {
                        source,
                        destination,
                    } if has_ports(key) => Some((source, destination)),
                    _ => None,
                };
                if !source.is_any() && ports.is_none_or(|ports| !source.contains(ports.0)) {
                    Some(Field::SourcePort)
                } else if !destination.is_any()
                    && ports.is_none_or(|ports| !destination.contains(ports.1))
                {
                    Some(Field::DestinationPort)
                } else {
                    None
                }
            }
            (Some(TransportFilter::Icmp { kind, code }), transport) => {
                let icmp = match transport {
                    Transport::Icmp { kind, code } if has_icmp(key) => {
                        Some((u16::from(kind), u16::from(code)))
                    }
                    _ => None,
                };
                if !kind.is_any() && icmp.is_none_or(|icmp| !kind.contains(icmp.0)) {
                    Some(Field::IcmpType)
                } else if !code.is_any() && icmp.is_none_or(|icmp| !code.contains(icmp.1)) {
                    Some(Field::IcmpCode)
                } else {
                    None
                }
            }
        }
    }

    fn matches_ignoring_transport(&self, key: &PacketKey) -> bool {
        (key.protocol.is_none() || self.protocol_matches(key))
            && match (self.transport.as_ref(), key.protocol) {
                (None, _) | (Some(_), None) => true,
                (Some(TransportFilter::Ports { .. }), Some(number)) => {
                    matches!(number, protocol::TCP | protocol::UDP)
                }
                (Some(TransportFilter::Icmp { .. }), Some(number)) => {
                    number == icmp_protocol(key.source)
                }
            }
    }
}

impl<S: Numbers> TransportFilter<S> {
    #[inline]
    fn matches(&self, key: &PacketKey) -> bool {
        match (self, key.transport) {
            (
                Self::Ports {
                    source,
                    destination,
                },
                Transport::Ports {
                    source: from,
                    destination: to,
                },
            ) => has_ports(key) && source.contains(from) && destination.contains(to),
            (
                Self::Icmp { kind, code },
                Transport::Icmp {
                    kind: packet_kind,
                    code: packet_code,
                },
            ) => {
                has_icmp(key)
                    && kind.contains(u16::from(packet_kind))
                    && code.contains(u16::from(packet_code))
            }
            _ => false,
        }
    }
}

/// Whether the packet's ports are such that criteria look at them.
const fn has_ports(key: &PacketKey) -> bool {
    matches!(key.protocol, Some(protocol::TCP | protocol::UDP))
}

/// Whether the packet is ICMP for IPv4 or ICMPv6 for IPv6.
fn has_icmp(key: &PacketKey) -> bool {
    key.protocol == Some(icmp_protocol(key.source))
}

/// The number of ICMP in the family of `address`.
const fn icmp_protocol(address: Address) -> u8 {
    match address {
        Address::V4(_) => protocol::ICMP,
        Address::V6(_) => protocol::ICMPV6,
    }
}
