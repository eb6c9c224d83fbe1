//! Start-up steps that `sightline serve` and `sightline-api` share: data folder and lock, socket,
//! metrics, client file, model, and index.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use sightline_core::config::VectorPlace;
use sightline_core::service::{self, ServiceError};
use sightline_core::{Backoff, Config};
use sightline_embed::{EmbedError, Embedder, model_of_data};
use sightline_search::reindex::{VECTORS, open_embedded};
use sightline_search::{
    Coverage, DataLock, DiskReserve, EraseError, FileError, GalleryError, Index, IndexParts, Journals, QdrantStore,
    QueryEncoder, RemoteCoverage, SearchError, ServerCoverage, ServerTombstones, StoreError, VectorStore,
    indexed_models, open_gallery,
};

use crate::app::{App, ModelView};
use crate::tls::TlsError;

/// Bucket bounds of the duration histograms in seconds, from a token look-up to a search on a slow
/// machine.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Back-off between attempts to open an unreachable index: doubled from the first pause to the
/// last, with jitter, without a limit of attempts.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LAST: Duration = Duration::from_secs(10);

/// Poll interval of the coverage that index workers write. It bounds how old a shown state is.
const COVERAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Reason why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be created or protected.
    #[error("cannot {action} the data folder {folder}: {source}")]
    Folder {
        /// Action that failed: "create" or "protect".
        action: &'static str,
        /// `data.folder`.
        folder: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file or a lock failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The socket cannot be bound.
    #[error("cannot listen on {address} ({key}); is another program using this port?: {source}")]
    Listen {
        /// Configuration key of the address.
        key: &'static str,
        /// Address that is configured there.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The metrics recorder cannot be installed.
    #[error(transparent)]
    Metrics(#[from] ServiceError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client file cannot be written.
    #[error("cannot write {path}: {source}")]
    Announce {
        /// `client.json` in the data folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The model cannot be loaded or fails its self-test.
    #[error(transparent)]
    Model(#[from] EmbedError),
    /// The vector store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery cannot be opened.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// An interrupted erasure cannot be finished.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// Model and store do not match.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A setting is not possible here.
    #[error("{key} = {value:?}: {why}")]
    Setting {
        /// Key in the configuration: `vectors.store`.
        key: &'static str,
        /// Value that is configured.
        value: String,
        /// Why it cannot be so here, and what to set instead.
        why: &'static str,
    },
    /// A thread of the start panicked.
    #[error("a start-up task ended early: {0}")]
    Broken(String),
}

impl StartError {
    /// Whether a retry may succeed: the server is unreachable.
    fn is_transient(&self) -> bool {
        let away = |e: &StoreError| matches!(e, StoreError::Server { .. });
        match self {
            Self::Store(e) | Self::Erase(EraseError::Store(e)) => away(e),
            Self::Gallery(e) | Self::Erase(EraseError::Gallery(e)) => !e.is_permanent(),
            _ => false,
        }
    }
}

/// Creates the data folder, readable by its owner only, locks it against other processes, and sets
/// disk space aside in it for erasures.
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
    let lock = DataLock::acquire(folder)?;
    DiskReserve::of(folder).fill();
    Ok(lock)
}

/// Binds the listening socket; called before any slow step.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(key: &'static str, address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// Installs the metrics recorder of this process. Its histograms are drained whether anybody reads
/// them or not.
///
/// # Errors
/// When a recorder is installed already.
pub fn metrics() -> Result<PrometheusHandle, StartError> {
    Ok(service::recorder(&SECONDS)?)
}

/// Returns the base URL of the server for clients on this machine.
pub fn base_address(address: SocketAddr, tls: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("{}://{}", scheme(tls), SocketAddr::new(ip, address.port()))
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Formats the one line for standard output. It shows the token of this start only when the address
/// is reachable from this machine alone. The token stands in the fragment, which no browser sends.
pub fn ready_line(address: SocketAddr, tls: bool, token: &str) -> String {
    if address.ip().is_loopback() {
        format!("Sightline is ready: {}/#token={token}", base_address(address, tls))
    } else {
        format!("Sightline is ready: {}://{address}/", scheme(tls))
    }
}

/// File in the data folder that lets commands on the same machine connect without options.
#[derive(Serialize, Deserialize)]
pub struct ClientFile {
    /// Base URL: `http://host:port` or `https://host:port`
    pub server: String,
    /// Token that is valid until the server stops or the token is revoked.
    pub token: String,
}

/// Name of the client file.
pub const CLIENT_FILE: &str = "client.json";

/// The [`ClientFile`] of a running server, deleted on drop, since its token becomes invalid with
/// the server. Only the owner may read it, because it holds a token.
pub struct ClientFileGuard {
    path: PathBuf,
}

impl ClientFileGuard {
    /// Writes the file under a temporary name and renames it.
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

impl Drop for ClientFileGuard {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "left behind");
        }
    }
}

/// Loads the configured model, or the former model if the embedded index belongs to it, and starts
/// the embedder's thread.
///
/// # Errors
/// When the folder holds no model, or the model fails its self-test.
pub async fn model(config: &Config) -> Result<Embedder, StartError> {
    let (folder, embed) = (config.model.folder.clone(), config.embed.clone());
    // A Qdrant server may keep collections of former models beside the current one, so the
    // configured model counts there.
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

/// Who writes the index that this process searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This process writes the index and tracks the coverage itself.
    Own,
    /// Index workers write the index and keep the coverage beside the vectors.
    Shared,
}

/// An index that was opened, with the task that keeps it up to date.
pub struct OpenIndex {
    /// The index; nothing is searched before [`crate::app::App::set_index`] has it.
    pub index: Index,
    /// Task that follows the coverage written by other processes; it ends when this is dropped.
    pub follower: Option<RemoteCoverage>,
}

/// Opens the configured index. An unreachable server is retried without limit, with back-off and
/// with the reason in `/readyz`. Deletes the pictures that a crash left without a point.
///
/// # Errors
/// When a retry cannot help: the folder is in use, a collection belongs to another model, or a
/// setting is not possible.
pub async fn index(config: &Config, app: &App, embedder: &Embedder, sharing: Sharing) -> Result<OpenIndex, StartError> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LAST);
    loop {
        let (of, embedder) = (config.clone(), embedder.clone());
        match blocking(move || open(&of, &embedder, sharing)).await {
            Err(e) if e.is_transient() => {
                let pause = backoff.pause();
                tracing::warn!(error = %e, pause_s = pause.as_secs_f64(), "the index cannot be opened; trying again");
                app.set_phase(&format!("waiting for the index: {e}"));
                tokio::time::sleep(pause).await;
            }
            opened => return opened,
        }
    }
}

