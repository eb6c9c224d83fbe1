//! What reads and writes ask of a collection with replicas.
//!
//! Spans and coverage are read, widened and written back. A stale replica would take them
//! backwards, so these reads ask the majority of the replicas, and all writes go through the shard's
//! leader in one order. So it is with tombstones and with the lists of ids that an erasure deletes:
//! a replica that lacks some would leave people behind. Searches ask any replica: for a moment one
//! of them may lack the newest pictures, and no search waits for the slowest. With one replica
//! nothing changes.

use qdrant_client::qdrant::{ReadConsistency, ReadConsistencyType, WriteOrdering, WriteOrderingType, read_consistency};

/// The state that most replicas agree on.
pub(super) fn newest() -> Option<ReadConsistency> {
    let majority = read_consistency::Value::Type(ReadConsistencyType::Majority.into());
    Some(ReadConsistency { value: Some(majority) })
}

/// Writes in the order of the shard's leader, which may change when it is away.
pub(super) fn in_order() -> Option<WriteOrdering> {
    Some(WriteOrdering { r#type: WriteOrderingType::Medium.into() })
}
