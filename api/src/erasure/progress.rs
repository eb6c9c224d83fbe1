//! Gauges of the unfinished erasure jobs: how many, how old, and for how long one of them has not
//! got on. Whoever asked for an erasure has been promised its end, so somebody must hear of one
//! that is stuck.

use std::collections::BTreeMap;
use std::time::Instant;

use sightline_core::Timestamp;
use uuid::Uuid;

use crate::state::ErasureJob;

/// What changes when a job gets on: the fraction done, and the counts of sightings and files.
type Position = (u64, u64, u64);

/// Position of each unfinished job, with the time since which it has not changed.
#[derive(Default)]
pub(super) struct JobsProgress {
    seen: BTreeMap<Uuid, (Position, Instant)>,
}

impl JobsProgress {
    /// Sets the gauges for these unfinished jobs.
    pub fn record(&mut self, jobs: impl Iterator<Item = ErasureJob>) {
        let (now, at) = (Timestamp::now(), Instant::now());
        let mut seen = BTreeMap::new();
        let mut oldest = 0.0f64;
        for job in jobs {
            oldest = oldest.max(now.seconds_since(job.requested_at));
            let position = (job.progress.to_bits(), job.erased.points, job.erased.files);
            let since = self.seen.get(&job.id).filter(|(before, _)| *before == position).map_or(at, |(_, at)| *at);
            seen.insert(job.id, (position, since));
        }
        self.seen = seen;
        metrics::gauge!("sightline_api_erasures_unfinished").set(self.seen.len() as f64);
        metrics::gauge!("sightline_api_erasure_oldest_seconds").set(oldest);
        metrics::gauge!("sightline_api_erasure_stalled_seconds").set(self.stalled_seconds(at));
    }

    /// Longest time for which a job has not got on.
    fn stalled_seconds(&self, now: Instant) -> f64 {
        self.seen.values().map(|(_, at)| now.duration_since(*at).as_secs_f64()).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sightline_search::Receipt;

    use super::*;
    use crate::state::JobState;

    fn job(id: u128, points: u64) -> ErasureJob {
        ErasureJob {
            id: Uuid::from_u128(id),
            removes: None,
            scopes: Vec::new(),
            requested_at: Timestamp::now() - Duration::from_secs(90),
            requested_by: "desk (ab12)".into(),
            audit_seq: 1,
            state: JobState::Failed,
            attempts: 2,
            error: None,
            retry_at: None,
            progress: 0.5,
            erased: Receipt { points, ..Receipt::default() },
            receipt: None,
            finished_at: None,
        }
    }

    #[test]
    fn one_that_is_stuck_shows_beside_one_that_gets_on() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let gauge = |name: &str| -> f64 {
            let text = recorder.handle().render();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
            line.expect("recorded").parse().expect("a number")
        };
        let mut jobs = JobsProgress::default();
        metrics::with_local_recorder(&recorder, || {
            jobs.record([job(1, 7), job(2, 7)].into_iter());
            assert_eq!(gauge("sightline_api_erasures_unfinished"), 2.0);
            assert!((89.0..100.0).contains(&gauge("sightline_api_erasure_oldest_seconds")));
            std::thread::sleep(Duration::from_millis(60));
            jobs.record([job(1, 8), job(2, 7)].into_iter());
            assert!(gauge("sightline_api_erasure_stalled_seconds") >= 0.06, "the second one is stuck");
            jobs.record([job(1, 8)].into_iter());
            let stalled = gauge("sightline_api_erasure_stalled_seconds");
            assert!(stalled < 0.06, "the second one is done: {stalled}");
            jobs.record(std::iter::empty());
            assert_eq!(gauge("sightline_api_erasures_unfinished"), 0.0);
            assert_eq!(gauge("sightline_api_erasure_oldest_seconds"), 0.0);
        });
    }
}
