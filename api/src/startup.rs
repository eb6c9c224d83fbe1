//! What `sightline serve` and `sightline-api` do alike before they can answer: the data folder with its lock, the
//! socket, the metrics, the file for clients, the model, and the index wherever it is.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use sightline_core::Config;
use sightline_core::config::VectorPlace;
use sightline_embed::{EmbedError, Embedder, model_of_data};
use sightline_search::reindex::{VECTORS, open_embedded};
use sightline_search::{
    Coverage, DataLock, EraseError, FileError, Gallery, GalleryError, QdrantStore, QueryEncoder, RemoteCoverage,
    SearchError, Searcher, ServerCoverage, StoreError, VectorStore, indexed_models, open_gallery, resume_erasures,
    sweep_orphans,
};

use crate::app::App;
use crate::engine::ModelView;
use crate::local::{LocalEngine, LocalParts};

/// Bounds of the duration histograms, in seconds: from a token look-up to a search on a slow machine.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Pauses between attempts to open an index that is away: doubled from the first to the last, with jitter, for ever.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LAST: Duration = Duration::from_secs(10);

/// Pause between two readings of the coverage that index workers write. It bounds how late a state is shown.
const COVERAGE_EVERY: Duration = Duration::from_secs(1);

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be made or protected.
    #[error("cannot {action} the data folder {folder}: {source}")]
    Folder {
        /// What was tried.
        action: &'static str,
        /// The folder.
        folder: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file or lock.
    #[error(transparent)]
    File(#[from] FileError),
    /// A socket.
    #[error("cannot listen on {address} ({key}); is another program using this port?: {source}")]
    Listen {
        /// Where the address stands in the configuration.
        key: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The file for clients.
    #[error("cannot write {path}: {source}")]
    Announce {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] EmbedError),
    /// The vector store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A deletion that was interrupted cannot be finished.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// Model and store do not belong together.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A setting that cannot work here.
    #[error("{key} = {value:?}: {why}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        why: &'static str,
    },
    /// A thread of the start died.
    #[error("a start-up task ended early: {0}")]
    Broken(String),
}

impl StartError {
    /// Whether it may be better in a while: the server is away.
    fn may_pass(&self) -> bool {
        let away = |e: &StoreError| matches!(e, StoreError::Server { .. });
        match self {
            Self::Store(e) | Self::Erase(EraseError::Store(e)) => away(e),
            Self::Gallery(e) | Self::Erase(EraseError::Gallery(e)) => !e.is_permanent(),
            _ => false,
        }
    }
}

/// Makes the data folder, readable by its owner alone, and keeps a second process out of it.
///
/// # Errors
/// When the file system refuses, or another process uses the folder.
pub fn data_folder(folder: &Path) -> Result<DataLock, StartError> {
    let failed = |action| {
        let folder = folder.to_owned();
        move |source| StartError::Folder { action, folder, source }
    };
    let made = !folder.exists();
    std::fs::create_dir_all(folder).map_err(failed("create"))?;
    #[cfg(unix)]
    if made {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed("protect"))?;
    }
    Ok(DataLock::acquire(folder)?)
}

/// The listening socket, asked for before anything slow happens.
///
/// # Errors
/// When the address cannot be had.
pub async fn listen(key: &'static str, address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// Installs the recorder behind every metric of this process.
///
/// # Errors
/// When there is one already.
pub fn metrics() -> Result<PrometheusHandle, StartError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .map_err(|e: BuildError| StartError::Metrics(e.to_string()))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| StartError::Metrics(e.to_string()))?;
    Ok(handle)
}

/// Where a client on this machine reaches the server.
pub fn base_address(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The one line on standard output. The token of this start is shown where only this machine can use it.
pub fn ready_line(address: SocketAddr, token: &str) -> String {
    if address.ip().is_loopback() {
        format!("Sightline is ready: {}/?token={token}", base_address(address))
    } else {
        format!("Sightline is ready: http://{address}/")
    }
}

/// Written into the data folder, so that commands on the same machine need no options.
#[derive(Serialize, Deserialize)]
pub struct ClientFile {
    /// `http://host:port`
    pub server: String,
    /// A token that works until the server stops.
    pub token: String,
}

/// Name of that file.
pub const CLIENT_FILE: &str = "client.json";

/// The [`ClientFile`] of a running server. It holds a token, so only the owner may read it. Removed when dropped: the
/// token dies with the server.
pub struct Announcement {
    path: PathBuf,
}

impl Announcement {
    /// Writes the file whole, under a temporary name first.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(folder: &Path, server: String, token: String) -> Result<Self, StartError> {
        let path = folder.join(CLIENT_FILE);
        let temporary = path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match std::fs::remove_file(&temporary) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let text = serde_json::to_vec_pretty(&ClientFile { server, token })?;
            options.open(&temporary)?.write_all(&text)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| StartError::Announce { path: path.clone(), source })?;
        Ok(Self { path })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "left behind");
        }
    }
}

