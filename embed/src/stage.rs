//! The embedding stage of the pipeline: crops in, sightings out, everything else passed through in its place.
//!
//! Up to B crops are embedded at once; the first of them waits at most T for company. All events keep their order, so a
//! camera's progress can never overtake the crops it vouches for.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use sightline_core::config::EmbedConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Crop, IndexEvent, RgbImage, Sighting};

use crate::{EmbedError, Embedder, decode_image};

/// How long an idle stage sleeps before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(250);

/// An event in its place; crops with their pixels.
enum Pending {
    Crop(Box<Crop>, RgbImage),
    Other(IndexEvent),
}

/// Runs on the calling thread until `input` is closed and drained, or `shutdown` is given and `input` is empty. A crop
/// that cannot be decoded or embedded is logged, counted and skipped; it never stops the stage.
///
/// # Errors
/// [`EmbedError::Stopped`] when the inference thread has died: nothing more can be embedded.
pub fn run(
    input: &Queue<CameraEvent>,
    embedder: &Embedder,
    output: &Queue<IndexEvent>,
    cfg: &EmbedConfig,
    shutdown: &Shutdown,
) -> Result<(), EmbedError> {
    loop {
        let Some(event) = input.pop(IDLE) else {
            if (input.is_closed() || shutdown.is_triggered()) && input.is_empty() {
                return Ok(());
            }
            continue;
        };
        let pending = gather(event, input, cfg);
        if !flush(pending, embedder, output)? {
            tracing::warn!("the index has closed its queue; embedding stops");
            return Ok(());
        }
    }
}

/// `first` and what follows it, until a batch of crops is full or the first crop has waited long enough.
fn gather(first: CameraEvent, input: &Queue<CameraEvent>, cfg: &EmbedConfig) -> Vec<Pending> {
    let (mut pending, mut crops) = (Vec::new(), 0);
    let mut deadline = None;
    let mut next = Some(first);
    while let Some(event) = next.take() {
        match event {
            CameraEvent::Crop(crop) => {
                if let Some(image) = decode(&crop) {
                    pending.push(Pending::Crop(Box::new(crop), image));
                    crops += 1;
                    deadline.get_or_insert_with(|| Instant::now() + Duration::from_millis(cfg.linger_ms));
                }
            }
            CameraEvent::TrackEnd(end) => pending.push(Pending::Other(IndexEvent::TrackEnd(end))),
            CameraEvent::Progress(progress) => pending.push(Pending::Other(IndexEvent::Progress(progress))),
            CameraEvent::Report(report) => pending.push(Pending::Other(IndexEvent::Report(report))),
        }
        if crops >= cfg.batch.max(1) {
            break;
        }
        // With no crop waiting there is nothing to linger for: take what is there and pass it on.
        let left = deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now()));
        next = input.pop(left);
    }
    pending
}

fn decode(crop: &Crop) -> Option<RgbImage> {
    match decode_image(&crop.jpeg) {
        Ok(image) => Some(image),
        Err(error) => {
            counter!("sightline_embed_undecodable_crops_total", "camera" => crop.camera.to_string()).increment(1);
            tracing::warn!(camera = %crop.camera, crop = %crop.id(), trace = %crop.origin.trace, %error, "crop skipped");
            None
        }
    }
}

/// Embeds the crops of `pending` and sends everything on, in order; false when `output` is closed.
fn flush(pending: Vec<Pending>, embedder: &Embedder, output: &Queue<IndexEvent>) -> Result<bool, EmbedError> {
    let images: Vec<RgbImage> = pending
        .iter()
        .filter_map(|p| match p {
            Pending::Crop(_, image) => Some(image.clone()),
            Pending::Other(_) => None,
        })
        .collect();
    let mut features = embed(images, embedder)?.into_iter();
    for item in pending {
        let event = match item {
            Pending::Other(event) => event,
            Pending::Crop(crop, _) => {
                let Some(Some(f)) = features.next() else {
                    counter!("sightline_embed_failed_crops_total", "camera" => crop.camera.to_string()).increment(1);
                    continue;
                };
                counter!("sightline_embed_crops_total", "camera" => crop.camera.to_string()).increment(1);
                let model_id = embedder.info().id.clone();
                let sighting = Sighting { crop: *crop, model_id, feature: f.feature, patches: f.patches };
                IndexEvent::Sighting(Box::new(sighting))
            }
        };
        if output.push_wait(event).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Features of every image. When the batch fails each picture gets its own attempt, so that one bad one costs itself
/// alone.
fn embed(images: Vec<RgbImage>, embedder: &Embedder) -> Result<Vec<Option<crate::ImageFeatures>>, EmbedError> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let start = Instant::now();
    let n = images.len();
    let result = match embedder.embed_crops_blocking(images.clone()) {
        Ok(features) => features.into_iter().map(Some).collect(),
        Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
        Err(error) => {
            tracing::error!(%error, crops = n, "a batch of crops cannot be embedded; trying them one by one");
            let mut single = Vec::with_capacity(n);
            for image in images {
                single.push(match embedder.embed_crops_blocking(vec![image]) {
                    Ok(mut one) => one.pop(),
                    Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
                    Err(_) => None,
                });
            }
            single
        }
    };
    histogram!("sightline_embed_batch_crops").record(n as f64);
    histogram!("sightline_embed_batch_seconds").record(start.elapsed().as_secs_f64());
    Ok(result)
}
