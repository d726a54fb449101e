//! `os-release`: what a system calls itself (os-release(5)).
//!
//! ```text
//! # a comment
//! IMAGE_VERSION="1.2.0"
//! ```
//!
//! Promises: the last assignment of a key counts, quotes and escapes are read as a shell reads them, and a value is
//! [`MAX_VALUE_CHARS`] long at most.
//! Never: an error; a line that is none is skipped.

/// Longest value that is kept: it is shown to people and sent to servers.
pub const MAX_VALUE_CHARS: usize = 64;

/// The value of a key, unless it is missing or empty.
pub fn value(text: &str, key: &str) -> Option<String> {
    let assigned = |line: &str| line.trim_start().strip_prefix(key)?.strip_prefix('=').map(unquoted);
    let last = text.lines().filter_map(assigned).next_back();
    last.filter(|value| !value.is_empty())
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    match (inner('\''), inner('"')) {
        (Some(literal), _) => literal.chars().take(MAX_VALUE_CHARS).collect(),
        (_, Some(quoted)) => unescaped(quoted),
        _ => unescaped(value),
    }
}

fn unescaped(text: &str) -> String {
    let mut escaped = false;
    let plain = text.chars().filter(|character| {
        escaped = *character == '\\' && !escaped;
        !escaped
    });
    plain.take(MAX_VALUE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        for (text, expected) in [
            ("", None),
            ("VERSION_ID=13\n", Some("13")),
            ("VERSION_ID=\"1 3\"", Some("1 3")),
            ("VERSION_ID='1\\3'", Some("1\\3")),
            (r#"VERSION_ID="a\"b\\c\$d""#, Some(r#"a"b\c$d"#)),
            ("VERSION_ID=1\nVERSION_ID=2\n", Some("2")),
            ("VERSION_ID=1\nVERSION_ID=\n", None),
            ("# VERSION_ID=1\nXVERSION_ID=2\nVERSION_IDS=3\nVERSION_ID", None),
            ("  VERSION_ID=13  \r\n", Some("13")),
            ("VERSION_ID=\"", Some("\"")),
        ] {
            assert_eq!(value(text, "VERSION_ID").as_deref(), expected, "{text:?}");
        }
        let long = format!("VERSION_ID={}", "x".repeat(100_000));
        assert_eq!(value(&long, "VERSION_ID").map(|value| value.len()), Some(MAX_VALUE_CHARS));
    }
}
