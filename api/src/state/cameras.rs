//! Known cameras: those of the configuration file and those added at run time.
//!
//! A camera stays known while footage of it is stored, so that a filter or an erasure can reach
//! everything in the store. A camera that left the configuration file, or was removed with its
//! footage kept, is only *archived*.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};

use super::{State, StateError};

/// Place where a camera is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameraSource {
    /// In the configuration file, which takes precedence for its ids.
    Config,
    /// Through the API, at run time.
    Api,
    /// In the configuration of another camera node. Never stored; the node's reports make it known.
    Node,
}

/// Unfinished erasure of a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Camera whose footage is erased.
    pub camera: CameraId,
    /// Time since which the footage is erased and only late pictures are watched for; `None`: not
    /// erased yet.
    pub watched_since: Option<Timestamp>,
}

/// A known camera.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraRow {
    /// Configuration, including credentials.
    pub spec: CameraConfig,
    /// Place where it is defined.
    pub source: CameraSource,
    /// Whether it was stopped for good and its footage is still searchable.
    pub archived: bool,
    /// Time at which it became known.
    pub added_at: Timestamp,
}

impl State {
    /// Stores the cameras of the configuration file and archives those that were removed from it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn merge_config_cameras(&self, cameras: &[CameraConfig]) -> Result<(), StateError> {
        self.with(|c| {
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute("UPDATE cameras SET archived = 1 WHERE source = 'config'", [])?;
            for camera in cameras {
                upsert(&tx, camera, CameraSource::Config)?;
            }
            tx.commit()?;
            Ok(())
        })
    }

    /// Stores a camera that was added at run time. An archived camera with the same id becomes
    /// active again.
    ///
    /// # Errors
    /// When the database fails.
    pub fn add_camera(&self, camera: &CameraConfig) -> Result<(), StateError> {
        self.with(|c| upsert(c, camera, CameraSource::Api))
    }

    /// Archives a camera: it stays stopped, and its footage stays searchable.
    ///
    /// # Errors
    /// When the database fails.
    pub fn archive_camera(&self, id: &CameraId) -> Result<(), StateError> {
        self.with(|c| {
            c.execute("UPDATE cameras SET archived = 1 WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }

    /// Marks the erasure of this camera as watched: its footage is erased, but more may arrive.
    ///
    /// # Errors
    /// When the database fails.
    pub fn watch_erasure(&self, id: &CameraId) -> Result<(), StateError> {
        self.with(|c| {
            let now = Timestamp::now().as_micros();
            c.execute("UPDATE erasures SET watched_since = ?2 WHERE camera = ?1", params![id.as_str(), now])?;
            Ok(())
        })
    }

    /// Forgets a camera without an erasure, because another process stores it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_camera(&self, id: &CameraId) -> Result<(), StateError> {
        self.with(|c| {
            c.execute("DELETE FROM cameras WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }

    /// Ends an erasure: no more footage will arrive, or the camera is wanted again.
    ///
    /// # Errors
    /// When the database fails.
    pub fn finish_erasure(&self, id: &CameraId) -> Result<(), StateError> {
        self.with(|c| {
            c.execute("DELETE FROM erasures WHERE camera = ?1", [id.as_str()])?;
            Ok(())
        })
    }

    /// Returns the cameras whose erasure has begun and not finished.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn pending_erasures(&self) -> Result<Vec<CameraId>, StateError> {
        Ok(self.erasures()?.into_iter().filter(|e| e.watched_since.is_none()).map(|e| e.camera).collect())
    }

    /// Returns every unfinished erasure, including those that are only watched.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn erasures(&self) -> Result<Vec<Erasure>, StateError> {
        self.read(|c| {
            let mut statement = c.prepare("SELECT camera, watched_since FROM erasures ORDER BY camera")?;
            let rows = statement
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Option<i64>>(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let erasure = |(camera, since): (String, Option<i64>)| {
                let watched_since = since.map(Timestamp::from_micros);
                camera.parse().map(|camera| Erasure { camera, watched_since }).map_err(corrupt)
            };
            rows.into_iter().map(erasure).collect()
        })
    }

    /// Returns every known camera, ordered by id.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn cameras(&self) -> Result<Vec<CameraRow>, StateError> {
        self.read(|c| {
            let mut statement = c.prepare("SELECT spec, source, archived, added_at FROM cameras ORDER BY id")?;
            let rows = statement.query_map([], |r| Ok(read(r)))?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().collect()
        })
    }

    /// Returns one camera.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn camera(&self, id: &CameraId) -> Result<Option<CameraRow>, StateError> {
        self.read(|c| {
            c.prepare("SELECT spec, source, archived, added_at FROM cameras WHERE id = ?1")?
                .query_row([id.as_str()], |r| Ok(read(r)))
                .optional()?
                .transpose()
        })
    }
}

fn corrupt(e: impl std::fmt::Display) -> StateError {
    StateError::Corrupt { what: "camera", why: e.to_string() }
}

fn upsert(c: &rusqlite::Connection, camera: &CameraConfig, source: CameraSource) -> Result<(), StateError> {
    let spec = serde_json::to_string(camera).map_err(corrupt)?;
    let source = match source {
        CameraSource::Config => "config",
        CameraSource::Api | CameraSource::Node => "api",
    };
    c.execute(
        "INSERT INTO cameras (id, spec, source, added_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET spec = excluded.spec, source = excluded.source, archived = 0",
        params![camera.id.as_str(), spec, source, Timestamp::now().as_micros()],
    )?;
    Ok(())
}

fn read(r: &Row<'_>) -> Result<CameraRow, StateError> {
    let source: String = r.get(1)?;
    Ok(CameraRow {
        spec: serde_json::from_str(&r.get::<_, String>(0)?).map_err(corrupt)?,
        source: if source == "config" { CameraSource::Config } else { CameraSource::Api },
        archived: r.get(2)?,
        added_at: Timestamp::from_micros(r.get(3)?),
    })
}

#[cfg(test)]
mod tests {
    use sightline_search::Scope;

    use super::*;
    use crate::state::NewErasureJob;

    fn camera(id: &str, url: &str) -> CameraConfig {
        serde_json::from_value(serde_json::json!({ "id": id, "url": url })).expect("valid")
    }

    fn open() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        (dir, state)
    }

    fn begin_erasure(state: &State, id: &CameraId) {
        let (removes, scopes) = (Some(id.clone()), vec![Scope::camera(id.clone())]);
        let new = NewErasureJob { removes, scopes, requested_by: "test".into(), audit_seq: 0 };
        state.start_erasure(&new).expect("begun");
    }

    #[test]
    fn the_configuration_wins_for_its_ids_and_leaving_it_archives() {
        let (_dir, state) = open();
        state.add_camera(&camera("a", "rtsp://old")).expect("added");
        state.add_camera(&camera("b", "rtsp://b")).expect("added");
        state.merge_config_cameras(&[camera("a", "rtsp://new"), camera("c", "rtsp://c")]).expect("merged");
        let a = state.camera(&"a".parse().expect("valid")).expect("read").expect("there");
        assert_eq!((a.spec.url.expose(), a.source), ("rtsp://new", CameraSource::Config));
        state.merge_config_cameras(&[]).expect("merged");
        let rows: Vec<(String, bool)> =
            state.cameras().expect("read").into_iter().map(|r| (r.spec.id.to_string(), r.archived)).collect();
        assert_eq!(rows, [("a".to_owned(), true), ("b".to_owned(), false), ("c".to_owned(), true)]);
    }

    #[test]
    fn a_camera_of_an_earlier_version_has_the_settings_of_its_node() {
        let (_dir, state) = open();
        // As it was written before cameras had settings of their own.
        let spec = r#"{"id":"a","url":"rtsp://u:secret@cam/1","fps":2.0,"loop":false,"realtime":true}"#;
        let insert = "INSERT INTO cameras (id, spec, source, added_at) VALUES ('a', ?1, 'api', 1)";
        let written = state.with(|c| Ok(c.execute(insert, [spec])?));
        assert_eq!(written.expect("written"), 1);
        let read = state.cameras().expect("read").remove(0).spec;
        let id: CameraId = "a".parse().expect("valid");
        assert_eq!(read, CameraConfig { fps: Some(2.0), ..CameraConfig::new(id.clone(), "rtsp://u:secret@cam/1") });
        let own = CameraConfig { stall_seconds: Some(9.0), score_threshold: Some(0.75), ..read };
        state.add_camera(&own).expect("written");
        assert_eq!(state.camera(&id).expect("read").expect("there").spec, own);
    }

    #[test]
    fn an_erasure_outlives_a_crash() {
        let (dir, state) = open();
        let id: CameraId = "a".parse().expect("valid");
        state.add_camera(&camera("a", "rtsp://a")).expect("added");
        begin_erasure(&state, &id);
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        assert_eq!(state.camera(&id).expect("read"), None);
        assert_eq!(state.pending_erasures().expect("read"), std::slice::from_ref(&id));
        state.finish_erasure(&id).expect("finished");
        assert!(state.pending_erasures().expect("read").is_empty());
    }

    #[test]
    fn a_finished_erasure_can_be_watched() {
        let (_dir, state) = open();
        let id: CameraId = "a".parse().expect("valid");
        begin_erasure(&state, &id);
        state.watch_erasure(&id).expect("watched");
        assert!(state.pending_erasures().expect("read").is_empty());
        assert!(state.erasures().expect("read")[0].watched_since.is_some());
        begin_erasure(&state, &id);
        assert_eq!(state.pending_erasures().expect("read"), std::slice::from_ref(&id));
        state.watch_erasure(&id).expect("watched");
        state.finish_erasure(&id).expect("over");
        assert!(state.erasures().expect("read").is_empty());
    }

    #[test]
    fn an_archived_camera_comes_back_when_added_again() {
        let (_dir, state) = open();
        let id: CameraId = "a".parse().expect("valid");
        state.add_camera(&camera("a", "rtsp://a")).expect("added");
        state.archive_camera(&id).expect("archived");
        assert!(state.camera(&id).expect("read").expect("there").archived);
        state.add_camera(&camera("a", "rtsp://b")).expect("added");
        assert!(!state.camera(&id).expect("read").expect("there").archived);
    }
}
