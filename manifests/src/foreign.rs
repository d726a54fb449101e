//! What to say of bytes that are not what was expected, without showing what may be a secret.

/// Bytes that tell a text from a format whose magic happens to be printable.
pub const HEAD_BYTES: usize = 64;

/// Enough of a magic to look it up, and too little of a secret to help anybody. Of ours, whose number of the format is its end, all.
const MAGIC_BYTES: usize = 4;
const OUR_MAGIC_BYTES: usize = 8;
const OUR_MAGIC: &[u8] = b"OTA";

/// Says what begins like this: `an empty file`, `a text file`, `a web page or other XML`, or `a file that begins with "…"`. Of a text
/// nothing is shown: it may be a private key that somebody gave in the place of a record. `head` is the file, or its first
/// [`HEAD_BYTES`] at least.
pub fn describe(head: &[u8]) -> String {
    let head = &head[..head.len().min(HEAD_BYTES)];
    match head {
        [] => "an empty file".to_owned(),
        head if is_text(head) && head.trim_ascii_start().starts_with(b"<") => "a web page or other XML".to_owned(),
        head if is_text(head) => "a text file".to_owned(),
        head => {
            let shown = if head.starts_with(OUR_MAGIC) { OUR_MAGIC_BYTES } else { MAGIC_BYTES };
            format!("a file that begins with {:?}", String::from_utf8_lossy(&head[..head.len().min(shown)]))
        }
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
    fn what_a_proxy_answers_in_the_stead_of_a_file_is_known_by_its_kind() {
        for page in ["<!DOCTYPE html>", "\n <html>", "<?xml version=\"1.0\"?>"] {
            assert_eq!(describe(page.as_bytes()), "a web page or other XML");
        }
    }

    #[test]
    fn of_a_key_with_other_letters_behind_it_little_is_shown() {
        assert_eq!(describe(b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc= sch\xf6n\n"), "a file that begins with \"BwcH\"");
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(describe(b""), "an empty file");
        assert_eq!(describe(b"\x7fELF\x02\x01\x01\0\0\0"), "a file that begins with \"\\u{7f}ELF\"");
        let later = [&b"OTARECv9"[..], &[9, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(describe(&later), "a file that begins with \"OTARECv9\"");
        assert_eq!(describe(b"a\xffb"), "a file that begins with \"a\u{fffd}b\"");
    }
}
