//! Files that are compressed inside, told by their first bytes: names lie.

/// Entries of a cpio archive that are looked at; the early part of an initrd has a handful.
const MAX_CPIO_ENTRIES: u32 = 4096;
/// Most bytes of zeros between two parts of an initrd.
const MAX_PADDING_BYTES: u64 = 1 << 20;
const CPIO_HEADER_BYTES: usize = 110;
const HEAD_BYTES: usize = 1024;

/// What is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// A kernel that unpacks itself.
    Kernel,
    /// Anything else.
    File,
}

/// Reads bytes of a file at an offset and says how many there were.
pub(super) type ReadFile<'a> = &'a dyn Fn(u64, &mut [u8]) -> usize;

/// What a file is compressed with, and what it is; none if it is not, or not in a way that is known here.
pub(super) fn packed_with(read: ReadFile<'_>) -> Option<(Sort, &'static str)> {
    let mut head = [0; HEAD_BYTES];
    let length = read(0, &mut head);
    let head = head.get(..length)?;
    if let Some(name) = codec(head) {
        return Some((Sort::File, name));
    }
    if is_cpio(head) {
        return after_cpio(read).map(|name| (Sort::File, name));
    }
    kernel(head, read).map(|name| (Sort::Kernel, name))
}

fn codec(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 9] = [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"BZh", "bzip2"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO\0\r\n\x1a\n", "lzo"),
        (b"\x1f\x9d", "compress"),
    ];
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

fn is_cpio(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

/// An initrd may begin with archives that are not compressed, for what the kernel wants before it can unpack anything (microcode). Each is
/// entries of `magic, 13 numbers of 8 hex digits (the 7th: bytes of data, the 12th: of the name), name, data`, name and data each up to a
/// multiple of 4, and ends with the name `TRAILER!!!`; then come zeros.
fn after_cpio(read: ReadFile<'_>) -> Option<&'static str> {
    let mut at = 0_u64;
    for _ in 0..MAX_CPIO_ENTRIES {
        let mut header = [0; CPIO_HEADER_BYTES + 11];
        let length = read(at, &mut header);
        if !is_cpio(header.get(..length)?) {
            return codec(header.get(..length)?);
        }
        let number = |field: usize| {
            let digits = header.get(6 + field * 8..14 + field * 8)?;
            u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let name_end = CPIO_HEADER_BYTES as u64 + number(11)?;
        at = at.checked_add(name_end.next_multiple_of(4) + number(6)?.next_multiple_of(4))?;
        if header.ends_with(b"TRAILER!!!\0") {
            at = after_zeros(read, at)?;
        }
    }
    None
}

fn after_zeros(read: ReadFile<'_>, from: u64) -> Option<u64> {
    let mut buffer = [0; HEAD_BYTES];
    let mut at = from;
    while at - from < MAX_PADDING_BYTES {
        let length = read(at, &mut buffer);
        let found = buffer.get(..length).filter(|found| !found.is_empty())?;
        let zeros = found.iter().take_while(|byte| **byte == 0).count();
        at = at.checked_add(u64::try_from(zeros).ok()?)?;
        if zeros < found.len() {
            return Some(at);
        }
    }
    None
}

/// x86's bzImage, whose header says where the compressed part begins, and the EFI images of other machines, which name the codec.
fn kernel(head: &[u8], read: ReadFile<'_>) -> Option<&'static str> {
    if head.get(..2)? == b"MZ" && head.get(4..8)? == b"zimg" {
        const NAMES: [&str; 6] = ["gzip", "zstd", "lz4", "xz", "lzma", "lzo"];
        let name = head.get(24..56)?;
        return NAMES.into_iter().find(|known| name.starts_with(known.as_bytes()) && name.get(known.len()) == Some(&0));
    }
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match head.get(0x1f1)? {
        0 => 4,
        sectors => u64::from(*sectors),
    };
    let offset: [u8; 4] = head.get(0x248..0x24c)?.try_into().ok()?;
    let mut start = [0; 16];
    let length = read((sectors + 1) * 512 + u64::from(u32::from_le_bytes(offset)), &mut start);
    codec(start.get(..length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: &[u8]) -> Option<(Sort, &'static str)> {
        packed_with(&|offset, buffer: &mut [u8]| {
            let rest = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            length
        })
    }

    fn cpio(name: &str, data: &[u8]) -> Vec<u8> {
        let mut fields = [0_usize; 13];
        (fields[6], fields[11]) = (data.len(), name.len() + 1);
        let mut entry = b"070701".to_vec();
        fields.iter().for_each(|field| entry.extend_from_slice(format!("{field:08X}").as_bytes()));
        entry.extend_from_slice(name.as_bytes());
        entry.push(0);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend_from_slice(data);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    }

    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd.......";

    #[test]
    fn compressed_files_are_told_by_their_first_bytes() {
        assert_eq!(told(ZSTD), Some((Sort::File, "zstd")));
        assert_eq!(told(b"\x1f\x8b\x08\0\0"), Some((Sort::File, "gzip")));
        assert_eq!(told(b"\xfd7zXZ\0\0"), Some((Sort::File, "xz")));
        for plain in [&b""[..], b"B", b"\x7fELF and more", &[0; 2000]] {
            assert_eq!(told(plain), None);
        }
    }

    #[test]
    fn an_initrd_is_looked_at_behind_its_microcode() {
        let early = [cpio("kernel/x86/microcode/GenuineIntel.bin", &[7; 5001]), cpio("TRAILER!!!", b"")].concat();
        let padding = vec![0; 3000];
        assert_eq!(told(&[&early, &padding, ZSTD].concat()), Some((Sort::File, "zstd")));
        assert_eq!(told(&[&early, &padding, &early, ZSTD].concat()), Some((Sort::File, "zstd")));
        assert_eq!(told(&[&early[..], &cpio("init", b"#!/bin/sh")].concat()), None, "nothing in it is compressed");
        assert_eq!(told(&early), None);
        (0..early.len()).for_each(|cut| assert_eq!(told(&early[..cut]), None));
        let mut endless = cpio("a", b"");
        endless[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"FFFFFFFF");
        assert_eq!(told(&endless), None);
    }

    #[test]
    fn a_kernel_says_where_its_compressed_part_is() {
        let mut kernel = vec![0; 4096];
        kernel[0x1f1] = 3;
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x248] = 16;
        kernel[4 * 512 + 16..4 * 512 + 20].copy_from_slice(b"\x02\x21\x4c\x18");
        assert_eq!(told(&kernel), Some((Sort::Kernel, "lz4")));
        kernel[0x248..0x24c].fill(0xff);
        assert_eq!(told(&kernel), None);
        let mut zboot = vec![0; 100];
        zboot[..8].copy_from_slice(b"MZ\0\0zimg");
        zboot[24..28].copy_from_slice(b"zstd");
        assert_eq!(told(&zboot), Some((Sort::Kernel, "zstd")));
    }
}
