//! The list language of filters: elements with optional negation, open and closed ranges, prefixes, `*`.
//!
//! ```text
//! list(E)  : "!"? E ( "," blank? "!"? E )*
//! address  : A | A/N | A-A | A-* | *-A | *
//! number   : N | N-N | N-* | *-N | *
//! ```
//!
//! The set is the union of the plain elements (of everything, where there is none) without the negated ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ranges::{self, Number};
use super::set::{AddressSet, NumberSet};
use super::{CriteriaError, Field};

/// Elements that one list may have: as many as tasking may write, and as many exclusions.
pub const MAXIMUM_ELEMENTS: usize = 2048;

/// Why a list is wrong: unreadable, or readable and impossible.
enum Fault {
    Syntax(String),
    Semantic(String),
}

impl Fault {
    /// The fault of one element as one of its list. What an address element says is not repeated: it names
    /// somebody.
    fn at_place(self, at: usize) -> Self {
        let place = at + 1;
        match self {
            Self::Syntax(what) => Self::Syntax(format!("has at place {place} {what}")),
            Self::Semantic(what) => Self::Semantic(format!("has at place {place} {what}")),
        }
    }
}

/// Splits a list and tells negated elements from plain ones.
fn elements(text: &str) -> Result<Vec<(bool, &str)>, Fault> {
    let mut found = Vec::new();
    for (at, piece) in text.split(',').enumerate() {
        if at == MAXIMUM_ELEMENTS {
            return Err(Fault::Semantic(format!(
                "has more than {MAXIMUM_ELEMENTS} elements; split it into several criteria"
            )));
        }
        // One blank may follow a comma.
        let piece = if at > 0 {
            piece.strip_prefix([' ', '\t']).unwrap_or(piece)
        } else {
            piece
        };
        let (negated, element) = match piece.strip_prefix('!') {
            Some(element) => (true, element),
            None => (false, piece),
        };
        if element.is_empty() {
            return Err(Fault::Syntax(format!(
                "has an empty element at place {}; elements stand between single commas",
                at + 1
            )));
        }
        found.push((negated, element));
    }
    Ok(found)
}

/// A number in decimal digits, at most `digits` of them.
fn number(text: &str, digits: usize) -> Option<u32> {
    let is_decimal = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    (is_decimal && text.len() <= digits)
        .then(|| text.parse().ok())
        .flatten()
}

/// One end of a range: `*` is the given end of everything.
fn end<T: Copy>(text: &str, open: T, read: impl Fn(&str) -> Result<T, Fault>) -> Result<T, Fault> {
    if text == "*" { Ok(open) } else { read(text) }
}

/// A range whose ends are in order.
fn ordered<T: PartialOrd>(first: T, last: T) -> Result<(T, T), Fault> {
    if first > last {
        return Err(Fault::Semantic(
            "a range the wrong way round; the lower end comes first".to_owned(),
        ));
    }
    Ok((first, last))
}

fn number_element(element: &str, highest: u16) -> Result<(u16, u16), Fault> {
    let read = |text: &str| {
        // More digits than the field can have cannot be read; too large a number can.
        let value = number(text, if highest > 255 { 5 } else { 3 }).ok_or_else(|| {
            Fault::Syntax(format!(
                "{element:?}; a number from 0 to {highest}, a range such as 1-2, 1-* or *-2, or * is right"
            ))
        })?;
        u16::try_from(value)
            .ok()
            .filter(|&value| value <= highest)
            .ok_or_else(|| Fault::Semantic(format!("{value}, which is above {highest}")))
    };
    match element.split_once('-') {
        Some(("*", "*")) => Err(Fault::Syntax("*-*; * alone means everything".to_owned())),
        Some((first, last)) => ordered(end(first, 0, read)?, end(last, highest, read)?),
        None if element == "*" => Ok((0, highest)),
        None => read(element).map(|value| (value, value)),
    }
}

/// Reads a list of numbers from 0 to `highest`.
pub(super) fn numbers(field: Field, text: &str, highest: u16) -> Result<NumberSet, CriteriaError> {
    let parse = || {
        let mut plain = Vec::new();
        let mut negated = Vec::new();
        for (at, (negate, element)) in elements(text)?.into_iter().enumerate() {
            let range = number_element(element, highest).map_err(|fault| fault.at_place(at))?;
            if negate {
                negated.push(range);
            } else {
                plain.push(range);
            }
        }
        if plain.is_empty() {
            plain.push((0, highest));
        }
        let set = ranges::difference(&ranges::union(plain), &ranges::union(negated));
        if set.is_empty() {
            return Err(Fault::Semantic(
                "leaves no number that could match".to_owned(),
            ));
        }
        Ok(NumberSet::new(set, highest))
    };
    parse().map_err(|fault| error(field, text, fault))
}

