//! Loads the configuration: layers the compiled-in default, a file and the environment, then
//! validates every value.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::range::{OutOfRange, SECONDS, seconds};
use super::{Config, MAX_RERANK};
use crate::camera::CAMERA_KEYS;

/// `docker/sightline.toml`, compiled in.
pub const DEFAULT_TOML: &str = include_str!("../../../docker/sightline.toml");

/// Prefix of the environment variables that set configuration values.
const ENV_PREFIX: &str = "SIGHTLINE__";

/// Errors of a configuration, worded so that they can be fixed without reading code.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("the configuration {origin} is not valid: {message}")]
    Parse {
        /// File or `environment`.
        origin: String,
        /// The parser's message, with line and column where it knows them.
        message: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key:?} in {origin}{hint}")]
    UnknownKey {
        /// `section.key`.
        key: String,
        /// File or `environment`.
        origin: String,
        /// The nearest valid key, if one is near.
        hint: String,
    },
    /// A value out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

impl Config {
    /// Loads the default, then `file`, then the variables `SIGHTLINE__SECTION__KEY` of the
    /// environment.
    ///
    /// # Errors
    /// An unreadable file, bad TOML, an unknown key, a value of the wrong type or out of range.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::layered(file, environment()?)
    }

    /// [`Config::load`] with the environment given, for tests.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn layered(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let default = parse(DEFAULT_TOML, "compiled-in default")?;
        let mut merged = default.clone();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            let origin = path.display().to_string();
            merge(&mut merged, parse(&text, &origin)?, &default, &origin)?;
        }
        for (name, text) in env {
            if let Some(rest) = name.strip_prefix(ENV_PREFIX) {
                let table = from_env(rest, &text, &default)?;
                merge(&mut merged, table, &default, &format!("the environment ({name})"))?;
            }
        }
        let config: Self = Value::Table(merged)
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Parse { origin: "as a whole".into(), message: e.to_string() })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |ok: bool, key, value: &dyn std::fmt::Display, expected| {
            OutOfRange::unless(ok, key, value, expected).map_err(ConfigError::from)
        };
        let unit = |v: f32| (0.0..=1.0).contains(&v);
        let (s, d, t, c) = (&self.server, &self.detect, &self.track, &self.shots);
        range(
            s.require_tokens || s.listen.ip().is_loopback(),
            "server.require_tokens",
            &s.require_tokens,
            "true, because server.listen is not a loopback address",
        )?;
        range(s.rate_per_minute > 0, "server.rate_per_minute", &s.rate_per_minute, "at least 1")?;
        range(
            s.address_rate_per_minute > 0,
            "server.address_rate_per_minute",
            &s.address_rate_per_minute,
            "at least 1",
        )?;
        range(seconds(s.header_seconds), "server.header_seconds", &s.header_seconds, SECONDS)?;
        range(seconds(s.body_seconds), "server.body_seconds", &s.body_seconds, SECONDS)?;
        range(s.max_connections >= 1, "server.max_connections", &s.max_connections, "at least 1")?;
        range(
            s.max_connections_per_address >= 1,
            "server.max_connections_per_address",
            &s.max_connections_per_address,
            "at least 1",
        )?;
        // A larger number does not fit a semaphore, and limits nothing.
        range((1..=1_000_000).contains(&s.max_requests), "server.max_requests", &s.max_requests, "1 to 1000000")?;
        range(
            s.tls_certificate.as_os_str().is_empty() == s.tls_key.as_os_str().is_empty(),
            "server.tls_key",
            &s.tls_key.display(),
            "a file if server.tls_certificate names one, else empty",
        )?;
        range(
            s.metrics_listen.is_empty() || s.metrics_listen.parse::<SocketAddr>().is_ok(),
            "server.metrics_listen",
            &s.metrics_listen,
            "an address with port, or empty",
        )?;
        range(
            self.audit.retention_days >= 0.0 && self.audit.retention_days <= 36_500.0,
            "audit.retention_days",
            &self.audit.retention_days,
            "0 (for ever) to 36500",
        )?;
        range(s.max_body_bytes >= 1024, "server.max_body_bytes", &s.max_body_bytes, "at least 1024")?;
        self.ingest.check()?;
        range(
            d.input_size >= 64 && d.input_size % 32 == 0 && d.input_size <= 2048,
            "detect.input_size",
            &d.input_size,
            "a multiple of 32 from 64 to 2048",
        )?;
        range(unit(d.score_threshold), "detect.score_threshold", &d.score_threshold, "0 to 1")?;
        range(unit(d.nms_iou), "detect.nms_iou", &d.nms_iou, "0 to 1")?;
        range(d.threads >= 1, "detect.threads", &d.threads, "at least 1")?;
        range(
            unit(t.high) && unit(t.low) && t.low <= t.high,
            "track.low",
            &t.low,
            "0 to track.high, which is at most 1",
        )?;
        range(unit(t.new_track), "track.new_track", &t.new_track, "0 to 1")?;
        range(unit(t.match_cost), "track.match_cost", &t.match_cost, "0 to 1")?;
        range(seconds(t.lost_seconds), "track.lost_seconds", &t.lost_seconds, SECONDS)?;
        range((1..=3).contains(&c.per_track), "shots.per_track", &c.per_track, "1 to 3")?;
        range((1..=100).contains(&c.jpeg_quality), "shots.jpeg_quality", &c.jpeg_quality, "1 to 100")?;
        range(self.embed.batch >= 1, "embed.batch", &self.embed.batch, "at least 1")?;
        range(self.search.rerank <= MAX_RERANK, "search.rerank", &self.search.rerank, "0 to 256")?;
        range(self.search.concurrent >= 1, "search.concurrent", &self.search.concurrent, "at least 1")?;
        range(self.search.max_limit >= 1, "search.max_limit", &self.search.max_limit, "at least 1")?;
        range(
            unit(self.search.confident_probability),
            "search.confident_probability",
            &self.search.confident_probability,
            "0 to 1",
        )?;
        let (b, v) = (&self.bus, &self.vectors);
        range(b.partitions >= 1, "bus.partitions", &b.partitions, "at least 1")?;
        range(b.replication >= 1, "bus.replication", &b.replication, "at least 1")?;
        range(b.retention_hours >= 1, "bus.retention_hours", &b.retention_hours, "at least 1")?;
        range(b.in_flight_bytes >= 2_000_000, "bus.in_flight_bytes", &b.in_flight_bytes, "at least 2000000")?;
        range(b.spool_bytes >= 2_000_000, "bus.spool_bytes", &b.spool_bytes, "at least 2000000")?;
        range(
            b.drain_seconds > 0.0 && b.drain_seconds <= 240.0,
            "bus.drain_seconds",
            &b.drain_seconds,
            "above 0, at most 240",
        )?;
        range(v.shards >= 1, "vectors.shards", &v.shards, "at least 1")?;
        range(v.replication >= 1, "vectors.replication", &v.replication, "at least 1")?;
        range((1.0..=100.0).contains(&v.oversampling), "vectors.oversampling", &v.oversampling, "1 to 100")?;
        range(seconds(v.timeout_seconds), "vectors.timeout_seconds", &v.timeout_seconds, SECONDS)?;
        range(self.index.batch >= 1, "index.batch", &self.index.batch, "at least 1")?;
        range(
            self.index.retention_days >= 0.0,
            "index.retention_days",
            &self.index.retention_days,
            "0 (for ever) or more",
        )
    }
}

