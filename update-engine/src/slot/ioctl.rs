//! The two block-device requests that have no safe wrapper, behind safe functions.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    // Numbers: linux/fs.h, BLKROSET = _IO(0x12, 93), BLKFLSBUF = _IO(0x12, 97).
    nix::ioctl_write_ptr_bad!(
        /// Marks a block device read-only (1) or writable (0).
        blkroset,
        0x125d,
        nix::libc::c_int
    );
    nix::ioctl_none_bad!(
        /// Writes out and drops the page cache of a block device.
        blkflsbuf,
        0x1261
    );
}

/// Whether the kernel lets anyone write to a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceAccess {
    /// Every write fails, also through descriptors that were open before.
    ReadOnly,
    /// Writes are allowed.
    Writable,
}

/// Sets a block device read-only or writable for everyone.
pub(crate) fn set_access(device: &File, access: DeviceAccess) -> io::Result<()> {
    let flag: nix::libc::c_int = match access {
        DeviceAccess::ReadOnly => 1,
        DeviceAccess::Writable => 0,
    };
    // SAFETY: BLKROSET reads one int through the pointer; `flag` lives until the call returns and the descriptor is open.
    #[allow(unsafe_code)]
    let answer = unsafe { raw::blkroset(device.as_raw_fd(), &raw const flag) };
    answer.map(drop).map_err(io::Error::from)
}

/// Writes out and drops what the kernel caches of a block device, so that the next read comes from the medium.
pub(crate) fn drop_device_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of ours; the descriptor is open.
    #[allow(unsafe_code)]
    let answer = unsafe { raw::blkflsbuf(device.as_raw_fd()) };
    answer.map(drop).map_err(io::Error::from)
}
