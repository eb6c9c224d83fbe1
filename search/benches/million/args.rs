//! Arguments of the bench.

use std::path::PathBuf;
use std::str::FromStr;

/// Arguments, given as `--name value`.
#[derive(Clone, Debug)]
pub struct Args {
    /// Number of sightings.
    pub points: u64,
    /// Width of the vectors.
    pub width: usize,
    /// Folder of all data.
    pub folder: PathBuf,
    /// Address of a Qdrant server (gRPC); without it the embedded store is measured.
    pub store: Option<String>,
    /// Process whose memory is measured, when the store is a server on this machine.
    pub pid: Option<u32>,
    /// Folder of that server, whose disk use is measured.
    pub server_folder: Option<PathBuf>,
    /// Sightings stored per flush (`index.batch`).
    pub batch: u64,
    /// Text queries under every filter.
    pub texts: u64,
    /// Seed of the generated data.
    pub seed: u64,
    /// Whether the embedded store quantizes.
    pub int8: Option<bool>,
    /// With `int8`: number of rescored candidates as a multiple of the limit.
    pub oversampling: Option<f64>,
    /// Beam width of the graph search.
    pub beam: Option<usize>,
    /// Threads that build the index.
    pub index_threads: Option<usize>,
    /// Size of the gallery's pictures.
    pub jpeg_bytes: usize,
    /// Run this stage only.
    pub stage: Option<String>,
}

impl Args {
    /// Parses the command line.
    pub fn parse() -> anyhow::Result<Self> {
        let mut args = Self {
            points: 50_000,
            width: 256,
            folder: std::env::temp_dir().join(format!("sightline-million-{}", std::process::id())),
            store: None,
            pid: None,
            server_folder: None,
            batch: 64,
            texts: 200,
            seed: 1,
            int8: None,
            oversampling: None,
            beam: None,
            index_threads: None,
            jpeg_bytes: 8_000,
            stage: None,
        };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            // Argument that cargo itself passes to a bench.
            if name == "--bench" {
                continue;
            }
            let value = given.next().ok_or_else(|| anyhow::anyhow!("{name} needs a value"))?;
            match name.as_str() {
                "--points" => args.points = number(&name, &value)?,
                "--width" => args.width = number(&name, &value)?,
                "--folder" => args.folder = value.into(),
                "--store" => args.store = (value != "embedded").then_some(value),
                "--pid" => args.pid = Some(number(&name, &value)?),
                "--server-folder" => args.server_folder = Some(value.into()),
                "--batch" => args.batch = number(&name, &value)?,
                "--texts" => args.texts = number(&name, &value)?,
                "--seed" => args.seed = number(&name, &value)?,
                "--int8" => args.int8 = Some(number(&name, &value)?),
                "--oversampling" => args.oversampling = Some(number(&name, &value)?),
                "--beam" => args.beam = Some(number(&name, &value)?),
                "--index-threads" => args.index_threads = Some(number(&name, &value)?),
                "--jpeg-bytes" => args.jpeg_bytes = number(&name, &value)?,
                "--stage" => args.stage = Some(value),
                _ => anyhow::bail!("{name} is not known; see benches/million/args.rs"),
            }
        }
        anyhow::ensure!(
            args.points >= 10_000 && args.batch > 0 && args.texts > 0,
            "too few points, texts or a batch of 0"
        );
        Ok(args)
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> anyhow::Result<T> {
    value.parse().map_err(|_| anyhow::anyhow!("{name} cannot be {value:?}"))
}
