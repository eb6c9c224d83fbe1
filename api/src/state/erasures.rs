//! Erasure jobs: what is to be erased, how far it has come, and the receipt. A job outlives every
//! restart until it is done, and its receipt stays for whoever must prove the erasure.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp};
use sightline_search::{Receipt, Scope};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{State, StateError};

/// State of an erasure job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Erasing, or about to.
    Running,
    /// Everything is erased.
    Done,
    /// The last attempt failed; another follows by itself.
    Failed,
}

/// A copy outside the index that an erasure does not reach, and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Expiry {
    /// Kind of copy.
    pub what: String,
    /// Time at which it is gone; `null` when nobody here knows.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// What ends it.
    pub how: String,
}

/// Receipt of a finished erasure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErasureReceipt {
    /// Distinct sightings erased, over all models and attempts.
    pub sightings: u64,
    /// Files erased from the gallery: pictures and patch features.
    pub files: u64,
    /// Vectors erased, by the model whose index held them.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub vectors_by_model: sightline_search::Deleted,
    /// Copies that this erasure does not reach. None of them is searchable, and none can come back:
    /// the index refuses what is erased.
    pub expires: Vec<Expiry>,
    /// Position of the end of the erasure in the audit trail.
    pub audit_seq: i64,
}

/// An erasure job as it is asked for.
#[derive(Clone, Debug)]
pub struct NewErasureJob {
    /// Camera that is removed; `None` when its camera goes on.
    pub removes: Option<CameraId>,
    /// Pictures to erase.
    pub scopes: Vec<Scope>,
    /// Who asked for it, as in the audit trail.
    pub requested_by: String,
    /// Position of the request in the audit trail.
    pub audit_seq: i64,
}

/// An erasure job as the database holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ErasureJob {
    /// Id of the job.
    pub id: Uuid,
    /// See [`NewErasureJob::removes`].
    pub removes: Option<CameraId>,
    /// See [`NewErasureJob::scopes`].
    pub scopes: Vec<Scope>,
    /// Time of the request.
    pub requested_at: Timestamp,
    /// See [`NewErasureJob::requested_by`].
    pub requested_by: String,
    /// See [`NewErasureJob::audit_seq`].
    pub audit_seq: i64,
    /// Whether it runs, is done, or waits for another attempt.
    pub state: JobState,
    /// Attempts that failed so far.
    pub attempts: u32,
    /// Error of the last attempt.
    pub error: Option<String>,
    /// Time of the next attempt, after a failed one.
    pub retry_at: Option<Timestamp>,
    /// Fraction done, 0 to 1.
    pub progress: f64,
    /// Counts of all attempts so far.
    pub erased: Receipt,
    /// Receipt, when done.
    pub receipt: Option<ErasureReceipt>,
    /// Time at which it was done.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, removes, scopes, requested_at, requested_by, audit_seq, state, attempts, error, retry_at, \
                       progress, erased, receipt, finished_at";

impl State {
    /// Stores a job. One that removes a camera also forgets the camera and marks its footage as
    /// being erased, in the same transaction, so that no crash separates the two.
    ///
    /// # Errors
    /// When the database fails.
    pub fn start_erasure(&self, new: &NewErasureJob) -> Result<ErasureJob, StateError> {
        let job = ErasureJob {
            id: Uuid::new_v4(),
            removes: new.removes.clone(),
            scopes: new.scopes.clone(),
            requested_at: Timestamp::now(),
            requested_by: new.requested_by.clone(),
            audit_seq: new.audit_seq,
            state: JobState::Running,
            attempts: 0,
            error: None,
            retry_at: None,
            progress: 0.0,
            erased: Receipt::default(),
            receipt: None,
            finished_at: None,
        };
        let (removes, at) = (job.removes.as_ref().map(CameraId::as_str), job.requested_at.as_micros());
        let (scopes, erased) = (json(&job.scopes)?, json(&job.erased)?);
        self.inner.with_reserve(|c| {
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute(
                "INSERT INTO erasure_jobs (id, removes, scopes, requested_at, requested_by, audit_seq, state, erased)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'running', ?7)",
                params![job.id.to_string(), removes, scopes, at, job.requested_by, job.audit_seq, erased],
            )?;
            if let Some(camera) = removes {
                tx.execute("DELETE FROM cameras WHERE id = ?1", [camera])?;
                tx.execute(
                    "INSERT INTO erasures (camera, requested_at) VALUES (?1, ?2)
                     ON CONFLICT (camera) DO UPDATE SET watched_since = NULL",
                    params![camera, at],
                )?;
            }
            tx.commit()?;
            Ok(())
        })?;
        Ok(job)
    }

