//! The kernel's command line, cut into words as the kernel does it (`next_arg` of its `lib/cmdline.c`).
//!
//! ```text
//! root=PARTLABEL=root-a "mount.usr=/dev/disk/by-partlabel/usr a" quiet -- for=init
//! ```
//!
//! Promises: a quoted space cuts no word, and what stands behind `--` is no word: it goes to init.
//! Never: an error; whatever a boot loader passes are some words.

/// A word with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting<'a> {
    /// Before the first `=`.
    pub word: &'a str,
    /// Behind it, without the quotes around it.
    pub value: &'a str,
}

/// All words with a value, in their order.
pub fn settings(line: &str) -> Vec<Setting<'_>> {
    let ours = words(line).take_while(|word| *word != "--");
    ours.filter_map(|word| {
        // A quote before the word quotes all of it.
        let (word, value) = word.strip_prefix('"').map_or(word, unquoted_end).split_once('=')?;
        Some(Setting { word, value: value.strip_prefix('"').map_or(value, unquoted_end) })
    })
    .collect()
}

fn unquoted_end(text: &str) -> &str {
    text.strip_suffix('"').unwrap_or(text)
}

/// A quote begins or ends a stretch in which a space is part of the word; there is no way to write a quote itself.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let ends = move |character: char| {
        quoted ^= character == '"';
        character.is_ascii_whitespace() && !quoted
    };
    line.split(ends).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<(&str, &str)> {
        settings(line).into_iter().map(|setting| (setting.word, setting.value)).collect()
    }

    #[test]
    fn words_are_cut_where_the_kernel_cuts_them() {
        for (line, expected) in [
            ("", vec![]),
            ("quiet root=/dev/sda1  ro\n", vec![("root", "/dev/sda1")]),
            ("root=PARTUUID=ab-cd root=", vec![("root", "PARTUUID=ab-cd"), ("root", "")]),
            (r#"root="PARTLABEL=a b" x=1"#, vec![("root", "PARTLABEL=a b"), ("x", "1")]),
            (r#""root=PARTLABEL=a b" x=1"#, vec![("root", "PARTLABEL=a b"), ("x", "1")]),
            (r#"root=PARTLABEL="a b" x=1"#, vec![("root", "PARTLABEL=\"a b\""), ("x", "1")]),
            ("a=1 -- root=/dev/sdb1", vec![("a", "1")]),
            (r#"a="-- root=1" b=2"#, vec![("a", "-- root=1"), ("b", "2")]),
            (r#"a="never closed b=2"#, vec![("a", "never closed b=2")]),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
    }
}
