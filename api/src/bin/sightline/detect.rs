//! `sightline detect`: prints the people that the detector finds in pictures. A bad picture does
//! not stop the others.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use sightline_core::{BBox, Config};
use sightline_detect::{Detection, Detector, NanoDet, draw};

use crate::output::print_table;

/// Arguments of `sightline detect`
#[derive(clap::Args)]
pub struct Args {
    /// Pictures to analyse: JPEG or PNG
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Print one JSON object per picture and line: {"image": path, "persons": [{"box": [x0, y0, x1,
    /// y1], "score": s}]}
    #[arg(long)]
    json: bool,
    /// Write each picture with the boxes drawn into this folder (PNG)
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Configuration file, of which the section `detect` is used
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One line of `--json`, serialized directly: `serde_json::Value` would print f32 with the digits
/// of f64.
#[derive(Serialize)]
struct JsonLine<'a> {
    image: &'a Path,
    persons: Vec<Person>,
}

#[derive(Serialize)]
struct Person {
    #[serde(rename = "box")]
    bbox: BBox,
    score: f32,
}

/// Runs the command; exit code 1 when any picture failed.
pub fn run(args: &Args) -> ExitCode {
    let mut detector = match load(args) {
        Ok(detector) => detector,
        Err(e) => {
            eprintln!("error: {}", crate::output::one_line(&e));
            return ExitCode::FAILURE;
        }
    };
    let mut failed = false;
    for path in &args.images {
        if let Err(e) = detect_one(args, &mut detector, path) {
            eprintln!("error: {}: {}", path.display(), crate::output::one_line(&e));
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn load(args: &Args) -> anyhow::Result<NanoDet> {
    let config = Config::load(args.config.as_deref())?.detect;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    }
    Ok(NanoDet::load(&config.weights, &config)?)
}

fn detect_one(args: &Args, detector: &mut NanoDet, path: &Path) -> anyhow::Result<()> {
    let picture = sightline_embed::decode_image(&std::fs::read(path)?)?;
    let persons = detector.detect(&picture)?;
    if let Some(out) = &args.out {
        let name = path.file_stem().context("it has no file name")?;
        let target = out.join(name).with_extension("png");
        let drawn = draw(&picture, &persons);
        image::save_buffer(&target, drawn.data(), drawn.width(), drawn.height(), image::ExtendedColorType::Rgb8)
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    print(args, path, &persons)
}

fn print(args: &Args, path: &Path, persons: &[Detection]) -> anyhow::Result<()> {
    if args.json {
        let persons = persons.iter().map(|p| Person { bbox: p.bbox, score: p.score }).collect();
        let mut line = serde_json::to_string(&JsonLine { image: path, persons })?;
        line.push('\n');
        std::io::stdout().lock().write_all(line.as_bytes())?;
        return Ok(());
    }
    println!("{}: {} {}", path.display(), persons.len(), if persons.len() == 1 { "person" } else { "persons" });
    if !persons.is_empty() {
        let cells = |BBox { x0, y0, x1, y1 }: BBox| [x0, y0, x1, y1].map(|v| format!("{v:.0}"));
        let row = |p: &Detection| {
            let mut row = vec![format!("{:.2}", p.score)];
            row.extend(cells(p.bbox));
            row
        };
        print_table(&["SCORE", "X0", "Y0", "X1", "Y1"], &persons.iter().map(row).collect::<Vec<_>>());
    }
    Ok(())
}
