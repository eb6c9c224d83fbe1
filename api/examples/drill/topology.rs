//! A topology of real processes, controlled through `docker/local.sh` and observed from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::footage::root;
use crate::partition::Line;

/// Time limit of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of processes of each role.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    pub ingest: usize,
    pub embed: usize,
    pub index: usize,
}

impl Roles {
    /// Returns everything that can be killed: role and number, broker and vector store included.
    pub fn all(self) -> Vec<(&'static str, usize)> {
        let many = |role, count| (1..=count).map(move |n| (role, n));
        let mut all: Vec<_> =
            many("ingest", self.ingest).chain(many("embed", self.embed)).chain(many("index", self.index)).collect();
        all.extend([("api", 1), ("kafka", 1), ("qdrant", 1)]);
        all
    }
}

/// Running processes; stopped on drop.
pub struct Topology {
    dir: PathBuf,
    /// Address of the vector store.
    pub qdrant: String,
    /// Addresses of the broker.
    pub brokers: String,
    /// Port on which the first camera node reaches the broker, where it is another.
    proxy: Option<u16>,
}

impl Topology {
    /// Empties `dir` and starts everything with `config` (TOML, without addresses and folders).
    pub fn up(dir: &Path, roles: Roles, config: &str) -> anyhow::Result<Self> {
        Self::start_all(dir, roles, config, None)
    }

    /// [`Topology::up`] with a line between the first camera node and the broker that can be cut.
    pub fn up_with_line(dir: &Path, roles: Roles, config: &str) -> anyhow::Result<(Self, Line)> {
        let line = Line::new(std::path::absolute(dir)?.join("kafka"))?;
        Ok((Self::start_all(dir, roles, config, Some(line.port))?, line))
    }

    fn start_all(dir: &Path, roles: Roles, config: &str, proxy: Option<u16>) -> anyhow::Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let base = dir.join("base.toml");
        std::fs::write(&base, config)?;
        let mut topology = Self { dir, qdrant: String::new(), brokers: String::new(), proxy };
        topology.script(&[
            "up",
            "--ingest",
            &roles.ingest.to_string(),
            "--embed",
            &roles.embed.to_string(),
            "--index",
            &roles.index.to_string(),
            "--config",
            &base.display().to_string(),
        ])?;
        topology.qdrant = topology.noted("qdrant.url")?;
        topology.brokers = topology.noted("brokers")?;
        Ok(topology)
    }

    fn script(&self, args: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("drill.log"))?;
        let status = Command::new(root().join("docker/local.sh"))
            .args([args[0], "--dir"])
            .arg(&self.dir)
            .args(&args[1..])
            .envs(self.proxy.map(|port| ("SIGHTLINE_KAFKA_PROXY", port.to_string())))
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        if !status.success() {
            bail!("docker/local.sh {} failed; see {}", args.join(" "), self.dir.join("drill.log").display());
        }
        Ok(())
    }

    /// Reads a value that the script wrote at the start.
    fn noted(&self, file: &str) -> anyhow::Result<String> {
        let path = self.dir.join("run").join(file);
        Ok(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
    }

    /// Kills a role with `kill -9`.
    pub fn kill(&self, role: &str, n: usize) -> anyhow::Result<()> {
        self.script(&["kill", role, &n.to_string()])
    }

    /// Stops a role gracefully.
    pub fn stop(&self, role: &str, n: usize) -> anyhow::Result<()> {
        self.script(&["stop", role, &n.to_string()])
    }

    /// Starts a role, possibly again.
    pub fn start(&self, role: &str, n: usize) -> anyhow::Result<()> {
        self.script(&["start", role, &n.to_string()])
    }

    /// Returns the process id of a role while it runs.
    pub fn pid(&self, role: &str, n: usize) -> Option<u32> {
        let name = if role == "kafka" || role == "qdrant" { role.to_owned() } else { format!("{role}-{n}") };
        self.noted(&format!("{name}.pid")).ok()?.split(' ').next()?.parse().ok()
    }

    /// Returns the current and the peak resident memory of a role, in bytes.
    pub fn memory(&self, role: &str, n: usize) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(role, n)?)).ok()?;
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        };
        Some((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Address of the REST API, and the header that lets an administrator in.
    fn client(&self) -> anyhow::Result<(String, String)> {
        // The token ends with the process, and the next start writes a new one.
        let client = self.dir.join("api-1/client.json");
        let client: Value = serde_json::from_slice(&std::fs::read(&client)?)?;
        let field = |name: &str| client[name].as_str().unwrap_or("").to_owned();
        Ok((field("server"), format!("Bearer {}", field("token"))))
    }

    /// Calls the REST API.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (server, bearer) = self.client()?;
        let request = ureq::get(format!("{server}{path}")).header("Authorization", bearer);
        let mut answer = request.config().timeout_global(Some(PATIENCE)).build().call()?;
        Ok(answer.body_mut().read_json()?)
    }

    /// Calls the REST API with a body.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (server, bearer) = self.client()?;
        let request = ureq::post(format!("{server}{path}")).header("Authorization", bearer);
        let mut answer = request.config().timeout_global(Some(PATIENCE)).build().send_json(body)?;
        Ok(answer.body_mut().read_json()?)
    }

    /// Reads a metric without labels of a role.
    pub fn metric(&self, role: &str, n: usize, name: &str) -> Option<f64> {
        let port = self.noted(&format!("{role}-{n}.port")).ok()?;
        let request = ureq::get(format!("http://127.0.0.1:{port}/metrics"));
        let mut answer = request.config().timeout_global(Some(PATIENCE)).build().call().ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Returns `/v1/cameras`, by id.
    pub fn cameras(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let answer = self.get("/v1/cameras")?;
        let list = answer.get("cameras").unwrap_or(&answer).as_array().cloned().context("no list of cameras")?;
        Ok(list.into_iter().filter_map(|c| Some((c["id"].as_str()?.to_owned(), c))).collect())
    }

    /// Waits until `count` cameras are in `state`.
    pub fn await_state(&self, count: usize, state: &str, limit: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            let cameras = self.cameras().unwrap_or_default();
            let there = cameras.values().filter(|c| c["state"] == state).count();
            if there >= count {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                let now: Vec<String> =
                    cameras.iter().map(|(id, c)| format!("{id}: {} {}", c["state"], c["reason"])).collect();
                bail!("{there} of {count} cameras are {state} after {} s: {}", limit.as_secs(), now.join("; "));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if let Err(e) = self.script(&["down"]) {
            eprintln!("{e:#}");
        }
    }
}
