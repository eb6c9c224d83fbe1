//! REST client of the commands: finds the server and a token, and reports errors with the server's
//! message.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use sightline_api::startup::{CLIENT_FILE, ClientFile};

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
        if !server.starts_with("http://") {
            bail!("the server's address {server:?} must start with http:// (put TLS into a reverse proxy beside it)");
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
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

/// Formats an RFC 3339 time of the server in local time.
pub fn local(time: &Value) -> String {
    let parsed = time.as_str().and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
    parsed.map_or("-".into(), |t| t.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string())
}
