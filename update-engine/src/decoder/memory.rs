//! Memory that two processes share.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use super::SHARED_BYTES;

/// The shared memory, mapped. Its bytes may change at any time by the other process: nothing here ever hands out a reference to them that
/// outlives what the protocol keeps still.
pub(super) struct Shared {
    start: NonNull<c_void>,
}

// SAFETY: the mapping belongs to no thread, and is used by one at a time.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}

impl Shared {
    /// New memory of [`SHARED_BYTES`], and the descriptor by which another process can map it.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let file = memfd_create(c"update-engine-decoder", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let file = std::fs::File::from(file);
        file.set_len(u64::try_from(SHARED_BYTES).unwrap_or(u64::MAX))?;
        // Of a file that another makes shorter, a read beyond its end would end this process.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        let shared = Self::of(&file)?;
        Ok((shared, file.into()))
    }

    /// Maps what [`Shared::create`] has made.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(SHARED_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at a place that the kernel chooses; the file is as long, and sealed.
        #[allow(unsafe_code)]
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start })
    }

    /// Copies `bytes` to `at`; false if they do not fit.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        let Some(place) = self.place(at, bytes.len()) else { return false };
        // SAFETY: both are valid for that many bytes, and a slice of this process never lies in the mapping.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
        true
    }

    /// Copies what stands at `at` to `bytes`; false if there is not as much.
    pub(super) fn read(&self, at: usize, bytes: &mut [u8]) -> bool {
        let Some(place) = self.place(at, bytes.len()) else { return false };
        // SAFETY: as above. Whatever the other process writes meanwhile, what is copied is bytes.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), bytes.len());
        }
        true
    }

    /// Three parts that do not overlap: two to read, one to write. Only for the process that decodes, between the daemon's request
    /// and its answer: the daemon touches none of them meanwhile, whatever else it does.
    pub(super) fn parts(
        &mut self,
        first: (usize, usize),
        second: (usize, usize),
        output: (usize, usize),
    ) -> Option<(&[u8], &[u8], &mut [u8])> {
        let is_apart = first.0 + first.1 <= second.0 && second.0 + second.1 <= output.0;
        let [first_at, second_at, output_at] = [first, second, output].map(|(at, length)| self.place(at, length));
        let (first_at, second_at, output_at) = (first_at?, second_at?, output_at?);
        if !is_apart {
            return None;
        }
        // SAFETY: each part lies in the mapping, none overlaps another, and the daemon, which alone could write to them, does not
        // before it has the answer (`Confined::lean_on` refuses).
        #[allow(unsafe_code)]
        unsafe {
            Some((
                std::slice::from_raw_parts(first_at, first.1),
                std::slice::from_raw_parts(second_at, second.1),
                std::slice::from_raw_parts_mut(output_at, output.1),
            ))
        }
    }

    /// Gives the memory between these two back to the system; it reads as zeros from then on.
    pub(super) fn give_back(&mut self, from: usize, until: usize) {
        let Some((place, length)) = until.checked_sub(from).and_then(|length| Some((self.place(from, length)?, length))) else {
            return;
        };
        let Some(place) = NonNull::new(place.cast::<c_void>()) else { return };
        // SAFETY: it lies in the mapping, and no reference into it is left. Where it is refused, the memory stays.
        #[allow(unsafe_code)]
        let _given = unsafe { madvise(place, length, MmapAdvise::MADV_REMOVE) };
    }

    fn place(&self, at: usize, length: usize) -> Option<*mut u8> {
        let fits = at.checked_add(length).is_some_and(|end| end <= SHARED_BYTES);
        fits.then(|| self.start.as_ptr().cast::<u8>().wrapping_add(at))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and no reference into it is left.
        #[allow(unsafe_code)]
        let _unmapped = unsafe { munmap(self.start, SHARED_BYTES) };
    }
}
