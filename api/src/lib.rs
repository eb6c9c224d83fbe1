//! The door of Sightline: the REST API, the operator's page, and the state behind them (cameras, tokens, audit trail).
//!
//! [`app::App`] is what the handlers share, [`server`] binds them to a socket, [`engine::Engine`] is what they need from
//! the search side, [`cameras::CameraControl`] what they need from camera nodes. The library links no GStreamer; the
//! binary `sightline` (feature `all-in-one`) does. The binary `sightline-api` is the door alone: index and camera nodes
//! are other processes, see [`remote`].

pub mod app;
pub mod auth;
pub mod cameras;
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
