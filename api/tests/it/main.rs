//! The API over real HTTP on a free port of the loopback. Search and cameras are mostly test
//! doubles, so that every rule of the API itself can be driven to its edge; [`engine`] has the real
//! search behind it, `binary` runs all of it.
#![allow(clippy::unwrap_used)]

mod apart;
mod auth;
#[cfg(feature = "all-in-one")]
mod binary;
mod cameras;
#[cfg(feature = "all-in-one")]
mod crash;
mod engine;
mod erasures;
mod errors;
#[cfg(feature = "all-in-one")]
mod former_data;
mod page;
#[cfg(feature = "all-in-one")]
mod reindex;
mod remote;
mod search;
mod sightings;
mod support;