/// The environment variables with [`ENV_PREFIX`]; others need not be UTF-8.
fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    let ours = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENV_PREFIX))?;
        Some(match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::Parse {
                origin: format!("the environment ({name})"),
                message: "the value is not UTF-8".into(),
            }),
        })
    };
    std::env::vars_os().filter_map(ours).collect()
}

fn parse(text: &str, origin: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|e: toml::de::Error| ConfigError::Parse { origin: origin.into(), message: e.to_string() })
}

/// Merges `over` into `base`, where every key must be known. `cameras` is a list: it replaces the
/// list below it.
fn merge(base: &mut Table, over: Table, default: &Table, origin: &str) -> Result<(), ConfigError> {
    for (section, value) in over {
        if section == "cameras" {
            let entries = value.as_array().into_iter().flatten().filter_map(Value::as_table);
            if let Some(key) = entries.flat_map(Table::keys).find(|key| !CAMERA_KEYS.contains(&key.as_str())) {
                return Err(unknown(key, CAMERA_KEYS.into_iter(), &format!("an entry of [[cameras]] in {origin}")));
            }
            base.insert(section, value);
            continue;
        }
        let known = default.get(&section).and_then(Value::as_table);
        let (Some(known), Value::Table(keys)) = (known, value) else {
            let all = default.keys().map(String::as_str).chain(["cameras"]);
            return Err(unknown(&section, all, origin));
        };
        let Some(Value::Table(target)) = base.get_mut(&section) else { continue };
        for (key, value) in keys {
            if !known.contains_key(&key) {
                let full: Vec<String> = known.keys().map(|k| format!("{section}.{k}")).collect();
                return Err(unknown(&format!("{section}.{key}"), full.iter().map(String::as_str), origin));
            }
            target.insert(key, value);
        }
    }
    Ok(())
}

