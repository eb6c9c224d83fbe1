//! A running server over test doubles, and a plain client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use candle_core::Tensor;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sightline_api::app::{App, Setup};
use sightline_api::cameras::{CameraControl, CameraRefused, LastReport};
use sightline_api::engine::{
    Engine, Hit, ModelView, NotUnderstoodView, PhraseView, SearchAnswer, SearchQuery, StoredSighting, Timings,
    Watermark,
};
use sightline_api::erasure::{self, Copies, ErasureRun};
use sightline_api::error::Error;
use sightline_api::server;
use sightline_api::state::{CameraSource, NewToken, Role, State};
use sightline_core::config::{CameraConfig, Config};
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::shutdown::Shutdown;
use sightline_core::{BBox, CameraId, CameraState, NodeReport, SightingId, Timestamp, TrackId};
use sightline_search::{PictureKey, Progress, Receipt, Scope};
use uuid::Uuid;

pub const START_TOKEN: &str = "start-token";

/// Returns a path of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Creates a whole model in `folder`: the tiny golden one.
pub fn tiny_model(folder: &Path) {
    tiny_model_with(folder, &tiny_weights());
}

/// Creates a whole model in `folder`: the tiny golden one with these weights.
pub fn tiny_model_with(folder: &Path, weights: &HashMap<String, Tensor>) {
    std::fs::create_dir(folder).unwrap();
    let golden = repository("embed/tests/golden/cada-tiny");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden.join(file), folder.join(file)).unwrap();
    }
    candle_core::safetensors::save(weights, folder.join("model.safetensors")).unwrap();
    // Without stored answers every start logs a warning.
    sightline_embed::write_self_test(folder).unwrap();
}

/// The tiny golden model's weights.
pub fn tiny_weights() -> HashMap<String, Tensor> {
    let golden = repository("embed/tests/golden/cada-tiny/weights.pth");
    let all = candle_core::pickle::read_all_with_key(golden, Some("model")).unwrap();
    let float = all.into_iter().filter(|(_, t)| t.dtype().is_float());
    float.map(|(name, t)| (name, t.contiguous().unwrap())).collect()
}

pub fn camera(id: &str) -> CameraId {
    id.parse().unwrap()
}

/// Engine double with sightings in memory; a search returns all that match the filter, scored by
/// age.
#[derive(Default)]
pub struct FakeEngine {
    pub stored: Mutex<BTreeMap<SightingId, StoredSighting>>,
    pub marks: Mutex<BTreeMap<CameraId, Watermark>>,
    pub queries: Mutex<Vec<SearchQuery>>,
    /// While held, erasures wait.
    pub hold: tokio::sync::Mutex<()>,
    /// Error of all searches and erasures, if set.
    pub broken: Mutex<Option<&'static str>>,
    /// Scopes that are hidden.
    pub hidden: Mutex<Vec<Scope>>,
    /// Cameras whose pictures are taken again, and from when on.
    pub admitted: Mutex<Vec<(CameraId, Option<Timestamp>)>>,
}

impl FakeEngine {
    /// Adds picture `n` of a track of this camera.
    pub fn put(&self, camera: &CameraId, born_s: i64, n: u8) -> SightingId {
        let born = Timestamp::from_micros(born_s * 1_000_000);
        let track_id = TrackId { born, ordinal: 0 };
        let id = sighting_id(camera, track_id, n);
        let s = StoredSighting {
            sighting_id: id,
            camera: camera.clone(),
            track_id,
            first_seen: born,
            last_seen: born + Duration::from_secs(9),
            captured_at: born + Duration::from_secs(u64::from(n)),
            crop: None,
            bbox: BBox { x0: 1.0, y0: 2.0, x1: 31.0, y1: 82.0 },
            quality: 0.75,
        };
        self.stored.lock().unwrap().insert(id, s);
        id
    }
}

impl Engine for FakeEngine {
    fn model(&self) -> ModelView {
        ModelView {
            id: "m1".into(),
            name: "double".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            image_size: [64, 32],
            feature_dim: 4,
            provenance: json!({ "trained_on": "nothing" }),
            self_test: "spread only".into(),
        }
    }

