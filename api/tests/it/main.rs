//! The API over real HTTP on a free port of the loopback. Model and cameras are test doubles, so that
//! every rule of the API can be driven to its edge; index and searcher are the real ones, in
//! memory. `binary` runs all of it.
#![allow(clippy::unwrap_used)]

mod apart;
mod auth;
#[cfg(feature = "all-in-one")]
mod binary;
mod cameras;
#[cfg(feature = "all-in-one")]
mod crash;
mod described;
mod doubt;
mod erasures;
mod errors;
#[cfg(feature = "all-in-one")]
mod former_data;
mod hidden;
mod measured;
mod page;
#[cfg(feature = "all-in-one")]
mod readme;
#[cfg(feature = "all-in-one")]
mod reindex;
mod remote;
mod search;
mod sightings;
mod sockets;
mod support;
mod tokens;