    /// Returns one job.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn erasure_job(&self, id: Uuid) -> Result<Option<ErasureJob>, StateError> {
        let sql = format!("SELECT {COLUMNS} FROM erasure_jobs WHERE id IN (?1, ?2)");
        self.read(|c| {
            // The jobs of an earlier version were made by SQLite, which writes no hyphens.
            let ids = [id.to_string(), id.simple().to_string()];
            c.prepare(&sql)?.query_row(ids, |r| Ok(read(r))).optional()?.transpose()
        })
    }

    /// Returns the newest `limit` jobs, newest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn erasure_jobs(&self, limit: usize) -> Result<Vec<ErasureJob>, StateError> {
        self.jobs("ORDER BY requested_at DESC, id LIMIT ?1", i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// Returns the jobs that are not done, oldest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn unfinished_erasures(&self) -> Result<Vec<ErasureJob>, StateError> {
        self.jobs("WHERE state != 'done' ORDER BY requested_at, id LIMIT ?1", i64::MAX)
    }

    fn jobs(&self, which: &str, limit: i64) -> Result<Vec<ErasureJob>, StateError> {
        let sql = format!("SELECT {COLUMNS} FROM erasure_jobs {which}");
        self.read(|c| {
            let mut statement = c.prepare(&sql)?;
            let rows = statement.query_map([limit], |r| Ok(read(r)))?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().collect()
        })
    }

    /// Lets the next attempt of a failed job begin at once.
    ///
    /// # Errors
    /// When the database fails.
    pub fn retry_erasure(&self, id: Uuid) -> Result<(), StateError> {
        self.with(|c| {
            let ids = [id.to_string(), id.simple().to_string()];
            c.execute("UPDATE erasure_jobs SET retry_at = NULL WHERE id IN (?1, ?2) AND state = 'failed'", ids)?;
            Ok(())
        })
    }

    /// Stores state, progress and outcome of a job, as they are in `job`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn update_erasure(&self, job: &ErasureJob) -> Result<(), StateError> {
        let receipt = job.receipt.as_ref().map(json).transpose()?;
        let erased = json(&job.erased)?;
        self.inner.with_reserve(|c| {
            c.execute(
                "UPDATE erasure_jobs SET state = ?3, attempts = ?4, error = ?5, retry_at = ?6, progress = ?7, erased = ?8,
                        receipt = ?9, finished_at = ?10 WHERE id IN (?1, ?2)",
                params![
                    job.id.to_string(),
                    job.id.simple().to_string(),
                    word(job.state),
                    job.attempts,
                    job.error,
                    job.retry_at.map(Timestamp::as_micros),
                    job.progress,
                    erased,
                    receipt,
                    job.finished_at.map(Timestamp::as_micros),
                ],
            )?;
            Ok(())
        })
    }
}

fn word(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
    }
}

fn corrupt(e: impl std::fmt::Display) -> StateError {
    StateError::Corrupt { what: "erasure", why: e.to_string() }
}

fn json(value: &impl Serialize) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(corrupt)
}

