//! Readiness and metrics of the process.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Desk, Metrics, PublicDesk};
use crate::app::{App, ModelView};
use crate::error::Error;

/// Time limit of the index's answer. An unreachable server takes longer to time out, and probes do
/// not wait that long.
const INDEX_TIMEOUT: Duration = Duration::from_secs(2);

/// Readiness of one part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Check {
    /// Name of the part: `model`, `index`, `state`, `indexer` or `cameras`.
    pub name: &'static str,
    /// Whether the part works at this moment.
    pub ok: bool,
    /// State of the part, in words.
    pub detail: String,
}

/// Readiness of the server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether searches are answered.
    pub ready: bool,
    /// Every part, also those without which searches are answered.
    pub checks: Vec<Check>,
    /// Model in use and the device that computes it.
    pub model: Option<ModelView>,
    /// Version of this build.
    pub version: &'static str,
}

impl PublicDesk {
    /// Asks every part whether it works.
    pub async fn readiness(&self) -> Readiness {
        readiness(&self.app).await
    }
}

/// Asks every part whether it works. The index is not counted, only asked for an estimate.
pub(crate) async fn readiness(app: &App) -> Readiness {
    let mut checks = Vec::new();
    let mut check = |name, outcome: Result<String, String>| {
        let (ok, detail) = outcome.map_or_else(|e| (false, e), |d| (true, d));
        checks.push(Check { name, ok, detail });
    };
    let model = app.model().cloned();
    match (app.index(), &model) {
        (Ok(index), Some(m)) => {
            let name = format!("{} {} on {} ({})", m.name, m.id, m.device, m.dtype);
            check("model", Ok(name.trim_start().to_owned()));
            let asked = tokio::time::timeout(INDEX_TIMEOUT, index.points()).await;
            let asked = asked.map_err(|_| format!("no answer within {} s", INDEX_TIMEOUT.as_secs()));
            let answer = |n: Result<u64, _>| n.map(|n| format!("about {n} pictures")).map_err(error_text);
            check("index", asked.and_then(answer));
        }
        _ => check("model", Err(app.phase())),
    }
    let state = app.state().run(|s| s.pending_erasures()).await;
    check("state", state.map(|_| "open".to_owned()).map_err(|e| e.to_string()));
    let ready = checks.iter().all(|c| c.ok);
    // A full disk keeps new footage out, but stored pictures are still found, so it is reported
    // and does not make the server unready.
    if let Ok(index) = app.index() {
        let fault = index.fault();
        let detail = fault.clone().unwrap_or_else(|| "storing".into());
        checks.push(Check { name: "indexer", ok: fault.is_none(), detail });
    }
    if let Ok(control) = app.control()
        && control.remote()
    {
        let fault = control.fault();
        let detail = fault.clone().unwrap_or_else(|| "heard".into());
        checks.push(Check { name: "cameras", ok: fault.is_none(), detail });
    }
    Readiness { ready, checks, model, version: env!("CARGO_PKG_VERSION") }
}

fn error_text(e: sightline_search::IndexError) -> String {
    Error::from(e).to_string()
}

impl Desk<Metrics> {
    /// Renders the metrics in the Prometheus text format. Labels name cameras.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this process records none.
    pub fn metrics(&self) -> Result<String, Error> {
        render_metrics(&self.app)
    }
}

/// Renders the metrics of this process.
pub(crate) fn render_metrics(app: &App) -> Result<String, Error> {
    let why = || "this process records no metrics".to_owned();
    let handle = app.metrics().ok_or_else(|| Error::Unavailable { part: "the metrics recorder", why: why() })?;
    Ok(handle.render())
}
