//! Integration tests of the search crate: all stores and galleries against one contract each,
//! recall against exact search, the indexer under failures, whole searches, and recovery after
//! `kill -9`. The double of Qdrant, with which they are built, turns the feature `server` on.
#![allow(clippy::unwrap_used)]

mod alike;
mod contract;
mod coverage;
mod erased_on_servers;
mod erasure;
mod gallery;
mod indexer;
mod kill9;
mod model;
#[cfg(feature = "kafka")]
mod needs_kafka;
mod opening;
mod outages;
mod phrases;
mod recall;
mod reindex;
mod retention;
mod searcher;
mod server;
mod support;
