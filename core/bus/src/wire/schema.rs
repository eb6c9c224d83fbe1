//! The protobuf messages of the bus, generated from `core/bus/proto/sightline.proto`.
//!
//! The generated file is committed, so that a build needs neither `protoc` nor a generator. `make
//! check` generates it again (`core/bus/schema`) and compares.
#![allow(missing_docs, clippy::all)]

include!("sightline.v1.rs");

pub use envelope::Payload;
