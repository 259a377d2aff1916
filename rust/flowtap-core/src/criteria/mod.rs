//! One packet filter as typed fields: what it matches, its normal form, equality and overlap.
//!
//! A missing field matches everything. Ports are looked at in TCP and UDP only, ICMP type and code in ICMP for IPv4
//! and ICMPv6 for IPv6 only; a filter that names them therefore matches no other protocol.

mod addresses;
mod extent;
mod ranges;
mod set;
mod text;
mod upper;

use std::fmt;

use self::addresses::Addresses;
pub use self::extent::AddressSpace;
use self::set::{AddressSet, NumberSet};
pub use self::text::MAXIMUM_ELEMENTS;
use self::upper::{TransportFilter, Upper, UpperFilter};
use crate::packet::PacketKey;
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
    /// Packets of one family only, whatever the addresses say.
    pub family: Option<IpFamily>,
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A filter that cannot be.
///
/// Its text repeats no address: errors go into logs, and an address names somebody. Who may see it has
/// [`CriteriaError::value`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} {what}", field.name(), self.shown())]
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

    /// What the text calls the value.
    fn shown(&self) -> String {
        match self.field {
            Field::Source | Field::Destination => "the list".to_owned(),
            _ => format!("{:?}", self.value),
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

impl fmt::Debug for CriteriaError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "CriteriaError({self})")
    }
}

/// One packet filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Criteria {
    addresses: Addresses,
    upper: Upper,
}