fn open(config: &Config, embedder: &Embedder, sharing: Sharing) -> Result<OpenIndex, StartError> {
    let data = &config.data.folder;
    let (model, width) = (embedder.info().id.as_str(), embedder.info().feature_dim);
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
                let started = RemoteCoverage::start(ledger, COVERAGE_INTERVAL);
                follower = Some(started.map_err(|e| StartError::Broken(e.to_string()))?);
            }
            Arc::new(server)
        }
    };
    let gallery = open_gallery(config, model)?;
    let journals = match sharing {
        Sharing::Own => Journals::open(data)?,
        Sharing::Shared => Journals::shared(Arc::new(ServerTombstones::open(&config.vectors)?))?,
    };
    journals.recover(data, &*store, &*gallery)?;
    let coverage = match &follower {
        Some(remote) => remote.coverage(),
        None => Coverage::from_store(store.cameras()?),
    };
    let encoder: Arc<dyn QueryEncoder> = Arc::new(embedder.clone());
    let (search, journals) = (config.search.clone(), Arc::new(journals));
    let index = Index::new(IndexParts { encoder, store, gallery, coverage, journals, search })?;
    Ok(OpenIndex { index, follower })
}

/// Describes the model in use.
pub fn model_view(embedder: &Embedder) -> ModelView {
    let info = embedder.info();
    ModelView {
        id: info.id.clone(),
        name: info.name.clone(),
        device: info.device.clone(),
        dtype: info.dtype.clone(),
        image_size: info.image_size,
        feature_dim: info.feature_dim,
        provenance: info.provenance.clone(),
        self_test: info.self_test.to_string(),
    }
}

/// Runs blocking work on a thread of the blocking pool.
///
/// # Errors
/// The errors of `work`.
pub async fn blocking<T, F>(work: F) -> Result<T, StartError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StartError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| StartError::Broken(e.to_string()))?
}
