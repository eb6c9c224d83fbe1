//! TLS of the server's socket: certificate and key from two PEM files, read again when they change,
//! so that a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sightline_core::http::Handshake;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// Shortest interval between two looks at the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Reason why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the wanted kind.
    #[error("{key} {path}: {why}")]
    File {
        /// Key in the configuration that names the file.
        key: &'static str,
        /// Certificate or key, as configured.
        path: PathBuf,
        /// What cannot be read or does not fit.
        why: String,
    },
    /// Certificate and key do not belong together, or are of an unsupported kind.
    #[error("server.tls_certificate and server.tls_key: {0}")]
    Rustls(#[from] tokio_rustls::rustls::Error),
}

/// When each of the files was changed, and its size.
type Stamp = [Option<(SystemTime, u64)>; 2];

struct Current {
    acceptor: TlsAcceptor,
    stamp: Stamp,
    checked_at: Instant,
}

/// The server's side of TLS.
#[derive(Clone)]
pub struct Tls {
    files: Arc<[PathBuf; 2]>,
    current: Arc<Mutex<Current>>,
}

impl Tls {
    /// Reads the files that the configuration names; `None` when it names none.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn of(server: &sightline_core::config::ServerConfig) -> Result<Option<Self>, TlsError> {
        let wanted = !server.tls_certificate.as_os_str().is_empty();
        wanted.then(|| Self::load(&server.tls_certificate, &server.tls_key)).transpose()
    }

    /// Reads certificate chain and key.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = [certificate.to_owned(), key.to_owned()];
        // Before the reading: a change meanwhile is found at the next look.
        let stamp = stamp(&files);
        let acceptor = read(&files)?;
        let current = Current { acceptor, stamp, checked_at: Instant::now() };
        Ok(Self { files: Arc::new(files), current: Arc::new(Mutex::new(current)) })
    }

    /// The acceptor of the files as they are now. Files that cannot be used leave the former one.
    fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked_at.elapsed() >= CHECK_INTERVAL {
            current.checked_at = Instant::now();
            let found = stamp(&self.files);
            if found != current.stamp {
                current.stamp = found;
                match read(&self.files) {
                    Ok(acceptor) => {
                        tracing::info!(certificate = %self.files[0].display(), "the certificate was read again");
                        current.acceptor = acceptor;
                    }
                    Err(error) => {
                        tracing::error!(%error, "the changed certificate cannot be used; the former one stays")
                    }
                }
            }
        }
        current.acceptor.clone()
    }
}

impl Handshake for Tls {
    type Stream = TlsStream<TcpStream>;
    const PLAIN: bool = false;

    async fn shake(&self, tcp: TcpStream) -> std::io::Result<Self::Stream> {
        self.acceptor().accept(tcp).await
    }
}

fn stamp(files: &[PathBuf; 2]) -> Stamp {
    files.each_ref().map(|file| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

fn read([certificate, key]: &[PathBuf; 2]) -> Result<TlsAcceptor, TlsError> {
    let failed = |key: &'static str, path: &Path, why: String| TlsError::File { key, path: path.to_owned(), why };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| failed("server.tls_certificate", certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(failed("server.tls_certificate", certificate, "no certificate in it".into()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| failed("server.tls_key", key, e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
