//! The bus on a real broker.

mod broker;
mod cameras;
mod dead;
mod delivery;
mod support;
