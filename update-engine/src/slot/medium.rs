//! A file or block device read and written past the page cache where the system allows it.
//!
//! A read through the page cache proves memory, not the medium. So transfers are direct (`O_DIRECT`); where a file system
//! refuses that, they go through the page cache, which is then dropped around each read, and [`RawFile::transfer`] says so.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::aio::{Queue, Read};
use super::buffer::ALIGNMENT;
use super::ioctl;
use super::system::DeviceId;

/// How bytes travel between memory and the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Past the page cache: what is read is what the medium holds.
    Direct,
    /// Through the page cache, which is dropped around each read: the file system refuses direct transfers.
    Cached,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading only.
    Read,
    /// Reading, and nobody else may open the device exclusively (mount, swap, device mapper).
    ReadExclusive,
    /// Reading and writing, without a claim on the device.
    Write,
    /// Reading and writing, and nobody else may open the device exclusively.
    WriteExclusive,
}

impl Access {
    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::WriteExclusive)
    }

    fn excludes(self) -> bool {
        matches!(self, Self::ReadExclusive | Self::WriteExclusive)
    }
}

/// What kind of thing a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A block device, by its number.
    BlockDevice(DeviceId),
    /// A regular file, by the device and inode that hold it.
    RegularFile {
        /// The file system's device.
        device: DeviceId,
        /// The inode.
        inode: u64,
    },
}

impl Kind {
    /// What `path` names (links followed); an error for anything that is neither a block device nor a regular file.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        Self::of(&std::fs::metadata(path)?)
    }

    fn of(metadata: &std::fs::Metadata) -> io::Result<Self> {
        if metadata.file_type().is_block_device() {
            return Ok(Self::BlockDevice(DeviceId::from_dev(metadata.rdev())));
        }
        if metadata.is_file() {
            return Ok(Self::RegularFile { device: DeviceId::from_dev(metadata.dev()), inode: metadata.ino() });
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a block device nor a regular file"))
    }
}

/// An open block device or regular file.
#[derive(Debug)]
pub(crate) struct RawFile {
    file: File,
    path: PathBuf,
    kind: Kind,
    direct: AtomicBool,
}

