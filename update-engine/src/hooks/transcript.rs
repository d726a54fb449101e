//! What a hook said, in bounded memory.

use std::collections::VecDeque;

/// Most bytes kept of one hook's output: a screenful from its beginning and one from its end, and room.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;

const HALF: usize = MAX_OUTPUT_BYTES / 2;

/// Longest first line kept: a sentence.
const MAX_LINE_BYTES: usize = 512;

/// Collects both outputs in the order they come.
#[derive(Default)]
pub(super) struct Transcript {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
    output_line: FirstLine,
    error_line: FirstLine,
}

#[derive(Default)]
struct FirstLine {
    bytes: Vec<u8>,
    complete: bool,
}

impl Transcript {
    pub(super) fn output(&mut self, bytes: &[u8]) {
        self.output_line.push(bytes);
        self.keep(bytes);
    }

    pub(super) fn error_output(&mut self, bytes: &[u8]) {
        self.error_line.push(bytes);
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = HALF - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..excess);
        self.left_out = self.left_out.saturating_add(u64::try_from(excess).unwrap_or(u64::MAX));
    }

    /// First line, and the whole.
    pub(super) fn finish(self) -> (String, String) {
        let line = [self.output_line, self.error_line].into_iter().map(FirstLine::finish).find(|line| !line.is_empty());
        let mut bytes = self.head;
        if self.left_out > 0 {
            bytes.extend_from_slice(format!("\n[{} bytes left out]\n", self.left_out).as_bytes());
        }
        bytes.extend(self.tail);
        (line.unwrap_or_default(), printable(&bytes))
    }
}

impl FirstLine {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                _ if self.complete => return,
                b'\n' if self.is_blank() => self.bytes.clear(),
                b'\n' => self.complete = true,
                _ if self.bytes.len() < MAX_LINE_BYTES => self.bytes.push(byte),
                _ => {}
            }
        }
    }

    fn is_blank(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }

    fn finish(self) -> String {
        printable(self.bytes.trim_ascii())
    }
}

/// Text that may stand on a terminal: what a hook prints must not move the cursor of whoever reads it.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_output_is_kept_whole_and_its_first_line_found() {
        let mut transcript = Transcript::default();
        transcript.error_output(b"warning\n");
        transcript.output(b"\n  \nback");
        transcript.output(b"up runs\nmore\n");
        let expected = ("backup runs".to_owned(), "warning\n\n  \nbackup runs\nmore\n".to_owned());
        assert_eq!(transcript.finish(), expected);
    }

    #[test]
    fn a_long_output_keeps_its_beginning_and_its_end() {
        let mut transcript = Transcript::default();
        transcript.output(&[b'a'; HALF]);
        transcript.output(&[b'b'; 1000]);
        transcript.output(&[b'c'; HALF]);
        let (_, output) = transcript.finish();
        assert_eq!(output, format!("{}\n[1000 bytes left out]\n{}", "a".repeat(HALF), "c".repeat(HALF)));
    }

    #[test]
    fn without_output_the_first_line_is_of_the_error_output() {
        let mut transcript = Transcript::default();
        transcript.error_output(b"no such host\n");
        assert_eq!(transcript.finish().0, "no such host");
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        let mut transcript = Transcript::default();
        transcript.output(b"\x1b[2Jred\x07\tblue\n");
        assert_eq!(transcript.finish(), ("[2Jred\tblue".to_owned(), "[2Jred\tblue\n".to_owned()));
    }
}
