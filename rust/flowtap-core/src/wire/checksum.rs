//! The Internet checksum (RFC 1071).

/// A running one's complement sum over 16-bit words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds octets; an odd last octet counts as the high half of a word, so only the last piece may be odd.
    #[must_use]
    pub fn octets(self, data: &[u8]) -> Self {
        let mut sum = self.0;
        let (words, rest) = data.as_chunks::<4>();
        // 32 bits at a time in 64: 2^32 additions fit before a carry could be lost.
        for word in words {
            sum += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(fold_32(sum + u64::from(u32::from_be_bytes(last))))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        let sum = fold_32(self.0);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "folded to 16 bits in the lines above"
        )]
        let sum = sum as u16;
        !sum
    }
}

/// Folds the carries of a 64-bit sum into 33 bits at most.
const fn fold_32(sum: u64) -> u64 {
    (sum >> 32) + (sum & 0xffff_ffff)
}

/// The checksum of `data` (with its checksum field zero, or zero over data whose field is right).
pub fn internet(data: &[u8]) -> u16 {
    Sum::new().octets(data).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(data: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in data.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(data: Vec<u8>) {
            proptest::prop_assert_eq!(internet(&data), slow(&data));
        }

        #[test]
        fn pieces_add_up(data in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0_usize..50) {
            let at = (at * 4).min(data.len() / 4 * 4);
            let (left, right) = data.split_at(at);
            proptest::prop_assert_eq!(Sum::new().octets(left).octets(right).finish(), internet(&data));
        }
    }
}
