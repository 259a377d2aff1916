//! The sets that a filter's fields hold, small for the common cases: nothing said, one host, one number.

use std::fmt;

use super::{IpFamily, ranges};
use crate::packet::Address;

/// A set of protocol numbers, ports, ICMP types or codes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum NumberSet {
    Any,
    /// One inclusive range, mostly one number.
    One(u16, u16),
    Many(Box<NumberRanges>),
}

/// Ranges behind one thin pointer, so that the common sets stay small.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NumberRanges(Box<[(u16, u16)]>);

impl NumberSet {
    /// From ranges in their one form, within 0 to `highest`.
    pub(super) fn new(ranges: Vec<(u16, u16)>, highest: u16) -> Self {
        match ranges.as_slice() {
            [(0, last)] if *last >= highest => Self::Any,
            [(first, last)] => Self::One(*first, *last),
            _ => Self::Many(Box::new(NumberRanges(ranges.into()))),
        }
    }

    pub(super) const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    #[inline]
    pub(super) fn contains(&self, number: u16) -> bool {
        match self {
            Self::Any => true,
            Self::One(first, last) => (*first..=*last).contains(&number),
            Self::Many(ranges) => ranges::contain(&ranges.0, number),
        }
    }

    pub(super) fn to_ranges(&self) -> Vec<(u16, u16)> {
        match self {
            Self::Any => ranges::everything(),
            Self::One(first, last) => vec![(*first, *last)],
            Self::Many(ranges) => ranges.0.to_vec(),
        }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        ranges::intersect(&self.to_ranges(), &other.to_ranges())
    }

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Many(ranges) => size_of::<NumberRanges>() + size_of_val::<[_]>(&ranges.0),
            Self::Any | Self::One(..) => 0,
        }
    }
}

impl fmt::Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, (first, last): (u16, u16)| {
            if first == last {
                write!(f, "{first}")
            } else {
                write!(f, "{first}-{last}")
            }
        };
        match self {
            Self::Any => f.write_str("*"),
            Self::One(first, last) => write(f, (*first, *last)),
            Self::Many(ranges) => {
                for (at, &range) in ranges.0.iter().enumerate() {
                    if at > 0 {
                        f.write_str(",")?;
                    }
                    write(f, range)?;
                }
                Ok(())
            }
        }
    }
}

/// Addresses of both families.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressRanges {
    pub(super) v4: Box<[(u32, u32)]>,
    pub(super) v6: Box<[(u128, u128)]>,
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AddressSet {
    Any,
    /// One inclusive range of IPv4 addresses, mostly a host or a prefix.
    OneV4(u32, u32),
    HostV6(Box<u128>),
    Many(Box<AddressRanges>),
}

impl AddressSet {
    /// From ranges in their one form.
    pub(super) fn new(v4: Vec<(u32, u32)>, v6: Vec<(u128, u128)>) -> Self {
        match (v4.as_slice(), v6.as_slice()) {
            ([(0, u32::MAX)], [(0, u128::MAX)]) => Self::Any,
            ([(first, last)], []) => Self::OneV4(*first, *last),
            ([], [(first, last)]) if first == last => Self::HostV6(Box::new(*first)),
            _ => Self::Many(Box::new(AddressRanges {
                v4: v4.into(),
                v6: v6.into(),
            })),
        }
    }

    pub(super) const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    #[inline]
    pub(super) fn contains(&self, address: Address) -> bool {
        match (self, address) {
            (Self::Any, _) => true,
            (Self::OneV4(first, last), Address::V4(bits)) => (*first..=*last).contains(&bits),
            (Self::HostV6(host), Address::V6(bits)) => **host == bits,
            (Self::OneV4(..), Address::V6(_)) | (Self::HostV6(_), Address::V4(_)) => false,
            (Self::Many(ranges), Address::V4(bits)) => ranges::contain(&ranges.v4, bits),
            (Self::Many(ranges), Address::V6(bits)) => ranges::contain(&ranges.v6, bits),
        }
    }

    /// The IPv4 ranges, handed over because one of the forms holds no slice.
    pub(super) fn v4(&self) -> Vec<(u32, u32)> {
        match self {
            Self::Any => ranges::everything(),
            Self::OneV4(first, last) => vec![(*first, *last)],
            Self::HostV6(_) => Vec::new(),
            Self::Many(ranges) => ranges.v4.to_vec(),
        }
    }

    /// The IPv6 ranges.
    pub(super) fn v6(&self) -> Vec<(u128, u128)> {
        match self {
            Self::Any => ranges::everything(),
            Self::OneV4(..) => Vec::new(),
            Self::HostV6(host) => vec![(**host, **host)],
            Self::Many(ranges) => ranges.v6.to_vec(),
        }
    }

    /// Those of one family.
    pub(super) fn of_family(&self, family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::new(self.v4(), Vec::new()),
            IpFamily::V6 => Self::new(Vec::new(), self.v6()),
        }
    }

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Many(ranges) => {
                size_of::<AddressRanges>()
                    + size_of_val::<[_]>(&ranges.v4)
                    + size_of_val::<[_]>(&ranges.v6)
            }
            Self::HostV6(host) => size_of_val::<u128>(host),
            Self::Any | Self::OneV4(..) => 0,
        }
    }
}

/// The prefix length of a range that is a prefix, None for any other.
pub(super) fn prefix_length(first: u128, last: u128, bits: u32) -> Option<u32> {
    let size_less_one = last - first;
    let host_bits = 128 - size_less_one.leading_zeros();
    let is_prefix = size_less_one.wrapping_add(1).is_power_of_two() || size_less_one == u128::MAX;
    (is_prefix && first & size_less_one == 0).then(|| bits - host_bits)
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("*");
        }
        let mut separator = "";
        for (first, last) in self.v4() {
            let (low, high) = (
                std::net::Ipv4Addr::from(first),
                std::net::Ipv4Addr::from(last),
            );
            match prefix_length(first.into(), last.into(), 32) {
                Some(32) => write!(f, "{separator}{low}")?,
                Some(length) => write!(f, "{separator}{low}/{length}")?,
                None => write!(f, "{separator}{low}-{high}")?,
            }
            separator = ",";
        }
        for (first, last) in self.v6() {
            let (low, high) = (
                std::net::Ipv6Addr::from(first),
                std::net::Ipv6Addr::from(last),
            );
            match prefix_length(first, last, 128) {
                Some(128) => write!(f, "{separator}{low}")?,
                Some(length) => write!(f, "{separator}{low}/{length}")?,
                None => write!(f, "{separator}{low}-{high}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}
