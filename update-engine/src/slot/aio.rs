//! Several reads of one file at once: a disk that has many to do takes hardly longer than for one.
//!
//! Linux's own asynchronous I/O (`io_submit(2)`), which is made for direct reads. A kernel without it says so when a [`Queue`] is made.
//!
//! Promise: when [`Queue::read`] returns, no read is under way any more, however it ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Reads that are under way at once: where a disk's throughput no longer rises.
pub(crate) const DEPTH: usize = 16;

/// The kernel's queue of reads, for one thread.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `aio_context_t`.
    context: libc::c_ulong,
}

/// A read: where from, and where to.
pub(crate) struct Read<'b> {
    pub(crate) offset: u64,
    pub(crate) buffer: &'b mut [u8],
}

/// `struct iocb` of `linux/aio_abi.h`, of a read. The two fields that are zero here change places with the byte order.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_descriptor: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Done {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// `IOCB_CMD_PREAD`.
const PREAD: u16 = 0;

impl Queue {
    /// An error where the kernel has none, or has no more of them.
    pub(crate) fn new() -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the second argument is a place for a number, which is zero, as the call wants it.
        #[allow(unsafe_code)]
        let answer = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut context) };
        if answer == 0 { Ok(Self { context }) } else { Err(io::Error::last_os_error()) }
    }

    /// Does all of `reads`. How many bytes each got, in their order, or its error; a read that ends early is one that got less. One that was not done,
    /// because the kernel took no more, is [`io::ErrorKind::Interrupted`].
    pub(crate) fn read(&mut self, file: impl AsFd, reads: &mut [Read<'_>]) -> Vec<io::Result<usize>> {
        let descriptor = u32::try_from(file.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
        let mut results: Vec<io::Result<usize>> = reads.iter().map(|_| Err(io::ErrorKind::Interrupted.into())).collect();
        for (number, batch) in reads.chunks_mut(DEPTH).enumerate() {
            let results = results.get_mut(number * DEPTH..).unwrap_or_default();
            let mut requests: Vec<Request> =
                batch.iter_mut().zip(0..).map(|(read, index)| read.request(descriptor, index)).collect();
            self.run(&mut requests, results);
        }
        results
    }

    /// Submits the requests, and waits for all that were taken.
    fn run(&mut self, requests: &mut [Request], results: &mut [io::Result<usize>]) {
        let pointers: Vec<*mut Request> = requests.iter_mut().map(|request| &raw mut *request).collect();
        let mut next = 0;
        while let Some(rest) = pointers.get(next..).filter(|rest| !rest.is_empty()) {
            // SAFETY: each pointer is to a request that stays where it is, and whose buffer nobody else has, until its end was waited for below.
            #[allow(unsafe_code)]
            let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.context, rest.len(), rest.as_ptr()) };
            match usize::try_from(taken) {
                Ok(taken) if taken > 0 => {
                    self.wait(taken, results);
                    next += taken;
                }
                _ => {
                    // That of the first is that of none of the others, which were not looked at.
                    if let Some(result) = results.get_mut(next) {
                        *result = Err(io::Error::last_os_error());
                    }
                    return;
                }
            }
        }
    }

    /// Waits for the ends of `count` requests.
    fn wait(&mut self, count: usize, results: &mut [io::Result<usize>]) {
        let mut left = count;
        while left > 0 {
            let mut done = [Done::default(); DEPTH];
            // SAFETY: there is room for as many as are asked for; no limit of the time is given.
            #[allow(unsafe_code)]
            let ended = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    left,
                    left.min(DEPTH),
                    done.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            let Ok(ended) = usize::try_from(ended) else {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                // It cannot be asked: its end is the end of all that is under way, which is waited for in there. Without it the kernel might write
                // to memory that is somebody else's by then, and nothing is worth that.
                if !self.destroy() {
                    std::process::abort();
                }
                return;
            };
            for done in done.iter().take(ended) {
                let index = usize::try_from(done.data).unwrap_or(usize::MAX);
                let error = || io::Error::from_raw_os_error(i32::try_from(-done.result).unwrap_or(libc::EIO));
                if let Some(result) = results.get_mut(index) {
                    *result = usize::try_from(done.result).map_err(|_negative| error());
                }
            }
            left = left.saturating_sub(ended);
        }
    }

    /// Ends it, and says whether it is ended.
    fn destroy(&mut self) -> bool {
        // SAFETY: of a number that is no queue, it says so. It returns when nothing of it is under way.
        #[allow(unsafe_code)]
        let answer = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
        self.context = 0;
        answer == 0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Nothing is under way between two reads; and one that is ended already is no queue any more.
        let _is_ended = self.destroy();
    }
}

