//! The Internet checksum (RFC 1071), and how it follows a change (RFC 1624).

/// A checksum under way: the one's complement sum of 16-bit words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u32);

impl Sum {
    /// With further bytes, an even number of them, at most some hundred in all.
    #[inline(always)]
    #[must_use]
    pub fn with<const N: usize>(self, bytes: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(2)) };
        let mut sum = self.0;
        for word in bytes.as_chunks::<2>().0 {
            sum += u32::from(u16::from_be_bytes(*word));
        }
        Self(sum)
    }

    /// With a further number.
    #[inline(always)]
    #[must_use]
    pub const fn with_number(self, number: u16) -> Self {
        Self(self.0 + number as u32)
    }

    /// The checksum, as it stands in a header.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        let folded = (self.0 & 0xFFFF) + (self.0 >> 16);
        let folded = (folded & 0xFFFF) + (folded >> 16);
        (!(folded as u16)).to_be_bytes()
    }
}

/// The checksum after one of the words that it covers has become another (RFC 1624, equation 3).
#[inline(always)]
pub const fn replaced(checksum: [u8; 2], old: u16, new: u16) -> [u8; 2] {
    Sum(!u16::from_be_bytes(checksum) as u32).with_number(!old).with_number(new).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 section 3.
    #[test]
    fn the_sum_is_that_of_the_rfc() {
        let sum = Sum::default().with(&[0x00, 0x01, 0xF2, 0x03]).with(&[0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(sum.checksum(), (!0xDDF2u16).to_be_bytes());
    }

    #[test]
    fn a_replaced_word_leads_to_the_checksum_of_the_new_bytes() {
        for (old, new) in [(0, 0xFFFF), (0xFFFF, 0), (0x0800, 0), (0x1234, 0xFEDC), (7, 7)] {
            let of = |word: u16| Sum::default().with(&[0x45, 0xAB]).with_number(word).checksum();
            assert_eq!(replaced(of(old), old, new), of(new), "{old} to {new}");
        }
        // The example of RFC 1624 section 4.
        assert_eq!(replaced([0xDD, 0x2F], 0x5555, 0x3285), [0x00, 0x00]);
    }
}
