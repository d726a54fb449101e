//! The few device and file requests that have no safe wrapper, behind safe functions.

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
    // Numbers: linux/fs.h, FS_IOC_GETFLAGS = _IOR('f', 1, long), FS_IOC_SETFLAGS = _IOW('f', 2, long). What the kernel reads and writes
    // there is an int.
    nix::ioctl_read_bad!(
        /// The flags of an inode.
        fs_ioc_getflags,
        nix::request_code_read!(b'f', 1, size_of::<nix::libc::c_long>()),
        nix::libc::c_int
    );
    nix::ioctl_write_ptr_bad!(
        /// Sets the flags of an inode.
        fs_ioc_setflags,
        nix::request_code_write!(b'f', 2, size_of::<nix::libc::c_long>()),
        nix::libc::c_int
    );
    /// Nobody can write to it or remove it (linux/fs.h).
    pub(super) const FS_IMMUTABLE_FL: nix::libc::c_int = 0x10;
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

/// Whether a file can be changed at all, by root as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutability {
    /// As its permissions say.
    Mutable,
    /// By nobody.
    Immutable,
}

/// Whether a file can be changed at all. A file system without such flags answers `ENOTTY` or `EOPNOTSUPP`.
pub(crate) fn mutability(file: &File) -> io::Result<Mutability> {
    let flags = inode_flags(file)?;
    Ok(if flags & raw::FS_IMMUTABLE_FL == 0 { Mutability::Mutable } else { Mutability::Immutable })
}

/// Forbids or allows every change of a file. Its other flags stay.
pub(crate) fn set_mutability(file: &File, mutability: Mutability) -> io::Result<()> {
    let others = inode_flags(file)? & !raw::FS_IMMUTABLE_FL;
    let flags = match mutability {
        Mutability::Mutable => others,
        Mutability::Immutable => others | raw::FS_IMMUTABLE_FL,
    };
    // SAFETY: FS_IOC_SETFLAGS reads one int through the pointer; `flags` lives until the call returns and the descriptor is open.
    #[allow(unsafe_code)]
    let answer = unsafe { raw::fs_ioc_setflags(file.as_raw_fd(), &raw const flags) };
    answer.map(drop).map_err(io::Error::from)
}

fn inode_flags(file: &File) -> io::Result<nix::libc::c_int> {
    let mut flags: nix::libc::c_int = 0;
    // SAFETY: FS_IOC_GETFLAGS writes one int through the pointer; `flags` lives until the call returns and the descriptor is open.
    #[allow(unsafe_code)]
    let answer = unsafe { raw::fs_ioc_getflags(file.as_raw_fd(), &raw mut flags) };
    answer.map(|_| flags).map_err(io::Error::from)
}
