//! Job queue of the inference thread: two lanes, queries before crops.
//!
//! Queries go first, because someone waits for them. After [`QUERIES_IN_A_ROW`] of them, one batch
//! of the crops that wait has its turn, so that an endless stream of searches cannot keep the crops
//! of the cameras out of the index.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use sightline_core::{PatchFeatures, RgbImage};
use tokio::sync::oneshot;

use crate::text::Caption;
use crate::{EmbedError, ImageFeatures, MatchScore, TextQuery};

/// Queries taken in a row while crops wait. A search is two jobs, its text and the match of its
/// candidates, so that two searches are answered without a batch of crops between them; under an
/// endless stream of searches, every fifth job is a batch of crops.
const QUERIES_IN_A_ROW: usize = 4;

/// Channel for the answer to a job.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EmbedError>>;

/// Pictures of one job, embedded batch by batch.
pub(crate) struct ImageWork {
    pub(crate) waiting: VecDeque<RgbImage>,
    pub(crate) done: Vec<ImageFeatures>,
    pub(crate) reply: Reply<Vec<ImageFeatures>>,
    urgent: bool,
}

/// A job of the inference thread.
pub(crate) enum Job {
    Images(ImageWork),
    Text { caption: Caption, reply: Reply<TextQuery> },
    Match { query: TextQuery, images: Vec<PatchFeatures>, reply: Reply<Vec<Option<MatchScore>>> },
}

impl Job {
    pub(crate) fn images(images: Vec<RgbImage>, urgent: bool, reply: Reply<Vec<ImageFeatures>>) -> Self {
        Self::Images(ImageWork { waiting: images.into(), done: Vec::new(), reply, urgent })
    }

    fn urgent(&self) -> bool {
        !matches!(self, Self::Images(work) if !work.urgent)
    }
}

#[derive(Default)]
struct Lanes {
    queries: VecDeque<Job>,
    crops: VecDeque<Job>,
    /// Queries taken since the last batch of crops, while crops waited.
    queries_taken: usize,
    closed: bool,
}

impl Lanes {
    fn lane(&mut self, job: &Job) -> &mut VecDeque<Job> {
        if job.urgent() { &mut self.queries } else { &mut self.crops }
    }

    /// Removes the next job: a query, unless there is none or it is the turn of the crops.
    fn take(&mut self) -> Option<Job> {
        if self.crops.is_empty() {
            self.queries_taken = 0;
            return self.queries.pop_front();
        }
        if self.queries_taken < QUERIES_IN_A_ROW
            && let Some(query) = self.queries.pop_front()
        {
            self.queries_taken += 1;
            return Some(query);
        }
        self.queries_taken = 0;
        self.crops.pop_front()
    }
}

/// Shared queue. Its callers bound its length: each waits for its answer.
#[derive(Clone)]
pub(crate) struct Jobs {
    shared: Arc<(Mutex<Lanes>, Condvar)>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lanes = self.lock();
        write!(f, "Jobs({} queries, {} crops)", lanes.queries.len(), lanes.crops.len())
    }
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        // The lanes are consistent between any two statements, so a panic elsewhere does no harm.
        self.shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Queues `job`; false when the thread has ended.
    pub(crate) fn push(&self, job: Job) -> bool {
        let mut lanes = self.lock();
        if !lanes.closed {
            lanes.lane(&job).push_back(job);
            self.shared.1.notify_one();
        }
        !lanes.closed
    }

    /// Puts half-done work back at the front of its lane, also when the queue is closed: work that
    /// was begun is finished.
    pub(crate) fn push_front(&self, job: Job) {
        self.lock().lane(&job).push_front(job);
    }

    /// The next job, waiting for one; `None` when closed and empty.
    pub(crate) fn pop(&self) -> Option<Job> {
        let mut lanes = self.lock();
        loop {
            let job = lanes.take();
            if job.is_some() || lanes.closed {
                return job;
            }
            lanes = self.shared.1.wait(lanes).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Refuses further jobs; those inside can still be popped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.shared.1.notify_all();
    }

    /// Closes the queue and drops its jobs, so that their callers get an error.
    pub(crate) fn abandon(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        lanes.queries.clear();
        lanes.crops.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crops(n: u32) -> Job {
        let image = RgbImage::new(n, 1, vec![0u8; n as usize * 3]).expect("fits");
        Job::images(vec![image], false, oneshot::channel().0)
    }

    fn text(text: &str) -> Job {
        let caption = Caption { text: text.into(), ids: vec![], truncated: false, words: 1 };
        Job::Text { caption, reply: oneshot::channel().0 }
    }

    fn name(job: Option<Job>) -> String {
        match job {
            Some(Job::Text { caption, .. }) => caption.text,
            Some(Job::Images(work)) => format!("crop {}", work.waiting[0].width()),
            _ => "none".into(),
        }
    }

    #[test]
    fn queries_go_first_and_each_lane_keeps_its_order() {
        let jobs = Jobs::new();
        for job in [crops(1), text("a"), crops(2), text("b")] {
            assert!(jobs.push(job));
        }
        let first = jobs.pop();
        jobs.push_front(crops(9));
        jobs.close();
        assert!(!jobs.push(text("late")));
        let order: Vec<String> = std::iter::once(name(first)).chain((0..5).map(|_| name(jobs.pop()))).collect();
        assert_eq!(order, ["a", "b", "crop 9", "crop 1", "crop 2", "none"]);
    }

    /// Pops `count` jobs.
    fn popped(jobs: &Jobs, count: usize) -> String {
        (0..count).map(|_| name(jobs.pop())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn crops_have_a_turn_after_every_four_queries() {
        let jobs = Jobs::new();
        for n in 1..=20 {
            assert!(jobs.push(text(&n.to_string())));
        }
        for n in 1..=3 {
            assert!(jobs.push(crops(n)));
        }
        jobs.close();
        let want = "1 2 3 4 crop 1 5 6 7 8 crop 2 9 10 11 12 crop 3 13 14 15 16 17 18 19 20 none";
        assert_eq!(popped(&jobs, 24), want);
    }

    #[test]
    fn queries_count_only_while_crops_wait() {
        let jobs = Jobs::new();
        for n in 1..=12 {
            assert!(jobs.push(text(&n.to_string())));
        }
        assert_eq!(popped(&jobs, 6), "1 2 3 4 5 6");
        assert!(jobs.push(crops(1)));
        assert_eq!(popped(&jobs, 5), "7 8 9 10 crop 1");
        // The rest of a job of several batches waits for four queries more.
        jobs.push_front(crops(1));
        for n in 13..=15 {
            assert!(jobs.push(text(&n.to_string())));
        }
        jobs.close();
        assert_eq!(popped(&jobs, 7), "11 12 13 14 crop 1 15 none");
    }
}
