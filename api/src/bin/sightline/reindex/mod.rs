//! `sightline reindex`: embeds all stored pictures again, so that a new model finds the people of
//! the former one.
//!
//! It locks the data folder exclusively, as the server does: pictures that arrived meanwhile would
//! belong to both models. It may be stopped at any time; the server then serves with the former
//! model, and the next run resumes.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use serde_json::json;
use sightline_api::state::{AuditEntry, State};
use sightline_core::config::VectorPlace;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, SightingId, telemetry};
use sightline_embed::{Embedder, ModelFolder};
use sightline_search::reindex::{Indexes, Outcome, Reindex, VECTORS, drop_others, resume_drop};
use sightline_search::{DataLock, EdgeOptions, FileError, Gallery, indexed_models, open_gallery};
use tokio::signal::unix::{SignalKind, signal};

use report::{Report, Summary};

/// Exit code when sightings lack a readable picture and `--leave-out` does not allow that many.
const LEFT_OUT: u8 = 3;
/// Exit code after SIGINT or SIGTERM.
const INTERRUPTED: u8 = 130;

/// Text of `sightline reindex --help`.
pub const HELP: &str = "\
Embed the stored pictures anew with the configured model, so that it answers over everybody.

A release that brings a new model keeps the former one in a folder beside it. The people in your data folder were indexed by \
the former model, and that one goes on answering until this command has finished: then the new model takes over, at the next \
start of the server.

Stop the server first; this command refuses to run beside it. It may be stopped and killed at any time, and goes on where it \
was when it is started again. Between two runs the server may run: it answers with the former model, and what it records, \
replaces or erases meanwhile is caught up with.

Sightings whose picture is missing or damaged cannot be embedded anew. They are named, and the former model goes on answering \
until you say with --leave-out that the new one may do without so many. They stay in the former model's index.

The former index is kept, so that you can go back ([model] folder = the former one); erasing somebody erases them there too. \
--drop-former deletes it, with all that other models left.

This is for the index in the data folder (vectors.store = \"embedded\"). On a Qdrant server each model has a collection of its \
own: people of before are found by workers and API that run with the former model, and the new collection is filled by \
`sightline-embed` and `sightline-index` with the new model, from what Kafka still holds of the pictures' topic.

Exit codes: 0 finished, 1 failed (what was done is kept), 3 sightings without a readable picture, 130 stopped.";

/// Arguments of `sightline reindex`
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file; settings that it omits keep their defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Let the new model take over without sightings that have no readable picture, if there are at
    /// most N
    #[arg(long, value_name = "N", default_value_t = 0)]
    leave_out: u64,
    /// Then delete the indexes of all other models, with the sightings that were left out
    #[arg(long)]
    drop_former: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    match reindex(args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {}", crate::output::one_line(&e));
            ExitCode::FAILURE
        }
    }
}

