use std::io::{self, Cursor};

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::format::{Kind, Source};
use crate::testing::{self, Dice, WINDOW, disk_like, options, record, release};
use crate::window::ReadAt;

fn build(images: &[Image<'_>], options: &Options) -> Result<(Vec<u8>, Built), Error> {
    let (mut spool, mut out) = (Cursor::new(Vec::new()), Vec::new());
    let built = full(images, options, &mut spool, &mut out, &mut |_| {})?;
    Ok((out, built))
}

fn assert_round_trip(images: &[(&str, &[u8])], options: &Options) {
    let (payload, built) = testing::full(images, options);
    let release = release(images);
    for (made, image) in built.windows.iter().zip(&release.record().images) {
        assert_eq!(*made, image.table);
    }
    let table = FrameTable::read(&payload, payload.len() as u64, &record(images)).unwrap();
    let checked = testing::check(release.record(), &table, &payload, &[], options.threads, &mut |_| {});
    assert_eq!(checked.wrong, 0, "{:?}", checked.faults);
    assert_eq!(checked.right, table.images().iter().map(|image| image.window_count()).sum::<u64>());
}

#[test]
fn images_of_any_size_come_back() {
    for size in [1, 4095, 4096, WINDOW - 1, WINDOW, WINDOW + 1, 4 * WINDOW, 4 * WINDOW + 1, 9 * WINDOW - 3] {
        for frame_windows in [1, 3, 4, 100] {
            assert_round_trip(&[("root", &disk_like(size as u64, size))], &options(2, frame_windows));
        }
    }
}

#[test]
fn several_images_come_back() {
    let (root, verity, kernel) = (disk_like(1, 5 * WINDOW + 3), disk_like(2, 1000), vec![0; 2 * WINDOW]);
    assert_round_trip(&[("root", &root), ("verity", &verity), ("kernel", &kernel)], &options(2, 4));
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let (root, boot) = (disk_like(5, 7 * WINDOW + 9), disk_like(6, 2 * WINDOW));
    let images: [(&str, &[u8]); 2] = [("root", &root), ("boot", &boot)];
    for level in [3, 12, 19] {
        let one = testing::full(&images, &Options { level, ..options(1, 4) }).0;
        let four = testing::full(&images, &Options { level, ..options(4, 4) }).0;
        let again = testing::full(&images, &Options { level, ..options(4, 4) }).0;
        assert!(one == four && four == again, "level {level}");
    }
}

#[test]
fn zeros_and_noise_take_no_more_than_they_must() {
    let image = [vec![0; 40 * WINDOW], Dice::new(1).bytes(4 * WINDOW)].concat();
    let (payload, built) = testing::full(&[("root", &image)], &options(2, 4));
    let totals = built.table.totals();
    assert_eq!(totals[&Kind::Zero].frames, 10, "1 MiB a frame");
    assert_eq!(totals[&Kind::Raw].frames, 1);
    assert!(payload.len() < 4 * WINDOW + 300, "{}", payload.len());
}

#[test]
fn payloads_lean_on_themselves_and_on_no_more_than_a_quarter_of_the_images() {
    // Every 128 KiB come again, each time with a little that is new.
    let (mut dice, once) = (Dice::new(8), Dice::new(7).bytes(WINDOW / 2));
    let image: Vec<u8> = (0..80)
        .flat_map(|_| {
            let mut again = once.clone();
            (0..10).for_each(|_| again[dice.below(WINDOW / 2)] ^= 0x21);
            again
        })
        .collect();
    let (payload, built) = testing::full(&[("root", &image)], &options(2, 4));
    assert!(payload.len() < WINDOW, "{}", payload.len());
    let own: u64 = built.table.frames().flat_map(|frame| frame.extents()).map(|extent| extent.length).sum();
    assert!(own > 0 && own <= image.len() as u64 / 4, "{own}");
    assert_round_trip(&[("root", &image)], &options(2, 4));
    // Where places bring the same to every frame, and there are too many for all, most frames have them.
    let (mut dice, once) = (Dice::new(8), Dice::new(7).bytes(2 * WINDOW));
    let alike: Vec<u8> = (0..20)
        .flat_map(|_| {
            let mut again = once.clone();
            (0..40).for_each(|_| again[dice.below(2 * WINDOW)] ^= 0x21);
            again
        })
        .collect();
    let (_, built) = testing::full(&[("root", &alike)], &options(2, 4));
    let own: u64 = built.table.frames().flat_map(|frame| frame.extents()).map(|extent| extent.length).sum();
    assert!(own > alike.len() as u64 / 8 && own <= alike.len() as u64 / 4, "{own}");
    // Of what is made of more than one place each, only the best is taken.
    let mixed: Vec<u8> = (0..60)
        .flat_map(|round| {
            let mut window = Dice::new(round % 7).bytes(WINDOW);
            window[WINDOW / 2..].copy_from_slice(&Dice::new(round % 5 + 100).bytes(WINDOW / 2));
            window
        })
        .collect();
    let (_, built) = testing::full(&[("root", &mixed)], &options(2, 4));
    let own: u64 = built.table.frames().flat_map(|frame| frame.extents()).map(|extent| extent.length).sum();
    assert!(own > 0 && own <= mixed.len() as u64 / 4, "{own}");
    // Nor do deltas take more, whatever else they lean on.
    let table = testing::delta(&[("root", &once)], &[("root", &mixed)], &options(2, 1)).1.table;
    let extents = table.frames().flat_map(|frame| frame.extents()).filter(|extent| extent.source == Source::Target);
    let own: u64 = extents.map(|extent| extent.length).sum();
    assert!(own > 0 && own <= mixed.len() as u64 / 4, "{own}");
}

#[test]
fn a_frame_never_makes_more_than_1_mib() {
    let (_, built) = testing::full(&[("root", &vec![1; 9 * WINDOW])], &options(1, u32::MAX));
    assert_eq!(built.table.frames().map(|frame| frame.output_len()).collect::<Vec<_>>(), [4 * WINDOW, 4 * WINDOW, WINDOW]);
}

#[test]
fn progress_rises_to_the_whole() {
    let data = disk_like(1, 9 * WINDOW);
    let image = Image { name: "root", slot: None, size: data.len() as u64, data: &data };
    let (mut spool, mut out, mut seen) = (Cursor::new(Vec::new()), Vec::new(), Vec::new());
    let built = full(&[image], &options(2, 4), &mut spool, &mut out, &mut |progress| seen.push(progress)).unwrap();
    assert!(seen.is_sorted_by_key(|progress| (progress.phase == Phase::Making, progress.done, progress.blobs)));
    let looked = seen.iter().rfind(|progress| progress.phase == Phase::Looking).unwrap();
    assert_eq!((looked.done, looked.total), (2 * image.size, 2 * image.size));
    let last = seen.last().unwrap();
    assert_eq!((last.done, last.total), (image.size, image.size));
    assert_eq!(last.blobs, out.len() as u64 - built.table.header().table_range().end);
}

/// Claims to be of any size and must not be read.
struct Untouchable;

impl ReadAt for Untouchable {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        panic!("an image that must be refused by its size was read");
    }
}

