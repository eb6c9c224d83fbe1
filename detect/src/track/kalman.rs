//! Constant-velocity Kalman filter on a box: centre x, centre y, aspect (width / height) and
//! height.
//!
//! As in SORT's successors (DeepSORT, ByteTrack) all noise is diagonal and scales with the height,
//! so a coordinate is only correlated with its own velocity: the 8-state filter is four independent
//! 2-state filters. This form gives the reference's numbers, needs no matrix inversion, and keeps
//! the covariance symmetric by construction.

/// Standard deviation of a position per height: of a measurement, of the start (twice), and of the
/// motion in a frame.
const POSITION: f64 = 1.0 / 20.0;
/// The same for a velocity (per frame).
const VELOCITY: f64 = 1.0 / 160.0;
/// Index of the aspect ratio, whose deviations are absolute.
const ASPECT: usize = 2;
/// Index of the height.
const HEIGHT: usize = 3;

/// One coordinate and its velocity per nominal frame, with their covariance.
#[derive(Clone, Copy, Debug)]
struct Axis {
    x: f64,
    v: f64,
    xx: f64,
    xv: f64,
    vv: f64,
}

/// State of one box.
#[derive(Clone, Debug)]
pub struct Kalman {
    axes: [Axis; 4],
}

/// Variances of (position, velocity) for a box of `height`: `p` and `v` times the height, constants
/// for the aspect.
fn variances(height: f64, p: f64, v: f64, aspect: (f64, f64)) -> [(f64, f64); 4] {
    let by_height = ((p * height).powi(2), (v * height).powi(2));
    let mut all = [by_height; 4];
    all[ASPECT] = (aspect.0 * aspect.0, aspect.1 * aspect.1);
    all
}

impl Kalman {
    /// Starts at rest at a measured `[cx, cy, aspect, height]`.
    pub fn initiate(z: [f64; 4]) -> Self {
        let var = variances(z[HEIGHT], 2.0 * POSITION, 10.0 * VELOCITY, (1e-2, 1e-5));
        Self { axes: std::array::from_fn(|k| Axis { x: z[k], v: 0.0, xx: var[k].0, xv: 0.0, vv: var[k].1 }) }
    }

    /// Starts from a mean of 8 (positions, then velocities) and an 8 x 8 covariance, of which only
    /// the entries between a coordinate and itself or its velocity are read.
    pub fn from_moments(mean: [f64; 8], cov: &[[f64; 8]; 8]) -> Self {
        Self {
            axes: std::array::from_fn(|k| Axis {
                x: mean[k],
                v: mean[k + 4],
                xx: cov[k][k],
                xv: cov[k][k + 4],
                vv: cov[k + 4][k + 4],
            }),
        }
    }

    /// Predicts the state `dt` frames of the nominal rate ahead.
    ///
    /// One frame is the reference's step. `n` frames at once give what `n` single steps at this
    /// height give, and the closed form holds for fractions too. `dt = 0` changes nothing.
    pub fn predict(&mut self, dt: f64) {
        let var = variances(self.axes[HEIGHT].x, POSITION, VELOCITY, (1e-2, 1e-5));
        for (a, (q, r)) in self.axes.iter_mut().zip(var) {
            let (lag, lag_squared) = (dt * (dt - 1.0) / 2.0, dt * (dt - 1.0) * (2.0 * dt - 1.0) / 6.0);
            a.x += dt * a.v;
            a.xx += 2.0 * dt * a.xv + dt * dt * a.vv + dt * q + lag_squared * r;
            a.xv += dt * a.vv + lag * r;
            a.vv += dt * r;
        }
    }

    /// Sets the velocity of the height to zero: a track that is not seen keeps its height.
    pub fn hold_height(&mut self) {
        self.axes[HEIGHT].v = 0.0;
    }

