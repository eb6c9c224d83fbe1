//! A whole grid on a tiny model: every row is trained and judged, a stopped grid goes on to the
//! same numbers, and what makes no sense is refused.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sightline_tune::ablate::{Domain, Grid, GridOutcome, Persons, Settings, Table};
use sightline_tune::recipe::{Recipe, Shape};
use sightline_tune::schedule::Schedule;

use crate::golden;

fn settings() -> Settings {
    let mut recipe = Recipe::preset("quick").unwrap();
    recipe.shape = Shape {
        image: [32, 16],
        patch: 8,
        backbone: None,
        text_pooling: Default::default(),
        vision_width: 16,
        vision_layers: 1,
        vision_heads: 2,
        text_width: 16,
        text_layers: 1,
        text_heads: 2,
        common: 16,
        positions: 73,
    };
    recipe.tokenizer = Some(golden::path("cada-tiny/tokenizer.json"));
    recipe.f32 = true;
    recipe.run.batch = 6;
    recipe.run.steps = 3;
    recipe.run.schedule = Schedule::Fall { warmup: 1, fall: 1 };
    recipe.run.validate_every = 0;
    if let Some(atp) = &mut recipe.run.objective.atp {
        (atp.from, atp.pairs) = (1, Some(2));
    }
    if let Some(ara) = &mut recipe.run.objective.ara {
        (ara.from, ara.pairs) = (1, Some(2));
    }
    let persons = |identities, seed| Persons { identities, views: 2, seed };
    Settings {
        recipe,
        train: persons(8, 1),
        test: persons(6, 2),
        calibration: persons(6, 3),
        k: 4,
        domains: vec![Domain::Drawn],
    }
}

fn grid<'a>(folder: &'a Path, tables: &[Table], stop: &'a AtomicBool) -> Grid<'a> {
    Grid { folder, settings: settings(), tables: tables.to_vec(), rows: Vec::new(), seeds: 1, stop }
}

/// Sizes of groups follow the captions: those of drawn persons are far shorter than the paper's 72
/// tokens.
#[test]
fn groups_of_tokens_fit_the_captions_and_models_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    grid(folder.path(), &[Table::Groups, Table::Layers], &never).run(|_| {}).unwrap();
    let text = std::fs::read_to_string(folder.path().join("results.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |table: &str| -> Vec<&serde_json::Value> { lines.iter().filter(|line| line["table"] == table).collect() };
    let size = |line: &serde_json::Value| -> usize {
        let row = line["row"].as_str().unwrap();
        row.split(' ').nth(2).and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{row}"))
    };
    let sizes: Vec<usize> = of("groups").into_iter().map(size).collect();
    let whole = *sizes.iter().max().unwrap();
    assert!(sizes.len() >= 4 && whole < 72 && sizes.iter().min().is_some_and(|size| *size <= whole / 4), "{sizes:?}");
    let mut counts: Vec<u64> = of("layers").into_iter().map(|line| line["parameters"].as_u64().unwrap()).collect();
    counts.sort_unstable();
    assert!(counts.len() == 3 && counts.windows(2).all(|two| two[0] < two[1]), "{counts:?}");
    let text = std::fs::read_to_string(folder.path().join("tables.md")).unwrap();
    assert!(text.contains("parameters, millions"), "{text}");
}

fn numbers(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("results.jsonl")).unwrap();
    let mut all: Vec<String> = text
        .lines()
        .map(|l| {
            let mut line: serde_json::Value = serde_json::from_str(l).unwrap();
            line["seconds"] = serde_json::Value::Null;
            line.to_string()
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_stopped_grid_goes_on_to_the_same_numbers() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let never = AtomicBool::new(false);
    let tables = [Table::Losses, Table::K];
    let done = grid(whole.path(), &tables, &never).run(|_| {}).unwrap();
    assert_eq!(done, GridOutcome { cells: 14, of: 14 });
    // Six trainings: every K of Fig. 3 shares that of the full method.
    assert_eq!(std::fs::read_dir(whole.path().join("runs")).unwrap().count(), 6);
    let text = std::fs::read_to_string(whole.path().join("tables.md")).unwrap();
    for part in
        ["Table IV", "baseline (CMPM)", "NDF + ATP, whole texts", "| all | local |", "64.36", "K = 128", "6 texts"]
    {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(["losses.svg", "k.svg"].iter().all(|f| whole.path().join(f).is_file()));
    // Stopped within the third training, and its last line cut short.
    let stop = AtomicBool::new(false);
    let mut trainings = 0;
    let first = grid(parts.path(), &tables, &stop)
        .run(|line| {
            trainings += usize::from(line["training"].is_u64());
            stop.store(trainings == 3, Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(first.cells, 2);
    let path = parts.path().join("results.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let mut again = 0;
    let done = grid(parts.path(), &tables, &never).run(|line| again += usize::from(line["training"].is_u64())).unwrap();
    assert_eq!((done.cells, again), (14, 5));
    assert_eq!(numbers(parts.path()), numbers(whole.path()));
    // Rows can be chosen, and a name that is none is told.
    let some = tempfile::tempdir().unwrap();
    let of = |row: &str| Grid { rows: vec![row.to_owned()], ..grid(some.path(), &[Table::Losses], &never) };
    assert_eq!(of("NDF + ARA").run(|_| {}).unwrap(), GridOutcome { cells: 1, of: 1 });
    assert!(numbers(whole.path()).contains(&numbers(some.path())[0]));
    let e = of("NDF + AAR").run(|_| {}).unwrap_err().to_string();
    assert!(e.contains("NDF + AAR") && e.contains("NDF + ARA"), "{e}");
    // Nothing is left to do.
    let mut trained = 0;
    grid(parts.path(), &tables, &never).run(|line| trained += usize::from(line["training"].is_u64())).unwrap();
    assert_eq!(trained, 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    let said = |change: &dyn Fn(&mut Grid<'_>)| {
        let mut grid = grid(folder.path(), &[Table::K], &never);
        change(&mut grid);
        grid.run(|_| {}).unwrap_err().to_string()
    };
    assert!(said(&|g| g.tables = vec![Table::Domains]).contains("two of them"));
    assert!(said(&|g| g.settings.test.seed = 1).contains("seeds of their own"));
    assert!(said(&|g| g.settings.recipe.tokenizer = None).contains("--tokenizer"));
    // Now the folder holds a grid; another one may not mix with it.
    let e = said(&|g| {
        g.settings.recipe.tokenizer = None;
        g.settings.recipe.run.steps = 4;
    });
    assert!(e.contains("recipe.run.steps") && e.contains("grid.json"), "{e}");
}
