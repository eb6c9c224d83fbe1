//! What crosses a process: golden bytes of every version of the bus's records.
#![allow(missing_docs, clippy::unwrap_used)]

mod wire;
