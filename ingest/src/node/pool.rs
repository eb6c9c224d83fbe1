//! The pool of detectors that all cameras share. A detector keeps a core busy, so there are as many
//! as may run at once, and each camera's analysis borrows one for one frame. A camera that waits
//! for a detector drops frames.

use std::time::Duration;

use sightline_core::RgbImage;
use sightline_core::queue::Queue;
use sightline_detect::{Detection, Detector};

/// Makes detectors: one per thread at the start, and a replacement for one that panicked.
pub type DetectorFactory = dyn Fn() -> Box<dyn Detector> + Send + Sync;

/// A fixed number of detectors, each lent for one frame at a time.
pub struct DetectorPool {
    free: Queue<Box<dyn Detector>>,
    make: Box<DetectorFactory>,
}

impl std::fmt::Debug for DetectorPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DetectorPool({} free)", self.free.len())
    }
}

impl DetectorPool {
    /// Makes `threads` (at least 1) detectors with `make`.
    pub fn new(threads: usize, make: Box<DetectorFactory>) -> Self {
        let free = Queue::new(threads.max(1));
        for _ in 0..threads.max(1) {
            free.push(make());
        }
        Self { free, make }
    }

    /// Waits for a free detector and runs it on the image. A panic inside becomes an error.
    ///
    /// # Errors
    /// The detector's error.
    pub fn detect(&self, image: &RgbImage) -> Result<Vec<Detection>, String> {
        let mut detector = loop {
            if let Some(d) = self.free.pop(Duration::from_secs(60)) {
                break d;
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let found = detector.detect(image);
            (detector, found)
        }));
        match result {
            Ok((detector, found)) => {
                self.free.push(detector);
                found.map_err(|e| e.to_string())
            }
            Err(_) => {
                // The detector that panicked is discarded.
                self.free.push((self.make)());
                Err("the detector panicked".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_detect::DetectError;

    struct Moody(u32);

    impl Detector for Moody {
        fn detect(&mut self, image: &RgbImage) -> Result<Vec<Detection>, DetectError> {
            self.0 += 1;
            assert!(image.width() != 13, "thirteen");
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_panic_costs_one_frame_and_no_detector() {
        let pool = DetectorPool::new(1, Box::new(|| Box::new(Moody(0))));
        let image = |w: u32| RgbImage::new(w, 1, vec![0u8; w as usize * 3]).expect("sizes match");
        assert!(pool.detect(&image(13)).expect_err("panicked").contains("panicked"));
        assert!(pool.detect(&image(12)).expect("works again").is_empty());
        assert_eq!(pool.free.len(), 1);
    }
}
