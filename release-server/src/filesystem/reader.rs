//! Reading an image that nobody vouches for: in pieces of bounded size, out of a budget that ends.

use std::cell::Cell;

use payload::window::ReadAt;

/// Bytes that are read of one image before it is left alone, which bounds the time whatever its structures say. A root file system of a
/// gigabyte takes some ten million.
const BUDGET_BYTES: u64 = 2 << 30;
/// What the shortest read costs of the budget: a system call is not free.
const LEAST_COST_BYTES: u64 = 512;
/// Most bytes of one read.
const MAX_PIECE_BYTES: u64 = 64 << 20;

/// Why something in an image could not be read, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread(pub(super) String);

pub(super) type Read<T> = Result<T, Unread>;

impl Unread {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// An image, and how much of it may still be read.
pub(super) struct Reader<'a> {
    data: &'a dyn ReadAt,
    size: u64,
    budget: Cell<u64>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(data: &'a dyn ReadAt, size: u64) -> Self {
        Self { data, size, budget: Cell::new(BUDGET_BYTES) }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The bytes at `offset`; `what` names them if they cannot be had.
    pub(super) fn bytes(&self, what: &str, offset: u64, length: u64) -> Read<Vec<u8>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        if end.is_none() || length > MAX_PIECE_BYTES {
            return Err(Unread(format!("{what}: {length} bytes at byte {offset} are not in the image")));
        }
        self.spend(length.max(LEAST_COST_BYTES))?;
        let mut bytes = vec![0; index(length)];
        let failed = |error| Unread(format!("{what}: cannot read {length} bytes at byte {offset}: {error}"));
        self.data.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes)
    }

    /// Takes from the budget what is done with bytes that were read before.
    pub(super) fn spend(&self, bytes: u64) -> Read<()> {
        let left = self.budget.get().checked_sub(bytes);
        self.budget.set(left.ok_or_else(|| Unread::because("its structures are larger than what is read of an image"))?);
        Ok(())
    }
}

/// A place in memory; one that does not exist where the number is too large.
pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Read<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| Unread::because("a structure is cut off"))
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Read<u8> {
    field::<1>(bytes, at).map(|[byte]| byte)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Read<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Read<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Read<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}
