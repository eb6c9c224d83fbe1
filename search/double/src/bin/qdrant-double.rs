//! `qdrant-double`: Qdrant's gRPC interface over its engine in this process, for tests and trials
//! without a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use sightline_double::QdrantDouble;
use sightline_search::EdgeOptions;
use tokio::signal::unix::{SignalKind, signal};

/// Test double of a Qdrant server. It is NOT Qdrant: one process, one copy, no REST, no cluster,
/// and only the gRPC calls that Sightline makes. For anything that matters run a real Qdrant
/// server.
#[derive(Parser)]
#[command(name = "qdrant-double", version = concat!(env!("CARGO_PKG_VERSION"), " (a double for tests, not Qdrant)"))]
struct Arguments {
    /// Address of the gRPC interface; port 0 picks a free port, which the first line of output
    /// names.
    #[arg(long, default_value = "127.0.0.1:6334")]
    listen: SocketAddr,
    /// Data folder.
    #[arg(long)]
    folder: PathBuf,
    /// Number of points without a graph index at which one is built.
    #[arg(long, default_value_t = EdgeOptions::default().index_from)]
    index_from: usize,
    /// API key; calls without it are refused.
    #[arg(long)]
    api_key: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    sightline_core::telemetry::init(false, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        let options = EdgeOptions { index_from: arguments.index_from, ..EdgeOptions::default() };
        let double = QdrantDouble::open(&arguments.folder, arguments.listen, arguments.api_key, options).await?;
        println!("Sightline's double of Qdrant (not Qdrant) listens on http://{}", double.address()?);
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        double.serve(stop).await?;
        Ok(())
    })
}