impl Read<'_> {
    fn request(&mut self, descriptor: u32, index: u64) -> Request {
        Request {
            data: index,
            opcode: PREAD,
            descriptor,
            buffer: self.buffer.as_mut_ptr() as u64,
            length: self.buffer.len() as u64,
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            ..Request::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;
    use crate::slot::buffer::AlignedBuf;

    /// A queue, where the kernel has them.
    fn queue() -> Option<Queue> {
        Queue::new().map_err(|error| println!("skipped: the kernel has no asynchronous reads: {error}")).ok()
    }

    /// 64 blocks and a half, each of its number, read directly: so that they are under way together.
    fn disk(folder: &std::path::Path) -> std::fs::File {
        let path = folder.join("disk");
        let content: Vec<u8> = (0..64 * 4096 + 2048_usize).map(|at| (at / 4096).to_le_bytes()[0]).collect();
        std::fs::write(&path, content).unwrap();
        let direct = std::fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
        direct.expect("the folder for temporary files has to take direct reads: another TMPDIR does")
    }

    #[test]
    fn reads_come_back_in_their_order_with_what_each_got() {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        let Some(mut queue) = queue() else { return };
        // More than are under way at once, backwards, the last block twice, the half one, and one behind the end.
        let blocks: Vec<u64> = (0..64).rev().chain([63, 64, 65]).collect();
        let mut buffer = AlignedBuf::zeroed(blocks.len() * 4096);
        let mut reads: Vec<Read<'_>> = buffer
            .as_mut_slice()
            .chunks_mut(4096)
            .zip(&blocks)
            .map(|(buffer, block)| Read { offset: block * 4096, buffer })
            .collect();
        let results = queue.read(&file, &mut reads);
        for (read, (result, block)) in reads.iter().zip(results.into_iter().zip(&blocks)) {
            let expected = if *block < 64 {
                4096
            } else if *block == 64 {
                2048
            } else {
                0
            };
            assert_eq!(result.unwrap(), expected, "block {block}");
            assert!(read.buffer[..expected].iter().all(|byte| u64::from(*byte) == *block), "block {block}");
        }
    }

    #[test]
    fn one_that_is_refused_changes_nothing_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        let Some(mut queue) = queue() else { return };
        let mut buffer = AlignedBuf::zeroed(20 * 4096);
        let buffers = buffer.as_mut_slice().chunks_mut(4096);
        // No direct read begins inside of a sector.
        let place = |number: usize| number as u64 * 4096 + u64::from(number % 7 == 5);
        let mut reads: Vec<Read<'_>> =
            buffers.enumerate().map(|(number, buffer)| Read { offset: place(number), buffer }).collect();
        for (number, result) in queue.read(&file, &mut reads).into_iter().enumerate() {
            match result {
                Ok(count) => assert!(count == 4096 && number % 7 != 5, "{number}: {count}"),
                Err(error) => assert!(error.raw_os_error() == Some(libc::EINVAL) && number % 7 == 5, "{number}: {error}"),
            }
        }
    }

    #[test]
    fn a_queue_that_was_ended_reads_nothing_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        let Some(mut queue) = queue() else { return };
        assert!(queue.destroy());
        assert!(!queue.destroy(), "it is none any more");
        let mut buffer = AlignedBuf::zeroed(2 * 4096);
        let mut reads: Vec<Read<'_>> = buffer.as_mut_slice().chunks_mut(4096).map(|buffer| Read { offset: 0, buffer }).collect();
        let results = queue.read(&file, &mut reads);
        assert_eq!(results[0].as_ref().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(results[1].as_ref().unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_of_its_own() {
        let write_only = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut block = [0; 4096];
        let Some(mut queue) = queue() else { return };
        let results = queue.read(&write_only, &mut [Read { offset: 0, buffer: &mut block }]);
        assert_eq!(results[0].as_ref().unwrap_err().raw_os_error(), Some(libc::EBADF));
        // And the queue is as good as before.
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let results = queue.read(&zeros, &mut [Read { offset: 0, buffer: &mut block }]);
        assert_eq!(results[0].as_ref().unwrap(), &4096);
    }
}
