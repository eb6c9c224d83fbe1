//! A running server over test doubles, and a plain client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use candle_core::Tensor;
use half::f16;
use serde_json::{Value, json};
use sightline_api::app::{App, ModelView, Setup};
use sightline_api::cameras::{CameraControl, CameraRefused, LastReport};
use sightline_api::erasure::{self, Copies};
use sightline_api::server;
use sightline_api::state::{CameraSource, NewToken, Role, State};
use sightline_core::config::{CameraConfig, Config, SearchConfig};
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    BBox, CameraId, CameraState, CropQuality, NodeReport, PatchFeatures, Progress, RgbImage, SightingId, Timestamp,
    TrackId,
};
use sightline_embed::text::{NotUnderstood, Reason};
use sightline_search::coverage::{CoverageEvent, CoverageUpdate};
use sightline_search::{
    CameraExtent, Coverage, CropHash, Deleted, EncodeError, EncodedText, ExactStore, Filter, GalleryEntry, Index,
    IndexParts, Journals, MatchScore, Payload, PhraseAsked, Point, QueryEncoder, Record, Scored, StoreError,
    VectorStore,
};
use sightline_testing::{Process, tiny_weights, until_some, write_tiny_model};

pub const START_TOKEN: &str = "start-token";

/// Returns the token that a server named with its address in its first line.
pub fn token_of(server: &Process) -> &str {
    let address = server.line().strip_prefix("Sightline is ready: ").and_then(|a| a.strip_prefix(server.url()));
    address.and_then(|a| a.strip_prefix("/#token=")).unwrap_or_else(|| panic!("no token in {:?}", server.line()))
}

/// Creates a whole model in `folder`: the tiny golden one.
pub fn tiny_model(folder: &Path) {
    tiny_model_with(folder, &tiny_weights());
}

/// Creates a whole model in `folder`: the tiny golden one with these weights.
pub fn tiny_model_with(folder: &Path, weights: &HashMap<String, Tensor>) {
    std::fs::create_dir(folder).unwrap();
    write_tiny_model(folder, weights);
    // Without stored answers every start logs a warning.
    sightline_embed::write_self_test(folder).unwrap();
}

pub fn camera(id: &str) -> CameraId {
    id.parse().unwrap()
}

/// Every picture of a [`World`].
pub const JPEG: &[u8] = b"\xff\xd8 a picture \xff\xd9";

/// Length of a vector of [`Encoder`].
pub const WIDTH: usize = 4;

/// A predictable model. The text `axis N, man, no bag, ?young` has the direction N; any other text
/// has direction 0. The text after the first comma are phrases, if it judges phrases, and a question
/// mark marks a word that it does not understand. A picture's patch feature is the log-odds of the
/// match and of every phrase.
#[derive(Default)]
pub struct Encoder {
    pub phrases: bool,
    /// Example pictures that were embedded.
    pub examples: Mutex<Vec<RgbImage>>,
    /// While locked, encoding of a text waits.
    pub hold: Mutex<()>,
}

