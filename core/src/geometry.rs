//! Boxes in source pixels.

use serde::{Deserialize, Serialize};

/// An axis-aligned box in source pixels: `x0 <= x < x1`, `y0 <= y < y1`. Written `[x0, y0, x1, y1]`
/// in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "[f32; 4]", into = "[f32; 4]")]
pub struct BBox {
    /// Left edge.
    pub x0: f32,
    /// Top edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Bottom edge.
    pub y1: f32,
}

impl From<[f32; 4]> for BBox {
    fn from([x0, y0, x1, y1]: [f32; 4]) -> Self {
        Self { x0, y0, x1, y1 }
    }
}

impl From<BBox> for [f32; 4] {
    fn from(b: BBox) -> Self {
        [b.x0, b.y0, b.x1, b.y1]
    }
}

impl BBox {
    /// Width in pixels, never negative.
    pub fn width(self) -> f32 {
        (self.x1 - self.x0).max(0.0)
    }

    /// Height in pixels, never negative.
    pub fn height(self) -> f32 {
        (self.y1 - self.y0).max(0.0)
    }

    /// Area in square pixels.
    pub fn area(self) -> f32 {
        self.width() * self.height()
    }

    /// Area of the common part in square pixels.
    pub fn intersection(self, o: Self) -> f32 {
        let w = (self.x1.min(o.x1) - self.x0.max(o.x0)).max(0.0);
        let h = (self.y1.min(o.y1) - self.y0.max(o.y0)).max(0.0);
        w * h
    }

    /// Intersection over union, 0 for empty boxes.
    pub fn iou(self, o: Self) -> f32 {
        let i = self.intersection(o);
        let u = self.area() + o.area() - i;
        if u > 0.0 { i / u } else { 0.0 }
    }

    /// The part inside an image of `width` x `height` pixels.
    pub fn clip(self, width: u32, height: u32) -> Self {
        let (w, h) = (width as f32, height as f32);
        Self {
            x0: self.x0.clamp(0.0, w),
            y0: self.y0.clamp(0.0, h),
            x1: self.x1.clamp(0.0, w),
            y1: self.y1.clamp(0.0, h),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxes() -> impl Strategy<Value = BBox> {
        (0f32..500.0, 0f32..500.0, 0f32..200.0, 0f32..200.0).prop_map(|(x, y, w, h)| BBox {
            x0: x,
            y0: y,
            x1: x + w,
            y1: y + h,
        })
    }

    proptest! {
        #[test]
        fn iou_is_symmetric_and_bounded(a in boxes(), b in boxes()) {
            prop_assert_eq!(a.iou(b), b.iou(a));
            prop_assert!((0.0..=1.0001).contains(&a.iou(b)));
        }

        #[test]
        fn clipping_never_grows(a in boxes()) {
            prop_assert!(a.clip(320, 240).area() <= a.area() + 1e-3);
        }
    }
}
