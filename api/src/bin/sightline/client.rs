//! REST client of the commands: finds the server and a token, and reports errors with the server's
//! message.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use sightline_api::startup::{CLIENT_FILE, ClientFile};
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::output::data_folder;

/// Options that select the server
#[derive(clap::Args)]
pub struct Connection {
    /// Address of the server [default: that of the server whose data folder is --data]
    #[arg(long, env = "SIGHTLINE_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Access token
    #[arg(long, env = "SIGHTLINE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the certificates (PEM) to trust instead of the system's, for https
    #[arg(long, env = "SIGHTLINE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Data folder of the server [default: data.folder of the default configuration]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Client of one server.
pub struct Client {
    agent: ureq::Agent,
    server: String,
    token: Option<String>,
}

impl Client {
    /// Finds the server and the token in the options, then in the environment, then in the file
    /// that the server wrote to its data folder.
    pub fn new(c: &Connection) -> anyhow::Result<Self> {
        let named = c.server.is_some();
        let (server, token) = match &c.server {
            Some(server) => (server.trim_end_matches('/').to_owned(), c.token.clone()),
            None => {
                let path = data_folder(c.data.as_deref())?.join(CLIENT_FILE);
                let text = match std::fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!(
                        "no Sightline runs here ({} is missing): start one with `sightline serve`, or name its address \
                         with --server and --token",
                        path.display()
                    ),
                    Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
                };
                let file: ClientFile =
                    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
                (file.server, Some(c.token.clone().unwrap_or(file.token)))
            }
        };
        if !server.starts_with("http://") && !server.starts_with("https://") {
            bail!("the server's address {server:?} must start with http:// or https://");
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .tls_config(tls(c.ca.as_deref(), !named && is_loopback(&server))?)
            .build()
            .into();
        Ok(Self { agent, server, token })
    }

    /// Returns the absolute URL of a path on the server.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    /// Calls the server; an error status becomes an error with the server's message.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        let sent = self.agent.run(request.body(text.into_bytes()).context("this address cannot be called")?);
        let mut response = sent.with_context(|| format!("{} does not answer", self.server))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().context("the answer broke off")?;
        if status.is_success() {
            return Ok(body);
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match (answer["message"].as_str(), answer["code"].as_str()) {
            (Some(message), Some(code)) => bail!("{message} ({code})"),
            _ => bail!("{} answered {status}", self.server),
        }
    }

    /// Calls the server and parses the JSON answer; see [`Client::call`].
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.call(method, path, body)?).context("the answer is not JSON")
    }
}

/// Whom to trust: the authorities of `ca`, or those of the system.
///
/// A server on this machine, found through the file in its data folder, is not asked for a
/// certificate: it has one for its public name, not for 127.0.0.1, and what goes over the loopback
/// does not leave this machine.
fn tls(ca: Option<&Path>, same_machine: bool) -> anyhow::Result<TlsConfig> {
    let roots = match ca {
        None => RootCerts::PlatformVerifier,
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let mut certificates: Vec<Certificate<'static>> = Vec::new();
            for item in parse_pem(&text) {
                if let PemItem::Certificate(certificate) =
                    item.with_context(|| format!("{} is no PEM file", file.display()))?
                {
                    certificates.push(certificate);
                }
            }
            if certificates.is_empty() {
                bail!("{} has no certificate in it", file.display());
            }
            RootCerts::new_with_certs(&certificates)
        }
    };
    let config = TlsConfig::builder().root_certs(roots).disable_verification(ca.is_none() && same_machine);
    Ok(config.unversioned_rustls_crypto_provider(Arc::new(ring::default_provider())).build())
}

fn is_loopback(server: &str) -> bool {
    let place = server.split_once("://").map_or(server, |(_, place)| place);
    place.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

/// Formats an RFC 3339 time of the server in local time.
pub fn local(time: &Value) -> String {
    let parsed = time.as_str().and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
    parsed.map_or("-".into(), |t| t.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string())
}
