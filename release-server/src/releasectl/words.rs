//! Numbers, errors and foreign text as people read them.

use std::path::Path;

/// `17.4 MiB`; below 1 KiB `12 bytes`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut unit = 0;
    let mut whole = bytes;
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    // `whole` counts 1/1024ths of the unit; in tenths, rounded to the nearest.
    let tenths = (whole * 10 + 512) / 1024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `a` as a part of `b`: `17.4 %`.
pub(super) fn percent(a: u64, b: u64) -> String {
    let tenths = (u128::from(a) * 1000 + u128::from(b) / 2).checked_div(u128::from(b)).unwrap_or(0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `1 image`, `2 images`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Text from a file that nobody vouches for: no control characters reach the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A path as a word of a command that can be copied into a shell.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=~".contains(c);
    if !text.is_empty() && !text.starts_with('~') && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (186_359_566, "177.7 MiB"),
            (1 << 30, "1.0 GiB"),
            (128 << 30, "128.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn parts_read_well() {
        assert_eq!([percent(174, 1000), percent(1, 3), percent(2, 1), percent(1, 0)], ["17.4 %", "33.3 %", "200.0 %", "0.0 %"]);
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for path in ["", "a", "out/1.0.0.release", "a b/it's", "~root/a", "$(id)`id`", "a\"b\\c;d&e*", "schön/k.key", "#a\nb"] {
            let word = shell_word(Path::new(path));
            let shell = std::process::Command::new("sh").args(["-c", &format!("printf %s {word}")]).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), path, "{word}");
        }
        assert_eq!(shell_word(Path::new("out/1.0.0~rc1.release")), "out/1.0.0~rc1.release", "no quotes where none are needed");
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{9b}c\u{7f}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }
}
