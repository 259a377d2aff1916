//! Keys as numbers, prefixes of them, and ranges cut into prefixes.

/// A key that prefixes are made of: an address, a port with its protocol, a criterion's id.
pub(super) trait Bits: Copy + Eq + std::fmt::Debug {
    /// The key without its lowest bits; zero where that is all of them.
    fn above(self, bits: u32) -> Self;
    /// The six bits above the lowest `rest`.
    fn chunk(self, rest: u32) -> u32;
    /// The highest bit in which two keys differ.
    fn highest_difference(self, other: Self) -> Option<u32>;
    fn to_u128(self) -> u128;
    /// The key for a number that came from [`Bits::to_u128`] of the same type.
    fn from_u128(number: u128) -> Self;
}

macro_rules! bits {
    ($($kind:ty, $six:expr);*) => {$(
        impl Bits for $kind {
            #[inline]
            fn above(self, bits: u32) -> Self {
                self.checked_shr(bits).unwrap_or(0)
            }
            #[inline]
            fn chunk(self, rest: u32) -> u32 {
                $six(self.above(rest) & 63)
            }
            fn highest_difference(self, other: Self) -> Option<u32> {
                (self ^ other).checked_ilog2()
            }
            fn to_u128(self) -> u128 {
                self.into()
            }
            fn from_u128(number: u128) -> Self {
                Self::try_from(number).unwrap_or(Self::MAX)
            }
        }
    )*};
}

bits!(u32, std::convert::identity; u64, |six| u32::try_from(six).unwrap_or(0));

/// 128 bits that need no more alignment than 64: nodes are smaller for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wide {
    high: u64,
    low: u64,
}

impl From<u128> for Wide {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    fn from(bits: u128) -> Self {
        Self {
            high: (bits >> 64) as u64,
            low: bits as u64,
        }
    }
}

impl From<Wide> for u128 {
    #[inline]
    fn from(bits: Wide) -> Self {
        Self::from(bits.high) << 64 | Self::from(bits.low)
    }
}

impl Bits for Wide {
    #[inline]
    fn above(self, bits: u32) -> Self {
        u128::from(self).checked_shr(bits).unwrap_or(0).into()
    }

    #[inline]
    fn chunk(self, rest: u32) -> u32 {
        (self.above(rest).low & 63) as u32
    }

    fn highest_difference(self, other: Self) -> Option<u32> {
        (u128::from(self) ^ u128::from(other)).checked_ilog2()
    }

    fn to_u128(self) -> u128 {
        self.into()
    }

    fn from_u128(number: u128) -> Self {
        number.into()
    }
}

/// All keys that agree above their lowest `host_bits`; those bits of `bits` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix<K> {
    pub(super) bits: K,
    pub(super) host_bits: u8,
}

impl<K: Bits> Prefix<K> {
    /// The prefix that holds one key.
    pub(super) const fn one(bits: K) -> Self {
        Self { bits, host_bits: 0 }
    }

    /// The first and the last key.
    pub(super) fn range(self) -> (K, K) {
        let first = self.bits.to_u128();
        let size_less_one = !u128::MAX.checked_shl(self.host_bits.into()).unwrap_or(0);
        (self.bits, K::from_u128(first | size_less_one))
    }

    #[inline]
    pub(super) fn holds(self, key: K) -> bool {
        let host_bits = u32::from(self.host_bits);
        key.above(host_bits) == self.bits.above(host_bits)
    }
}

/// Cuts one range into the fewest prefixes and appends them; false where that makes more than `limit` in all.
fn cut<K: Bits>(first: u128, last: u128, limit: usize, found: &mut Vec<Prefix<K>>) -> bool {
    let mut at = first;
    loop {
        if found.len() == limit {
            return false;
        }
        // The largest block that begins here: by alignment, and by what is left.
        let left = (last - at).checked_add(1).map_or(128, u128::ilog2);
        let host_bits = at.trailing_zeros().min(left);
        found.push(Prefix {
            bits: K::from_u128(at),
            host_bits: u8::try_from(host_bits).unwrap_or(u8::MAX),
        });
        let next = 1_u128
            .checked_shl(host_bits)
            .and_then(|size| at.checked_add(size));
        match next {
            Some(next) if next <= last => at = next,
            _ => return true,
        }
    }
}

