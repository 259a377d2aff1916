//! One packet filter as typed fields: what it matches, its normal form, equality and overlap.
//!
//! A missing field matches everything. Ports are looked at in TCP and UDP only, ICMP type and code in ICMP for IPv4
//! and ICMPv6 for IPv6 only; a filter that names them therefore matches no other protocol.

mod extent;
mod ranges;
mod set;
mod text;

use std::fmt;

pub use self::extent::AddressSpace;
use self::set::{AddressSet, NumberSet};
pub use self::text::MAXIMUM_ELEMENTS;
use crate::packet::{Address, PacketKey, Transport};
use crate::wire::protocol;

/// The fields of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// IP protocol, behind the extension headers in IPv6.
    Protocol,
    /// TCP or UDP source port.
    SourcePort,
    /// TCP or UDP destination port.
    DestinationPort,
    /// ICMP or ICMPv6 type.
    IcmpType,
    /// ICMP or ICMPv6 code.
    IcmpCode,
}

impl Field {
    /// Every field, in the order in which they are tried.
    pub const ALL: [Self; 7] = [
        Self::Source,
        Self::Destination,
        Self::Protocol,
        Self::SourcePort,
        Self::DestinationPort,
        Self::IcmpType,
        Self::IcmpCode,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Protocol => "protocol",
            Self::SourcePort => "source_port",
            Self::DestinationPort => "destination_port",
            Self::IcmpType => "icmp_type",
            Self::IcmpCode => "icmp_code",
        }
    }
}

/// A filter as text, one list a field.
#[derive(Clone, Copy, Debug, Default)]
pub struct CriteriaText<'a> {
    /// List of addresses.
    pub source: Option<&'a str>,
    /// List of addresses.
    pub destination: Option<&'a str>,
    /// List of numbers from 0 to 255.
    pub protocol: Option<&'a str>,
    /// List of numbers from 0 to 65535.
    pub source_port: Option<&'a str>,
    /// List of numbers from 0 to 65535.
    pub destination_port: Option<&'a str>,
    /// List of numbers from 0 to 255.
    pub icmp_type: Option<&'a str>,
    /// List of numbers from 0 to 255.
    pub icmp_code: Option<&'a str>,
}

/// A filter that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {value:?} {what}", field.name())]
pub struct CriteriaError {
    field: Field,
    value: String,
    what: String,
    syntax: bool,
}

/// Characters of a wrong value that an error repeats.
const SHOWN_CHARACTERS: usize = 120;

impl CriteriaError {
    fn new(field: Field, value: &str, what: String, syntax: bool) -> Self {
        let mut shown: String = value.chars().take(SHOWN_CHARACTERS).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self {
            field,
            value: shown,
            what,
            syntax,
        }
    }

    /// The field that is wrong.
    pub const fn field(&self) -> Field {
        self.field
    }

    /// Its value as given, cut where it is very long.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// True if the text cannot be read at all, false if it can be read and makes no sense.
    pub const fn is_syntax(&self) -> bool {
        self.syntax
    }
}

/// What a filter says about transport fields; at least one of them is not "any".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TransportFilter {
    Ports {
        source: NumberSet,
        destination: NumberSet,
    },
    Icmp {
        kind: NumberSet,
        code: NumberSet,
    },
}

/// One packet filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Criteria {
    source: AddressSet,
    destination: AddressSet,
    protocol: NumberSet,
    transport: Option<Box<TransportFilter>>,
}

/// A plain interval on one field, for an index that looks criteria up by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// The field says nothing.
    Any,
    /// IPv4 and IPv6 ranges.
    Ranges {
        v4: Vec<(u32, u32)>,
        v6: Vec<(u128, u128)>,
    },
}

