//! The inference thread's queue: two lanes, the one with queries first.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use sightline_core::{PatchFeatures, RgbImage};
use tokio::sync::oneshot;

use crate::text::Caption;
use crate::{EmbedError, ImageFeatures, MatchScore, TextQuery};

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EmbedError>>;

/// Pictures on their way, batch by batch.
pub(crate) struct ImageWork {
    pub(crate) waiting: VecDeque<RgbImage>,
    pub(crate) done: Vec<ImageFeatures>,
    pub(crate) reply: Reply<Vec<ImageFeatures>>,
    urgent: bool,
}

/// Something to compute.
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
    closed: bool,
}

impl Lanes {
    fn lane(&mut self, job: &Job) -> &mut VecDeque<Job> {
        if job.urgent() { &mut self.queries } else { &mut self.crops }
    }
}

/// Shared queue. Its length is bounded by its callers: each waits for its answer.
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
        // Lanes are whole between any two statements, so a panic elsewhere does not make them unsound.
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

    /// Puts half-done work back before everything else of its lane. Also when closed: what was begun is finished.
    pub(crate) fn push_back_first(&self, job: Job) {
        self.lock().lane(&job).push_front(job);
    }

    /// The next job, waiting for one; `None` when closed and empty.
    pub(crate) fn pop(&self) -> Option<Job> {
        let mut lanes = self.lock();
        loop {
            let job = lanes.queries.pop_front().or_else(|| lanes.crops.pop_front());
            if job.is_some() || lanes.closed {
                return job;
            }
            lanes = self.shared.1.wait(lanes).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// No more pushes; what is inside can still be popped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.shared.1.notify_all();
    }

    /// Closes and forgets what is inside, so that whoever waits for it is told.
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
        jobs.push_back_first(crops(9));
        jobs.close();
        assert!(!jobs.push(text("late")));
        let order: Vec<String> = std::iter::once(name(first)).chain((0..5).map(|_| name(jobs.pop()))).collect();
        assert_eq!(order, ["a", "b", "crop 9", "crop 1", "crop 2", "none"]);
    }
}
