//! The embedding stage of the pipeline: crops in, sightings out, everything else passed through in
//! its place.
//!
//! ```text
//! input -> decode thread (all cores) -> decoded (one batch) -> calling thread: gather, embed, send -> output
//! ```
//!
//! The next crops are decoded while a batch is being embedded: for a small model, decoding takes
//! longer than the network. Up to B crops are embedded at once; the first of them waits at most T
//! for more. All events keep their order, so a camera's progress can never overtake the crops it
//! vouches for.
//!
//! The receipt of every event goes on with its result, so that the bus learns when the result is
//! stored. A crop that can never be embedded is refused with the reason, see [`RefusalHandler`].

use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use rayon::prelude::*;
use sightline_core::config::EmbedConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Crop, Delivery, IndexEvent, Receipt, RefusalHandler, RgbImage, Sighting};

use super::pictures;
use crate::{EmbedError, Embedder, decode_image};

/// Time that an idle thread waits before it checks whether it should stop.
const IDLE: Duration = Duration::from_millis(250);

/// Event after decoding; a crop has its pixels.
enum Decoded {
    Crop(Box<Crop>, RgbImage, Receipt),
    Other(Delivery<IndexEvent>),
}

impl Decoded {
    fn other(event: IndexEvent, receipt: Receipt) -> Self {
        Self::Other(Delivery::new(event, receipt))
    }
}

/// Crop that cannot be decoded, and why.
struct Undecodable {
    crop: Box<Crop>,
    reason: String,
    receipt: Receipt,
}

/// Runs on the calling thread until `input` is closed and drained, or `shutdown` is triggered and
/// `input` is empty. A crop that cannot be decoded or embedded is logged, counted and given to
/// `refused`; it never stops the stage. When the stage stops early, the receipts of what it still
/// holds stay open.
///
/// # Errors
/// [`EmbedError::Stopped`] when the inference thread has died; the error of the device when it
/// fails on every picture; a thread that cannot be started.
pub fn run<I: Into<Delivery<CameraEvent>> + Send>(
    input: &Queue<I>,
    embedder: &Embedder,
    output: &Queue<Delivery<IndexEvent>>,
    refused: &dyn RefusalHandler<CameraEvent>,
    cfg: &EmbedConfig,
    shutdown: &Shutdown,
) -> Result<(), EmbedError> {
    Stage { input, embedder, output, refused, cfg, shutdown, decode: decode_image }.run()
}

struct Stage<'a, I> {
    input: &'a Queue<I>,
    embedder: &'a Embedder,
    output: &'a Queue<Delivery<IndexEvent>>,
    refused: &'a dyn RefusalHandler<CameraEvent>,
    cfg: &'a EmbedConfig,
    shutdown: &'a Shutdown,
    decode: fn(&[u8]) -> Result<RgbImage, EmbedError>,
}

