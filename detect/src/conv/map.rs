//! Feature maps: channels-last with a border of zeros, so that convolution may read past the edge
//! without a check.

use super::Buffer;

/// Zeros above and left of the picture; the border on the right and below is at least as wide (see
/// [`Map::new`]).
const BORDER: usize = 1;

/// Largest output tile of the convolutions; maps are padded to a multiple of it so that the last
/// tile may overhang.
const TILE: usize = 4;

/// A feature map of `height` x `width` pixels with `channels` values each, row-major,
/// channels-last.
#[derive(Clone)]
pub struct Map {
    height: usize,
    width: usize,
    channels: usize,
    data: Buffer,
}

/// Location of some channels of a map: the address of row 0, column 0 (inside the border) and the
/// steps from there, in values. Copied into the kernels, which work on raw addresses because a
/// layer may read some channels of a map and write others of the same map.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub origin: *mut f32,
    pub pixel: usize,
    pub row: usize,
    pub height: usize,
    pub width: usize,
}

impl View {
    /// The address of a pixel's first channel. Negative coordinates lie in the border.
    ///
    /// # Safety
    /// The pixel must lie in the map or its border.
    #[inline(always)]
    pub unsafe fn at(&self, y: isize, x: isize) -> *mut f32 {
        // SAFETY: inside the map's memory, by the caller's promise.
        unsafe { self.origin.offset(y * self.row as isize + x * self.pixel as isize) }
    }
}

impl Map {
    /// A map of zeros. The border is one pixel above and left; below and right it fills the last
    /// 4x4 tile and adds one pixel.
    pub fn new(height: usize, width: usize, channels: usize) -> Self {
        let padded = |n: usize| BORDER + n.next_multiple_of(TILE) + BORDER;
        Self { height, width, channels, data: Buffer::zeros(padded(height) * padded(width) * channels) }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Values of a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    fn row_len(&self) -> usize {
        (BORDER + self.width.next_multiple_of(TILE) + BORDER) * self.channels
    }

    fn index(&self, y: usize, x: usize) -> usize {
        assert!(y < self.height && x < self.width, "pixel ({y}, {x}) of a {}x{} map", self.height, self.width);
        (y + BORDER) * self.row_len() + (x + BORDER) * self.channels
    }

    /// The channels of the pixel in row `y`, column `x`. Panics outside the map.
    pub fn pixel(&self, y: usize, x: usize) -> &[f32] {
        let i = self.index(y, x);
        &self.data.as_slice()[i..i + self.channels]
    }

    /// The channels of a pixel, mutable. Panics outside the map.
    pub fn pixel_mut(&mut self, y: usize, x: usize) -> &mut [f32] {
        let i = self.index(y, x);
        &mut self.data.as_mut_slice()[i..i + self.channels]
    }

    /// All pixels of row `y`, one after the other, without the border. Panics outside the map.
    pub fn row(&self, y: usize) -> &[f32] {
        let i = self.index(y, 0);
        &self.data.as_slice()[i..i + self.width * self.channels]
    }

    /// All pixels of a row, mutable. Panics outside the map.
    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        let i = self.index(y, 0);
        let n = self.width * self.channels;
        &mut self.data.as_mut_slice()[i..i + n]
    }

    /// The channels from `first` on, for the kernels.
    pub(super) fn view(&mut self, first: usize) -> View {
        let row = self.row_len();
        let start = BORDER * row + BORDER * self.channels + first;
        let data = self.data.as_mut_slice();
        debug_assert!(start < data.len() || data.is_empty());
        // SAFETY: `start` is inside (or, for an empty map, at the end of) the data.
        let origin = unsafe { data.as_mut_ptr().add(start.min(data.len())) };
        View { origin, pixel: self.channels, row, height: self.height, width: self.width }
    }

    /// As [`Map::view`], for reading: nothing may be written through it.
    pub(super) fn view_to_read(&self, first: usize) -> View {
        let row = self.row_len();
        let start = BORDER * row + BORDER * self.channels + first;
        let data = self.data.as_slice();
        // SAFETY: as above.
        let origin = unsafe { data.as_ptr().add(start.min(data.len())) }.cast_mut();
        View { origin, pixel: self.channels, row, height: self.height, width: self.width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_do_not_touch_the_border() {
        let mut m = Map::new(3, 5, 2);
        for y in 0..3 {
            for x in 0..5 {
                m.pixel_mut(y, x).fill(1.0);
            }
        }
        assert_eq!(m.data.as_slice().iter().sum::<f32>(), 30.0);
        let v = m.view(1);
        for k in -1..=5 {
            // SAFETY: the row above the picture and the row below it lie in the border.
            unsafe {
                assert_eq!(*v.at(-1, k), 0.0);
                assert_eq!(*v.at(3, k), 0.0);
            }
        }
        assert_eq!(m.row(2), [1.0; 10]);
    }
}