fn unknown<'a>(key: &str, valid: impl Iterator<Item = &'a str>, origin: &str) -> ConfigError {
    let mut hint = String::new();
    let near =
        valid.map(|v| (strsim::jaro_winkler(key, v), v)).filter(|(s, _)| *s > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((_, v)) = near {
        let _ = write!(hint, "; did you mean {v:?}?");
    }
    ConfigError::UnknownKey { key: key.into(), origin: origin.into(), hint }
}

/// Converts `SECTION__KEY` and its text to a table, typed like the default's value.
fn from_env(name: &str, text: &str, default: &Table) -> Result<Table, ConfigError> {
    let lower = name.to_ascii_lowercase();
    let (section, key) = lower.split_once("__").unwrap_or((&lower, ""));
    let like = default.get(section).and_then(|s| s.get(key));
    let bad = |what: &str| ConfigError::Parse {
        origin: format!("in the environment (SIGHTLINE__{name})"),
        message: format!("{text:?} is not {what}"),
    };
    let value = match like {
        Some(Value::Boolean(_)) => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
        Some(Value::Integer(_)) => Value::Integer(text.parse().map_err(|_| bad("a whole number"))?),
        Some(Value::Float(_)) => Value::Float(text.parse().map_err(|_| bad("a number"))?),
        // A list is separated by commas.
        Some(Value::Array(_)) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        _ => Value::String(text.to_owned()),
    };
    let mut keys = Table::new();
    keys.insert(key.to_owned(), value);
    let mut table = Table::new();
    table.insert(section.to_owned(), Value::Table(keys));
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).expect("writable");
        Config::layered(Some(&path), [])
    }

    #[test]
    fn the_compiled_in_default_is_valid_and_complete() {
        let c = Config::layered(None, []).expect("valid default");
        assert!(c.cameras.is_empty());
        assert!(c.server.listen.ip().is_loopback() && c.server.require_tokens);
    }

    #[test]
    fn file_then_environment() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[ingest]\nfps = 2.5\nmax_cameras = 3\n").expect("writable");
        let env = [("SIGHTLINE__INGEST__FPS".to_owned(), "8".to_owned()), ("HOME".to_owned(), "/".to_owned())];
        let c = Config::layered(Some(&path), env).expect("valid");
        assert_eq!((c.ingest.fps, c.ingest.max_cameras), (8.0, 3));
    }

    #[test]
    fn lists_come_from_the_environment_with_commas() {
        let proxies = |text: &str| {
            let env = [("SIGHTLINE__SERVER__TRUSTED_PROXIES".to_owned(), text.to_owned())];
            Config::layered(None, env).map(|c| c.server.trusted_proxies.len())
        };
        assert_eq!(proxies("10.0.0.0/8, fd00::/8").ok(), Some(2));
        assert_eq!(proxies("").ok(), Some(0));
        assert!(proxies("10.0.0.0/8,here").is_err());
    }

    #[test]
    fn unknown_keys_name_the_nearest_valid_one() {
        let e = with("[ingest]\nfsp = 2\n").expect_err("unknown").to_string();
        assert!(e.contains("ingest.fsp") && e.contains("\"ingest.fps\""), "{e}");
        let e = with("[ingset]\nfps = 2\n").expect_err("unknown").to_string();
        assert!(e.contains("\"ingest\""), "{e}");
        let e = Config::layered(None, [("SIGHTLINE__SERVER__LISTN".to_owned(), "x".to_owned())]);
        assert!(e.expect_err("unknown").to_string().contains("\"server.listen\""));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in [
            "[server]\nlisten = \"0.0.0.0:80\"\nrequire_tokens = false\n",
            "[ingest]\nfps = 0\n",
            "[ingest]\nstall_seconds = inf\n",
            "[ingest]\nconnect_seconds = 1e20\n",
            "[ingest]\nbackoff_last_seconds = inf\n",
            "[track]\nlost_seconds = nan\n",
            "[vectors]\ntimeout_seconds = inf\n",
            "[detect]\ninput_size = 400\n",
            "[detect]\nscore_threshold = 1.5\n",
            "[shots]\nper_track = 9\n",
            "[server]\nheader_seconds = 0\n",
            "[server]\nmax_connections = 0\n",
            "[server]\nmax_requests = 0\n",
            "[server]\ntls_key = \"key.pem\"\n",
            "[server]\ntrusted_proxies = [\"10.0.0.1\"]\n",
            "[server]\nmetrics_listen = \"9464\"\n",
            "[audit]\nretention_days = -1\n",
            "[server]\nlisten = \"nowhere\"\n",
            "not toml",
        ] {
            assert!(with(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cameras_are_read_and_checked() {
        let c = with("[[cameras]]\nid = \"a\"\nurl = \"videotestsrc://\"\n").expect("valid");
        assert!(c.cameras[0].realtime && !c.cameras[0].looped);
        assert!(with("[[cameras]]\nid = \"A B\"\nurl = \"x\"\n").is_err());
        let c = with("[[cameras]]\nid = \"a\"\nurl = \"rtsp://a\"\nstall_seconds = 9.5\nrtsp_transport = \"udp\"\n");
        assert_eq!(c.expect("valid").cameras[0].stall_seconds, Some(9.5));
        let e = with("[[cameras]]\nid = \"a\"\nurl = \"x\"\nstall_second = 1\n").expect_err("unknown").to_string();
        assert!(e.contains("\"stall_second\" in an entry of [[cameras]]") && e.contains("\"stall_seconds\"?"), "{e}");
    }
}
