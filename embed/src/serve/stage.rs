//! The embedding stage of the pipeline: crops in, sightings out, everything else passed through in its place.
//!
//! Up to B crops are embedded at once; the first of them waits at most T for company. All events keep their order, so a
//! camera's progress can never overtake the crops it vouches for.
//!
//! Every event hands its receipt on to what was made of it, so that whoever waits for it (the bus) learns when that is
//! stored. What can never be embedded is given away with the reason, see [`Refused`].

use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use sightline_core::config::EmbedConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Crop, Delivery, IndexEvent, Receipt, Refused, RgbImage, Sighting};

use crate::{EmbedError, Embedder, ImageFeatures, decode_image};

/// How long an idle stage sleeps before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(250);

/// An event in its place; crops with their pixels.
enum Pending {
    Crop(Box<Crop>, RgbImage, Receipt),
    Other(Delivery<IndexEvent>),
}

impl Pending {
    fn other(event: IndexEvent, receipt: Receipt) -> Self {
        Self::Other(Delivery::new(event, receipt))
    }
}

/// Runs on the calling thread until `input` is closed and drained, or `shutdown` is given and `input` is empty. A crop
/// that cannot be decoded or embedded is logged, counted and given to `refused`; it never stops the stage. When the
/// stage stops early, the receipts of what it still holds stay open.
///
/// # Errors
/// [`EmbedError::Stopped`] when the inference thread has died, and what the device said when it fails on whatever it is
/// given: nothing more can be embedded.
pub fn run<I: Into<Delivery<CameraEvent>>>(
    input: &Queue<I>,
    embedder: &Embedder,
    output: &Queue<Delivery<IndexEvent>>,
    refused: &dyn Refused<CameraEvent>,
    cfg: &EmbedConfig,
    shutdown: &Shutdown,
) -> Result<(), EmbedError> {
    let stage = Stage { input, embedder, output, refused, cfg };
    loop {
        let Some(event) = input.pop(IDLE) else {
            if (input.is_closed() || shutdown.is_triggered()) && input.is_empty() {
                return Ok(());
            }
            continue;
        };
        let pending = stage.gather(event);
        if !stage.flush(pending)? {
            tracing::warn!("the index has closed its queue; embedding stops");
            return Ok(());
        }
    }
}

struct Stage<'a, I> {
    input: &'a Queue<I>,
    embedder: &'a Embedder,
    output: &'a Queue<Delivery<IndexEvent>>,
    refused: &'a dyn Refused<CameraEvent>,
    cfg: &'a EmbedConfig,
}

impl<I: Into<Delivery<CameraEvent>>> Stage<'_, I> {
    /// `first` and what follows it, until a batch of crops is full or the first crop has waited long enough.
    fn gather(&self, first: I) -> Vec<Pending> {
        let (mut pending, mut crops) = (Vec::new(), 0);
        let mut deadline = None;
        let mut next = Some(first);
        while let Some(event) = next.take() {
            let Delivery { event, receipt } = event.into();
            match event {
                CameraEvent::Crop(crop) => match decode_image(&crop.jpeg) {
                    Ok(image) => {
                        pending.push(Pending::Crop(Box::new(crop), image, receipt));
                        crops += 1;
                        deadline.get_or_insert_with(|| Instant::now() + Duration::from_millis(self.cfg.linger_ms));
                    }
                    Err(error) => {
                        let camera = crop.camera.to_string();
                        counter!("sightline_embed_undecodable_crops_total", "camera" => camera).increment(1);
                        self.refuse(crop, format!("not a picture: {error}").trim_end(), receipt);
                    }
                },
                CameraEvent::TrackEnd(end) => pending.push(Pending::other(IndexEvent::TrackEnd(end), receipt)),
                CameraEvent::Progress(news) => pending.push(Pending::other(IndexEvent::Progress(news), receipt)),
                CameraEvent::Report(report) => pending.push(Pending::other(IndexEvent::Report(report), receipt)),
            }
            if crops >= self.cfg.batch.max(1) {
                break;
            }
            // With no crop waiting there is nothing to linger for: take what is there and pass it on.
            let left = deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now()));
            next = self.input.pop(left);
        }
        pending
    }

    fn refuse(&self, crop: Crop, reason: &str, receipt: Receipt) {
        tracing::warn!(camera = %crop.camera, crop = %crop.id(), trace = %crop.origin.trace, reason, "crop skipped");
        self.refused.refuse(CameraEvent::Crop(crop), reason, receipt);
    }

    /// Embeds the crops of `pending` and sends everything on, in order; false when `output` is closed.
    fn flush(&self, pending: Vec<Pending>) -> Result<bool, EmbedError> {
        let images: Vec<RgbImage> = pending
            .iter()
            .filter_map(|p| match p {
                Pending::Crop(_, image, _) => Some(image.clone()),
                Pending::Other(_) => None,
            })
            .collect();
        let mut features = embed(images, self.embedder)?.into_iter();
        for item in pending {
            let delivery = match item {
                Pending::Other(delivery) => delivery,
                Pending::Crop(crop, _, receipt) => {
                    let camera = crop.camera.to_string();
                    match features.next().unwrap_or_else(|| Err("no features came of it".into())) {
                        Ok(f) => {
                            counter!("sightline_embed_crops_total", "camera" => camera).increment(1);
                            let model_id = self.embedder.info().id.clone();
                            let sighting = Sighting { crop: *crop, model_id, feature: f.feature, patches: f.patches };
                            Delivery::new(IndexEvent::Sighting(Box::new(sighting)), receipt)
                        }
                        Err(reason) => {
                            counter!("sightline_embed_failed_crops_total", "camera" => camera).increment(1);
                            self.refuse(*crop, &reason, receipt);
                            continue;
                        }
                    }
                }
            };
            if self.output.push_wait(delivery).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Features of every image, or why there are none. When the batch fails each picture gets its own attempt, so that one
/// bad one costs itself alone.
///
/// # Errors
/// Where not even a blank picture can be embedded, it is not the pictures' fault: the device is gone, and the stage has
/// to stop before it gives away everything that comes.
fn embed(images: Vec<RgbImage>, embedder: &Embedder) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let start = Instant::now();
    let n = images.len();
    let result = match embedder.embed_crops_blocking(images.clone()) {
        Ok(features) => features.into_iter().map(Ok).collect(),
        Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
        Err(error) => {
            tracing::error!(%error, crops = n, "a batch of crops cannot be embedded; trying them one by one");
            let mut single = Vec::with_capacity(n);
            for image in images {
                single.push(match embedder.embed_crops_blocking(vec![image]) {
                    Ok(mut one) => one.pop().ok_or_else(|| "no features came of it".into()),
                    Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
                    Err(error) => {
                        embedder.embed_crops_blocking(vec![blank()?])?;
                        Err(format!("not embedded: {error}"))
                    }
                });
            }
            single
        }
    };
    histogram!("sightline_embed_batch_crops").record(n as f64);
    histogram!("sightline_embed_batch_seconds").record(start.elapsed().as_secs_f64());
    Ok(result)
}

/// A picture with nothing wrong about it.
fn blank() -> Result<RgbImage, EmbedError> {
    const SIDE: u32 = 32;
    let grey = vec![128u8; (SIDE * SIDE * 3) as usize];
    RgbImage::new(SIDE, SIDE, grey).map_err(|_| EmbedError::EmptyImage { width: SIDE, height: SIDE })
}
