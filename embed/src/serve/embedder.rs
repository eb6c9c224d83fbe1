//! One inference thread behind a handle that anyone may clone.
//!
//! One thread, because two passes at once would only halve each other's speed and double the memory. Queries (texts,
//! matches, example pictures) are taken before crops of the live stream: someone waits for the former. A batch of crops
//! that is being computed is not interrupted, so a query waits for one batch at most.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge, histogram};
use sightline_core::config::EmbedConfig;
use sightline_core::{PatchFeatures, RgbImage};
use tokio::sync::oneshot;

use super::jobs::{Job, Jobs, Reply};
use crate::text::{Caption, CaptionTokenizer};
use crate::{EmbedError, ImageFeatures, MatchScore, Model, ModelFolder, ModelInfo, TextQuery, self_test};

/// Handle on the inference thread; cheap to clone. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct Embedder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    jobs: Jobs,
    info: ModelInfo,
    tokenizer: CaptionTokenizer,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

/// Abandons the queue however the thread ends, so that callers get [`EmbedError::Stopped`] and none waits for ever.
struct AbandonAtEnd(Jobs);

impl Drop for AbandonAtEnd {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Embedder {
    /// Loads the model (a folder, or [`crate::DEFAULT_MODEL`]), runs its self-test and starts the thread.
    ///
    /// # Errors
    /// A model that is not there or not whole, a device that is not there, or a self-test that fails.
    pub fn start(model_folder: &Path, cfg: &EmbedConfig) -> Result<Self, EmbedError> {
        let folder = ModelFolder::open(model_folder)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(cfg.threads)
            .thread_name(|i| format!("embed-{i}"))
            .build()
            .map_err(|e| EmbedError::Device { requested: cfg.device.clone(), message: e.to_string() })?;
        let model = pool.install(|| -> Result<Model, EmbedError> {
            let model = Model::load_as(&folder, &cfg.device, cfg.precision)?;
            self_test(&model, &folder)?;
            Ok(model)
        })?;
        let info = model.info().clone();
        tracing::info!(
            model = %info.id, name = %info.name, device = %info.device, dtype = %info.dtype,
            threads = pool.current_num_threads(), folder = %folder.path.display(), "model ready, self-test passed"
        );
        gauge!("sightline_embed_ready_info", "model" => info.id.clone(), "device" => info.device.clone()).set(1.0);
        let jobs = Jobs::new();
        let (queue, tokenizer, batch) = (jobs.clone(), model.tokenizer().clone(), cfg.batch.max(1));
        std::thread::Builder::new()
            .name("embed".into())
            .spawn(move || {
                let end = AbandonAtEnd(queue);
                pool.install(|| serve(&model, &end.0, batch));
            })
            .map_err(EmbedError::io("the inference thread"))?;
        Ok(Self { shared: Arc::new(Shared { jobs, info, tokenizer }) })
    }

    /// What runs, and where.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Whether the inference thread is alive.
    pub fn is_alive(&self) -> bool {
        !self.shared.jobs.is_closed()
    }

    fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<Answer<T>, EmbedError> {
        let (tx, rx) = oneshot::channel();
        if self.shared.jobs.push(job(tx)) { Ok(rx) } else { Err(EmbedError::Stopped) }
    }

    /// Features of pictures someone waits for, in their order.
    ///
    /// # Errors
    /// A picture without a pixel, or a stopped thread.
    pub async fn embed_images(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait(self.ask(|reply| Job::images(images, true, reply))?).await
    }

    /// [`Embedder::embed_images`] for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::embed_images`].
    pub fn embed_images_blocking(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait_blocking(self.ask(|reply| Job::images(images, true, reply))?)
    }

    /// Features of crops of the live stream, which let queries go first. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::embed_images`].
    pub fn embed_crops_blocking(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait_blocking(self.ask(|reply| Job::images(images, false, reply))?)
    }

    /// Cleans, tokenises and encodes something to search for. Over-long texts are cut and flagged.
    ///
    /// # Errors
    /// [`EmbedError::EmptyQuery`] when no word is left, or a stopped thread.
    pub async fn encode_text(&self, text: &str) -> Result<TextQuery, EmbedError> {
        let caption = self.tokenize(text)?;
        wait(self.ask(|reply| Job::Text { caption, reply })?).await
    }

    /// [`Embedder::encode_text`] for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::encode_text`].
    pub fn encode_text_blocking(&self, text: &str) -> Result<TextQuery, EmbedError> {
        let caption = self.tokenize(text)?;
        wait_blocking(self.ask(|reply| Job::Text { caption, reply })?)
    }

    fn tokenize(&self, text: &str) -> Result<Caption, EmbedError> {
        self.shared.tokenizer.encode_query(text)
    }

    /// The decoder's judgement of `query` against every picture, in their order; none for a picture whose features are
    /// damaged.
    ///
    /// # Errors
    /// Patch features of another model, or a stopped thread.
    pub async fn match_scores(
        &self,
        query: &TextQuery,
        images: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        wait(self.ask(|reply| Job::Match { query: query.clone(), images, reply })?).await
    }

    /// [`Embedder::match_scores`] for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::match_scores`].
    pub fn match_scores_blocking(
        &self,
        query: &TextQuery,
        images: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        wait_blocking(self.ask(|reply| Job::Match { query: query.clone(), images, reply })?)
    }
}

type Answer<T> = oneshot::Receiver<Result<T, EmbedError>>;

async fn wait<T>(answer: Answer<T>) -> Result<T, EmbedError> {
    answer.await.unwrap_or(Err(EmbedError::Stopped))
}

fn wait_blocking<T>(answer: Answer<T>) -> Result<T, EmbedError> {
    answer.blocking_recv().unwrap_or(Err(EmbedError::Stopped))
}

/// The inference thread: the most urgent job until the queue is closed and empty. Work whose caller has gone is skipped.
fn serve(model: &Model, jobs: &Jobs, batch: usize) {
    while let Some(job) = jobs.pop() {
        let start = Instant::now();
        let kind = match job {
            Job::Text { caption, reply } if !reply.is_closed() => {
                let _ = reply.send(model.encode_caption(caption));
                "text"
            }
            Job::Match { query, images, reply } if !reply.is_closed() => {
                counter!("sightline_embed_match_pairs_total").increment(images.len() as u64);
                let _ = reply.send(model.match_scores(&query, &images));
                "match"
            }
            Job::Images(mut work) if !work.reply.is_closed() => {
                let n = work.waiting.len().min(batch);
                let part: Vec<RgbImage> = work.waiting.drain(..n).collect();
                match model.embed_images(&part) {
                    Ok(features) => {
                        counter!("sightline_embed_images_total").increment(n as u64);
                        work.done.extend(features);
                        if work.waiting.is_empty() {
                            let _ = work.reply.send(Ok(work.done));
                        } else {
                            // Between two batches a query may pass.
                            jobs.push_back_first(Job::Images(work));
                        }
                    }
                    Err(e) => {
                        let _ = work.reply.send(Err(e));
                    }
                }
                "image"
            }
            _ => continue,
        };
        histogram!("sightline_embed_inference_seconds", "kind" => kind).record(start.elapsed().as_secs_f64());
    }
}