impl QueryEncoder for Encoder {
    fn model_id(&self) -> &str {
        "double"
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn patch_shape(&self) -> (u32, u32) {
        (1, 1)
    }

    fn judges_phrases(&self) -> bool {
        self.phrases
    }

    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError> {
        assert!(text != "panic please", "as asked");
        drop(self.hold.lock().unwrap());
        if text.starts_with("unknown") {
            return Err(EncodeError::EmptyQuery);
        }
        let mut parts = text.split(", ");
        let axis = parts.next().and_then(|t| t.strip_prefix("axis ")?.parse().ok()).unwrap_or_default();
        let (mut phrases, mut not_understood) = (Vec::new(), Vec::new());
        for part in parts.filter(|_| self.phrases) {
            if let Some(word) = part.strip_prefix('?') {
                not_understood.push(NotUnderstood { text: word.to_owned(), range: 0..0, why: Reason::Unknown });
            } else {
                let (text, negated) = part.strip_prefix("no ").map_or((part, false), |named| (named, true));
                phrases.push(PhraseAsked { text: text.to_owned(), negated });
            }
        }
        let (feature, text, inner) = (along(axis), text.to_owned(), Arc::new(axis));
        Ok(EncodedText { feature, text, truncated: false, phrases, not_understood, inner })
    }

    fn embed_image(&self, image: &RgbImage) -> Result<Vec<f32>, EncodeError> {
        if image.width() == 2 {
            return Err(EncodeError::Failed("no memory left on the device".into()));
        }
        self.examples.lock().unwrap().push(image.clone());
        Ok(along(0))
    }

    fn match_scores(
        &self,
        text: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError> {
        let logit = |p: &PatchFeatures| f16::from_le_bytes([p.data[0], p.data[1]]).to_f32();
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let score = |l: f32| {
            let phrases = text.phrases.iter().map(|p| sigmoid(if p.negated { -l } else { l })).collect();
            MatchScore { logit: l, hubness: None, probability: sigmoid(l), phrases }
        };
        Ok(pictures.iter().map(|p| Some(score(logit(p)))).collect())
    }
}

/// The direction `axis`, with some of every other.
pub fn along(axis: usize) -> Vec<f32> {
    (0..WIDTH).map(|i| if i == axis { 1.0 } else { 0.1 }).collect()
}

/// Exact store in memory that can be made to fail or to wait.
pub struct Store {
    inner: ExactStore,
    /// Reason why searches, erasures and writes fail, if set.
    pub broken: Mutex<Option<&'static str>>,
    /// While locked, erasures wait before they delete anything.
    pub hold: Mutex<()>,
    /// While locked, erasures wait with what they have deleted so far.
    pub hold_flush: Mutex<()>,
}

impl Store {
    fn new() -> Self {
        let (broken, hold, hold_flush) = Default::default();
        Self { inner: ExactStore::new("double", WIDTH), broken, hold, hold_flush }
    }

    fn sound(&self) -> Result<(), StoreError> {
        self.broken.lock().unwrap().map_or(Ok(()), |why| Err(StoreError::Engine(why.to_owned())))
    }
}

impl VectorStore for Store {
    fn model_id(&self) -> &str {
        self.inner.model_id()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.sound()?;
        self.inner.upsert(points)
    }

    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        self.sound()?;
        self.inner.search(vector, limit, filter)
    }

    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        self.inner.get(ids)
    }

    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.inner.vectors(ids)
    }

    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.inner.newest(filter, limit)
    }

    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        self.sound()?;
        self.inner.scroll(filter, after, limit)
    }

    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        self.sound()?;
        self.inner.delete_ids(ids)
    }

    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.sound()?;
        self.inner.delete(filter)
    }

    /// The first call of an erasure, which holds no lock yet.
    fn beside(&self) -> Result<Vec<Arc<dyn VectorStore>>, StoreError> {
        drop(self.hold.lock().unwrap());
        Ok(Vec::new())
    }

    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError> {
        self.inner.end_track(camera, track, first, last, ended)
    }

    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.inner.estimate(filter)
    }

    /// Reads the id of every picture: no request may wait for that.
    fn count(&self, _: &Filter) -> Result<u64, StoreError> {
        panic!("a request counts the index")
    }

    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        self.inner.cameras()
    }

    fn flush(&self) -> Result<(), StoreError> {
        drop(self.hold_flush.lock().unwrap());
        self.inner.flush()
    }

    fn optimize(&self) -> Result<bool, StoreError> {
        self.inner.optimize()
    }
}

/// An index in memory, with its parts at hand.
pub struct World {
    pub index: Index,
    pub encoder: Arc<Encoder>,
    pub store: Arc<Store>,
}

impl World {
    fn new(encoder: Encoder, journals: Journals, search: SearchConfig) -> Self {
        let (encoder, store) = (Arc::new(encoder), Arc::new(Store::new()));
        let index = Index::new(IndexParts {
            encoder: encoder.clone(),
            store: store.clone(),
            gallery: Index::in_memory(encoder.clone(), search.clone()).unwrap().gallery().clone(),
            coverage: Coverage::default(),
            journals: Arc::new(journals),
            search,
        });
        Self { index: index.unwrap(), encoder, store }
    }

    /// Stores picture `n` of a track of this camera that was born at this second, in view for 9 s.
    pub fn put(&self, camera: &CameraId, born_s: i64, n: u8) -> SightingId {
        self.put_like(camera, born_s, n, 0, 2.0)
    }