impl Criteria {
    /// Reads a filter from its text.
    ///
    /// # Errors
    /// Names the first field that cannot be read or that makes no sense, alone or together with the others.
    pub fn parse(text: &CriteriaText<'_>) -> Result<Self, CriteriaError> {
        let addresses = |field, text: Option<&str>| {
            text.map_or(Ok(AddressSet::Any), |text| text::addresses(field, text))
        };
        let numbers = |field, text: Option<&str>, highest| {
            text.map_or(Ok(NumberSet::Any), |text| {
                text::numbers(field, text, highest)
            })
        };
        let source = addresses(Field::Source, text.source)?;
        let destination = addresses(Field::Destination, text.destination)?;
        let protocol = numbers(Field::Protocol, text.protocol, 255)?;
        let source_port = numbers(Field::SourcePort, text.source_port, u16::MAX)?;
        let destination_port = numbers(Field::DestinationPort, text.destination_port, u16::MAX)?;
        let kind = numbers(Field::IcmpType, text.icmp_type, 255)?;
        let code = numbers(Field::IcmpCode, text.icmp_code, 255)?;

        let no_v4 = source.v4().is_empty() || destination.v4().is_empty();
        let no_v6 = source.v6().is_empty() || destination.v6().is_empty();
        if no_v4 && no_v6 {
            return Err(CriteriaError::new(
                Field::Destination,
                text.destination.unwrap_or_default(),
                "is of another family than the source; one packet has addresses of one family"
                    .to_owned(),
                false,
            ));
        }
        let has_ports = !source_port.is_any() || !destination_port.is_any();
        let has_icmp = !kind.is_any() || !code.is_any();
        let port_field = if source_port.is_any() {
            (Field::DestinationPort, text.destination_port)
        } else {
            (Field::SourcePort, text.source_port)
        };
        let icmp_field = if kind.is_any() {
            (Field::IcmpCode, text.icmp_code)
        } else {
            (Field::IcmpType, text.icmp_type)
        };
        let impossible = |(field, value): (Field, Option<&str>), what: &str| {
            Err(CriteriaError::new(
                field,
                value.unwrap_or_default(),
                what.to_owned(),
                false,
            ))
        };
        if has_ports && has_icmp {
            return impossible(icmp_field, "stands beside a port; no packet has both");
        }
        let allows = |number: u8| protocol.contains(u16::from(number));
        if has_ports && !allows(protocol::TCP) && !allows(protocol::UDP) {
            return impossible(
                port_field,
                "needs TCP (6) or UDP (17), which the protocol excludes",
            );
        }
        let icmp_possible =
            (allows(protocol::ICMP) && !no_v4) || (allows(protocol::ICMPV6) && !no_v6);
        if has_icmp && !icmp_possible {
            return impossible(
                icmp_field,
                "needs ICMP (1) with IPv4 or ICMPv6 (58) with IPv6, which the other fields exclude",
            );
        }
        let transport = if has_ports {
            Some(TransportFilter::Ports {
                source: source_port,
                destination: destination_port,
            })
        } else if has_icmp {
            Some(TransportFilter::Icmp { kind, code })
        } else {
            None
        };
        Ok(Self {
            source,
            destination,
            protocol,
            transport: transport.map(Box::new),
        })
    }