/// Closes the queue between both threads however one of them ends, so that the other ends too.
struct CloseAtEnd<'a>(&'a Queue<Decoded>);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<I: Into<Delivery<CameraEvent>> + Send> Stage<'_, I> {
    fn run(&self) -> Result<(), EmbedError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.cfg.threads)
            .thread_name(|i| format!("decode-{i}"))
            .build()
            .map_err(|e| EmbedError::io("the decoding threads")(std::io::Error::other(e)))?;
        let decoded = Queue::new(self.batch());
        std::thread::scope(|scope| {
            let _close = CloseAtEnd(&decoded);
            std::thread::Builder::new()
                .name("decode".into())
                .spawn_scoped(scope, || {
                    let _close = CloseAtEnd(&decoded);
                    self.decode_all(&pool, &decoded);
                })
                .map_err(EmbedError::io("the decoding thread"))?;
            self.embed_all(&decoded)
        })
    }

    fn batch(&self) -> usize {
        self.cfg.batch.max(1)
    }

    /// The decode thread: from `input` to `decoded`, in order, until there is no more or `decoded`
    /// is closed.
    fn decode_all(&self, pool: &rayon::ThreadPool, decoded: &Queue<Decoded>) {
        while !decoded.is_closed() {
            let Some(first) = self.input.pop(IDLE) else {
                if (self.input.is_closed() || self.shutdown.is_triggered()) && self.input.is_empty() {
                    return;
                }
                continue;
            };
            // The events that wait behind it are decoded in parallel.
            let mut events: Vec<Delivery<CameraEvent>> = vec![first.into()];
            while events.len() < self.batch()
                && let Some(next) = self.input.pop(Duration::ZERO)
            {
                events.push(next.into());
            }
            let ready: Vec<_> = pool.install(|| events.into_par_iter().map(|e| self.decode(e)).collect());
            for item in ready {
                match item {
                    Ok(item) => {
                        if decoded.push_wait(item).is_err() {
                            return;
                        }
                    }
                    Err(Undecodable { crop, reason, receipt }) => {
                        let camera = crop.camera.to_string();
                        counter!("sightline_embed_undecodable_crops_total", "camera" => camera).increment(1);
                        self.refuse(*crop, &reason, receipt);
                    }
                }
            }
        }
    }

    /// Decodes one event; a crop gets its pixels.
    fn decode(&self, event: Delivery<CameraEvent>) -> Result<Decoded, Undecodable> {
        let Delivery { event, receipt } = event;
        let crop = match event {
            CameraEvent::Crop(crop) => crop,
            CameraEvent::TrackEnd(end) => return Ok(Decoded::other(IndexEvent::TrackEnd(end), receipt)),
            CameraEvent::Progress(news) => return Ok(Decoded::other(IndexEvent::Progress(news), receipt)),
            CameraEvent::Report(report) => return Ok(Decoded::other(IndexEvent::Report(report), receipt)),
        };
        let start = Instant::now();
        let image = pictures::decode(self.decode, &crop.jpeg);
        histogram!("sightline_embed_decode_seconds").record(start.elapsed().as_secs_f64());
        match image {
            Ok(image) => Ok(Decoded::Crop(Box::new(crop), image, receipt)),
            Err(reason) => Err(Undecodable { crop: Box::new(crop), reason, receipt }),
        }
    }

    /// The calling thread: from `decoded` to `output`, batch by batch, until `decoded` is closed
    /// and empty.
    fn embed_all(&self, decoded: &Queue<Decoded>) -> Result<(), EmbedError> {
        loop {
            let Some(first) = decoded.pop(IDLE) else {
                if decoded.is_closed() && decoded.is_empty() {
                    return Ok(());
                }
                continue;
            };
            if !self.send(self.gather(first, decoded))? {
                tracing::warn!("the index has closed its queue; embedding stops");
                return Ok(());
            }
        }
    }

    /// Collects `first` and the events after it, until a batch of crops is full or the first crop
    /// has waited long enough. While no crop waits, other events are passed on at once.
    fn gather(&self, first: Decoded, decoded: &Queue<Decoded>) -> Vec<Decoded> {
        let deadline = Instant::now() + Duration::from_millis(self.cfg.linger_ms);
        let mut crops = usize::from(matches!(first, Decoded::Crop(..)));
        let mut gathered = vec![first];
        while (1..self.batch()).contains(&crops)
            && let Some(next) = decoded.pop(deadline.saturating_duration_since(Instant::now()))
        {
            crops += usize::from(matches!(next, Decoded::Crop(..)));
            gathered.push(next);
        }
        gathered
    }

    fn refuse(&self, crop: Crop, reason: &str, receipt: Receipt) {
        tracing::warn!(camera = %crop.camera, crop = %crop.id(), trace = %crop.origin.trace, reason, "crop skipped");
        self.refused.refuse(CameraEvent::Crop(crop), reason, receipt);
    }

    /// Embeds the crops of `gathered` and sends everything on, in order; false when `output` is
    /// closed.
    fn send(&self, gathered: Vec<Decoded>) -> Result<bool, EmbedError> {
        let images: Vec<RgbImage> = gathered
            .iter()
            .filter_map(|p| match p {
                Decoded::Crop(_, image, _) => Some(image.clone()),
                Decoded::Other(_) => None,
            })
            .collect();
        let mut features = pictures::embed(images, self.embedder)?.into_iter();
        for item in gathered {
            let delivery = match item {
                Decoded::Other(delivery) => delivery,
                Decoded::Crop(crop, _, receipt) => {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Barrier, Mutex};

    use sightline_core::message::{CropQuality, Origin};
    use sightline_core::{BBox, Config, Timestamp, TrackId};

    use super::*;
    use crate::serve::double::Double;

    /// Long enough for any machine; a test that waits for it has failed.
    const LONG: Duration = Duration::from_secs(60);

    /// A crop whose "JPEG" is these bytes, for [`decode`].
    fn crop(n: u64, jpeg: &'static [u8]) -> CameraEvent {
        let at = Timestamp::from_micros(n as i64);
        CameraEvent::Crop(Crop {
            origin: Origin::new("test", n),
            camera: "gate".parse().expect("a name"),
            track: TrackId { born: at, ordinal: 0 },
            crop_no: 0,
            captured_at: at,
            last_seen: at,
            bbox: BBox::default(),
            frame_size: (640, 480),
            quality: CropQuality::default(),
            jpeg: jpeg.into(),
        })
    }

    /// The first byte is the width; `X` is no picture, `P` makes the decoder panic.
    fn decode(bytes: &[u8]) -> Result<RgbImage, EmbedError> {
        match bytes[0] {
            b'X' => Err(EmbedError::NotAPicture),
            b'P' => panic!("odd bytes"),
            width => Ok(RgbImage::new(width.into(), 1, vec![0u8; 3 * usize::from(width)]).expect("fits")),
        }
    }

    /// Sends the number and the reason of every refused crop.
    struct RefusalSender(Mutex<Sender<(u64, String)>>);

    impl RefusalHandler<CameraEvent> for RefusalSender {
        fn refuse(&self, event: CameraEvent, reason: &str, _: Receipt) {
            let CameraEvent::Crop(crop) = event else { panic!("only crops can be refused") };
            let _ = self.0.lock().expect("not poisoned").send((crop.origin.seq, reason.to_owned()));
        }
    }

    fn refusal_channel() -> (RefusalSender, Receiver<(u64, String)>) {
        let (tx, rx) = channel();
        (RefusalSender(Mutex::new(tx)), rx)
    }

    /// Sends `events` through a stage with batches of two; returns the numbers of the crops that
    /// came out.
    fn through(
        events: Vec<CameraEvent>,
        embedder: &Embedder,
        refused: &RefusalSender,
        decode: fn(&[u8]) -> Result<RgbImage, EmbedError>,
    ) -> Vec<u64> {
        let (input, output) = (Queue::new(64), Queue::new(64));
        for event in events {
            assert!(input.push_wait(event).is_ok());
        }
        input.close();
        let default = Config::layered(None, []).expect("the default").embed;
        let cfg = &EmbedConfig { batch: 2, linger_ms: 20, threads: 2, ..default };
        let (input, output, shutdown) = (&input, &output, &Shutdown::new());
        Stage { input, embedder, output, refused, cfg, shutdown, decode }
            .run()
            .expect("the stage ends without an error");
        std::iter::from_fn(|| output.pop(Duration::ZERO))
            .filter_map(|d| match d.event {
                IndexEvent::Sighting(s) => Some(s.crop.origin.seq),
                _ => None,
            })
            .collect()
    }

    /// The model returns from the first batch only when a crop behind that batch has been through
    /// the decoder.
    #[test]
    fn the_next_crops_are_decoded_while_a_batch_is_embedded() {
        let (refused, refusals) = refusal_channel();
        let refusals = Mutex::new(Some(refusals));
        let (tx, seen) = channel();
        let embedder = Double::new(move |_| {
            if let Some(refusals) = refusals.lock().expect("not poisoned").take() {
                tx.send(refusals.recv_timeout(LONG)).expect("the test receives it");
            }
            Ok(())
        })
        .start(2);
        let events = vec![crop(0, b"\x05"), crop(1, b"\x05"), crop(2, b"X"), crop(3, b"\x05")];
        assert_eq!(through(events, &embedder, &refused, decode), [0, 1, 3]);
        let (n, reason) = seen.recv().expect("a batch").expect("decoded while the batch was embedded");
        assert!(n == 2 && reason.contains("not a picture"), "{n}: {reason}");
    }

    /// Each of two crops waits in the decoder for the other.
    #[test]
    fn crops_are_decoded_beside_each_other() {
        static BOTH: Barrier = Barrier::new(2);
        let (refused, _refusals) = refusal_channel();
        let meet = |bytes: &[u8]| {
            BOTH.wait();
            decode(bytes)
        };
        let events = (0..6).map(|n| crop(n, b"\x05")).collect();
        let embedder = Double::new(|_| Ok(())).start(2);
        assert_eq!(through(events, &embedder, &refused, meet), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_picture_that_fails_or_panics_costs_itself_alone() {
        let (refused, refusals) = refusal_channel();
        let embedder = Double::new(|images| {
            assert!(images.iter().all(|i| i.width() != 13), "thirteen");
            if images.iter().any(|i| i.width() == 7) { Err(EmbedError::NotFinite) } else { Ok(()) }
        })
        .start(2);
        let pictures: [&[u8]; 8] = [b"\x05", b"\x07", b"\x0d", b"\x05", b"P", b"\x05", b"X", b"\x05"];
        let events = pictures.into_iter().enumerate().map(|(n, jpeg)| crop(n as u64, jpeg)).collect();
        assert_eq!(through(events, &embedder, &refused, decode), [0, 3, 5, 7]);
        let mut refused: Vec<(u64, String)> = refusals.try_iter().collect();
        refused.sort();
        let why = [(1, "not finite"), (2, "thirteen"), (4, "odd bytes"), (6, "neither JPEG nor PNG")];
        assert_eq!(refused.len(), why.len());
        for ((n, reason), (want, part)) in refused.iter().zip(why) {
            assert!(*n == want && reason.contains(part), "{n}: {reason}");
        }
    }
}