    /// Stores a picture in the direction `axis`, with a match logit.
    pub fn put_like(&self, camera: &CameraId, born_s: i64, n: u8, axis: usize, logit: f32) -> SightingId {
        let point = point(camera, born_s, n, axis);
        let data = Bytes::copy_from_slice(&f16::from_f32(logit).to_le_bytes());
        let patches = PatchFeatures { rows: 1, width: 1, data };
        let entry = GalleryEntry { key: point.key(), jpeg: Bytes::from_static(JPEG), patches };
        self.index.gallery().put(&[entry]).unwrap();
        self.index.store().upsert(std::slice::from_ref(&point)).unwrap();
        point.id
    }

    /// Advances the coverage of a camera.
    pub fn progress(&self, camera: &CameraId, through: Timestamp, ended: bool) {
        let mut update = CoverageUpdate::default();
        update.events.push(CoverageEvent::Progress(Progress {
            origin: Origin::of_camera("node@one", 1, camera),
            camera: camera.clone(),
            connection: 0,
            analysed_through: through,
            ended,
        }));
        self.index.coverage().commit(&update).unwrap();
    }

    /// Whether the index refuses pictures of this camera and capture time, because they are erased.
    pub fn refuses(&self, camera: &CameraId, captured_at: Timestamp) -> bool {
        let track = TrackId { born: captured_at, ordinal: 0 };
        self.index.journals().tombstones().covers(camera, track, captured_at)
    }

    /// Number of stored pictures.
    pub fn stored(&self) -> usize {
        self.store.inner.ids(&Filter::default()).unwrap().len()
    }
}

/// Point of picture `n` of a track of this camera, without anything in the gallery.
pub fn point(camera: &CameraId, born_s: i64, n: u8, axis: usize) -> Point {
    let born = Timestamp::from_micros(born_s * 1_000_000);
    let track = TrackId { born, ordinal: 0 };
    let payload = Payload {
        camera: camera.clone(),
        track,
        crop_no: n,
        captured_at: born + Duration::from_secs(u64::from(n)),
        first_seen: born,
        last_seen: born + Duration::from_secs(9),
        ended: true,
        bbox: BBox { x0: 1.0, y0: 2.0, x1: 31.0, y1: 82.0 },
        frame_size: (640, 480),
        quality: CropQuality { score: 0.75, ..CropQuality::default() },
        model_id: "double".into(),
        trace: uuid::Uuid::nil(),
        crop: Some(CropHash::of(JPEG)),
    };
    Point { id: sighting_id(camera, track, n), vector: along(axis), payload }
}

/// Description of [`Encoder`].
pub fn model_view() -> ModelView {
    ModelView {
        id: "double".into(),
        name: "double".into(),
        device: "cpu".into(),
        dtype: "f32".into(),
        image_size: [64, 32],
        feature_dim: WIDTH,
        provenance: json!({ "trained_on": "nothing" }),
        self_test: "spread only".into(),
    }
}

/// Camera node double that starts any camera, up to two.
#[derive(Default)]
pub struct FakeNode {
    pub running: Mutex<BTreeMap<CameraId, NodeReport>>,
    /// Whether the cameras count as those of other processes.
    pub remote: AtomicBool,
}

/// Returns the report of a camera that decodes and has analysed nothing yet.
pub fn report(camera: &CameraId) -> NodeReport {
    NodeReport {
        origin: Origin::of_camera("node@one", 0, camera),
        camera: camera.clone(),
        at: Timestamp::now(),
        state: CameraState::Decoding,
        reason: None,
        since: Timestamp::now(),
        connection: 0,
        frames_decoded: 10,
        frames_analysed: 0,
        frames_dropped: 0,
        crops: 0,
        crops_dropped: 0,
        retry_in_s: None,
        spooled_bytes: 0,
    }
}

impl CameraControl for FakeNode {
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused> {
        let mut running = self.running.lock().unwrap();
        if !camera.url.expose().starts_with("rtsp://") {
            return Err(CameraRefused::Invalid(format!("{}: no such kind of address", camera.url)));
        }
        if running.len() >= 2 {
            return Err(CameraRefused::Conflict("2 cameras is the most this machine takes".into()));
        }
        running.insert(camera.id.clone(), report(&camera.id));
        Ok(())
    }

    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        self.running.lock().unwrap().remove(camera);
        Ok(())
    }

    fn status(&self) -> Vec<LastReport> {
        self.running.lock().unwrap().values().cloned().map(LastReport::from).collect()
    }

    fn remote_cameras(&self) -> Vec<(CameraConfig, CameraSource)> {
        let of = |id: &CameraId| serde_json::from_value(json!({ "id": id, "url": "rtsp://cam/1" })).unwrap();
        self.running.lock().unwrap().keys().map(|id| (of(id), CameraSource::Api)).collect()
    }

    fn remote(&self) -> bool {
        self.remote.load(Ordering::SeqCst)
    }
}

