//! Embedder: one inference thread behind a handle that anyone may clone.
//!
//! Two passes at once would halve each other's speed and double the memory, so one thread runs them
//! one by one. It takes queries (texts, matches, example pictures) before crops of the live stream,
//! because someone waits for a query; but after four queries in a row it takes a batch of crops, so
//! that searches cannot stop the live stream. A batch is not interrupted, so a query waits for the
//! batch in progress, and for one batch more after every four queries before it. A job that panics
//! ends with an error for its caller; the thread continues.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge, histogram};
use sightline_core::config::EmbedConfig;
use sightline_core::{PatchFeatures, RgbImage};
use tokio::sync::oneshot;

use super::jobs::{Job, Jobs, Reply};
use crate::error::panic_message;
use crate::text::{Caption, CaptionTokenizer};
use crate::{
    EmbedError, ImageFeatures, MatchScore, Model, ModelFolder, ModelInfo, TextQuery, keep_large_buffers, self_test,
};

/// Operations of a model that the inference thread calls; a trait, so that tests can run the thread
/// with a test double.
pub(crate) trait Inference: Send + Sync + 'static {
    /// See [`Model::embed_images`].
    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<ImageFeatures>, EmbedError>;

    /// See [`Model::encode_caption`].
    fn encode_caption(&self, caption: Caption) -> Result<TextQuery, EmbedError>;

    /// See [`Model::match_scores`].
    fn match_scores(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<Option<MatchScore>>, EmbedError>;
}

impl Inference for Model {
    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<ImageFeatures>, EmbedError> {
        self.embed_images(images)
    }

    fn encode_caption(&self, caption: Caption) -> Result<TextQuery, EmbedError> {
        self.encode_caption(caption)
    }

    fn match_scores(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        self.match_scores(query, images)
    }
}

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

/// Abandons the queue however the thread ends, so that callers get [`EmbedError::Stopped`] and none
/// waits for ever.
struct AbandonAtEnd(Jobs);

impl Drop for AbandonAtEnd {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Embedder {
    /// Loads the model (a folder, or [`crate::DEFAULT_MODEL`]), runs its self-test and starts the
    /// thread.
    ///
    /// # Errors
    /// A missing or incomplete model, a missing device, or a self-test that fails.
    pub fn start(model_folder: &Path, cfg: &EmbedConfig) -> Result<Self, EmbedError> {
        Self::start_folder(&ModelFolder::open(model_folder)?, cfg)
    }

    /// [`Embedder::start`] with an opened folder.
    ///
    /// # Errors
    /// As [`Embedder::start`].
    pub fn start_folder(folder: &ModelFolder, cfg: &EmbedConfig) -> Result<Self, EmbedError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(cfg.threads)
            .thread_name(|i| format!("embed-{i}"))
            .build()
            .map_err(|e| EmbedError::Device { requested: cfg.device.clone(), message: e.to_string() })?;
        if cfg.keep_large_buffers {
            keep_large_buffers();
        }
        let (model, tested) = pool.install(|| -> Result<_, EmbedError> {
            let model = Model::load_as(folder, &cfg.device, cfg.precision)?;
            let tested = self_test(&model, folder)?;
            Ok((model, tested))
        })?;
        let info = ModelInfo { self_test: tested, ..model.info().clone() };
        tracing::info!(
            model = %info.id, name = %info.name, device = %info.device, dtype = %info.dtype, self_test = %tested,
            threads = pool.current_num_threads(), folder = %folder.path.display(), "model ready"
        );
        gauge!("sightline_embed_ready_info", "model" => info.id.clone(), "device" => info.device.clone()).set(1.0);
        let tokenizer = model.tokenizer().clone();
        Self::spawn(model, info, tokenizer, pool, cfg.batch)
    }

    /// Starts the thread over a loaded model. It computes with the threads of `pool`, of which it
    /// occupies one.
    pub(crate) fn spawn(
        model: impl Inference,
        info: ModelInfo,
        tokenizer: CaptionTokenizer,
        pool: rayon::ThreadPool,
        batch: usize,
    ) -> Result<Self, EmbedError> {
        let jobs = Jobs::new();
        let queue = jobs.clone();
        std::thread::Builder::new()
            .name("embed".into())
            .spawn(move || {
                let end = AbandonAtEnd(queue);
                pool.install(|| serve(&model, &end.0, batch.max(1)));
            })
            .map_err(EmbedError::io("the inference thread"))?;
        Ok(Self { shared: Arc::new(Shared { jobs, info, tokenizer }) })
    }

    /// Description of the model and of the device it runs on.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Whether the inference thread is alive.
    pub fn is_alive(&self) -> bool {
        !self.shared.jobs.is_closed()
    }

    /// Queues the job that `job` builds around the channel of its answer.
    fn submit<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<Answer<T>, EmbedError> {
        let (tx, rx) = oneshot::channel();
        if self.shared.jobs.push(job(tx)) { Ok(rx) } else { Err(EmbedError::Stopped) }
    }

    /// Features of pictures, in their order, with the priority of a query.
    ///
    /// # Errors
    /// A picture without a pixel or with features that are not finite, a job that panicked, or a
    /// stopped thread.
    pub async fn embed_images(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait(self.submit(|reply| Job::images(images, true, reply))?).await
    }

    /// Blocking [`Embedder::embed_images`], for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::embed_images`].
    pub fn embed_images_blocking(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait_blocking(self.submit(|reply| Job::images(images, true, reply))?)
    }

    /// Features of crops of the live stream. Queries go first, four in a row at most. Panics inside
    /// an async task.
    ///
    /// # Errors
    /// As [`Embedder::embed_images`].
    pub fn embed_crops_blocking(&self, images: Vec<RgbImage>) -> Result<Vec<ImageFeatures>, EmbedError> {
        wait_blocking(self.submit(|reply| Job::images(images, false, reply))?)
    }

