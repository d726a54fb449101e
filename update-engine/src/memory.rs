//! What the allocator gives back.

/// From this size on memory is mapped for itself. Buffers of a network are smaller: to map them anew for each read costs more than the read.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: nix::libc::c_int = 512 << 10;

/// Lets memory go back to the system as soon as it is not used: a daemon that once took the buffers of an install should not keep them for weeks.
///
/// The C library raises its threshold for memory of its own mapping to the largest piece that was ever freed, and keeps an arena for every few
/// threads; both are meant for programs that are in a hurry all the time. Call it before any thread is started.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
        for (parameter, value) in [(M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, LARGE_BYTES), (M_ARENA_MAX, 2)] {
            // SAFETY: it takes two numbers, and no other thread allocates yet. Where it refuses, all stays as it was.
            #[allow(unsafe_code)]
            let _is_set = unsafe { mallopt(parameter, value) };
        }
    }
}
