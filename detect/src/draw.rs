//! Draws boxes on a picture, to show what the detector sees.

use sightline_core::RgbImage;

use crate::Detection;

/// Colour of the lines: a green that is rare in streets.
const LINE: [u8; 3] = [0, 255, 96];

/// Returns a copy of `image` with the outline of each detection. Lines are 1/300 of the longer side
/// thick, at least 2 pixels, and more transparent the less certain the detection is.
pub fn draw(image: &RgbImage, detections: &[Detection]) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let thick = (width.max(height) / 300).max(2);
    let mut pixels = image.data().to_vec();
    for d in detections {
        let b = d.bbox.clip(image.width(), image.height());
        let (x0, y0) = (b.x0.floor() as usize, b.y0.floor() as usize);
        let (x1, y1) = (b.x1.ceil() as usize, b.y1.ceil() as usize);
        let cover = d.score.clamp(0.3, 1.0);
        for y in y0..y1 {
            let whole = y < y0 + thick || y + thick >= y1;
            for x in x0..x1 {
                if whole || x < x0 + thick || x + thick >= x1 {
                    let at = (y * width + x) * 3;
                    for (p, line) in pixels[at..at + 3].iter_mut().zip(LINE) {
                        *p = (f32::from(*p) * (1.0 - cover) + f32::from(line) * cover) as u8;
                    }
                }
            }
        }
    }
    // The size is that of the source, so this cannot fail; if it did, the unchanged picture is the
    // best answer.
    RgbImage::new(image.width(), image.height(), pixels).unwrap_or_else(|_| image.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::BBox;

    #[test]
    fn draws_an_outline_and_nothing_else() {
        let image = RgbImage::new(20, 16, vec![10u8; 20 * 16 * 3]).expect("320 pixels");
        let bbox = BBox { x0: 4.0, y0: 3.0, x1: 14.0, y1: 30.0 };
        let drawn = draw(&image, &[Detection { bbox, score: 1.0 }]);
        let at = |x: usize, y: usize| &drawn.data()[(y * 20 + x) * 3..][..3];
        assert_eq!((at(4, 3), at(5, 9), at(13, 9), at(9, 15)), (&LINE[..], &LINE[..], &LINE[..], &LINE[..]));
        assert_eq!((at(3, 9), at(9, 9), at(14, 9)), (&[10; 3][..], &[10; 3][..], &[10; 3][..]));
        assert_eq!(draw(&image, &[]).data(), image.data());
    }
}
