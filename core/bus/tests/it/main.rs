//! Tests of what crosses a process boundary: golden bytes of every version of the bus's records,
//! and the bus itself on a real broker.
//!
//! The tests in `needs_kafka` need Apache Kafka and fail without it. `make test` leaves modules of
//! that name out; `make test-servers` starts a broker and runs them.
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "kafka")]
mod absent_broker;
#[cfg(feature = "kafka")]
mod needs_kafka;
mod wire;
