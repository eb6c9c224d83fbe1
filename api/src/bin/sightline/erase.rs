//! `sightline erase`: erases people of a running server, and follows the job until it is done.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Map, Value, json};

use crate::client::{Client, Connection};

/// Longest pause between two looks at a job; the first ones follow quickly.
const POLL: Duration = Duration::from_secs(1);

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Erase the people of this camera; the camera goes on
    #[arg(long, value_name = "ID", conflicts_with = "sighting", required_unless_present = "sighting")]
    camera: Option<String>,
    /// With --camera: earliest capture time (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "camera")]
    from: Option<String>,
    /// With --camera: latest capture time (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME", requires = "camera")]
    to: Option<String>,
    /// Erase this sighting with its whole track; may be repeated
    #[arg(long, value_name = "ID")]
    sighting: Vec<String>,
    /// Purpose, for the audit trail
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
    /// Print the finished job with its receipt as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut body = Map::new();
    for (key, value) in [("camera", &args.camera), ("from", &args.from), ("to", &args.to), ("purpose", &args.purpose)] {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    }
    if !args.sighting.is_empty() {
        body.insert("sightings".into(), json!(args.sighting));
    }
    let client = Client::new(&args.connection)?;
    let job = client.json("POST", "/v1/erasures", Some(&Value::Object(body)))?;
    let done = follow(&client, job)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&done)?),
        false => println!("{} sightings erased", done["receipt"]["sightings"]),
    }
    Ok(())
}

/// Waits until a job is done and returns it. Progress goes to the terminal, a failed attempt to
/// standard error; the server repeats it. Ctrl-C ends the command and not the job.
pub fn follow(client: &Client, mut job: Value) -> anyhow::Result<Value> {
    let Some(id) = job["id"].as_str().map(str::to_owned) else { bail!("the server's answer names no erasure") };
    let (mut pause, mut told) = (Duration::from_millis(50), 0);
    let terminal = std::io::stderr().is_terminal();
    loop {
        if terminal {
            let percent = job["progress"].as_f64().unwrap_or_default() * 100.0;
            eprint!("\r{percent:>5.1} %, {} sightings erased ", job["erased"]["sightings"]);
        }
        match job["state"].as_str() {
            Some("done") => {
                if terminal {
                    eprint!("\r\x1b[K");
                }
                return Ok(job);
            }
            Some("failed") if job["attempts"].as_u64().unwrap_or_default() > told => {
                told = job["attempts"].as_u64().unwrap_or_default();
                eprintln!("not finished yet, the server tries again: {}", job["error"].as_str().unwrap_or_default());
            }
            _ => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL);
        job = client.json("GET", &format!("/v1/erasures/{id}"), None)?;
    }
}
