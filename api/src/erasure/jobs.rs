//! The task that runs erasure jobs, several at once: a small one does not wait for a large one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use sightline_core::config::CameraConfig;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, Timestamp};
use sightline_search::Receipt;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::progress::JobsProgress;
use super::{Copies, DEAD_LETTER_FACTOR, ErasureRun};
use crate::app::App;
use crate::cameras::LastReport;
use crate::error::Error;
use crate::state::{AuditEntry, ErasureJob, ErasureReceipt, Expiry, JobState};

/// Interval between looks for jobs to repeat, and between two writes of a job's progress.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// Longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest wait before an erasure for pictures that are in flight to the index.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Erasure jobs of this process.
#[derive(Default)]
pub struct Jobs {
    wake: Notify,
    running: Mutex<BTreeMap<Uuid, Attempt>>,
}

/// An attempt that runs now, with what it adds to.
struct Attempt {
    run: ErasureRun,
    /// What the attempts before it erased.
    before: Receipt,
}

impl Jobs {
    /// Looks for new jobs at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Adds the progress of the present attempt to a job that was read from the database.
    pub fn with_progress(&self, mut job: ErasureJob) -> ErasureJob {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Attempt { run, before }) = running.get(&job.id).filter(|_| job.state != JobState::Done) {
            let progress = run.progress();
            job.progress = progress.fraction;
            job.erased = sum(before, &progress.receipt);
            job.state = JobState::Running;
        }
        job
    }

    /// Runs jobs until `shutdown`.
    pub(super) async fn run(&self, app: App, copies: Copies, shutdown: Shutdown) {
        let mut progress = JobsProgress::default();
        while !shutdown.is_triggered() {
            // Until the index is open there is nothing to erase from.
            if app.index().is_ok() {
                let unfinished = app.state().run(|s| {
                    s.reserve().refill();
                    s.unfinished_erasures()
                });
                match unfinished.await {
                    Ok(jobs) => {
                        progress.record(jobs.iter().map(|job| self.with_progress(job.clone())));
                        jobs.into_iter().for_each(|job| self.start(&app, copies, job, &shutdown));
                    }
                    Err(error) => tracing::warn!(%error, "cannot read which erasures are under way"),
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(ROUND_INTERVAL) => {}
                () = shutdown.triggered() => {}
            }
        }
    }

    /// Starts an attempt of a job, unless one is running or it has to wait.
    fn start(&self, app: &App, copies: Copies, job: ErasureJob, shutdown: &Shutdown) {
        if job.retry_at.is_some_and(|at| at > Timestamp::now()) {
            return;
        }
        let (id, run) = (job.id, ErasureRun::new(shutdown.clone()));
        if self.is_running(id) {
            return;
        }
        self.set_running(id, Attempt { run: run.clone(), before: job.erased });
        let app = app.clone();
        tokio::spawn(async move {
            // An attempt that was running when the list was read may have ended since.
            match app.state().run(move |s| s.erasure_job(id)).await {
                Ok(Some(job)) if job.state != JobState::Done => {
                    app.erasures().set_running(id, Attempt { run: run.clone(), before: job.erased.clone() });
                    attempt(&app, copies, job, run).await;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot read an erasure"),
            }
            app.erasures().running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    fn is_running(&self, id: Uuid) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    fn set_running(&self, id: Uuid, attempt: Attempt) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, attempt);
    }
}

fn sum(one: &Receipt, other: &Receipt) -> Receipt {
    let mut sum = one.clone();
    sum.points += other.points;
    sum.files += other.files;
    for (model, count) in &other.by_model {
        *sum.by_model.entry(model.clone()).or_default() += count;
    }
    sum
}

/// Runs one attempt of a job and stores how it ended.
async fn attempt(app: &App, copies: Copies, mut job: ErasureJob, run: ErasureRun) {
    let outcome = {
        let erasing = erase(app, &job, run.clone());
        tokio::pin!(erasing);
        loop {
            tokio::select! {
                outcome = &mut erasing => break outcome,
                () = tokio::time::sleep(ROUND_INTERVAL) => {
                    // A kill loses the counts of a second at most.
                    store(app, app.erasures().with_progress(job.clone())).await;
                }
            }
        }
    };
    let erased = outcome.as_ref().map_or_else(|_| run.progress().receipt, Receipt::clone);
    job.erased = sum(&job.erased, &erased);
    match outcome {
        Ok(_) => finish(app, copies, job).await,
        Err(_) if run.shutdown().is_triggered() => store(app, job).await,
        Err(error) => {
            let pause = Duration::from_secs(1 << job.attempts.min(6)).min(LONGEST_PAUSE);
            metrics::counter!("sightline_api_erasure_retries_total").increment(1);
            tracing::warn!(job = %job.id, %error, pause_s = pause.as_secs(), "an erasure is not finished; trying again");
            job.state = JobState::Failed;
            job.attempts += 1;
            job.progress = run.progress().fraction;
            job.error = Some(error.to_string());
            job.retry_at = Some(Timestamp::now() + pause);
            store(app, job).await;
        }
    }
}

async fn store(app: &App, job: ErasureJob) {
    if let Err(error) = app.state().run(move |s| s.update_erasure(&job)).await {
        tracing::warn!(%error, "the progress of an erasure cannot be stored");
    }
}

async fn finish(app: &App, copies: Copies, mut job: ErasureJob) {
    let now = Timestamp::now();
    let by = format!("{} ({})", env!("CARGO_PKG_NAME"), job.requested_by);
    let detail = json!({
        "job": job.id, "request": job.audit_seq, "sightings": job.erased.points, "files": job.erased.files,
        "vectors_by_model": job.erased.by_model,
    });
    let entry = AuditEntry { who: by, action: "erasure.done", purpose: None, detail };
    let remote = app.control().is_ok_and(|c| c.remote());
    tracing::info!(job = %job.id, sightings = job.erased.points, files = job.erased.files, "erased");
    metrics::counter!("sightline_api_erased_sightings_total").increment(job.erased.points);
    let stored = app.state().run(move |s| {
        let audit_seq = s.record(&entry)?;
        job.receipt = Some(ErasureReceipt {
            sightings: job.erased.points,
            files: job.erased.files,
            vectors_by_model: job.erased.by_model.clone(),
            expires: expires(copies, now),
            audit_seq,
        });
        (job.state, job.progress, job.finished_at) = (JobState::Done, 1.0, Some(now));
        (job.error, job.retry_at) = (None, None);
        // The mark of a camera in another process stays: its late pictures are watched for.
        if let Some(camera) = job.removes.as_ref().filter(|_| !remote) {
            s.finish_erasure(camera)?;
        }
        s.update_erasure(&job)
    });
    // Otherwise the next round repeats it and finds nothing left.
    if let Err(error) = stored.await {
        tracing::warn!(%error, "the end of an erasure cannot be stored; trying again");
    }
}

/// Lists the copies that an erasure cannot reach.
fn expires(copies: Copies, now: Timestamp) -> Vec<Expiry> {
    let entry = |what: &str, at, how: &str| Expiry { what: what.into(), at, how: how.into() };
    let mut expires = Vec::new();
    if let Some(keep) = copies.topics {
        let age = "the broker deletes messages by age; until then the index refuses them";
        expires.push(entry("messages in the topics of crops and sightings", Some(now + keep), age));
        expires.push(entry("dead letters", Some(now + keep * DEAD_LETTER_FACTOR), age));
        let sent = "sent when the node reaches the broker again, and refused by the index";
        expires.push(entry("outboxes of nodes that are cut off", None, sent));
    }
    let compaction = "the vector engine frees deleted vectors when it next compacts their segments";
    expires.push(entry("deleted vectors on the disk", None, compaction));
    let own = "they are yours to delete; a restored copy must be erased again";
    expires.push(entry("backups and dumps made before", None, own));
    expires
}

/// Erases what a job asks for.
async fn erase(app: &App, job: &ErasureJob, run: ErasureRun) -> Result<Receipt, Error> {
    let (index, id) = (app.index()?.clone(), job.tombstone());
    index.begin_erasure(id, job.scopes.clone()).await?;
    let stopped = match &job.removes {
        Some(camera) => stop_and_drain(app, camera).await,
        None => Ok(()),
    };
    // Stored pictures are erased even while the camera's node cannot be reached.
    let shutdown = run.shutdown().clone();
    let receipt = index.erase(id, job.scopes.clone(), shutdown, move |progress| run.set(progress)).await?;
    stopped?;
    if let Some(camera) = &job.removes {
        index.forget_coverage(camera.clone()).await;
    }
    Ok(receipt)
}

impl ErasureJob {
    /// Id of the tombstone of this job. A camera that is removed again and again has one.
    pub(crate) fn tombstone(&self) -> Uuid {
        self.removes.as_ref().map_or(self.id, camera_tombstone)
    }
}

/// Id of the tombstone of a removed camera.
pub(crate) fn camera_tombstone(camera: &CameraId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("erased/{camera}").as_bytes())
}

/// Returns the capture time from which pictures of an erased camera are stored again when it is
/// added at `now`; `None` for a recording whose time is not known beforehand, which may show any.
pub fn admit_from(camera: &CameraConfig, now: Timestamp) -> Option<Timestamp> {
    if camera.url.is_file() { camera.start_time.map(|start| start.min(now)) } else { Some(now) }
}

/// Stops the camera and waits until the pictures that it has published have reached the index, so
/// that none of them is still on its way when the camera is added again.
async fn stop_and_drain(app: &App, id: &CameraId) -> Result<(), Error> {
    let Ok(control) = app.control().cloned() else { return Ok(()) };
    let remote = control.remote();
    let index = app.index()?;
    let stopping = id.clone();
    let ran = tokio::task::spawn_blocking(move || {
        let last_report = control.status().into_iter().find(|h| h.report.camera == stopping);
        control.remove(&stopping).map(|()| last_report)
    });
    let last_report = ran.await.map_err(|e| Error::Internal(format!("stopping camera {id}: {e}")))??;
    // A camera that does not run sends nothing more. A camera in another process is not waited for:
    // its late pictures are refused, or erased as they arrive, see [`super::late`].
    let Some(LastReport { report: node, .. }) = last_report.filter(|_| !remote) else { return Ok(()) };
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while Instant::now() < deadline {
        let mark = index.coverage().get(id);
        // A connection without a single frame publishes nothing, so it has no end to wait for.
        if node.frames_analysed == 0 || mark.is_some_and(|m| m.ended && m.connection >= Some(node.connection)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!(camera = %id, "the end of the camera's footage did not reach the index in time");
    Ok(())
}
