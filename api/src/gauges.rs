//! Gauges of what the page and `/readyz` show, so that alerts know it too: every camera's state,
//! the parts that are ready, searches at work; and the disk space and memory of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, CameraState};
use sightline_search::WatchedFolders;

use crate::app::App;
use crate::cameras::CameraView;
use crate::desk::readiness;

/// Interval between updates.
const INTERVAL: Duration = Duration::from_secs(5);

/// Updates the gauges until `shutdown`; run it as a task of its own.
pub async fn run(app: App, folders: WatchedFolders, shutdown: Shutdown) {
    let mut shown = BTreeSet::new();
    while !shutdown.is_triggered() {
        match app.known_cameras().await {
            Ok(rows) => shown = set_gauges(&app.camera_views(&rows, false).await, shown),
            Err(error) => tracing::warn!(%error, "cannot read the cameras for the metrics"),
        }
        let readiness = readiness(&app).await;
        metrics::gauge!("sightline_api_ready").set(f64::from(u8::from(readiness.ready)));
        for check in &readiness.checks {
            metrics::gauge!("sightline_api_part_ok", "part" => check.name).set(f64::from(u8::from(check.ok)));
        }
        record_permits(&app);
        folders.record();
        if let Some(bytes) = sightline_core::telemetry::resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.triggered() => return,
        }
    }
}

/// Sets the gauges of the searches that run, and that may run side by side.
pub(crate) fn record_permits(app: &App) {
    let limit = app.search_config().concurrent.max(1);
    let in_use = limit.saturating_sub(app.search_permits().available_permits());
    metrics::gauge!("sightline_api_search_permits_limit").set(limit as f64);
    metrics::gauge!("sightline_api_search_permits_in_use").set(in_use as f64);
}

/// Sets the gauges; those of removed cameras become NaN, which fires no alert.
fn set_gauges(views: &[CameraView], before: BTreeSet<CameraId>) -> BTreeSet<CameraId> {
    let mut states: BTreeMap<&str, u32> = CameraState::ALL.iter().map(|s| (s.as_str(), 0)).collect();
    for view in views {
        *states.entry(view.state.as_str()).or_default() += 1;
        // A recording that has ended has nothing left to become searchable.
        let well = matches!(view.state, CameraState::Searchable | CameraState::Ended);
        set(&view.id, f64::from(u8::from(well)), view.lag_s.unwrap_or(f64::NAN), view.dropped_fraction);
    }
    for (state, count) in states {
        metrics::gauge!("sightline_api_cameras", "state" => state).set(count);
    }
    let now: BTreeSet<CameraId> = views.iter().map(|v| v.id.clone()).collect();
    for gone in before.difference(&now) {
        set(gone, f64::NAN, f64::NAN, f64::NAN);
    }
    now
}

fn set(camera: &CameraId, searchable: f64, lag: f64, dropped: f64) {
    metrics::gauge!("sightline_api_camera_searchable", "camera" => camera.to_string()).set(searchable);
    metrics::gauge!("sightline_api_camera_lag_seconds", "camera" => camera.to_string()).set(lag);
    metrics::gauge!("sightline_api_camera_dropped_ratio", "camera" => camera.to_string()).set(dropped);
}