#[test]
fn sizes_that_no_record_could_hold_are_refused_before_a_byte_is_read() {
    let image = |size| Image { name: "root", slot: None, size, data: &Untouchable };
    let refusal = |images: &[Image<'_>]| build(images, &options(2, 4)).unwrap_err().to_string();
    assert_eq!(refusal(&[image(0)]), "image \"root\": size: expected 1 byte to 128 GiB, got 0");
    for size in [(128 << 30) + 1, 1 << 60, u64::MAX] {
        assert!(refusal(&[image(size)]).starts_with("image \"root\": size: expected 1 byte to 128 GiB"));
    }
    assert_eq!(refusal(&[image(100 << 30); 2]), "windows of all images: expected at most 131072, got 204800");
    assert_eq!(refusal(&[]), "number of images: expected 1 to 16, got 0");
    assert_eq!(refusal(&[image(1); 17]), "number of images: expected 1 to 16, got 17");
}

#[test]
fn a_level_out_of_range_is_refused() {
    let data = vec![1; 10];
    let image = Image { name: "root", slot: None, size: 10, data: &data };
    for level in [i32::MIN, 0, 23] {
        let error = build(&[image], &Options { level, ..options(1, 1) }).unwrap_err().to_string();
        assert_eq!(error, format!("zstd: expected a level from 1 to 22, got {level}"));
    }
}

#[test]
fn an_image_that_shrinks_meanwhile_is_an_error_with_its_place() {
    let data = disk_like(1, 5 * WINDOW);
    let image = Image { name: "root", slot: None, size: 6 * WINDOW as u64, data: &data };
    let error = build(&[image], &options(2, 4)).unwrap_err().to_string();
    assert_eq!(error, "image \"root\": cannot read 1572864 bytes at byte 0");
}

/// Takes `room` bytes, then has no space.
struct Full {
    room: usize,
}

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.room.checked_sub(bytes.len()) {
            Some(room) => {
                self.room = room;
                Ok(bytes.len())
            }
            None => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_strikes() {
    let data = disk_like(1, 5 * WINDOW);
    let image = Image { name: "root", slot: None, size: data.len() as u64, data: &data };
    let (payload, _) = build(&[image], &options(2, 4)).unwrap();
    for room in (0..payload.len()).step_by(40_009) {
        let mut spool = Cursor::new(Vec::new());
        let result = full(&[image], &options(2, 4), &mut spool, &mut Full { room }, &mut |_| {});
        assert!(matches!(result, Err(Error::Write { .. })), "{room} bytes of room");
    }
}

fn any_image() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (any::<u8>(), 1_usize..200_000, any::<u64>()).prop_map(|(kind, length, seed)| match kind % 3 {
        0 => vec![0; length],
        1 => vec![kind; length],
        _ => Dice::new(seed).bytes(length),
    });
    proptest::collection::vec(stretch, 1..12).prop_map(|stretches| stretches.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_image_comes_back(image in any_image(), threads in 1_usize..4, frame_windows in 1_u32..6) {
        assert_round_trip(&[("root", &image)], &options(threads, frame_windows));
    }
}