/// Loads the model, or the former one where the embedded index was made by it; the embedder's thread runs from here on.
///
/// # Errors
/// A folder that is no model, or one that fails its self-test.
pub async fn model(config: &Config) -> Result<Embedder, StartError> {
    let (folder, embed) = (config.model.folder.clone(), config.embed.clone());
    // On a Qdrant server collections of former models may stand beside the one in use; there the configured model counts.
    let vectors = match config.vectors.store {
        VectorPlace::Embedded => Some(config.data.folder.join(VECTORS)),
        VectorPlace::Server => None,
    };
    blocking(move || {
        let indexed = vectors.map(|root| indexed_models(&root)).transpose()?.unwrap_or_default();
        Ok(Embedder::start_folder(&model_of_data(&folder, &indexed)?, &embed)?)
    })
    .await
}

/// The index: the vectors, the pictures, and how far each camera is searchable.
#[derive(Clone)]
pub struct Index {
    /// The vectors.
    pub store: Arc<dyn VectorStore>,
    /// The pictures.
    pub gallery: Arc<dyn Gallery>,
    /// How far each camera is searchable.
    pub coverage: Coverage,
    /// Keeps the coverage up to date that others write.
    pub follower: Option<Arc<RemoteCoverage>>,
}

/// Whose index it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This process fills it, and knows by itself how far each camera is.
    Own,
    /// Index workers fill it, and tell how far each camera is beside the vectors.
    Shared,
}

/// Opens the index where the configuration says, waiting for a server that is away: for ever, with growing pauses, and
/// with the reason in `/readyz`. Finishes deletions that a crash has interrupted.
///
/// # Errors
/// What waiting does not mend: a folder in use, a collection of another model, a setting that cannot work.
pub async fn index(
    config: &Config,
    app: &App,
    model: &str,
    width: usize,
    sharing: Sharing,
) -> Result<Index, StartError> {
    let mut pause = PAUSE_FIRST;
    loop {
        let (of, model) = (config.clone(), model.to_owned());
        match blocking(move || open(&of, &model, width, sharing)).await {
            Err(e) if e.may_pass() => {
                tracing::warn!(error = %e, pause_s = pause.as_secs_f64(), "the index cannot be opened; trying again");
                app.set_phase(&format!("waiting for the index: {e}"));
                tokio::time::sleep(pause.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0))).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
            opened => return opened,
        }
    }
}

fn open(config: &Config, model: &str, width: usize, sharing: Sharing) -> Result<Index, StartError> {
    let data = &config.data.folder;
    let mut follower = None;
    let store: Arc<dyn VectorStore> = match config.vectors.store {
        VectorPlace::Embedded if sharing == Sharing::Shared => {
            let why = "the index of other processes is on a Qdrant server; set vectors.store = \"server\"";
            return Err(StartError::Setting { key: "vectors.store", value: "embedded".into(), why });
        }
        VectorPlace::Embedded => open_embedded(data, model, width)?,
        VectorPlace::Server => {
            let server = QdrantStore::open(&config.vectors, model, width)?;
            if sharing == Sharing::Shared {
                let ledger = Arc::new(ServerCoverage::open(&config.vectors)?);
                let started = RemoteCoverage::start(ledger, COVERAGE_EVERY);
                follower = Some(Arc::new(started.map_err(|e| StartError::Broken(e.to_string()))?));
            }
            Arc::new(server)
        }
    };
    let gallery = open_gallery(config, model)?;
    resume_erasures(&*store, &*gallery, &data.join("erasures"))?;
    let coverage = match &follower {
        Some(remote) => remote.coverage(),
        None => {
            // Pictures in a gallery that others write to may belong to points that are on their way.
            if config.gallery.url.is_empty() {
                sweep_orphans(&*store, &*gallery)?;
            }
            Coverage::from_store(store.cameras()?)
        }
    };
    Ok(Index { store, gallery, coverage, follower })
}

/// The engine over model and index.
///
/// # Errors
/// When they do not belong together.
pub fn engine(config: &Config, embedder: &Embedder, index: &Index) -> Result<LocalEngine, StartError> {
    let journals = config.data.folder.join("erasures");
    let encoder: Arc<dyn QueryEncoder> = Arc::new(embedder.clone());
    let (store, gallery) = (Arc::clone(&index.store), Arc::clone(&index.gallery));
    let searcher = Searcher::new(encoder, Arc::clone(&store), Arc::clone(&gallery), config.search.clone())?;
    let info = embedder.info();
    let model = ModelView {
        id: info.id.clone(),
        name: info.name.clone(),
        device: info.device.clone(),
        dtype: info.dtype.clone(),
        image_size: info.image_size,
        feature_dim: info.feature_dim,
        provenance: info.provenance.clone(),
        self_test: info.self_test.to_string(),
    };
    Ok(LocalEngine::new(LocalParts { model, searcher, store, gallery, coverage: index.coverage.clone(), journals }))
}

/// Runs what may take long on a thread that may block.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T, F>(work: F) -> Result<T, StartError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StartError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| StartError::Broken(e.to_string()))?
}
