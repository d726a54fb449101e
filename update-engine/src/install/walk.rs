//! The order of frames, and which blobs are asked for together.

use std::ops::Range;

use payload::format::Frame;

use crate::fetch::limits::MAX_GAP_BYTES;

/// Where in the followed payload the next frame is.
pub(super) struct Walk<'f> {
    pub(super) frames: &'f [Frame<'f>],
    pub(super) next: usize,
    /// The blobs up to here are asked for.
    pub(super) asked: u64,
}

impl<'f> Walk<'f> {
    pub(super) fn next(&mut self) -> Option<&'f Frame<'f>> {
        let frame = self.frames.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(frame)
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.next >= self.frames.len()
    }

    /// What to ask for together with the blob of `frame`, the last that was given out: with the blobs of its neighbours, and of those so near that
    /// reading what lies between is quicker than asking, as long as they `are_wanted`. Nothing, if it is asked for already.
    pub(super) fn announce(&mut self, frame: &Frame<'_>, is_wanted: impl Fn(&Frame<'_>) -> bool) -> Option<Range<u64>> {
        let mut bytes = frame.blob();
        if bytes.is_empty() || bytes.end <= self.asked {
            return None;
        }
        for later in self.frames.get(self.next..).unwrap_or_default() {
            let blob = later.blob();
            if blob.is_empty() || !is_wanted(later) {
                continue;
            }
            if blob.start < bytes.start || blob.start.saturating_sub(bytes.end) > MAX_GAP_BYTES {
                break;
            }
            bytes.end = bytes.end.max(blob.end);
        }
        self.asked = bytes.end;
        Some(bytes)
    }
}
