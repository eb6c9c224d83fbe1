//! REST API and operator's page of Sightline, with their state: cameras, tokens and audit trail.
//!
//! Handlers reach data only through a [`desk::Desk`], which knows the caller; [`server`] binds them
//! to a socket. Behind the desk stand an [`app::App`] with the [`sightline_search::Index`], and the
//! camera nodes as [`cameras::CameraControl`]. The library
//! does not link GStreamer; the binary `sightline` (feature `all-in-one`) does. The binary
//! `sightline-api` serves API and page alone; index and camera nodes are other processes, see
//! [`remote`].

pub mod app;
pub mod auth;
pub mod cameras;
pub mod client_address;
pub mod desk;
pub mod erasure;
pub mod error;
mod extract;
pub mod gauges;
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