    /// Corrects the state with a measured `[cx, cy, aspect, height]`.
    pub fn update(&mut self, z: [f64; 4]) {
        let noise = self.measurement_variances();
        for ((a, z), r) in self.axes.iter_mut().zip(z).zip(noise) {
            let s = a.xx + r;
            let (gain_x, gain_v) = (a.xx / s, a.xv / s);
            let innovation = z - a.x;
            a.x += gain_x * innovation;
            a.v += gain_v * innovation;
            a.vv -= gain_v * a.xv;
            // (1 - gain) written as r / s avoids a difference of near-equal numbers, so the
            // variance stays positive.
            a.xv *= r / s;
            a.xx *= r / s;
        }
    }

    fn measurement_variances(&self) -> [f64; 4] {
        variances(self.axes[HEIGHT].x, POSITION, VELOCITY, (1e-1, 1e-1)).map(|(p, _)| p)
    }

    /// Mean and variances of the measurement expected now.
    pub fn project(&self) -> ([f64; 4], [f64; 4]) {
        let noise = self.measurement_variances();
        (self.axes.map(|a| a.x), std::array::from_fn(|k| self.axes[k].xx + noise[k]))
    }

    /// Mean: cx, cy, aspect, height, and their velocities per frame.
    pub fn mean(&self) -> [f64; 8] {
        std::array::from_fn(|k| if k < 4 { self.axes[k].x } else { self.axes[k - 4].v })
    }

    /// Covariance, 8 x 8 in the order of [`Kalman::mean`].
    pub fn covariance(&self) -> [[f64; 8]; 8] {
        let mut c = [[0.0; 8]; 8];
        for (k, a) in self.axes.iter().enumerate() {
            c[k][k] = a.xx;
            c[k + 4][k + 4] = a.vv;
            c[k][k + 4] = a.xv;
            c[k + 4][k] = a.xv;
        }
        c
    }

    /// The box `[x0, y0, x1, y1]` of the mean.
    pub fn tlbr(&self) -> [f64; 4] {
        let [cx, cy, aspect, h] = self.axes.map(|a| a.x);
        let w = aspect * h;
        let (x, y) = (cx - w / 2.0, cy - h / 2.0);
        [x, y, x + w, y + h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn several_frames_at_once_equal_single_steps() {
        let mut once = Kalman::initiate([100.0, 200.0, 0.4, 90.0]);
        once.predict(1.0);
        once.update([104.0, 199.0, 0.41, 90.0]);
        let mut steps = once.clone();
        // The height changes a little between the single steps, and the noise with it: hold it for
        // the comparison.
        once.hold_height();
        steps.hold_height();
        once.predict(6.0);
        (0..6).for_each(|_| steps.predict(1.0));
        for (a, b) in once.mean().iter().zip(steps.mean()) {
            assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()));
        }
        for (a, b) in once.covariance().as_flattened().iter().zip(steps.covariance().as_flattened()) {
            assert!((a - b).abs() <= 1e-10 * (1e-6 + b.abs()), "{a} {b}");
        }
    }

    #[test]
    fn a_zero_time_step_changes_nothing() {
        let mut k = Kalman::initiate([100.0, 200.0, 0.4, 90.0]);
        let before = (k.mean(), k.covariance());
        k.predict(0.0);
        assert_eq!((k.mean(), k.covariance()), before);
    }

    proptest! {
        #[test]
        fn covariance_stays_symmetric_and_positive(
            steps in proptest::collection::vec((0.0..90.0f64, prop::option::of((-300.0..300.0f64, 0.1..5.0f64, 10.0..900.0f64))), 1..200),
        ) {
            let mut k = Kalman::initiate([0.0, 0.0, 0.4, 80.0]);
            for (dt, seen) in steps {
                k.predict(dt);
                if let Some((x, aspect, h)) = seen {
                    k.update([x, -x, aspect, h]);
                } else {
                    k.hold_height();
                }
                let c = k.covariance();
                for (i, row) in c.iter().enumerate() {
                    prop_assert!(row[i] > 0.0 && row[i].is_finite());
                    prop_assert!(row.iter().zip(&c).all(|(v, mirror)| *v == mirror[i]));
                }
                // Positive definite: every 2 x 2 block has a positive determinant, relative to its
                // diagonal.
                for (i, row) in c.iter().enumerate().take(4) {
                    prop_assert!(row[i + 4].powi(2) < row[i] * c[i + 4][i + 4]);
                }
            }
        }
    }
}
