//! What has to be there before `serve` may begin: the data folder with its lock, the socket, the file for clients.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sightline_search::DataLock;

use crate::client::{CLIENT_FILE, ClientFile};

/// Bounds of the duration histograms, in seconds: from a token look-up to a search on a slow machine.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Makes the data folder, readable by its owner alone, and keeps a second process out of it.
pub fn data_folder(folder: &Path) -> anyhow::Result<DataLock> {
    let made = !folder.exists();
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the data folder {}", folder.display()))?;
    #[cfg(unix)]
    if made {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect the data folder {}", folder.display()))?;
    }
    Ok(DataLock::acquire(folder)?)
}

/// The listening socket, asked for before anything slow happens.
pub async fn listen(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (server.listen); is another program using this port?"))
}

/// Installs the recorder behind every metric of this process.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .context("metric buckets")?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| anyhow::anyhow!("metrics: {e}"))?;
    Ok(handle)
}

/// The file that tells commands on this machine where the server is. It holds a token, so only the owner may read it.
/// Removed when dropped: the token dies with the server.
pub struct Announcement {
    path: PathBuf,
}

impl Announcement {
    /// Writes the file whole, under a temporary name first.
    pub fn write(folder: &Path, server: String, token: String) -> anyhow::Result<Self> {
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
        write().with_context(|| format!("cannot write {}", path.display()))?;
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