impl RawFile {
    /// Opens what exists: never creates, never truncates, not inherited by children. Transfers are cached until
    /// [`RawFile::try_direct`].
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let mut flags = OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        // On a regular file O_EXCL without O_CREAT means nothing, so it is asked for on devices only.
        if access.excludes() && matches!(Kind::of_path(path)?, Kind::BlockDevice(_)) {
            flags |= OFlag::O_EXCL;
        }
        let file = OpenOptions::new().read(true).write(access.writes()).custom_flags(flags.bits()).open(path)?;
        let kind = Kind::of(&file.metadata()?)?;
        Ok(Self { file, path: path.to_path_buf(), kind, direct: AtomicBool::new(false) })
    }

    /// All of a small file, from the medium; one of more than `cap` bytes is an error, not a cut.
    pub(crate) fn read_whole(path: &Path, cap: usize) -> io::Result<Vec<u8>> {
        let file = Self::open(path, Access::Read)?;
        let length = usize::try_from(file.size_bytes()?).unwrap_or(usize::MAX);
        if length > cap {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {cap} bytes")));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Its path as it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was really opened.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The descriptor, for locks and device requests.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Its size in bytes, of a device as well.
    pub(crate) fn size_bytes(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// How bytes travel now.
    pub(crate) fn transfer(&self) -> Transfer {
        if self.direct.load(Ordering::Acquire) { Transfer::Direct } else { Transfer::Cached }
    }

    /// Asks for direct transfers; where they are refused, transfers stay cached.
    pub(crate) fn try_direct(&self) {
        let granted = self.set_direct_flag(true).is_ok();
        self.direct.store(granted, Ordering::Release);
    }

    fn set_direct_flag(&self, on: bool) -> io::Result<()> {
        let bits = fcntl(&self.file, FcntlArg::F_GETFL)?;
        let mut flags = OFlag::from_bits_retain(bits);
        flags.set(OFlag::O_DIRECT, on);
        fcntl(&self.file, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Fills `buffer` from `offset`, from the medium. A file that ends before is an error.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let left = &mut buffer[done..];
            let length = left.len();
            match self.transferring(at, length, || self.file.read_at(left, at)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(error) if self.may_repeat(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does several reads, many at once where they are direct. The error of the first that fails, with its number; all have ended by then.
    pub(crate) fn read_each(&self, queue: Option<&mut Queue>, reads: &mut [Read<'_>]) -> Result<(), (usize, io::Error)> {
        let results = match queue.filter(|_| reads.len() > 1 && self.transfer() == Transfer::Direct) {
            Some(queue) => queue.read(&self.file, reads),
            None => Vec::new(),
        };
        let mut results = results.into_iter();
        for (number, read) in reads.iter_mut().enumerate() {
            match results.next() {
                Some(Ok(count)) if count == read.buffer.len() => {}
                // The disk has tried for as long as it does: it is not asked again.
                Some(Err(error)) if error.raw_os_error() == Some(Errno::EIO as i32) => return Err((number, error)),
                // What is not whole is read once more, with all that is done about interrupted and refused transfers there.
                _ => self.read_exact_at(read.buffer, read.offset).map_err(|error| (number, error))?,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if self.may_repeat(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A cached read has the pages around it dropped before (to come from the medium) and after (to stay small).
    fn transferring(&self, offset: u64, length: usize, read: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        if self.transfer() == Transfer::Direct {
            return read();
        }
        self.forget(offset, length as u64);
        let answer = read();
        self.forget(offset, length as u64);
        answer
    }

    /// Whether a failed transfer is worth another go: it was interrupted, or direct transfers have just been given up.
    fn may_repeat(&self, error: &io::Error) -> bool {
        if error.kind() == io::ErrorKind::Interrupted {
            return true;
        }
        let refused = error.raw_os_error() == Some(nix::libc::EINVAL) && self.transfer() == Transfer::Direct;
        if !refused || self.set_direct_flag(false).is_err() {
            return false;
        }
        self.direct.store(false, Ordering::Release);
        self.forget(0, 0);
        true
    }

    /// Waits until everything written is on the medium.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Drops cached pages of a range (of everything from `offset` when `length` is zero). Dirty pages stay: flush first.
    pub(crate) fn forget(&self, offset: u64, length: u64) {
        let block = ALIGNMENT as u64;
        let start = offset - offset % block;
        let span = if length == 0 { 0 } else { (offset + length - start).next_multiple_of(block) };
        let (Ok(start), Ok(span)) = (i64::try_from(start), i64::try_from(span)) else { return };
        // Advice: where the system does not take it, `transfer()` already says that reads are cached.
        let _ = posix_fadvise(&self.file, start, span, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// Drops the whole page cache of a device; of a file, its clean pages.
    pub(crate) fn forget_all(&self) -> io::Result<()> {
        match self.kind {
            Kind::BlockDevice(_) => ioctl::drop_device_cache(&self.file),
            Kind::RegularFile { .. } => {
                self.forget(0, 0);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::buffer::AlignedBuf;
    use super::*;

    #[test]
    fn opening_never_creates_and_never_truncates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        for access in [Access::Read, Access::ReadExclusive, Access::Write, Access::WriteExclusive] {
            assert_eq!(RawFile::open(&path, access).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert!(!path.exists());
        }
        std::fs::write(&path, b"here").unwrap();
        RawFile::open(&path, Access::WriteExclusive).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"here");
        assert!(RawFile::open(folder.path(), Access::Read).is_err(), "a folder is not a slot");
    }

    #[test]
    fn what_was_written_is_read_back_in_both_ways_of_transfer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0; 16_384]).unwrap();
        let file = RawFile::open(&path, Access::Write).unwrap();
        for direct in [false, true] {
            if direct {
                file.try_direct();
            }
            let mut buffer = AlignedBuf::zeroed(4096);
            buffer.as_mut_slice().fill(if direct { 2 } else { 1 });
            file.write_all_at(buffer.as_slice(), 8192).unwrap();
            file.flush().unwrap();
            let mut back = AlignedBuf::zeroed(4096);
            file.read_exact_at(back.as_mut_slice(), 8192).unwrap();
            assert_eq!(back.as_slice(), buffer.as_slice());
        }
        assert_eq!(file.size_bytes().unwrap(), 16_384);
    }

    #[test]
    fn several_reads_at_once_get_what_one_after_the_other_get_and_the_first_that_fails_is_named() {
        const BLOCK: usize = 4096;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let content: Vec<u8> = (0..200 * BLOCK).map(|at| (at / BLOCK * 7 + at % 251).to_le_bytes()[0]).collect();
        std::fs::write(&path, &content).unwrap();
        // Of many lengths, in no order, some twice, one to the end; more than are under way at once.
        let places: Vec<(usize, usize)> =
            (0..60).map(|number| (number * 67 % 190 * BLOCK, (number % 5 + 1) * BLOCK)).chain([(199 * BLOCK, BLOCK)]).collect();
        let lengths: usize = places.iter().map(|(_, length)| length).sum();
        for (direct, mut queue) in [(false, Queue::new().ok()), (true, Queue::new().ok()), (true, None)] {
            let file = RawFile::open(&path, Access::Read).unwrap();
            if direct {
                file.try_direct();
                assert_eq!(
                    file.transfer(),
                    Transfer::Direct,
                    "the folder for temporary files has to take direct reads: another TMPDIR does"
                );
            }
            let mut buffer = AlignedBuf::zeroed(lengths + BLOCK);
            let mut rest = buffer.as_mut_slice();
            let mut reads = Vec::new();
            for (offset, length) in &places {
                let (buffer, behind) = rest.split_at_mut(*length);
                reads.push(Read { offset: *offset as u64, buffer });
                rest = behind;
            }
            file.read_each(queue.as_mut(), &mut reads).unwrap();
            for (read, (offset, length)) in reads.iter().zip(&places) {
                assert!(*read.buffer == content[*offset..offset + length], "direct: {direct}, {length} bytes at {offset}");
            }
            // One block behind the end of the disk, between two that are there.
            let buffer = rest.get_mut(..BLOCK).unwrap();
            reads.insert(7, Read { offset: content.len() as u64, buffer });
            let (number, error) = file.read_each(queue.as_mut(), &mut reads).unwrap_err();
            assert_eq!((number, error.kind()), (7, io::ErrorKind::UnexpectedEof), "direct: {direct}");
            reads.remove(7);
            file.read_each(queue.as_mut(), &mut reads).unwrap();
            assert_eq!(file.transfer() == Transfer::Direct, direct, "none was refused");
        }
    }

    /// Bytes that this thread had fetched from the medium while `read` ran.
    pub(crate) fn fetched(read: impl FnOnce()) -> u64 {
        let count = || {
            let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
            text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).unwrap().parse::<u64>().unwrap()
        };
        let before = count();
        read();
        count() - before
    }

    #[test]
    fn a_cached_transfer_reads_the_medium_whatever_the_page_cache_holds_and_leaves_nothing_there() {
        const LENGTH: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![7; LENGTH]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let plain = || drop(std::fs::read(&path).unwrap());
        plain();
        assert_eq!(fetched(plain), 0, "the page cache holds it: this is what a plain re-read proves");
        let whole = File::open(&path).unwrap();
        posix_fadvise(&whole, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        if fetched(plain) == 0 {
            println!("skipped: the file system of the temporary folder has no medium behind the page cache");
            return;
        }
        let file = RawFile::open(&path, Access::Read).unwrap();
        assert_eq!(file.transfer(), Transfer::Cached);
        let mut bytes = vec![0; LENGTH];
        for _ in 0..2 {
            plain();
            let from_medium = fetched(|| file.read_exact_at(&mut bytes, 0).unwrap());
            assert!(from_medium >= LENGTH as u64, "{from_medium} bytes came from the medium");
        }
        assert!(fetched(plain) >= LENGTH as u64, "what was read stays in the page cache");
    }

    #[test]
    fn a_small_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"some bytes").unwrap();
        assert_eq!(RawFile::read_whole(&path, 10).unwrap(), b"some bytes");
        assert_eq!(RawFile::read_whole(&path, 9).unwrap_err().to_string(), "longer than 9 bytes");
        assert_eq!(RawFile::read_whole(&folder.path().join("none"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_transfer_that_cannot_be_direct_falls_back_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![5; 8192]).unwrap();
        let file = RawFile::open(&path, Access::Write).unwrap();
        file.try_direct();
        let mut odd = [0; 100];
        file.read_exact_at(&mut odd, 3).unwrap();
        assert_eq!(odd, [5; 100]);
        let end = file.read_exact_at(&mut odd, 8190).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
