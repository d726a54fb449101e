//! Disks in memory for tests of the codec, built by hand from the layout and not by the codec.

use uuid::Uuid;

/// A disk with two slots and a state partition, both copies of its table valid.
pub(crate) struct DiskBuilder {
    pub(crate) sector: usize,
    pub(crate) sectors: usize,
    pub(crate) entry_size: usize,
    pub(crate) entry_count: usize,
    /// The sector where the first partition starts.
    pub(crate) first: usize,
    /// Label, sectors, attribute bits; placed one after another.
    pub(crate) partitions: Vec<(String, usize, u64)>,
}

impl DiskBuilder {
    pub(crate) fn new(sector: usize) -> Self {
        let partitions = [("root-a", 8, 0), ("root-b", 8, 0), ("state", 4, 0)];
        Self {
            sector,
            sectors: 128,
            entry_size: 128,
            entry_count: 128,
            // On a boundary of 4096 bytes, as partitions are.
            first: 40,
            partitions: partitions.map(|(label, size, bits)| (label.to_owned(), size, bits)).to_vec(),
        }
    }

    pub(crate) fn bits(mut self, partition: usize, bits: u64) -> Self {
        self.partitions[partition].2 = bits;
        self
    }

    pub(crate) fn entries(mut self, count: usize, size: usize) -> Self {
        (self.entry_count, self.entry_size) = (count, size);
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let array_sectors = (self.entry_count * self.entry_size).div_ceil(self.sector);
        let first_usable = 2 + array_sectors;
        let last_usable = self.sectors - 2 - array_sectors;
        let mut array = vec![0; array_sectors * self.sector];
        let mut at = self.first.max(first_usable);
        for (index, (label, size, bits)) in self.partitions.iter().enumerate() {
            let entry = &mut array[index * self.entry_size..];
            entry[..16].copy_from_slice(&type_guid().to_bytes_le());
            entry[16..32].copy_from_slice(&unique_guid(index).to_bytes_le());
            entry[32..40].copy_from_slice(&(at as u64).to_le_bytes());
            entry[40..48].copy_from_slice(&((at + size - 1) as u64).to_le_bytes());
            entry[48..56].copy_from_slice(&bits.to_le_bytes());
            for (place, unit) in label.encode_utf16().enumerate() {
                entry[56 + 2 * place..58 + 2 * place].copy_from_slice(&unit.to_le_bytes());
            }
            at += size;
        }
        let mut disk = vec![0; self.sectors * self.sector];
        let last = self.sectors - 1;
        let mut put = |lba: usize, bytes: &[u8]| disk[lba * self.sector..][..bytes.len()].copy_from_slice(bytes);
        let crc = crc32fast::hash(&array[..self.entry_count * self.entry_size]);
        for (own, other, entries) in [(1, last, 2), (last, 1, last - array_sectors)] {
            put(entries, &array);
            let header = [own, other, first_usable, last_usable].map(|lba| lba as u64);
            put(own, &self.header(header, entries as u64, crc));
        }
        self.protect(&mut disk);
        disk
    }

    /// The protective boot record, without which other readers do not look for a table.
    fn protect(&self, disk: &mut [u8]) {
        disk[446 + 4] = 0xEE;
        disk[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
        disk[446 + 12..446 + 16].copy_from_slice(&u32::try_from(self.sectors - 1).unwrap().to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    }

    fn header(&self, [own, other, first, last]: [u64; 4], entries: u64, crc: u32) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(b"EFI PART");
        header.extend(0x0001_0000_u32.to_le_bytes());
        header.extend(92_u32.to_le_bytes());
        header.extend([0; 8]);
        for lba in [own, other, first, last] {
            header.extend(lba.to_le_bytes());
        }
        header.extend(disk_guid().to_bytes_le());
        header.extend(entries.to_le_bytes());
        header.extend(u32::try_from(self.entry_count).unwrap().to_le_bytes());
        header.extend(u32::try_from(self.entry_size).unwrap().to_le_bytes());
        header.extend(crc.to_le_bytes());
        let header_crc = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&header_crc.to_le_bytes());
        header
    }
}

pub(crate) fn disk_guid() -> Uuid {
    Uuid::from_u128(0xD15C_0000_0000_4000_8000_0000_0000_0001)
}

pub(crate) fn type_guid() -> Uuid {
    Uuid::from_u128(0x0FC6_3DAF_8483_4772_8E79_3D69_D847_7DE4)
}

pub(crate) fn unique_guid(index: usize) -> Uuid {
    Uuid::from_u128(0xAAAA_0000_0000_4000_8000_0000_0000_0000 + index as u128)
}
