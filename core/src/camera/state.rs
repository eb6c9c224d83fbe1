//! The state of a camera, in the words that operators, logs, metrics and messages share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a camera.
///
/// A node only knows whether frames arrive, and reports [`CameraState::Decoding`]. A reader that
/// also knows how far the index has come shows [`CameraState::Searchable`] instead; a node never
/// reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CameraState {
    /// A connection is being made; no frame yet.
    Connecting,
    /// Frames arrive. As shown to an operator: frames arrive, and the index has not caught up with
    /// this connection yet.
    Decoding,
    /// Frames arrive, and a search finds what the camera sees within seconds.
    Searchable,
    /// The connection was lost or failed; another attempt is scheduled.
    Retrying,
    /// The camera cannot work, and another attempt would not help.
    Failed,
    /// No camera node runs it, for example because all are full. It runs as soon as one can.
    Refused,
    /// The footage has ended, or the camera was removed; what it recorded stays searchable.
    Ended,
}

impl CameraState {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Connecting, Self::Decoding, Self::Searchable, Self::Retrying, Self::Failed, Self::Refused, Self::Ended];

    /// The state as text, the same everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Decoding => "decoding",
            Self::Searchable => "searchable",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for CameraState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::CameraState;

    #[test]
    fn a_state_is_written_alike_in_json_and_text() {
        for state in CameraState::ALL {
            assert_eq!(serde_json::to_value(state).expect("serialises"), state.to_string());
        }
    }
}