    /// Whether the filter matches a packet.
    #[inline]
    pub fn matches(&self, key: &PacketKey) -> bool {
        self.source.contains(key.source)
            && self.destination.contains(key.destination)
            && self.protocol_matches(key)
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

    /// The first field that rejects a packet, None where the filter matches it.
    pub fn first_rejecting_field(&self, key: &PacketKey) -> Option<Field> {
        if !self.source.contains(key.source) {
            return Some(Field::Source);
        }
        if !self.destination.contains(key.destination) {
            return Some(Field::Destination);
        }
        if !self.protocol_matches(key) {
            return Some(Field::Protocol);
        }
        match (self.transport.as_deref(), key.transport) {
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

    /// Whether the filter could match a datagram of which only a later fragment is known: addresses match, and nothing
    /// that the fragment does tell speaks against it.
    pub fn matches_ignoring_transport(&self, key: &PacketKey) -> bool {
        self.source.contains(key.source)
            && self.destination.contains(key.destination)
            && (key.protocol.is_none() || self.protocol_matches(key))
            && match (self.transport.as_deref(), key.protocol) {
                (None, _) | (Some(_), None) => true,
                (Some(TransportFilter::Ports { .. }), Some(number)) => {
                    matches!(number, protocol::TCP | protocol::UDP)
                }
                (Some(TransportFilter::Icmp { .. }), Some(number)) => {
                    number == icmp_protocol(key.source)
                }
            }
    }

    /// Whether a later fragment alone is not enough to decide: the filter names transport fields, or a protocol that the
    /// fragment does not tell.
    pub fn needs_first_fragment(&self, key: &PacketKey) -> bool {
        self.transport.is_some() || (key.protocol.is_none() && !self.protocol.is_any())
    }

    /// Whether the filter names transport fields.
    pub const fn needs_transport(&self) -> bool {
        self.transport.is_some()
    }

    /// Whether some packet could match both filters.
    pub fn overlaps(&self, other: &Self) -> bool {
        let v4 = ranges::intersect(&self.source.v4(), &other.source.v4())
            && ranges::intersect(&self.destination.v4(), &other.destination.v4());
        let v6 = ranges::intersect(&self.source.v6(), &other.source.v6())
            && ranges::intersect(&self.destination.v6(), &other.destination.v6());
        if !v4 && !v6 {
            return false;
        }
        let both_allow = |number: u8| {
            self.protocol.contains(u16::from(number)) && other.protocol.contains(u16::from(number))
        };
        let transports = [self.transport.as_deref(), other.transport.as_deref()];
        let names_ports = transports
            .iter()
            .flatten()
            .any(|filter| matches!(filter, TransportFilter::Ports { .. }));
        let names_icmp = transports
            .iter()
            .flatten()
            .any(|filter| matches!(filter, TransportFilter::Icmp { .. }));
        if names_ports && names_icmp {
            return false;
        }
        if names_ports && !both_allow(protocol::TCP) && !both_allow(protocol::UDP) {
            return false;
        }
        if names_icmp
            && !(v4 && both_allow(protocol::ICMP))
            && !(v6 && both_allow(protocol::ICMPV6))
        {
            return false;
        }
        if !self.protocol.overlaps(&other.protocol) {
            return false;
        }
        match transports {
            [
                Some(TransportFilter::Ports {
                    source: a,
                    destination: b,
                }),
                Some(TransportFilter::Ports {
                    source: c,
                    destination: d,
                }),
            ]
            | [
                Some(TransportFilter::Icmp { kind: a, code: b }),
                Some(TransportFilter::Icmp { kind: c, code: d }),
            ] => a.overlaps(c) && b.overlaps(d),
            _ => true,
        }
    }

    /// The filter in canonical text: filters with the same form match the same packets field by field.
    pub const fn normal_form(&self) -> NormalForm<'_> {
        NormalForm(self)
    }

    /// What the filter says about the source.
    pub(crate) fn source_anchor(&self) -> Anchor {
        anchor(&self.source)
    }

    /// What the filter says about the destination.
    pub(crate) fn destination_anchor(&self) -> Anchor {
        anchor(&self.destination)
    }

    /// Whether packets of this protocol (None: not readable) can match.
    pub(crate) fn allows_protocol(&self, protocol: u8) -> bool {
        self.protocol.contains(u16::from(protocol))
            && match self.transport.as_deref() {
                None => true,
                Some(TransportFilter::Ports { .. }) => {
                    matches!(protocol, protocol::TCP | protocol::UDP)
                }
                Some(TransportFilter::Icmp { .. }) => {
                    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
                }
            }
    }

    /// Octets on the heap.
    pub(crate) fn heap_octets(&self) -> usize {
        self.source.heap_octets()
            + self.destination.heap_octets()
            + self.protocol.heap_octets()
            + self.transport.as_deref().map_or(0, |filter| {
                let (TransportFilter::Ports {
                    source: a,
                    destination: b,
                }
                | TransportFilter::Icmp { kind: a, code: b }) = filter;
                size_of::<TransportFilter>() + a.heap_octets() + b.heap_octets()
            })
    }
}

fn anchor(set: &AddressSet) -> Anchor {
    if set.is_any() {
        Anchor::Any
    } else {
        Anchor::Ranges {
            v4: set.v4(),
            v6: set.v6(),
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

impl TransportFilter {
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

/// Writes a filter in canonical text; see [`Criteria::normal_form`].
#[derive(Clone, Copy, Debug)]
pub struct NormalForm<'a>(&'a Criteria);

impl fmt::Display for NormalForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Criteria {
            source,
            destination,
            protocol,
            transport,
        } = self.0;
        let mut separator = "";
        let mut write = |field: Field, any: bool, value: &dyn fmt::Display| {
            if any {
                return Ok(());
            }
            let result = write!(f, "{separator}{}={value}", field.name());
            separator = " ";
            result
        };
        write(Field::Source, source.is_any(), source)?;
        write(Field::Destination, destination.is_any(), destination)?;
        write(Field::Protocol, protocol.is_any(), protocol)?;
        match transport.as_deref() {
            Some(TransportFilter::Ports {
                source,
                destination,
            }) => {
                write(Field::SourcePort, source.is_any(), source)?;
                write(Field::DestinationPort, destination.is_any(), destination)?;
            }
            Some(TransportFilter::Icmp { kind, code }) => {
                write(Field::IcmpType, kind.is_any(), kind)?;
                write(Field::IcmpCode, code.is_any(), code)?;
            }
            None => {}
        }
        if separator.is_empty() {
            f.write_str("*")
        } else {
            Ok(())
        }
    }
}
