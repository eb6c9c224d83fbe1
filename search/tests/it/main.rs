//! Integration tests of the search crate: all stores and galleries against one contract each,
//! recall against exact search, the indexer under failures, whole searches, and recovery after
//! `kill -9`.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "double")]
mod alike;
mod contract;
#[cfg(feature = "double")]
mod coverage;
#[cfg(feature = "double")]
mod double;
#[cfg(feature = "server")]
mod erased_on_servers;
mod erasure;
mod gallery;
mod indexer;
mod kill9;
mod model;
#[cfg(all(feature = "kafka", feature = "double"))]
mod needs_kafka;
mod opening;
mod phrases;
mod recall;
mod reindex;
mod retention;
mod searcher;
#[cfg(feature = "server")]
mod server;
mod support;
