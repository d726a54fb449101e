//! A disk that fails where it is told to: the image of a [`Host`](super::Host), served through FUSE, so that the errors come from the kernel.
//!
//! Fault model: each fault has a stretch of the disk. A transfer that touches it fails with an error, is lost, or arrives changed, every time or
//! until that stretch is written. A flush fails or is believed. Nothing happens by itself: what is told is what happens, and it is counted.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// What goes wrong in a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Writing it is an input/output error.
    Write,
    /// Writing it is an input/output error once, after some seconds.
    LateWrite,
    /// Writing it finds no room.
    Room,
    /// Writing it is answered with success, and nothing is written.
    LostWrite,
    /// Writing it is answered with success, and a byte of what is written is another one.
    WrongWrite,
    /// Reading it is an input/output error, until it is written.
    Read,
    /// Reading it is an input/output error for ever.
    ReadForEver,
    /// Reading it gives another bit than was written.
    WrongRead,
    /// Reading it takes a quarter of a second, every time, and nothing else is read meanwhile.
    LateRead,
    /// Once it was written, no flush succeeds any more.
    Flush,
}

/// Kinds of which each says by itself that something is wrong.
pub(crate) const LOUD_WRITES: [Failing; 3] = [Failing::Write, Failing::Room, Failing::Flush];

/// What is late comes so much later.
const LATE: Duration = Duration::from_secs(3);
const LATE_READ: Duration = Duration::from_millis(250);

struct State {
    faults: Vec<(Failing, Range<u64>)>,
    is_flush_broken: bool,
    /// Transfers and flushes that went wrong.
    struck: u64,
    /// Reads, and how many of them were answered.
    reads: [u64; 2],
}

struct Served {
    file: File,
    state: Arc<Mutex<State>>,
}

/// The disk, as long as it is served.
pub(crate) struct FailingDisk {
    session: Option<BackgroundSession>,
    state: Arc<Mutex<State>>,
    mounted: tempfile::TempDir,
}

impl FailingDisk {
    /// Serves a disk image. An error is a reason to skip.
    pub(crate) fn over(image: &std::path::Path) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
            return Err("needs root and /dev/fuse for a disk that fails".to_owned());
        }
        let file = File::options().read(true).write(true).open(image).unwrap();
        let state = Arc::new(Mutex::new(State { faults: Vec::new(), is_flush_broken: false, struck: 0, reads: [0; 2] }));
        let mounted = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("failing-disk".to_owned()), MountOption::NoAtime];
        let served = Served { file, state: Arc::clone(&state) };
        let session =
            fuser::spawn_mount(served, mounted.path(), &config).map_err(|error| format!("FUSE cannot be mounted: {error}"))?;
        Ok(Self { session: Some(session), state, mounted })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mounted.path().join("disk.img")
    }

    /// From now on just this goes wrong.
    pub(crate) fn fails(&self, faults: Vec<(Failing, Range<u64>)>) {
        *self.state.lock().unwrap() = State { faults, is_flush_broken: false, struck: 0, reads: [0; 2] };
    }

    /// Reads since, and how many of them were answered.
    pub(crate) fn reads(&self) -> [u64; 2] {
        self.state.lock().unwrap().reads
    }

    /// How often something went wrong since.
    pub(crate) fn struck(&self) -> u64 {
        self.state.lock().unwrap().struck
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Where a test that failed still holds it open, it goes once that lets go.
        let _ = nix::mount::umount2(self.mounted.path(), nix::mount::MntFlags::MNT_DETACH);
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

impl State {
    /// The first fault of such a kind that the stretch touches, and where.
    fn strike(&mut self, kinds: &[Failing], bytes: &Range<u64>) -> Option<(Failing, u64)> {
        let fault = self.faults.iter().find(|(kind, at)| kinds.contains(kind) && at.start < bytes.end && bytes.start < at.end)?;
        self.struck += 1;
        Some((fault.0, fault.1.start.max(bytes.start) - bytes.start))
    }
}

const FILE: INodeNo = INodeNo(2);
const FOR_EVER: Duration = Duration::from_secs(3600);

impl Served {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let is_file = node == FILE;
        let size = self.file.metadata().unwrap().len();
        FileAttr {
            ino: node,
            size: if is_file { size } else { 0 },
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }

    fn read(&self, bytes: &Range<u64>) -> Result<Vec<u8>, Errno> {
        let size = self.file.metadata().unwrap().len();
        let mut data = vec![0; usize::try_from(bytes.end.min(size).saturating_sub(bytes.start)).unwrap()];
        self.file.read_exact_at(&mut data, bytes.start).unwrap();
        let kinds = [Failing::Read, Failing::ReadForEver, Failing::WrongRead, Failing::LateRead];
        let struck = self.state.lock().unwrap().strike(&kinds, bytes);
        match struck {
            Some((Failing::WrongRead, at)) => data[usize::try_from(at).unwrap()] ^= 4,
            Some((Failing::LateRead, _)) => std::thread::sleep(LATE_READ),
            Some(_) => return Err(Errno::EIO),
            None => {}
        }
        Ok(data)
    }

    fn write(&self, bytes: &Range<u64>, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        let kinds = [Failing::Write, Failing::LateWrite, Failing::Room, Failing::LostWrite, Failing::WrongWrite, Failing::Flush];
        let mut data = data.to_vec();
        match state.strike(&kinds, bytes) {
            Some((Failing::Write, _)) => return Err(Errno::EIO),
            Some((Failing::LateWrite, _)) => {
                state.faults.retain(|(kind, _)| *kind != Failing::LateWrite);
                drop(state);
                std::thread::sleep(LATE);
                return Err(Errno::EIO);
            }
            Some((Failing::Room, _)) => return Err(Errno::ENOSPC),
            Some((Failing::LostWrite, _)) => return Ok(()),
            Some((Failing::Flush, _)) => state.is_flush_broken = true,
            // Not a flip: of a block that is read, changed and written again, the second would undo the first.
            Some((_, at)) => data[usize::try_from(at).unwrap()] = data[usize::try_from(at).unwrap()].wrapping_add(1),
            None => {}
        }
        state.faults.retain(|(kind, at)| *kind != Failing::Read || at.end <= bytes.start || bytes.end <= at.start);
        self.file.write_all_at(&data, bytes.start).unwrap();
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        if state.is_flush_broken {
            state.struck += 1;
            return Err(Errno::EIO);
        }
        Ok(())
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk.img" {
            reply.entry(&FOR_EVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(node));
    }

    /// No page cache: each transfer of the program is one here.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.state.lock().unwrap().reads[0] += 1;
        let answer = Self::read(self, &(offset..offset + u64::from(size)));
        self.state.lock().unwrap().reads[1] += 1;
        match answer {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match Self::write(self, &(offset..offset + data.len() as u64), data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match Self::flush(self) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
