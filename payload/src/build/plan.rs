//! How images are cut into pieces, each of which becomes a frame.

use std::num::NonZeroU32;

use manifests::limits::{MAX_IMAGES, MAX_WINDOWS};
use manifests::release::WindowTable;

use super::Image;
use crate::error::Error;
use crate::limits::MAX_OUTPUT_BYTES;
use crate::window::checked_count;

/// How the images are cut into frames: each image from its start, `frame_windows` at a time.
pub(super) struct Plan<'a> {
    images: Vec<PlannedImage<'a>>,
    pub(super) count: u64,
}

struct PlannedImage<'a> {
    image: Image<'a>,
    /// Number of its first frame.
    first: u64,
    windows: u64,
    window_size: u32,
    frame_windows: u32,
}

/// The output of one frame to be made.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) image: Image<'a>,
    pub(super) image_index: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) windows: u32,
    pub(super) window_size: u32,
}

impl<'a> Plan<'a> {
    pub(super) fn new(images: &[Image<'a>], frame_windows: NonZeroU32) -> Result<Self, Error> {
        if images.is_empty() || images.len() > MAX_IMAGES {
            return Err(Error::field("number of images", format!("1 to {MAX_IMAGES}"), images.len()));
        }
        let (mut planned, mut count, mut windows) = (Vec::new(), 0_u64, 0_u64);
        for image in images {
            let image = PlannedImage::new(*image, count, frame_windows)?;
            count += image.frames();
            windows += image.windows;
            planned.push(image);
        }
        if windows > MAX_WINDOWS {
            return Err(Error::field("windows of all images", format!("at most {MAX_WINDOWS}"), windows));
        }
        Ok(Self { images: planned, count })
    }

    pub(super) fn piece(&self, index: u64) -> Result<Piece<'a>, Error> {
        let at = self.images.partition_point(|image| image.first <= index).checked_sub(1);
        at.and_then(|at| self.images.get(at)?.piece(at, index))
            .ok_or_else(|| Error::field("frame", format!("below {}", self.count), index))
    }
}

impl<'a> PlannedImage<'a> {
    fn new(image: Image<'a>, first: u64, frame_windows: NonZeroU32) -> Result<Self, Error> {
        let windows = checked_count(image.name, image.size)?;
        let window_size = WindowTable::standard_window_size(image.size);
        let frame_windows = frame_windows.get().min(MAX_OUTPUT_BYTES / window_size);
        Ok(Self { image, first, windows, window_size, frame_windows })
    }

    fn frames(&self) -> u64 {
        self.windows.div_ceil(u64::from(self.frame_windows))
    }

    fn piece(&self, image_index: usize, index: u64) -> Option<Piece<'a>> {
        let first_window = index.checked_sub(self.first)?.checked_mul(u64::from(self.frame_windows))?;
        let left = self.windows.checked_sub(first_window).filter(|left| *left > 0)?;
        let windows = u32::try_from(left).map_or(self.frame_windows, |left| left.min(self.frame_windows));
        let offset = first_window * u64::from(self.window_size);
        let length = (u64::from(windows) * u64::from(self.window_size)).min(self.image.size - offset);
        Some(Piece { image: self.image, image_index, offset, length, windows, window_size: self.window_size })
    }
}
