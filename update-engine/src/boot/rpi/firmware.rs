//! What the firmware says of the present boot, in the device tree.
//!
//! ```text
//! /proc/device-tree/chosen/bootloader/tryboot      u32, big-endian: 1 if the flag was set
//! /proc/device-tree/chosen/bootloader/partition    u32, big-endian: the partition that was started
//! ```

use std::io;
use std::path::Path;

use crate::boot::BootError;
use crate::boot::held::io_error;
use crate::durable;

const FOLDER: &str = "proc/device-tree/chosen/bootloader";

/// How the present boot came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booted {
    /// With the flag.
    pub tryboot: bool,
    /// From this partition.
    pub partition: u32,
}

impl Booted {
    /// Reads it below a root, which is `/` but in tests; `None` on a machine whose firmware does not say it.
    ///
    /// # Errors
    /// If it is there and cannot be read, or is not a number of 32 bits.
    pub fn read(root: &Path) -> Result<Option<Self>, BootError> {
        let folder = root.join(FOLDER);
        let (tryboot, partition) = (number(&folder.join("tryboot"))?, number(&folder.join("partition"))?);
        Ok(tryboot.zip(partition).map(|(tryboot, partition)| Self { tryboot: tryboot != 0, partition }))
    }
}

fn number(path: &Path) -> Result<Option<u32>, BootError> {
    let bytes = match durable::read_capped(path, 4) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path, error)),
    };
    let number = <[u8; 4]>::try_from(bytes.as_slice()).map_err(|_| BootError::Malformed {
        path: path.to_path_buf(),
        why: format!("expected a number of 4 bytes, got {} bytes", bytes.len()),
    })?;
    Ok(Some(u32::from_be_bytes(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_device_tree_are_big_endian_and_absent_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Booted::read(root.path()).unwrap(), None);
        let folder = root.path().join(FOLDER);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("partition"), [0, 0, 0, 3]).unwrap();
        assert_eq!(Booted::read(root.path()).unwrap(), None, "old firmware has no flag");
        std::fs::write(folder.join("tryboot"), [0, 0, 0, 1]).unwrap();
        assert_eq!(Booted::read(root.path()).unwrap(), Some(Booted { tryboot: true, partition: 3 }));
        std::fs::write(folder.join("tryboot"), [0, 0]).unwrap();
        let error = Booted::read(root.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{}/tryboot: expected a number of 4 bytes, got 2 bytes", folder.display()));
        std::fs::write(folder.join("tryboot"), [0; 5]).unwrap();
        let error = Booted::read(root.path()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}/tryboot", folder.display()));
    }
}
