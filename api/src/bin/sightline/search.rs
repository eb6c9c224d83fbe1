//! `sightline search`: a table for people, JSON for programs.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::{Local, NaiveDateTime, SecondsFormat, TimeZone};
use serde_json::{Map, Value, json};

use crate::client::{Client, Connection, local};
use crate::words::print_table;

/// What to search for.
#[derive(clap::Args)]
pub struct Args {
    /// The person in plain words
    text: String,
    /// Only this camera (may be repeated)
    #[arg(long, value_name = "CAMERA")]
    camera: Vec<String>,
    /// Captured at or after: RFC 3339, or "2026-05-01 13:45" in local time
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// Captured at or before
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// Results wanted
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Only results at or above this match probability
    #[arg(long, value_name = "P")]
    min_probability: Option<f32>,
    /// Why this search is made, for the audit trail
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
    /// Print the server's answer as JSON, with absolute thumbnail addresses
    #[arg(long)]
    json: bool,
    /// Save the thumbnails into this folder (and name them in the JSON as `thumbnail_file`)
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// RFC 3339 text of a time given in either form.
fn time(text: &str) -> Result<String, String> {
    if let Ok(t) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(t.to_rfc3339_opts(SecondsFormat::Micros, true));
    }
    let naive = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|f| NaiveDateTime::parse_from_str(text, f).ok());
    naive
        .and_then(|n| Local.from_local_datetime(&n).earliest())
        .map(|t| t.to_rfc3339_opts(SecondsFormat::Micros, true))
        .ok_or_else(|| "use 2026-05-01T13:45:00Z or \"2026-05-01 13:45\"".into())
}

/// Searches and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let mut body = Map::new();
    body.insert("query".into(), json!(args.text));
    body.insert("limit".into(), json!(args.limit));
    if !args.camera.is_empty() {
        body.insert("cameras".into(), json!(args.camera));
    }
    for (key, value) in [("from", &args.from), ("to", &args.to), ("purpose", &args.purpose)] {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    }
    if let Some(p) = args.min_probability {
        body.insert("min_probability".into(), json!(p));
    }
    let mut answer = client.json("POST", "/v1/search", Some(&Value::Object(body)))?;
    for list in ["results", "nearest_misses"] {
        for hit in answer.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            complete(&client, args, hit)?;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    print(&answer);
    Ok(())
}

/// Makes the thumbnail's address absolute, and saves the picture when asked.
fn complete(client: &Client, args: &Args, hit: &mut Value) -> anyhow::Result<()> {
    let path = hit["thumbnail"].as_str().ok_or_else(|| anyhow!("the server's answer names no thumbnail"))?.to_owned();
    hit["thumbnail"] = json!(client.url(&path));
    if let Some(folder) = &args.save {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join(format!("{}.jpg", hit["sighting_id"].as_str().unwrap_or_default()));
        let jpeg = client.call("GET", &path, None)?;
        std::fs::write(&file, jpeg).with_context(|| format!("cannot write {}", file.display()))?;
        hit["thumbnail_file"] = json!(file);
    }
    Ok(())
}

fn print(answer: &Value) {
    let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let (results, misses) = (list("results"), list("nearest_misses"));
    if results.is_empty() && misses.is_empty() {
        println!("nobody found");
    } else {
        if answer["confident"] != json!(true) {
            println!("No confident match. What comes nearest:");
        }
        let shown = if results.is_empty() { &misses } else { &results };
        let number = |v: &Value| v.as_f64().map_or("-".into(), |n| format!("{n:.3}"));
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|h| {
                vec![
                    h["probability"].as_f64().map_or("-".into(), |p| format!("{:.0} %", p * 100.0)),
                    h["camera"].as_str().unwrap_or_default().to_owned(),
                    local(&h["captured_at"]),
                    number(&h["similarity"]),
                    number(&h["match_logit"]),
                    h["sighting_id"].as_str().unwrap_or_default().to_owned(),
                ]
            })
            .collect();
        print_table(&["MATCH", "CAMERA", "TIME (LOCAL)", "SIMILARITY", "LOGIT", "SIGHTING"], &rows);
    }
    for note in list("degraded") {
        eprintln!("note: {}", note.as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_both_forms() {
        assert_eq!(time("2026-05-01T13:45:00+02:00").as_deref(), Ok("2026-05-01T13:45:00.000000+02:00"));
        let local = time("2026-05-01 13:45").expect("local time");
        assert!(local.starts_with("2026-05-01T13:45:00.000000"), "{local}");
        assert!(time("yesterday").is_err());
    }
}
