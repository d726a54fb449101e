//! What to say of bytes that are not what was expected, without showing what may be a secret.

/// Bytes that tell a text from a format whose magic happens to be printable.
pub const HEAD_BYTES: usize = 64;

const MAGIC_BYTES: usize = 8;

/// Says what begins like this: `an empty file`, `a text file`, or `a file that begins with "…"`. Of a text nothing is shown: it may
/// be a private key that somebody gave in the place of a record. `head` is the file, or its first [`HEAD_BYTES`] at least.
pub fn describe(head: &[u8]) -> String {
    let head = &head[..head.len().min(HEAD_BYTES)];
    match head {
        [] => "an empty file".to_owned(),
        head if is_text(head) => "a text file".to_owned(),
        head => format!("a file that begins with {:?}", String::from_utf8_lossy(&head[..head.len().min(MAGIC_BYTES)])),
    }
}

/// A character that the end of the head cuts in two is no reason against it.
fn is_text(head: &[u8]) -> bool {
    let whole = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
        Err(_) => return false,
    };
    whole.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_text_nothing_is_shown() {
        let cut = [&[b'x'; 63][..], "é".as_bytes()].concat();
        for text in [&b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="[..], b"x", b"a\r\n\tb", "\u{feff}schön".as_bytes(), &cut] {
            assert_eq!(describe(text), "a text file");
        }
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(describe(b""), "an empty file");
        assert_eq!(describe(b"\x7fELF\x02\x01\x01\0\0\0"), "a file that begins with \"\\u{7f}ELF\\u{2}\\u{1}\\u{1}\\0\"");
        let later = [&b"OTARECv9"[..], &[9, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(describe(&later), "a file that begins with \"OTARECv9\"");
        assert_eq!(describe(b"a\xffb"), "a file that begins with \"a\u{fffd}b\"");
    }
}