fn read(r: &Row<'_>) -> Result<ErasureJob, StateError> {
    let time =
        |i| -> rusqlite::Result<Option<Timestamp>> { Ok(r.get::<_, Option<i64>>(i)?.map(Timestamp::from_micros)) };
    Ok(ErasureJob {
        id: r.get::<_, String>(0)?.parse().map_err(corrupt)?,
        removes: r.get::<_, Option<String>>(1)?.map(|c| c.parse()).transpose().map_err(corrupt)?,
        scopes: serde_json::from_str(&r.get::<_, String>(2)?).map_err(corrupt)?,
        requested_at: Timestamp::from_micros(r.get(3)?),
        requested_by: r.get(4)?,
        audit_seq: r.get(5)?,
        state: match r.get::<_, String>(6)?.as_str() {
            "done" => JobState::Done,
            "failed" => JobState::Failed,
            _ => JobState::Running,
        },
        attempts: r.get(7)?,
        error: r.get(8)?,
        retry_at: time(9)?,
        progress: r.get(10)?,
        erased: serde_json::from_str(&r.get::<_, String>(11)?).map_err(corrupt)?,
        receipt: r.get::<_, Option<String>>(12)?.map(|t| serde_json::from_str(&t)).transpose().map_err(corrupt)?,
        finished_at: time(13)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::FILE;

    fn gate() -> CameraId {
        "gate".parse().expect("valid")
    }

    fn removal(camera: CameraId) -> NewErasureJob {
        let scopes = vec![Scope::camera(camera.clone())];
        NewErasureJob { removes: Some(camera), scopes, requested_by: "desk (ab12)".into(), audit_seq: 7 }
    }

    #[test]
    fn a_job_outlives_a_crash_with_its_progress() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let camera = serde_json::from_value(serde_json::json!({ "id": "gate", "url": "rtsp://a" })).expect("valid");
        state.add_camera(&camera).expect("added");
        let mut job = state.start_erasure(&removal(gate())).expect("stored");
        assert_eq!(state.camera(&gate()).expect("read"), None, "the camera is forgotten with it");
        assert_eq!(state.pending_erasures().expect("read"), [gate()]);
        job.progress = 0.5;
        job.erased = Receipt { points: 3, files: 6, by_model: [("m".to_owned(), 3)].into() };
        (job.state, job.attempts, job.error) = (JobState::Failed, 2, Some("away".into()));
        job.retry_at = Some(Timestamp::from_micros(5));
        state.update_erasure(&job).expect("stored");
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        assert_eq!(state.unfinished_erasures().expect("read"), [job.clone()]);
        let expires = vec![Expiry { what: "topic".into(), at: None, how: "age".into() }];
        let vectors_by_model = job.erased.by_model.clone();
        job.receipt = Some(ErasureReceipt { sightings: 3, files: 6, vectors_by_model, expires, audit_seq: 9 });
        (job.state, job.finished_at) = (JobState::Done, Some(Timestamp::from_micros(9)));
        state.update_erasure(&job).expect("stored");
        assert!(state.unfinished_erasures().expect("read").is_empty());
        assert_eq!(state.erasure_job(job.id).expect("read"), Some(job.clone()));
        assert_eq!(state.erasure_jobs(10).expect("read"), [job]);
        assert_eq!(state.erasure_job(Uuid::nil()).expect("read"), None);
    }

    #[test]
    fn an_erasure_of_an_earlier_version_becomes_a_job() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        // As the layout before this table left it.
        let undo = "DROP TABLE erasure_jobs; PRAGMA user_version = 3;
                    INSERT INTO erasures (camera, requested_at) VALUES ('gate', 5), ('yard', 6);
                    UPDATE erasures SET watched_since = 7 WHERE camera = 'yard';";
        state.with(|c| Ok(c.execute_batch(undo)?)).expect("undone");
        drop(state);
        assert!(dir.path().join(FILE).exists());
        let state = State::open(dir.path()).expect("opens");
        let jobs = state.unfinished_erasures().expect("read");
        assert_eq!(jobs.len(), 1, "the watched one is erased already");
        assert_eq!((&jobs[0].removes, &jobs[0].scopes[..]), (&Some(gate()), &[Scope::camera(gate())][..]));
        let mut job = state.erasure_job(jobs[0].id).expect("read").expect("there");
        job.state = JobState::Done;
        state.update_erasure(&job).expect("stored");
        assert!(state.unfinished_erasures().expect("read").is_empty());
    }
}
