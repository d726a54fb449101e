//! Memory of blobs: bounded, and used again.

use super::MAX_IN_FLIGHT;

/// Memory of blobs that were fetched and are not made yet, together with what is kept for others, beside the one that comes just now: enough to keep the
/// threads busy while a frame of 1 MiB comes.
const MAX_BYTES: usize = 2 << 20;

/// The memory of a longer blob is used again for one so short.
const SHORT_BYTES: usize = 64 << 10;

/// Hands out memory for blobs, and takes it back.
#[derive(Default)]
pub(super) struct BlobMemory {
    /// Oldest first.
    kept: Vec<Vec<u8>>,
    in_flight: usize,
}

impl BlobMemory {
    /// Whether one more may be fetched.
    pub(super) const fn have_room(&self) -> bool {
        self.in_flight < MAX_BYTES
    }

    /// Memory for a blob of this length: what another one left, unless that is much more than it takes.
    pub(super) fn take(&mut self, length: usize) -> Vec<u8> {
        let most = length.max(SHORT_BYTES).saturating_mul(2);
        let fits = |blob: &Vec<u8>| (length..=most).contains(&blob.capacity());
        let blob = match self.kept.iter().position(fits).filter(|_| length > 0) {
            Some(at) => self.kept.remove(at),
            None => {
                self.forget_beyond(MAX_BYTES.saturating_sub(length));
                Vec::with_capacity(length)
            }
        };
        self.in_flight = self.in_flight.saturating_add(blob.capacity());
        blob
    }

    /// Takes back the memory of a blob that was made, or could not be had.
    pub(super) fn give_back(&mut self, mut blob: Vec<u8>) {
        self.in_flight = self.in_flight.saturating_sub(blob.capacity());
        if blob.capacity() > 0 {
            blob.clear();
            self.kept.push(blob);
            self.forget_beyond(MAX_BYTES);
        }
    }

    /// Of what is kept, the oldest goes, until no more than this is in use or kept.
    fn forget_beyond(&mut self, bytes: usize) {
        let mut sum = self.kept.iter().map(Vec::capacity).fold(self.in_flight, usize::saturating_add);
        let mut count = self.kept.len();
        self.kept.retain(|blob| {
            let stays = sum <= bytes && count <= MAX_IN_FLIGHT;
            if !stays {
                sum = sum.saturating_sub(blob.capacity());
                count = count.saturating_sub(1);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn sum(blobs: &BlobMemory) -> usize {
        blobs.in_flight + blobs.kept.iter().map(Vec::capacity).sum::<usize>()
    }

    #[test]
    fn memory_is_used_again_for_blobs_of_about_its_length_and_frames_without_any_change_nothing() {
        let mut blobs = BlobMemory::default();
        for _ in 0..3 * MAX_IN_FLIGHT {
            let none = blobs.take(0);
            blobs.give_back(none);
        }
        let blob = blobs.take(200_000);
        let place = blob.as_ptr();
        blobs.give_back(blob);
        let [short, same, other] = [10_000, 150_000, 150_000].map(|length| blobs.take(length));
        assert_ne!(short.as_ptr(), place, "much more than it takes");
        assert_eq!(same.as_ptr(), place);
        assert_ne!(other.as_ptr(), place, "it is in use");
    }

    #[test]
    fn no_order_of_lengths_takes_more_than_the_bound_and_one_blob_more() {
        let mut blobs = BlobMemory::default();
        let mut dice = 1_u32;
        let mut out = Vec::new();
        for _ in 0..20_000 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let length = [0, 20, 4_000, 70_000, 140_000, 300_000, MIB, MIB + (64 << 10)][(dice >> 13) as usize % 8];
            if blobs.have_room() && dice >> 31 == 0 {
                let blob = blobs.take(length);
                assert!(blob.is_empty() && blob.capacity() >= length);
                out.push(blob);
            } else if !out.is_empty() {
                blobs.give_back(out.swap_remove((dice >> 7) as usize % out.len()));
            }
            assert!(sum(&blobs) <= MAX_BYTES + MIB + (64 << 10), "{}", sum(&blobs));
            assert!(blobs.kept.len() <= MAX_IN_FLIGHT);
        }
        out.into_iter().for_each(|blob| blobs.give_back(blob));
        assert_eq!(blobs.in_flight, 0);
        assert!(sum(&blobs) <= MAX_BYTES);
    }
}