/// A server on a free port; stopped on drop.
pub struct Server {
    pub base: String,
    pub app: App,
    pub world: World,
    pub node: Arc<FakeNode>,
    _dir: tempfile::TempDir,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(true, |_| ())
    }

    pub fn with(ready: bool, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::over(Encoder::default(), Journals::in_memory(), ready, adjust)
    }

    /// A server whose tombstones are kept in these journals.
    pub fn remembering(journals: Journals) -> Self {
        Self::over(Encoder::default(), journals, true, |_| ())
    }

    /// A server whose model judges phrases.
    pub fn judging() -> Self {
        let encoder = Encoder { phrases: true, ..Encoder::default() };
        Self::over(encoder, Journals::in_memory(), true, |_| ())
    }

    fn over(encoder: Encoder, journals: Journals, ready: bool, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::layered(None, []).unwrap();
        config.server.max_body_bytes = 64 * 1024;
        adjust(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let world = World::new(encoder, journals, config.search.clone());
        let app = App::new(Setup {
            server: config.server,
            search: config.search,
            state,
            start_token: Some(START_TOKEN.into()),
            metrics: Some(recorder.handle()),
        });
        let node = Arc::new(FakeNode::default());
        if ready {
            app.set_index(world.index.clone(), model_view()).unwrap();
            app.set_cameras(node.clone());
        }
        let shutdown = Shutdown::new();
        let (served, stop) = (app.clone(), shutdown.clone());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::spawn(erasure::run(served.clone(), Copies::default(), stop.clone()));
                server::serve(listener, served, stop).await.unwrap();
            });
        });
        let base = format!("http://{}", told.recv().unwrap());
        Self { base, app, world, node, _dir: dir, shutdown, thread: Some(thread) }
    }

    /// Adds running cameras.
    pub fn cameras(&self, ids: &[&str]) {
        for id in ids {
            let (status, body) = self.post("/v1/cameras", &json!({ "id": id, "url": format!("rtsp://cam/{id}") }));
            assert_eq!(status, 201, "{body}");
        }
    }

    /// Waits for a value.
    pub fn until<T>(&self, what: &str, there: impl FnMut() -> Option<T>) -> T {
        until_some(Duration::from_secs(20), what, there)
    }

    /// Waits until an erasure is done, and returns it.
    pub fn erased(&self, job: &Value) -> Value {
        let path = format!("/v1/erasures/{}", job["id"].as_str().unwrap_or_else(|| panic!("no job: {job}")));
        self.until("the erasure is done", || {
            let (status, job) = self.get(&path);
            assert_eq!(status, 200, "{job}");
            (job["state"] == "done").then_some(job)
        })
    }

    /// Removes a camera, waits until its people are erased, and returns the job.
    pub fn remove(&self, id: &str) -> Value {
        let (status, removal) = self.call("DELETE", &format!("/v1/cameras/{id}"), Some(START_TOKEN), None);
        assert_eq!(status, 202, "{removal}");
        self.erased(&removal["erasure"])
    }

    /// Creates a token and returns its secret.
    pub fn token(&self, role: Role, cameras: Option<&[&str]>) -> String {
        let cameras: Option<BTreeSet<CameraId>> = cameras.map(|c| c.iter().map(|c| camera(c)).collect());
        let new = NewToken { name: role.to_string(), role, cameras, expires_at: None };
        self.app.state().create_token(&new).unwrap().1
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Some(START_TOKEN), None)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, Some(START_TOKEN), Some(body))
    }

    pub fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        if let Some(token) = token {
            headers.push(("authorization", format!("Bearer {token}")));
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = self.raw(method, path, &headers, body.as_bytes());
        (response.status, serde_json::from_slice(&response.body).unwrap_or(Value::Null))
    }

    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Raw {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let headers = response.headers().clone();
        let status = response.status().as_u16();
        Raw { status, headers, body: response.body_mut().read_to_vec().unwrap() }
    }
}

pub struct Raw {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the server ends without a panic");
        }
    }
}
