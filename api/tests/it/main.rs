//! The API over real HTTP on a free port of the loopback. Search and cameras are test doubles here, in memory and
//! without a model, so that every rule of the API itself can be driven to its edge.
#![allow(clippy::unwrap_used)]

mod auth;
mod cameras;
mod errors;
mod page;
mod search;
mod sightings;
mod support;
