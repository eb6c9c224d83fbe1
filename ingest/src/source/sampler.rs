//! The sampler: it chooses which of a camera's decoded frames are analysed.
//!
//! The choice depends on presentation times alone, so the same footage gives the same frames,
//! however fast the machine is. `videorate max-rate` does not serve here: its rate is a whole
//! number, and it passes every frame of a stream that announces no frame rate (0/1), as many RTSP
//! cameras do.

/// Keeps about `fps` frames a second of media time. Times are nanoseconds on any timeline.
#[derive(Clone, Debug)]
pub struct Sampler {
    period: u64,
    due: Option<u64>,
    previous: Option<u64>,
}

impl Sampler {
    /// A sampler that keeps `fps` frames a second; `fps` is above 0.
    pub fn new(fps: f64) -> Self {
        Self { period: ((1e9 / fps).round() as u64).max(1), due: None, previous: None }
    }

    /// Whether to keep the frame at time `at`. The first frame is always kept.
    ///
    /// Of the frames around a due time the nearest is kept, at most a quarter period early: a
    /// camera that sends exactly `fps` frames a second, with jitter, then loses none. After a gap
    /// or a jump back in time the due times start again at that frame.
    pub fn keep(&mut self, at: u64) -> bool {
        let since = self.previous.replace(at).map_or(0, |p| at.saturating_sub(p));
        let slack = (since / 2).min(self.period / 4);
        let next = match self.due {
            Some(due) if at.saturating_add(slack) < due && due - at <= self.period.saturating_mul(2) => return false,
            Some(due) if at.abs_diff(due) < self.period => due.saturating_add(self.period),
            _ => at.saturating_add(self.period),
        };
        self.due = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn kept(fps: f64, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut s = Sampler::new(fps);
        times.into_iter().filter(|t| s.keep(*t)).collect()
    }

    #[test]
    fn a_tiny_rate_does_not_overflow() {
        assert_eq!(kept(f64::MIN_POSITIVE, [0, 1, u64::MAX - 1, u64::MAX])[0], 0);
    }

    #[test]
    fn five_fps_keeps_every_fifth_frame_of_25_fps() {
        let got = kept(5.0, (0..250).map(|i| i * 40 * MS));
        assert_eq!(got.len(), 50);
        assert_eq!(got[..3], [0, 200 * MS, 400 * MS]);
    }

    #[test]
    fn a_camera_at_exactly_the_rate_loses_nothing_to_jitter() {
        let times: Vec<u64> = (0..100).map(|i| 1000 * MS + i * 200 * MS - (i % 3) * 20 * MS).collect();
        assert_eq!(kept(5.0, times.clone()), times);
    }

    #[test]
    fn a_gap_and_a_jump_back_start_anew() {
        assert_eq!(kept(1.0, [0, 10_000 * MS, 10_100 * MS, 11_000 * MS]), [0, 10_000 * MS, 11_000 * MS]);
        assert_eq!(kept(1.0, [60_000 * MS, 0, 100 * MS, 1000 * MS]), [60_000 * MS, 0, 1000 * MS]);
    }

    proptest! {
        #[test]
        fn never_more_than_asked_for(fps in 0.1f64..60.0, steps in prop::collection::vec(1u64..200, 1..400)) {
            let mut t = 0;
            let times: Vec<u64> = steps.iter().map(|s| { t += s * MS; t }).collect();
            let span = (times[times.len() - 1] - times[0]) as f64 * 1e-9;
            prop_assert!(kept(fps, times).len() as f64 <= span * fps + 1.5);
        }
    }
}
