//! Telemetry: `tracing` logs to standard error, filtered by `SIGHTLINE_LOG` (default `info`), as
//! text or as JSON lines; and the memory of the process, for its metrics.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// Initialises logging for a binary. Called once, at the start of `main`; a second call (in tests)
/// does nothing.
pub fn init(json: bool, default_filter: &str) {
    let filter = EnvFilter::try_from_env("SIGHTLINE_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if json {
        builder.json().try_init()
    } else {
        use std::io::IsTerminal;
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
}

/// Resident memory of this process in bytes; `None` where `/proc` does not tell.
pub fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}
