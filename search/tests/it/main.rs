//! The search crate from outside: both stores against one contract, recall against exact search, the indexer under
//! failures, whole searches, and everything again after `kill -9`.
#![allow(clippy::unwrap_used)]

mod contract;
mod erasure;
mod gallery;
mod indexer;
mod kill9;
mod model;
mod opening;
mod recall;
mod searcher;
mod support;
