//! `sightline camera`: lists, adds and removes cameras of a running server.

use anyhow::bail;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{Client, Connection, local};
use crate::erase;
use crate::output::print_table;

/// Camera commands
#[derive(clap::Subcommand)]
pub enum Command {
    /// Add and start a camera; the server remembers it across restarts
    Add {
        /// Immutable id of the camera: 1 to 64 of a-z 0-9 - _
        id: String,
        /// Address: rtsp://, http(s)://, file:..., v4l2:///dev/... or videotestsrc://
        url: String,
        #[command(flatten)]
        overrides: Box<Overrides>,
        /// Files only: capture time of the first frame (RFC 3339)
        #[arg(long, value_name = "TIME")]
        start_time: Option<String>,
        /// Files only: start again at the end
        #[arg(long = "loop")]
        looped: bool,
        /// Files only: analyse as fast as the machine can
        #[arg(long)]
        fast: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// List cameras with their states
    List {
        /// Print the server's answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Stop a camera and erase the people it recorded
    Remove {
        /// Id of the camera
        id: String,
        /// Keep the people it recorded searchable
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

/// What the camera has for itself, instead of the values of `[ingest]` and `[detect]`. The server
/// checks the values.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Instead of the server's settings")]
pub struct Overrides {
    /// Analysed frames per second
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fps: Option<f64>,
    /// Height to which frames are scaled down before analysis
    #[arg(long, value_name = "PIXELS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_height: Option<u32>,
    /// Time without a frame after which the camera is connected anew
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_seconds: Option<f64>,
    /// Time that a connection attempt may take until its first frame
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    /// Pause before the first new attempt
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_first_seconds: Option<f64>,
    /// Pause up to which it doubles
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_last_seconds: Option<f64>,
    /// RTSP only: tcp, udp, or auto (UDP first, then TCP)
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rtsp_transport: Option<String>,
    /// RTSP only: how long to wait for late packets
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rtsp_latency_ms: Option<u32>,
    /// Score below which a detection starts no track
    #[arg(long, value_name = "0..1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    score_threshold: Option<f32>,
    /// Separate roles only: name of the camera node that is to run it
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Add { id, url, overrides, start_time, looped, fast, connection } => {
            let Value::Object(mut body) = serde_json::to_value(overrides)? else { bail!("no settings") };
            body.insert("id".into(), json!(id));
            body.insert("url".into(), json!(url));
            body.insert("loop".into(), json!(looped));
            body.insert("realtime".into(), json!(!fast));
            if let Some(start) = start_time {
                body.insert("start_time".into(), json!(start));
            }
            let added = Client::new(connection)?.json("POST", "/v1/cameras", Some(&Value::Object(body)))?;
            println!("{id}: {}", added["state"].as_str().unwrap_or_default());
        }
        Command::List { json, connection } => {
            let list = Client::new(connection)?.json("GET", "/v1/cameras", None)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else {
                print(&list);
            }
        }
        Command::Remove { id, keep, connection } => {
            // An id with characters that could change the path is refused before it is sent.
            let id: sightline_core::CameraId = id.parse()?;
            let path = format!("/v1/cameras/{id}{}", if *keep { "?keep=true" } else { "" });
            let client = Client::new(connection)?;
            let removal = client.json("DELETE", &path, None)?;
            match keep {
                true => println!("{id}: removed, its people are kept"),
                false => {
                    let done = erase::follow(&client, removal["erasure"].clone())?;
                    println!("{id}: removed, {} sightings erased", done["receipt"]["sightings"]);
                }
            }
            if removal["returns_at_restart"] == json!(true) {
                eprintln!("note: the configuration file still names {id}: it comes back at the next start");
            }
        }
    }
    Ok(())
}

fn print(list: &Value) {
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = list["cameras"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            vec![
                text(&c["id"]),
                text(&c["state"]),
                local(&c["searchable_through"]),
                c["lag_s"].as_f64().map_or("-".into(), |s| format!("{s:.1} s")),
                format!("{:.1} %", c["dropped_fraction"].as_f64().unwrap_or_default() * 100.0),
                text(&c["url"]),
                text(&c["reason"]),
            ]
        })
        .collect();
    print_table(&["CAMERA", "STATE", "SEARCHABLE THROUGH", "LAG", "DROPPED", "ADDRESS", "REASON"], &rows);
}
