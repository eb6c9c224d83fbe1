//! The size at which a picture is analysed: square pixels, aspect ratio kept, at most the
//! configured height.

/// Width and height for a picture of `width` x `height` pixels with the pixel aspect ratio
/// `par.0`:`par.1`, at most `max_height` high. Never enlarged beyond what square pixels need; at
/// least 1 x 1.
pub fn fit(width: u32, height: u32, par: (u32, u32), max_height: u32) -> (u32, u32) {
    let (num, den) = if par.0 == 0 || par.1 == 0 { (1, 1) } else { par };
    let square = f64::from(width) * f64::from(num) / f64::from(den);
    let high = height.min(max_height).max(1);
    let wide = (square * f64::from(high) / f64::from(height.max(1))).round();
    ((wide as u32).max(1), high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_pictures_stay_and_large_ones_shrink() {
        assert_eq!(fit(322, 242, (1, 1), 1080), (322, 242));
        assert_eq!(fit(101, 75, (1, 1), 1080), (101, 75));
        assert_eq!(fit(3840, 2160, (1, 1), 1080), (1920, 1080));
        assert_eq!(fit(1080, 1920, (1, 1), 960), (540, 960));
        // D1: 704 x 576 with pixels of 12:11 shows as 768 x 576.
        assert_eq!(fit(704, 576, (12, 11), 1080), (768, 576));
        assert_eq!(fit(0, 0, (0, 0), 1080), (1, 1));
    }

    proptest! {
        #[test]
        fn aspect_is_kept_to_half_a_pixel(w in 16u32..8192, h in 16u32..8192, max in 64u32..2160) {
            let (x, y) = fit(w, h, (1, 1), max);
            prop_assert!(y <= max && y <= h && x <= w);
            prop_assert!((f64::from(x) - f64::from(w) * f64::from(y) / f64::from(h)).abs() <= 0.5001);
        }
    }
}
