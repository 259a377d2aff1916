//! How finely a criterion is cut, so that long lists in several fields do not multiply.

use super::addresses::{Address, MAXIMUM_OTHERS, anchors};
use super::prefix::{Wide, cover};
use super::upper::{MAXIMUM_PIECES, Pieces, anchor_side};
use crate::criteria::{Criteria, Side};

/// Places that one criterion may have in the index of a family, as long as the side that it is found through has fewer
/// prefixes itself.
const MAXIMUM_PLACES: usize = 4096;

const _: () = assert!(MAXIMUM_PIECES * MAXIMUM_PIECES <= MAXIMUM_PLACES);

/// The most prefixes below each anchor, and below each of those, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fineness {
    others: u8,
    pieces: u8,
    other_pieces: u8,
}

impl Fineness {
    /// Every field as if it were alone.
    const FINE: Self = Self {
        others: limit(1, MAXIMUM_OTHERS),
        pieces: limit(1, MAXIMUM_PIECES),
        other_pieces: limit(1, MAXIMUM_PIECES),
    };

    /// What one criterion gets, from its filter alone.
    pub(super) fn of(criteria: &Criteria) -> Self {
        let (v4, v6) = (of_family::<u32>(criteria), of_family::<Wide>(criteria));
        Self {
            others: v4.others.min(v6.others),
            pieces: v4.pieces.min(v6.pieces),
            other_pieces: v4.other_pieces.min(v6.other_pieces),
        }
    }

    /// For the other address.
    pub(super) fn others(self) -> usize {
        self.others.into()
    }

    /// For the protocol, or for the port that leads further.
    pub(super) fn pieces(self) -> usize {
        self.pieces.into()
    }

    /// For the other port.
    pub(super) fn other_pieces(self) -> usize {
        self.other_pieces.into()
    }
}

/// The room that is left where there are so many places already.
#[expect(clippy::cast_possible_truncation, reason = "at most 64")]
const fn limit(places: usize, most: usize) -> u8 {
    let left = MAXIMUM_PLACES / places;
    let left = if left < most { left } else { most };
    if left == 0 { 1 } else { left as u8 }
}

fn of_family<K: Address>(criteria: &Criteria) -> Fineness {
    let (side, prefixes) = anchors::<K>(criteria);
    let ranges = K::ranges(criteria, side.other());
    if prefixes.is_empty() || ranges.is_empty() {
        // It has no place in this family.
        return Fineness::FINE;
    }
    let others = limit(prefixes.len(), MAXIMUM_OTHERS);
    let places = prefixes.len() * cover(&ranges, others.into()).len();
    if places == 1 {
        // Most criteria: two fields are left, which cannot be too many together.
        return Fineness::FINE;
    }
    let pieces = limit(places, MAXIMUM_PIECES);
    let other_pieces = match Pieces::of(criteria, pieces.into()) {
        Pieces::Protocols(_) => 1,
        Pieces::Transport {
            source,
            destination,
            ..
        } => {
            let leading = match anchor_side(&source, &destination) {
                Side::Source => source,
                Side::Destination => destination,
            };
            limit(places * leading.len().max(1), MAXIMUM_PIECES)
        }
    };
    Fineness {
        others,
        pieces,
        other_pieces,
    }
}
