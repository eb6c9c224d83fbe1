//! `sightline search`: prints a table for people or JSON for programs.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::{Local, NaiveDateTime, SecondsFormat, TimeZone};
use serde_json::{Map, Value, json};

use crate::client::{Client, Connection, local};
use crate::output::table;

/// Arguments of `sightline search`
#[derive(clap::Args)]
pub struct Args {
    /// Description of the person in plain words
    text: String,
    /// Search only this camera (may be repeated)
    #[arg(long, value_name = "CAMERA")]
    camera: Vec<String>,
    /// Captured at or after: RFC 3339, or "2026-05-01 13:45" in local time
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// Captured at or before
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// Number of results
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Only results with at least this match probability
    #[arg(long, value_name = "P")]
    min_probability: Option<f32>,
    /// Purpose of this search, for the audit trail
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

/// Converts a time of either form to RFC 3339.
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

/// Searches and prints the results.
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

/// Makes the thumbnail's address absolute, and saves the picture if asked to.
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

/// A phrase counts as true from this probability, and as false up to [`CROSS`]. Between them the
/// model is nearly guessing, so a mark would claim more than it knows.
const TICK: f64 = 0.65;
const CROSS: f64 = 0.35;

fn print(answer: &Value) {
    for line in lines(answer) {
        println!("{line}");
    }
    for note in list(answer, "degraded") {
        eprintln!("note: {}", note.as_str().unwrap_or_default());
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Formats the answer for people: a table with the phrases below each hit, then the remarks about
/// all hits.
fn lines(answer: &Value) -> Vec<String> {
    let (results, misses) = (list(answer, "results"), list(answer, "nearest_misses"));
    let shown = if results.is_empty() { misses } else { results };
    let mut lines = Vec::new();
    if shown.is_empty() {
        lines.push("nobody found".to_owned());
    } else {
        if answer["confident"] != json!(true) {
            let judged = shown.iter().any(|hit| !hit["probability"].is_null());
            let remark = if judged {
                "No confident match. What comes nearest:"
            } else {
                "Nobody was judged. Most similar first:"
            };
            lines.push(remark.to_owned());
        }
        let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
        let mut table =
            table(&["MATCH", "CAMERA", "TIME (LOCAL)", "SIMILARITY", "LOGIT", "SIGHTING"], &rows).into_iter();
        lines.extend(table.next());
        for (hit, line) in shown.iter().zip(table) {
            lines.push(line);
            lines.extend(phrases(hit));
        }
    }
    let lost = list(answer, "not_understood")
        .iter()
        .map(|lost| format!("{} ({})", text_of(&lost["text"]), text_of(&lost["why"])));
    let lost: Vec<String> = lost.collect();
    if !lost.is_empty() {
        lines.push(format!("not understood: {}", lost.join(", ")));
    }
    let nobody: Vec<&str> = list(answer, "nobody_fulfils").iter().map(text_of).collect();
    if !nobody.is_empty() {
        lines.push(format!("nobody fulfils: {}", nobody.join(", ")));
    }
    if let Some(wrong) = answer["expected_wrong"].as_f64().map(f64::round) {
        let verb = if wrong == 1.0 { "is" } else { "are" };
        lines.push(format!("about {wrong} of these {verb} expected to be wrong"));
    }
    lines
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn row(hit: &Value) -> Vec<String> {
    let number = |v: &Value| v.as_f64().map_or("-".into(), |n| format!("{n:.3}"));
    vec![
        hit["probability"].as_f64().map_or("-".into(), |p| format!("{:.0} %", p * 100.0)),
        text_of(&hit["camera"]).to_owned(),
        local(&hit["captured_at"]),
        number(&hit["similarity"]),
        number(&hit["match_logit"]),
        text_of(&hit["sighting_id"]).to_owned(),
    ]
}

/// Formats all phrases of a hit on one line below its camera; `None` when no phrase was judged.
fn phrases(hit: &Value) -> Option<String> {
    let phrase = |phrase: &Value| {
        let holds = phrase["probability"].as_f64().unwrap_or(f64::NAN);
        let mark = if holds >= TICK {
            '\u{2713}'
        } else if holds <= CROSS {
            '\u{2717}'
        } else {
            '?'
        };
        let no = if phrase["negated"] == json!(true) { "no " } else { "" };
        format!("{mark} {no}{} {:.0} %", text_of(&phrase["text"]), holds * 100.0)
    };
    let all: Vec<String> = list(hit, "phrases").iter().map(phrase).collect();
    (!all.is_empty()).then(|| format!("       {}", all.join("   ")))
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
    fn hit(probability: Option<f64>, phrases: &Value) -> Value {
        json!({
            "probability": probability, "camera": "gate", "captured_at": "2026-05-01T08:00:00Z", "similarity": 0.5,
            "match_logit": null, "sighting_id": "s", "phrases": phrases,
        })
    }

    #[test]
    fn phrases_stand_below_their_hit_and_the_rest_below_all() {
        let phrases = json!([
            { "text": "red jacket", "probability": 0.65, "negated": false },
            { "text": "bag", "probability": 0.35, "negated": true },
            { "text": "jeans", "probability": 0.5, "negated": false },
        ]);
        let lines = lines(&json!({
            "results": [hit(Some(0.75), &phrases), hit(None, &json!([]))], "confident": true,
            "not_understood": [{ "text": "young", "why": "age is not judged" }, { "text": "x", "why": "unknown" }],
            "nobody_fulfils": ["no bag", "green hat"], "expected_wrong": 0.75,
        }));
        assert!(lines[1].starts_with("75 %   gate") && lines[3].starts_with("-      gate"), "{lines:#?}");
        assert_eq!(lines[2], "       \u{2713} red jacket 65 %   \u{2717} no bag 35 %   ? jeans 50 %");
        assert_eq!(
            lines[4..],
            [
                "not understood: young (age is not judged), x (unknown)",
                "nobody fulfils: no bag, green hat",
                "about 1 of these is expected to be wrong",
            ]
        );
    }

    #[test]
    fn a_model_that_judges_no_phrases_adds_no_line() {
        let answer = |hit: Value| {
            json!({
                "results": [hit], "confident": false, "not_understood": [], "nobody_fulfils": [], "expected_wrong": null,
            })
        };
        let matched = lines(&answer(hit(Some(0.25), &json!([]))));
        assert_eq!((matched.len(), matched[0].as_str()), (3, "No confident match. What comes nearest:"));
        let similar = lines(&answer(hit(None, &json!([]))));
        assert_eq!(similar[0], "Nobody was judged. Most similar first:");
    }
}
