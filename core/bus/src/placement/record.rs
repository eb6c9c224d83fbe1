//! The records of the topic `nodes`: heartbeats, holds and requests to drain.
//!
//! The topic is compacted and has one partition. Its keys say the kind: `beat/NODE`,
//! `hold/CAMERA/NODE`, `drain/NODE`; a record without a value removes its key. Values are JSON;
//! unknown fields are passed over, so that a later version may add some.

use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp};
use uuid::Uuid;

/// A node lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Name of the node.
    pub node: String,
    /// The process: another one after every start.
    pub incarnation: Uuid,
    /// Number of the heartbeat, from 0.
    pub number: u64,
    /// How many cameras of the topic the node can run.
    pub capacity: u32,
    /// How many it runs.
    pub load: u32,
    /// It gives its cameras away, because it ends.
    pub draining: bool,
}

/// A time in which frames of a camera arrived at one node, by the node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The placement epoch in which it began.
    pub epoch: i64,
    /// Its begin.
    pub from: Timestamp,
    /// Its end; `None` while frames arrive.
    pub until: Option<Timestamp>,
}

/// A node's claim on a camera, and when the node had footage of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The camera.
    pub camera: CameraId,
    /// The node.
    pub node: String,
    /// Its process.
    pub incarnation: Uuid,
    /// Number of this record among those of the process.
    pub number: u64,
    /// The placement epoch in which the hold was taken.
    pub epoch: i64,
    /// Whether the node wants to run the camera; `false`: it has let go of it.
    pub held: bool,
    /// The newest spans, oldest first.
    pub spans: Vec<Span>,
}

/// A record of the topic `nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A heartbeat.
    Beat(Beat),
    /// The node has left.
    Left(String),
    /// A hold.
    Hold(Hold),
    /// The hold of this node on this camera is forgotten.
    HoldGone(CameraId, String),
    /// Somebody asks the node to drain (`true`), or to take cameras again.
    Drain(String, bool),
}

/// Why bytes are no record of the topic `nodes`.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The key is of no known kind.
    #[error("key {0:?} is not known")]
    Key(String),
    /// The value is not what the key says.
    #[error("the value is not JSON of its kind: {0}")]
    Value(#[from] serde_json::Error),
    /// The value is about another node or camera than the key.
    #[error("the value belongs to key {0:?}")]
    Mismatch(String),
}

impl Record {
    /// The key.
    pub fn key(&self) -> String {
        match self {
            Self::Beat(Beat { node, .. }) | Self::Left(node) => format!("beat/{node}"),
            Self::Hold(Hold { camera, node, .. }) | Self::HoldGone(camera, node) => format!("hold/{camera}/{node}"),
            Self::Drain(node, _) => format!("drain/{node}"),
        }
    }

    /// The value; empty for a tombstone.
    pub fn value(&self) -> Vec<u8> {
        let json = match self {
            Self::Beat(beat) => serde_json::to_vec(beat),
            Self::Hold(hold) => serde_json::to_vec(hold),
            Self::Drain(_, true) => Ok(b"{}".to_vec()),
            Self::Left(_) | Self::HoldGone(..) | Self::Drain(_, false) => Ok(Vec::new()),
        };
        // These types have only text, numbers and lists, which serialise always.
        json.unwrap_or_default()
    }

    /// Reads a record; an empty value is a tombstone.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse(key: &[u8], value: &[u8]) -> Result<Self, RecordError> {
        let key = String::from_utf8_lossy(key);
        let unknown = || RecordError::Key(key.clone().into_owned());
        let (kind, name) = key.split_once('/').ok_or_else(unknown)?;
        let record = match (kind, value.is_empty()) {
            ("beat", true) => Self::Left(name.to_owned()),
            ("beat", false) => Self::Beat(serde_json::from_slice(value)?),
            ("hold", true) => {
                let (camera, node) = name.split_once('/').ok_or_else(unknown)?;
                Self::HoldGone(camera.parse().map_err(|_| unknown())?, node.to_owned())
            }
            ("hold", false) => Self::Hold(serde_json::from_slice(value)?),
            ("drain", empty) => Self::Drain(name.to_owned(), !empty),
            _ => return Err(unknown()),
        };
        let own = record.key();
        if own == key { Ok(record) } else { Err(RecordError::Mismatch(own)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_strangers_are_refused() {
        let (camera, node) = ("gate".parse::<CameraId>().expect("valid"), "ingest@rack/1".to_owned());
        let at = Timestamp::from_micros(1_760_000_000_000_000);
        let beat =
            Beat { node: node.clone(), incarnation: Uuid::nil(), number: 3, capacity: 16, load: 2, draining: false };
        let hold = Hold {
            camera: camera.clone(),
            node: node.clone(),
            incarnation: Uuid::nil(),
            number: 4,
            epoch: 77,
            held: true,
            spans: vec![Span { epoch: 77, from: at, until: None }],
        };
        for record in [
            Record::Beat(beat.clone()),
            Record::Left(node.clone()),
            Record::Hold(hold),
            Record::HoldGone(camera, node.clone()),
            Record::Drain(node.clone(), true),
            Record::Drain(node, false),
        ] {
            assert_eq!(Record::parse(record.key().as_bytes(), &record.value()).expect("valid"), record);
        }
        let value = Record::Beat(beat).value();
        assert!(matches!(Record::parse(b"beat/other", &value), Err(RecordError::Mismatch(_))));
        assert!(matches!(Record::parse(b"beat/other", b"[]"), Err(RecordError::Value(_))));
        for key in ["", "gate", "hold/gate", "hold/No Camera/x", "vote/x"] {
            assert!(matches!(Record::parse(key.as_bytes(), b""), Err(RecordError::Key(_))), "{key}");
        }
    }
}
