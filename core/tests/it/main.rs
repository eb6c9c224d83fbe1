//! Tests of what crosses a process boundary: golden bytes of every version of the bus's records,
//! and the bus itself on a real broker.
//!
//! The tests of the bus come with feature `kafka` and need Apache Kafka: `KAFKA_BROKERS` names it,
//! or they fail. `make test-servers` starts one and runs them.
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "kafka")]
mod bus;
#[cfg(feature = "kafka")]
mod bus_broker;
#[cfg(feature = "kafka")]
mod bus_cameras;
#[cfg(feature = "kafka")]
mod bus_dead;
#[cfg(feature = "kafka")]
mod bus_support;
mod wire;