/// Rounds sorted, disjoint, inclusive ranges outwards to multiples of a power of two and cuts them; None where that makes
/// more than `limit`, which is known as soon as so many are found.
fn round<K: Bits>(ranges: &[(K, K)], bits: u32, limit: usize) -> Option<Vec<Prefix<K>>> {
    let low = (1_u128 << bits) - 1;
    let mut found = Vec::new();
    let mut open: Option<(u128, u128)> = None;
    for &(first, last) in ranges {
        let (first, last) = (first.to_u128() & !low, last.to_u128() | low);
        open = match open {
            // Ranges that touch are one only where that is what rounding is for.
            Some(before) if bits > 0 && first <= before.1.saturating_add(1) => {
                Some((before.0, last))
            }
            Some(before) => {
                if !cut(before.0, before.1, limit, &mut found) {
                    return None;
                }
                Some((first, last))
            }
            None => Some((first, last)),
        };
    }
    match open {
        Some((first, last)) if !cut(first, last, limit, &mut found) => None,
        _ => Some(found),
    }
}

/// Prefixes that hold every key of some sorted, disjoint, inclusive ranges, at most `limit` of them, never overlapping.
///
/// They hold nothing else, unless that would take more than `limit`: then the ends of the ranges are rounded outwards,
/// as little as is enough.
pub(super) fn cover<K: Bits>(ranges: &[(K, K)], limit: usize) -> Vec<Prefix<K>> {
    let (Some(&(first, _)), Some(&(_, last))) = (ranges.first(), ranges.last()) else {
        return Vec::new();
    };
    // One prefix of everything needs at least this; long lists are asked for it most often.
    let together = first
        .highest_difference(last)
        .map_or(0, |highest| highest + 1);
    let start = if limit == 1 { together } else { 0 };
    (start..128)
        .find_map(|bits| round(ranges, bits, limit))
        // One prefix of everything; only a limit of none comes here, or one where both halves have a part.
        .unwrap_or_else(|| {
            vec![Prefix {
                bits: K::from_u128(0),
                host_bits: 128,
            }]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(first: u128, last: u128) -> (Wide, Wide) {
        (first.into(), last.into())
    }

    fn exact<K: Bits>(ranges: &[(K, K)]) -> Vec<(K, u8)> {
        let cover = cover(ranges, usize::MAX);
        cover
            .iter()
            .map(|prefix| (prefix.bits, prefix.host_bits))
            .collect()
    }

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        assert_eq!(exact(&[(0_u32, u32::MAX)]), [(0, 32)]);
        assert_eq!(exact(&[wide(0, u128::MAX)]), [(0.into(), 128)]);
        assert_eq!(exact(&[(7_u32, 7)]), [(7, 0)]);
        assert_eq!(exact(&[(1_u32, 6)]), [(1, 0), (2, 1), (4, 1), (6, 0)]);
        assert_eq!(exact(&[(1_u32, u32::MAX - 1)]).len(), 62);
        assert_eq!(exact(&[wide(1, u128::MAX - 1)]).len(), 254);
        assert_eq!(
            exact(&[wide(u128::MAX, u128::MAX)]),
            [(u128::MAX.into(), 0)]
        );
        assert_eq!(exact(&[(u64::MAX, u64::MAX)]), [(u64::MAX, 0)]);
    }

    #[test]
    fn what_would_be_too_many_is_rounded_outwards() {
        let hosts: Vec<(u32, u32)> = (0..100).map(|number| (number * 8, number * 8)).collect();
        assert_eq!(cover(&hosts, 100).len(), 100);
        // Blocks of eight touch: 800 numbers are 512, 256 and 32.
        assert_eq!(cover(&hosts, 99).len(), 3);
        assert_eq!(
            cover(&hosts, 1),
            [Prefix {
                bits: 0,
                host_bits: 10
            }]
        );
        assert_eq!(
            cover(&[wide(0, 0), wide(u128::MAX, u128::MAX)], 1),
            [Prefix {
                bits: 0.into(),
                host_bits: 128
            }]
        );
    }

    proptest::proptest! {
        #[test]
        fn a_cover_holds_its_ranges_and_where_there_is_room_nothing_else(
            first in 0_u32..5000, count in 0_u32..5000, gap in 2_u32..50, at in 0_u32..15000, limit in 1_usize..40,
        ) {
            let ranges = [(first, first + count), (first + count + gap, first + count + gap + 3)];
            let inside = ranges.iter().any(|range| range.0 <= at && at <= range.1);
            let holds = |limit| cover(&ranges, limit).iter().filter(|prefix| prefix.holds(at)).count();
            proptest::prop_assert_eq!(holds(100), usize::from(inside));
            proptest::prop_assert!(holds(limit) <= 1);
            proptest::prop_assert!(holds(limit) >= usize::from(inside));
            proptest::prop_assert!(cover(&ranges, limit).len() <= limit);
        }
    }
}
