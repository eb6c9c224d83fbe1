//! REST API and operator's page of Sightline, with their state: cameras, tokens and audit trail.
//!
//! Handlers share an [`app::App`], and [`server`] binds them to a socket. They use the search side
//! through [`engine::Engine`] and the camera nodes through [`cameras::CameraControl`]. The library
//! does not link GStreamer; the binary `sightline` (feature `all-in-one`) does. The binary
//! `sightline-api` serves API and page alone; index and camera nodes are other processes, see
//! [`remote`].

pub mod app;
pub mod auth;
pub mod cameras;
pub mod client_address;
pub mod engine;
pub mod erasure;
pub mod error;
mod extract;
pub mod gauges;
pub mod local;
pub mod monitor;
pub mod openapi;
pub mod page;
pub mod rate;
pub mod remote;
pub mod routes;
pub mod server;
pub mod startup;
pub mod state;
pub mod tls;
pub mod upkeep;
