//! `sightline check-gallery`: finds pictures that no index knows, and moves them into quarantine.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::bail;
use sightline_core::config::VectorPlace;
use sightline_core::{Config, Timestamp, telemetry};
use sightline_embed::ModelFolder;
use sightline_search::reindex::open_embedded;
use sightline_search::{DataLock, GalleryCheck, Journals, QdrantStore, VectorStore, open_gallery};

/// Long help.
pub const HELP: &str = "Find pictures that no index knows, and move them into quarantine\n\n\
    Stop the server first: the index in the data folder has one user at a time. Without --quarantine nothing changes.\n\
    Files lie in gallery/quarantine/DAY for seven days, from where they can be moved back; then the server deletes\n\
    them. When the index is empty, or does not know more than one picture in a hundred, nothing is moved: the index\n\
    is then probably not the one that belongs to the gallery.";

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file; settings that it omits keep their defaults (docker/sightline.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Move what is found into quarantine
    #[arg(long)]
    quarantine: bool,
    /// Accept up to N unknown pictures although they are more than one in a hundred
    #[arg(long, value_name = "N", default_value_t = 0)]
    accept: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    telemetry::init(config.server.log_json, "warn");
    let data = &config.data.folder;
    if !data.is_dir() {
        bail!("there is no data folder {}", data.display());
    }
    let _lock = DataLock::acquire(data)?;
    let model = ModelFolder::open(&config.model.folder)?;
    let width = model.config.architecture.embed_dim;
    let store: std::sync::Arc<dyn VectorStore> = match config.vectors.store {
        VectorPlace::Embedded => open_embedded(data, &model.id, width)?,
        VectorPlace::Server => std::sync::Arc::new(QdrantStore::open(&config.vectors, &model.id, width)?),
    };
    let gallery = open_gallery(&config, &model.id)?;
    Journals::open(data)?.recover(data, &*store, &*gallery)?;
    gallery.expire_quarantine(Timestamp::now())?;
    let check = GalleryCheck { store: &*store, gallery: &*gallery, quarantine: args.quarantine, accept: args.accept };
    let report = check.run(SystemTime::now(), &mut |_| ())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let moved = if args.quarantine {
            format!("; {} files moved into quarantine", report.quarantined)
        } else {
            String::new()
        };
        println!("{} pictures, {} of them unknown to the index{moved}", report.pictures, report.unknown);
    }
    Ok(())
}
