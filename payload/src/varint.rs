//! Numbers that take as few bytes as they need.

/// Reads an unsigned LEB128 number of at most 64 bits in its shortest form; `None` = it is longer, or padded.
pub(crate) fn read<E>(mut byte: impl FnMut() -> Result<u8, E>) -> Result<Option<u64>, E> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = byte()?;
        let bits = u64::from(byte & 0x7f);
        value |= bits << shift;
        if byte & 0x80 != 0 {
            continue;
        }
        let overflows = bits << shift >> shift != bits;
        let padded = byte == 0 && shift > 0;
        return Ok((!overflows && !padded).then_some(value));
    }
    Ok(None)
}

/// Takes a number off the front of `bytes`; `None` = there is none.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let byte = || {
        let (first, rest) = bytes.split_first().ok_or(())?;
        *bytes = rest;
        Ok(*first)
    };
    read::<()>(byte).ok().flatten()
}

/// Appends a number.
pub(crate) fn push(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Small numbers of either sign as small unsigned ones: 0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The number that [`zigzag`] was given.
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(mut bytes: &[u8]) -> Option<u64> {
        take(&mut bytes).filter(|_| bytes.is_empty())
    }

    #[test]
    fn a_number_has_one_spelling_only() {
        assert_eq!(whole(&[0]), Some(0));
        assert_eq!(whole(&[0x80, 0x01]), Some(128));
        assert_eq!(whole(&[0x80, 0x00]), None, "padded zero");
        assert_eq!(whole(&[0xff, 0x00]), None, "padded 127");
        assert_eq!(whole(&[0xff; 9]), None, "no last byte");
        assert_eq!(whole(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Some(u64::MAX));
        assert_eq!(whole(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None, "65 bits");
        assert_eq!(whole(&[0x80; 11]), None, "endless");
    }

    proptest! {
        #[test]
        fn numbers_survive(value in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            push(&mut bytes, value);
            prop_assert_eq!(whole(&bytes), Some(value));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Some(value) = whole(&bytes) {
                let mut again = Vec::new();
                push(&mut again, value);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
