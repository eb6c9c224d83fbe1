//! What tests of several crates share: our binaries as processes of their own, waiting, and the
//! tiny golden model (feature `model`). It depends on no crate of ours, so that the tests of each
//! can have it.
//!
//! Everything here panics when it fails, because the test has failed then.
#![allow(clippy::unwrap_used)]

mod process;
#[cfg(feature = "model")]
mod tiny_model;
mod wait;

use std::path::{Path, PathBuf};

pub use process::{Process, Stopped, binary};
#[cfg(feature = "model")]
pub use tiny_model::{tiny_weights, write_tiny_model};
pub use wait::{free_address, until, until_some};

/// Returns a path of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
