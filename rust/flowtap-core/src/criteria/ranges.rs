//! Sets of numbers as sorted, disjoint, never adjacent inclusive ranges: one form for every set.

/// A number that ranges are made of.
pub(super) trait Number: Copy + Ord {
    /// The highest number.
    const MAX: Self;
    /// The lowest number.
    const MIN: Self;
    /// The next higher number, None above the highest.
    fn above(self) -> Option<Self>;
    /// The next lower number, None below the lowest.
    fn below(self) -> Option<Self>;
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Number for $kind {
            const MAX: Self = Self::MAX;
            const MIN: Self = Self::MIN;
            fn above(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn below(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

number!(u16, u32, u128);

/// The set that covers every number.
pub(super) fn everything<T: Number>() -> Vec<(T, T)> {
    vec![(T::MIN, T::MAX)]
}

/// Sorts, and joins what overlaps or touches.
pub(super) fn union<T: Number>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            // Touching the highest number leaves nothing above it to touch.
            Some(previous) if previous.1.above().is_none_or(|next| first <= next) => {
                previous.1 = previous.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What of `from` is not in `removed`; both in the one form.
pub(super) fn difference<T: Number>(from: &[(T, T)], removed: &[(T, T)]) -> Vec<(T, T)> {
    let mut left = Vec::new();
    for &(first, last) in from {
        let mut start = Some(first);
        for &(cut_first, cut_last) in removed {
            let Some(at) = start else { break };
            if cut_last < at {
                continue;
            }
            if cut_first > last {
                break;
            }
            if let Some(end) = cut_first.below().filter(|&end| end >= at) {
                left.push((at, end));
            }
            start = cut_last.above().filter(|&next| next <= last);
        }
        if let Some(at) = start {
            left.push((at, last));
        }
    }
    left
}

/// Whether the set holds `value`.
pub(super) fn contain<T: Number>(ranges: &[(T, T)], value: T) -> bool {
    let at = ranges.partition_point(|range| range.1 < value);
    ranges.get(at).is_some_and(|range| range.0 <= value)
}

/// Whether the two sets have a number in common.
pub(super) fn intersect<T: Number>(left: &[(T, T)], right: &[(T, T)]) -> bool {
    left.iter().any(|&(first, last)| {
        let at = right.partition_point(|range| range.1 < first);
        right.get(at).is_some_and(|range| range.0 <= last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(ranges: &[(u16, u16)]) -> Vec<bool> {
        (0..=300)
            .map(|n| ranges.iter().any(|range| range.0 <= n && n <= range.1))
            .collect()
    }

    fn small() -> impl Strategy<Value = Vec<(u16, u16)>> {
        proptest::collection::vec((0_u16..200, 0_u16..50).prop_map(|(a, n)| (a, a + n)), 0..8)
    }

    #[test]
    fn the_ends_of_the_number_range() {
        assert_eq!(union(vec![(0_u16, 65535), (5, 9)]), vec![(0, 65535)]);
        assert_eq!(
            difference(&everything::<u16>(), &[(0, 0), (65535, 65535)]),
            vec![(1, 65534)]
        );
        assert_eq!(difference(&everything::<u16>(), &everything()), vec![]);
        assert!(contain(&everything::<u128>(), u128::MAX));
    }

    proptest! {
        #[test]
        fn sets_are_what_their_members_say(left in small(), right in small(), n in 0_u16..300) {
            let (a, b) = (union(left.clone()), union(right.clone()));
            prop_assert_eq!(members(&a), members(&left));
            prop_assert!(a.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            let minus = difference(&a, &b);
            let expected: Vec<bool> =
                members(&left).iter().zip(members(&right)).map(|(l, r)| *l && !r).collect();
            prop_assert_eq!(members(&minus), expected);
            prop_assert!(minus.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(contain(&a, n), members(&left)[usize::from(n)]);
            let common = members(&left).iter().zip(members(&right)).any(|(l, r)| *l && r);
            prop_assert_eq!(intersect(&a, &b), common);
        }
    }
}