    fn search(&self, query: SearchQuery) -> BoxFuture<'_, Result<SearchAnswer, Error>> {
        async move {
            assert!(query.text.as_deref() != Some("panic please"), "as asked");
            if let Some(why) = *self.broken.lock().unwrap() {
                return Err(Error::Unavailable { part: "the vector store", why: why.into() });
            }
            let stored = self.stored.lock().unwrap();
            let hidden = self.hidden.lock().unwrap().clone();
            let seen = |s: &&StoredSighting| {
                !hidden.iter().any(|h| h.covers(&s.camera, s.track_id, s.captured_at))
                    && query.cameras.as_ref().is_none_or(|c| c.contains(&s.camera))
                    && query.from.is_none_or(|t| s.captured_at >= t)
                    && query.to.is_none_or(|t| s.captured_at <= t)
            };
            let hit = |s: &StoredSighting| Hit {
                sighting_id: s.sighting_id,
                camera: s.camera.clone(),
                track_id: s.track_id,
                first_seen: s.first_seen,
                last_seen: s.last_seen,
                captured_at: s.captured_at,
                crop: s.crop,
                bbox: s.bbox,
                similarity: 0.5,
                match_logit: Some(2.0),
                hubness: Some(0.25),
                probability: Some(0.875),
                phrases: vec![
                    PhraseView { text: "man".into(), probability: 0.75, negated: false },
                    PhraseView { text: "bag".into(), probability: 0.25, negated: true },
                ],
                score: 1.375,
            };
            let results: Vec<Hit> = stored.values().filter(seen).take(query.limit).map(hit).collect();
            let timings = Timings { encode: 1.0, search: 2.0, fetch: 3.0, rerank: 4.0, total: 10.0 };
            drop(stored);
            self.queries.lock().unwrap().push(query);
            Ok(SearchAnswer {
                expected_wrong: (!results.is_empty()).then_some(0.125 * results.len() as f32),
                results,
                confident: true,
                not_understood: vec![NotUnderstoodView { text: "young".into(), why: "age is not judged".into() }],
                nobody_fulfils: vec!["no bag".into()],
                timings,
                ..SearchAnswer::default()
            })
        }
        .boxed()
    }

    fn sighting(&self, id: SightingId) -> BoxFuture<'_, Result<Option<StoredSighting>, Error>> {
        async move { Ok(self.stored.lock().unwrap().get(&id).cloned()) }.boxed()
    }

    fn thumbnail(&self, key: PictureKey) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let known = self.stored.lock().unwrap().contains_key(&key.id);
        async move { Ok(known.then(|| Bytes::from_static(b"\xff\xd8 a picture \xff\xd9"))) }.boxed()
    }

    fn begin_erasure(&self, _: Uuid, scopes: Vec<Scope>) -> BoxFuture<'_, Result<(), Error>> {
        self.hidden.lock().unwrap().extend(scopes);
        async { Ok(()) }.boxed()
    }

    fn erase(&self, _: Uuid, scopes: Vec<Scope>, run: ErasureRun) -> BoxFuture<'_, Result<Receipt, Error>> {
        async move {
            run.set(Progress { fraction: 0.25, ..Progress::default() });
            let _hold = self.hold.lock().await;
            if let Some(why) = *self.broken.lock().unwrap() {
                return Err(Error::Unavailable { part: "the vector store", why: why.into() });
            }
            let mut stored = self.stored.lock().unwrap();
            let before = stored.len();
            stored.retain(|_, s| !scopes.iter().any(|scope| scope.covers(&s.camera, s.track_id, s.captured_at)));
            let points = (before - stored.len()) as u64;
            self.hidden.lock().unwrap().retain(|h| !scopes.contains(h));
            Ok(Receipt { points, files: 2 * points, by_model: [("m1".to_owned(), points)].into() })
        }
        .boxed()
    }

    fn admit(&self, camera: CameraId, from: Option<Timestamp>) -> BoxFuture<'_, Result<(), Error>> {
        self.admitted.lock().unwrap().push((camera, from));
        async { Ok(()) }.boxed()
    }

    fn tracks_of(&self, ids: Vec<SightingId>) -> BoxFuture<'_, Result<(Vec<Scope>, Vec<SightingId>), Error>> {
        let stored = self.stored.lock().unwrap();
        let scope = |id| stored.get(id).map(|s: &StoredSighting| Scope::track(s.camera.clone(), s.track_id));
        let scopes = ids.iter().filter_map(scope).collect();
        let missing = ids.iter().copied().filter(|id| !stored.contains_key(id)).collect();
        async move { Ok((scopes, missing)) }.boxed()
    }

    fn watermarks(&self) -> BTreeMap<CameraId, Watermark> {
        self.marks.lock().unwrap().clone()
    }

    fn restart_camera(&self, camera: &CameraId) -> BoxFuture<'_, ()> {
        self.marks.lock().unwrap().remove(camera);
        async {}.boxed()
    }

    fn fault(&self) -> Option<String> {
        None
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, Error>> {
        async move { Ok(self.stored.lock().unwrap().len() as u64) }.boxed()
    }

    fn holds(&self, camera: CameraId) -> BoxFuture<'_, Result<bool, Error>> {
        async move { Ok(self.stored.lock().unwrap().values().any(|s| s.camera == camera)) }.boxed()
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
    pub engine: Arc<FakeEngine>,
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
        let mut config = Config::layered(None, []).unwrap();
        config.server.max_body_bytes = 64 * 1024;
        adjust(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let app = App::new(Setup {
            server: config.server,
            search: config.search,
            state,
            start_token: Some(START_TOKEN.into()),
            metrics: Some(recorder.handle()),
        });
        let (engine, node) = (Arc::new(FakeEngine::default()), Arc::new(FakeNode::default()));
        if ready {
            app.set_engine(engine.clone());
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
        Self { base, app, engine, node, _dir: dir, shutdown, thread: Some(thread) }
    }

    /// Adds running cameras.
    pub fn cameras(&self, ids: &[&str]) {
        for id in ids {
            let (status, body) = self.post("/v1/cameras", &json!({ "id": id, "url": format!("rtsp://cam/{id}") }));
            assert_eq!(status, 201, "{body}");
        }
    }

    /// Waits for a value.
    pub fn until<T>(&self, what: &str, mut there: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = there() {
                return value;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
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