    /// Cleans, tokenises and encodes a query. Over-long texts are cut and flagged.
    ///
    /// # Errors
    /// [`EmbedError::EmptyQuery`] when no word is left, a job that panicked, or a stopped thread.
    pub async fn encode_text(&self, text: &str) -> Result<TextQuery, EmbedError> {
        let caption = self.tokenize(text)?;
        wait(self.submit(|reply| Job::Text { caption, reply })?).await
    }

    /// Blocking [`Embedder::encode_text`], for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::encode_text`].
    pub fn encode_text_blocking(&self, text: &str) -> Result<TextQuery, EmbedError> {
        let caption = self.tokenize(text)?;
        wait_blocking(self.submit(|reply| Job::Text { caption, reply })?)
    }

    fn tokenize(&self, text: &str) -> Result<Caption, EmbedError> {
        self.shared.tokenizer.encode_query(text)
    }

    /// Scores of `query` for every picture, in their order; `None` for a picture whose features are
    /// damaged.
    ///
    /// # Errors
    /// Patch features of another model, a job that panicked, or a stopped thread.
    pub async fn match_scores(
        &self,
        query: &TextQuery,
        images: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        wait(self.submit(|reply| Job::Match { query: query.clone(), images, reply })?).await
    }

    /// Blocking [`Embedder::match_scores`], for threads. Panics inside an async task.
    ///
    /// # Errors
    /// As [`Embedder::match_scores`].
    pub fn match_scores_blocking(
        &self,
        query: &TextQuery,
        images: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        wait_blocking(self.submit(|reply| Job::Match { query: query.clone(), images, reply })?)
    }
}

type Answer<T> = oneshot::Receiver<Result<T, EmbedError>>;

async fn wait<T>(answer: Answer<T>) -> Result<T, EmbedError> {
    answer.await.unwrap_or(Err(EmbedError::Stopped))
}

fn wait_blocking<T>(answer: Answer<T>) -> Result<T, EmbedError> {
    answer.blocking_recv().unwrap_or(Err(EmbedError::Stopped))
}

/// The loop of the inference thread: runs the next job of the queue until it is closed and empty.
/// It skips work whose caller has gone.
fn serve(model: &impl Inference, jobs: &Jobs, batch: usize) {
    while let Some(job) = jobs.pop() {
        let start = Instant::now();
        let kind = match job {
            Job::Text { caption, reply } if !reply.is_closed() => {
                let _ = reply.send(catch_panic("text", || model.encode_caption(caption)));
                "text"
            }
            Job::Match { query, images, reply } if !reply.is_closed() => {
                counter!("sightline_embed_match_pairs_total").increment(images.len() as u64);
                let _ = reply.send(catch_panic("match", || model.match_scores(&query, &images)));
                "match"
            }
            Job::Images(mut work) if !work.reply.is_closed() => {
                let n = work.waiting.len().min(batch);
                let part: Vec<RgbImage> = work.waiting.drain(..n).collect();
                match catch_panic("image", || model.embed_images(&part)) {
                    Ok(features) => {
                        counter!("sightline_embed_images_total").increment(n as u64);
                        work.done.extend(features);
                        if work.waiting.is_empty() {
                            let _ = work.reply.send(Ok(work.done));
                        } else {
                            // Queries may go between two batches.
                            jobs.push_front(Job::Images(work));
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

/// Runs one job; a panic becomes [`EmbedError::Panicked`] for its caller, and all other jobs are
/// still done. The model is only read, so no job finds what a panic left half-done.
fn catch_panic<T>(kind: &'static str, job: impl FnOnce() -> Result<T, EmbedError>) -> Result<T, EmbedError> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        tracing::error!(kind, message, "the model panicked; the inference thread goes on");
        counter!("sightline_embed_panics_total", "kind" => kind).increment(1);
        Err(EmbedError::Panicked(message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::double::Double;

    fn picture(width: u32) -> RgbImage {
        RgbImage::new(width, 1, vec![0u8; width as usize * 3]).expect("fits")
    }

    /// The width of a picture comes back as its feature; 13 makes the model panic.
    fn embedder() -> Embedder {
        let model = Double::new(|images| {
            assert!(images.iter().all(|i| i.width() != 13), "thirteen");
            Ok(())
        });
        model.start(4)
    }

    #[test]
    fn a_panic_costs_its_own_job_alone() {
        let e = embedder();
        let query = e.encode_text_blocking("a red jacket").expect("a query");
        for _ in 0..3 {
            let failed = e.embed_images_blocking(vec![picture(1), picture(13)]);
            assert!(matches!(&failed, Err(EmbedError::Panicked(m)) if m == "thirteen"), "{failed:?}");
            let failed = e.embed_crops_blocking(vec![picture(13)]);
            assert!(matches!(&failed, Err(EmbedError::Panicked(_))), "{failed:?}");
            let failed = e.encode_text_blocking("panic");
            assert!(matches!(&failed, Err(EmbedError::Panicked(_))), "{failed:?}");
            let nothing = PatchFeatures { rows: 0, width: 0, data: bytes::Bytes::new() };
            let failed = e.match_scores_blocking(&query, vec![nothing]);
            assert!(matches!(&failed, Err(EmbedError::Panicked(_))), "{failed:?}");
        }
        assert!(e.is_alive());
        let features = e.embed_images_blocking((1..=9).map(picture).collect()).expect("features");
        let widths: Vec<f32> = features.iter().map(|f| f.feature[0]).collect();
        assert_eq!(widths, (1..=9).map(|w| w as f32).collect::<Vec<_>>());
    }
}