/// Ranges of both families, as elements bring them.
#[derive(Default)]
struct Both {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Both {
    fn everything() -> Self {
        Self {
            v4: ranges::everything(),
            v6: ranges::everything(),
        }
    }
}

enum Parsed {
    V4(u32),
    V6(u128),
}

fn address(text: &str) -> Result<Parsed, Fault> {
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(Parsed::V4(v4.to_bits()));
    }
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return Ok(Parsed::V6(v6.to_bits()));
    }
    // Four decimal numbers with dots can be read; what is wrong with them is their size or leading zeros.
    let numbers = text
        .split('.')
        .filter(|part| number(part, 3).is_some())
        .count();
    if numbers == 4 && text.split('.').count() == 4 {
        return Err(Fault::Semantic(
            "four numbers with dots; those of an IPv4 address go from 0 to 255, without leading zeros"
                .to_owned(),
        ));
    }
    Err(Fault::Syntax(
        "something else; an IPv4 or IPv6 address, a prefix such as 192.0.2.0/24, a range such as A-B, A-* or *-B, or * is right"
            .to_owned(),
    ))
}

/// The range of a prefix; host bits are masked.
fn prefix<T: Number>(
    bits: T,
    length: u32,
    width: u32,
    mask: impl Fn(T, u32) -> (T, T),
) -> Result<(T, T), Fault> {
    if length > width {
        return Err(Fault::Semantic(format!(
            "the prefix length {length}; at most {width} is right for this family"
        )));
    }
    Ok(mask(bits, width - length))
}

fn address_element(element: &str, into: &mut Both) -> Result<(), Fault> {
    if element == "*" {
        into.v4.push((0, u32::MAX));
        into.v6.push((0, u128::MAX));
        return Ok(());
    }
    if let Some((base, length)) = element.split_once('/') {
        let length = number(length, 3).ok_or_else(|| {
            Fault::Syntax(
                "a slash without a length; digits must follow it, as in 192.0.2.0/24".to_owned(),
            )
        })?;
        match address(base)? {
            Parsed::V4(bits) => into.v4.push(prefix(bits, length, 32, |bits, host| {
                let host_mask = u32::MAX.checked_shr(32 - host).unwrap_or(0);
                (bits & !host_mask, bits | host_mask)
            })?),
            Parsed::V6(bits) => into.v6.push(prefix(bits, length, 128, |bits, host| {
                let host_mask = u128::MAX.checked_shr(128 - host).unwrap_or(0);
                (bits & !host_mask, bits | host_mask)
            })?),
        }
        return Ok(());
    }
    let Some((first, last)) = element.split_once('-') else {
        match address(element)? {
            Parsed::V4(bits) => into.v4.push((bits, bits)),
            Parsed::V6(bits) => into.v6.push((bits, bits)),
        }
        return Ok(());
    };
    match (first, last) {
        ("*", "*") => {
            return Err(Fault::Syntax("*-*; * alone means everything".to_owned()));
        }
        ("*", last) => match address(last)? {
            Parsed::V4(last) => into.v4.push((0, last)),
            Parsed::V6(last) => into.v6.push((0, last)),
        },
        (first, "*") => match address(first)? {
            Parsed::V4(first) => into.v4.push((first, u32::MAX)),
            Parsed::V6(first) => into.v6.push((first, u128::MAX)),
        },
        (first, last) => match (address(first)?, address(last)?) {
            (Parsed::V4(first), Parsed::V4(last)) => into.v4.push(ordered(first, last)?),
            (Parsed::V6(first), Parsed::V6(last)) => into.v6.push(ordered(first, last)?),
            _ => {
                return Err(Fault::Semantic(
                    "a range from one family to the other".to_owned(),
                ));
            }
        },
    }
    Ok(())
}

/// Reads a list of addresses.
pub(super) fn addresses(field: Field, text: &str) -> Result<AddressSet, CriteriaError> {
    let parse = || {
        let mut plain = Both::default();
        let mut negated = Both::default();
        let mut has_plain = false;
        for (at, (negate, element)) in elements(text)?.into_iter().enumerate() {
            has_plain |= !negate;
            address_element(element, if negate { &mut negated } else { &mut plain })
                .map_err(|fault| fault.at_place(at))?;
        }
        if !has_plain {
            plain = Both::everything();
        }
        let v4 = ranges::difference(&ranges::union(plain.v4), &ranges::union(negated.v4));
        let v6 = ranges::difference(&ranges::union(plain.v6), &ranges::union(negated.v6));
        if v4.is_empty() && v6.is_empty() {
            return Err(Fault::Semantic(
                "leaves no address that could match".to_owned(),
            ));
        }
        Ok(AddressSet::new(v4, v6))
    };
    parse().map_err(|fault| error(field, text, fault))
}

fn error(field: Field, text: &str, fault: Fault) -> CriteriaError {
    let (what, syntax) = match fault {
        Fault::Syntax(what) => (what, true),
        Fault::Semantic(what) => (what, false),
    };
    CriteriaError::new(field, text, what, syntax)
}
