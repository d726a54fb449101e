//! Copies of disks that are mostly holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Looked at as a whole: is it zero?
const BLOCK: usize = 4096;
/// Read at once.
const PIECE: usize = 1 << 20;

/// Copies a range of a file to this place of another one, which holds zeros there. What is zero is not written, so that it takes no room.
///
/// # Errors
/// If one of them cannot be read or written.
pub fn copy(from: &File, range: &Range<u64>, to: &File, to_at: u64) -> io::Result<()> {
    let (mut piece, zeros) = (vec![0; PIECE], [0; BLOCK]);
    let mut at = range.start;
    while let Some(data) = data_in(from, at..range.end)? {
        at = data.start;
        while at < data.end {
            let now = usize::try_from(data.end - at).unwrap_or(PIECE).min(PIECE);
            from.read_exact_at(&mut piece[..now], at)?;
            let blocks = piece[..now].chunks(BLOCK).enumerate().filter(|(_, block)| **block != zeros[..block.len()]);
            for (index, block) in blocks {
                to.write_all_at(block, to_at + at - range.start + (index * BLOCK) as u64)?;
            }
            at += now as u64;
        }
    }
    Ok(())
}

/// How much of a file comes before its first hole.
///
/// # Errors
/// If that cannot be asked.
pub fn first_hole(file: &File) -> io::Result<u64> {
    u64::try_from(lseek(file, 0, Whence::SeekHole)?).map_err(io::Error::other)
}

/// The next part of a range that is no hole.
fn data_in(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let offset = |at: u64| i64::try_from(at).map_err(io::Error::other);
    let place = |found: i64| u64::try_from(found).map_err(io::Error::other);
    let start = match lseek(file, offset(range.start)?, Whence::SeekData) {
        Ok(start) => place(start)?,
        // Nothing but a hole up to the end.
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = place(lseek(file, offset(start)?, Whence::SeekHole)?)?;
    Ok((start < range.end).then(|| start..end.min(range.end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_copied_whole_wherever_its_holes_lie_and_holes_stay_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(40 << 20).unwrap();
        from.write_all_at(&[1; 100], (3 << 20) - 50).unwrap();
        from.write_all_at(&[0; 1 << 20], 8 << 20).unwrap();
        from.write_all_at(&[2; 5], (40 << 20) - 5).unwrap();
        for range in [0..40 << 20, 3 << 20..9 << 20, 5 << 20..7 << 20, (3 << 20) - 7..(40 << 20) - 3] {
            let length = range.end - range.start;
            to.set_len(0).unwrap();
            to.set_len(512 + length).unwrap();
            copy(&from, &range, &to, 512).unwrap();
            let read = |file: &File, at: u64| {
                let mut bytes = vec![0; usize::try_from(length).unwrap()];
                file.read_exact_at(&mut bytes, at).unwrap();
                bytes
            };
            assert!(read(&from, range.start) == read(&to, 512), "{range:?}");
            use std::os::unix::fs::MetadataExt as _;
            assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "{range:?}");
        }
    }
}