/// One end of a packet: addresses and ports come in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What a filter says about the upper layer, as ranges for an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UpperRanges {
    /// Protocol numbers, nothing about what they carry.
    Protocols(Vec<(u16, u16)>),
    /// Ports of TCP, of UDP or of both.
    Ports {
        tcp: bool,
        udp: bool,
        source: Vec<(u16, u16)>,
        destination: Vec<(u16, u16)>,
    },
    /// ICMP of the packet's family.
    Icmp {
        kind: Vec<(u16, u16)>,
        code: Vec<(u16, u16)>,
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
        let mut source = addresses(Field::Source, text.source)?;
        let destination = addresses(Field::Destination, text.destination)?;
        let protocol = numbers(Field::Protocol, text.protocol, 255)?;
        let source_port = numbers(Field::SourcePort, text.source_port, u16::MAX)?;
        let destination_port = numbers(Field::DestinationPort, text.destination_port, u16::MAX)?;
        let kind = numbers(Field::IcmpType, text.icmp_type, 255)?;
        let code = numbers(Field::IcmpCode, text.icmp_code, 255)?;

        if let Some(family) = text.family {
            source = source.of_family(family);
            if source.v4().is_empty() && source.v6().is_empty() {
                return Err(CriteriaError::new(
                    Field::Source,
                    text.source.unwrap_or_default(),
                    "has no address of the IP version that is asked for".to_owned(),
                    false,
                ));
            }
        }
        let no_v4 = source.v4().is_empty() || destination.v4().is_empty();
        let no_v6 = source.v6().is_empty() || destination.v6().is_empty();
        if no_v4 && no_v6 {
            return Err(CriteriaError::new(
                Field::Destination,
                text.destination.unwrap_or_default(),
                if text.family.is_some() {
                    "has no address of the IP version that is asked for".to_owned()
                } else {
                    "is of another family than the source; one packet has addresses of one family"
                        .to_owned()
                },
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
            addresses: Addresses::new(source, destination),
            upper: Upper::new(UpperFilter {
                protocol,
                transport,
            }),
        })
    }

    /// Whether the filter matches a packet.
    #[inline]
    pub fn matches(&self, key: &PacketKey) -> bool {
        self.addresses.contain(key.source, key.destination) && self.upper.matches(key)
    }

    /// The first field that rejects a packet, None where the filter matches it.
    pub fn first_rejecting_field(&self, key: &PacketKey) -> Option<Field> {
        if !self.addresses.side(Side::Source).contains(key.source) {
            return Some(Field::Source);
        }
        let destination = self.addresses.side(Side::Destination);
        if !destination.contains(key.destination) {
            return Some(Field::Destination);
        }
        self.upper.first_rejecting_field(key)
    }

    /// Whether the filter could match a datagram of which only a later fragment is known: addresses match, and nothing
    /// that the fragment does tell speaks against it.
    pub fn matches_ignoring_transport(&self, key: &PacketKey) -> bool {
        self.addresses.contain(key.source, key.destination)
            && self.upper.matches_ignoring_transport(key)
    }

    /// Whether a later fragment alone is not enough to decide: the filter names transport fields, or a protocol that the
    /// fragment does not tell.
    pub fn needs_first_fragment(&self, key: &PacketKey) -> bool {
        self.needs_transport() || (key.protocol.is_none() && !self.upper.is_any_protocol())
    }

    /// Whether the filter names transport fields.
    pub const fn needs_transport(&self) -> bool {
        self.upper.names_transport()
    }

    /// Whether some packet could match both filters.
    pub fn overlaps(&self, other: &Self) -> bool {
        let sides = [Side::Source, Side::Destination];
        let v4 = sides
            .iter()
            .all(|&side| ranges::intersect(&self.v4(side), &other.v4(side)));
        let v6 = sides
            .iter()
            .all(|&side| ranges::intersect(&self.v6(side), &other.v6(side)));
        if !v4 && !v6 {
            return false;
        }
        let (left, right) = (self.upper.sets(), other.upper.sets());
        let both_allow = |number: u8| {
            left.protocol.contains(u16::from(number)) && right.protocol.contains(u16::from(number))
        };
        let transports = [left.transport.as_ref(), right.transport.as_ref()];
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
        if !left.protocol.overlaps(&right.protocol) {
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

    /// The IPv4 addresses that one side may have.
    pub(crate) fn v4(&self, side: Side) -> Vec<(u32, u32)> {
        self.addresses.side(side).v4()
    }

    /// The IPv6 addresses that one side may have.
    pub(crate) fn v6(&self, side: Side) -> Vec<(u128, u128)> {
        self.addresses.side(side).v6()
    }

    /// What the filter says about the upper layer.
    pub(crate) fn upper(&self) -> UpperRanges {
        let to_octet = |set: &NumberSet| match set {
            NumberSet::Any => vec![(0, u16::from(u8::MAX))],
            NumberSet::One(..) | NumberSet::Many(_) => set.to_ranges(),
        };
        let UpperFilter {
            protocol,
            transport,
        } = &*self.upper.sets();
        match transport {
            None => UpperRanges::Protocols(to_octet(protocol)),
            Some(TransportFilter::Ports {
                source,
                destination,
            }) => UpperRanges::Ports {
                tcp: protocol.contains(protocol::TCP.into()),
                udp: protocol.contains(protocol::UDP.into()),
                source: source.to_ranges(),
                destination: destination.to_ranges(),
            },
            Some(TransportFilter::Icmp { kind, code }) => UpperRanges::Icmp {
                kind: to_octet(kind),
                code: to_octet(code),
            },
        }
    }

    /// Octets on the heap.
    pub(crate) fn heap_octets(&self) -> usize {
        self.addresses.heap_octets() + self.upper.heap_octets()
    }
}

/// Writes a filter in canonical text; see [`Criteria::normal_form`].
#[derive(Clone, Copy, Debug)]
pub struct NormalForm<'a>(&'a Criteria);

impl fmt::Display for NormalForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Criteria { addresses, upper } = self.0;
        let source = addresses.side(Side::Source);
        let destination = addresses.side(Side::Destination);
        let UpperFilter {
            protocol,
            transport,
        } = &*upper.sets();
        let mut separator = "";
        let mut write = |field: Field, any: bool, value: &dyn fmt::Display| {
            if any {
                return Ok(());
            }
            let result = write!(f, "{separator}{}={value}", field.name());
            separator = " ";
            result
        };
        write(Field::Source, source.is_any(), &*source)?;
        write(Field::Destination, destination.is_any(), &*destination)?;
        write(Field::Protocol, protocol.is_any(), protocol)?;
        match transport {
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