fn reindex(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    let report = Report::new();
    telemetry::init(config.server.log_json, if report.terminal() { "warn" } else { "info" });
    if config.vectors.store != VectorPlace::Embedded {
        bail!(
            "reindex is for the index in the data folder (vectors.store = \"embedded\"); see `sightline reindex --help`"
        );
    }
    let data = &config.data.folder;
    if !data.is_dir() {
        bail!("there is no data folder {}", data.display());
    }
    let _lock = DataLock::acquire(data).map_err(in_use)?;
    let model = ModelFolder::open(&config.model.folder)?;
    let began = Instant::now();
    let mut summary = Summary { model: model.id.clone(), ..Summary::default() };
    resume_drop(data)?;
    let indexed = indexed_models(&data.join(VECTORS))?;
    if indexed.iter().all(|other| *other == model.id) {
        summary.finished = true;
        if args.drop_former && !indexed.is_empty() {
            // Half-built indexes of other models.
            summary.dropped = drop_others(data, &model.id, &*open_gallery(&config, &model.id)?)?;
        }
        summary.print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let shutdown = Shutdown::new();
    let signals = stop_on_signals(&shutdown)?;
    let embedder = Embedder::start_folder(&model, &config.embed)?;
    let gallery = open_gallery(&config, &model.id)?;
    let done = embed_anew(args, &config, &embedder, &*gallery, &shutdown, report, &mut summary);
    signals.shutdown_background();
    done.map_err(|e| {
        let why = crate::output::one_line(&e);
        anyhow!("{why}; what was embedded so far is kept, and the next `sightline reindex` goes on from there")
    })?;
    summary.seconds = began.elapsed().as_secs_f64();
    summary.print(args.json)?;
    record(&config, &summary)?;
    Ok(match &summary.outcome {
        Outcome { stopped: true, .. } => ExitCode::from(INTERRUPTED),
        outcome if outcome.left_out.len() as u64 > args.leave_out => ExitCode::from(LEFT_OUT),
        _ => ExitCode::SUCCESS,
    })
}

fn embed_anew(
    args: &Args,
    config: &Config,
    embedder: &Embedder,
    gallery: &dyn Gallery,
    shutdown: &Shutdown,
    mut report: Report,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let (data, info) = (&config.data.folder, embedder.info());
    let indexes = Indexes::open(data, &info.id, info.feature_dim, &EdgeOptions::default())?
        .ok_or_else(|| anyhow!("the indexes of former models have gone from {}", data.display()))?;
    // Each value of a vector has four bytes, each value of the patch features two.
    report.set_bytes_each(4 * info.feature_dim + 2 * info.patch_rows * info.patch_width);
    indexes.recover(gallery)?;
    summary.former = indexes.former().iter().map(|store| store.model_id().to_owned()).collect();
    let job = Reindex {
        former: indexes.former(),
        new: indexes.new_index(),
        unfinished: indexes.unfinished(),
        gallery,
        embed: &|jpegs| embedder.embed_jpegs_blocking(jpegs),
        batch: config.index.batch,
        disk: Some(data),
        shutdown,
    };
    let outcome = job.run(&mut |event| report.event(&event))?;
    report.end();
    let accepted = !outcome.stopped && outcome.left_out.len() as u64 <= args.leave_out;
    let answered = !indexes.unfinished();
    if accepted {
        indexes.finish()?;
    } else {
        drop(indexes);
    }
    summary.finished = accepted || answered;
    if accepted && args.drop_former {
        // Only the former index still has these sightings.
        let left_out: Vec<SightingId> = outcome.left_out.iter().map(|left| left.sighting).collect();
        gallery.delete(&left_out)?;
        summary.dropped = drop_others(data, &info.id, gallery)?;
    }
    summary.outcome = outcome;
    Ok(())
}

/// Adds advice to the error of a locked data folder.
fn in_use(error: FileError) -> anyhow::Error {
    match error.source.kind() {
        std::io::ErrorKind::WouldBlock => {
            let folder = error.path.display();
            anyhow!(
                "another running Sightline uses {folder}: stop it, run `sightline reindex`, and start it again (reindex may be \
                 interrupted and goes on later)"
            )
        }
        _ => error.into(),
    }
}

/// Triggers `shutdown` on SIGINT or SIGTERM; a second signal ends the process, which loses nothing
/// either.
fn stop_on_signals(shutdown: &Shutdown) -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let shutdown = shutdown.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
            if shutdown.is_triggered() {
                std::process::exit(i32::from(INTERRUPTED));
            }
            tracing::warn!("stopping after this batch");
            shutdown.trigger();
        }
    });
    Ok(runtime)
}

/// Records in the audit trail that the model changed and what was deleted with the former index.
fn record(config: &Config, summary: &Summary) -> anyhow::Result<()> {
    let Outcome { total, embedded, left_out, .. } = &summary.outcome;
    let left_out: Vec<_> = left_out.iter().map(|left| left.sighting).collect();
    let detail = json!({
        "model": summary.model, "finished": summary.finished, "total": total, "embedded": embedded,
        "left_out": left_out, "dropped": summary.dropped,
    });
    let entry = AuditEntry { who: "local".into(), action: "reindex", purpose: None, detail };
    State::open(&config.data.folder)?.record(&entry)?;
    Ok(())
}
