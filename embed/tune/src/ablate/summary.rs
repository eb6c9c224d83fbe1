//! Tables and plots of the results: mean and standard deviation over seeds.

use std::fmt::Write;
use std::path::Path;

use super::{CellResult, Settings, Table, Variant, variants};
use crate::evaluate::Ranks;
use crate::plot::{self, Curve, Panel, Row};
use crate::{Result, atomic};

/// Mean and sample standard deviation (0 for one value); `None` without values.
fn mean(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    Some((mean, if values.len() > 1 { (square / (n - 1.0)).sqrt() } else { 0.0 }))
}

/// Selects the ranks of one protocol.
type Protocol = fn(&CellResult) -> Option<Ranks>;
const PROTOCOLS: [(&str, Protocol); 4] = [
    ("global", |l| Some(l.global)),
    ("local", |l| l.local),
    ("local, calibrated", |l| l.calibrated),
    ("global, query bank", |l| l.bank),
];
/// Selects one measure of the ranks.
type Number = fn(&Ranks) -> f64;
const NUMBERS: [(&str, Number); 4] =
    [("Rank-1", |r| r.rank1), ("Rank-5", |r| r.rank5), ("Rank-10", |r| r.rank10), ("mAP", |r| r.map)];

/// Rows of a table and the results of each, in the table's order; rows without results are left
/// out.
fn rows<'l>(
    table: Table,
    settings: &Settings,
    tokens: usize,
    lines: &'l [CellResult],
) -> Vec<(Variant, Vec<&'l CellResult>)> {
    let mut all = Vec::new();
    for mut variant in variants(table, &settings.recipe, settings.k, settings.domains.len(), tokens) {
        if table == Table::Domains {
            let [from, to] = variant.domains.map(|d| settings.domains[d].name());
            variant.row = format!("{from} -> {to}");
        }
        let of: Vec<&CellResult> = lines.iter().filter(|l| l.table == table && l.row == variant.row).collect();
        if !of.is_empty() {
            all.push((variant, of));
        }
    }
    all
}

fn mean_over_seeds(lines: &[&CellResult], protocol: Protocol, number: Number) -> Option<(f64, f64)> {
    mean(&lines.iter().filter_map(|l| protocol(l)).map(|r| number(&r)).collect::<Vec<_>>())
}

/// One table as Markdown: mean and standard deviation over seeds. `tokens` is that of
/// [`variants`].
pub fn markdown(table: Table, settings: &Settings, tokens: usize, lines: &[CellResult]) -> String {
    let rows = rows(table, settings, tokens, lines);
    // The paper's Table VII has the size of each model.
    let sizes = table == Table::Layers;
    let published = rows.iter().any(|(v, _)| v.published.iter().any(Option::is_some));
    let mut text = format!("## {}\n\n| | protocol |", table.title());
    NUMBERS.iter().for_each(|(name, _)| text += &format!(" {name} |"));
    text += " seeds |";
    text += if sizes { " parameters, millions |" } else { "" };
    text += if published { " paper, Rank-1 on CUHK-PEDES |\n" } else { "\n" };
    let columns = NUMBERS.len() + 1 + usize::from(sizes) + usize::from(published);
    text += &format!("|---|---|{}\n", "---:|".repeat(columns));
    for (variant, lines) in &rows {
        for (i, (name, protocol)) in PROTOCOLS.into_iter().enumerate() {
            let seeds = lines.iter().filter(|l| protocol(l).is_some()).count();
            if seeds == 0 {
                continue;
            }
            let _ = write!(text, "| {} | {name} |", variant.row);
            for (_, number) in NUMBERS {
                if let Some((mean, spread)) = mean_over_seeds(lines, protocol, number) {
                    let _ = if seeds > 1 {
                        write!(text, " {mean:.2} ± {spread:.2} |")
                    } else {
                        write!(text, " {mean:.2} |")
                    };
                }
            }
            let _ = write!(text, " {seeds} |");
            if sizes {
                let _ = match lines.iter().find_map(|line| line.parameters) {
                    Some(count) => write!(text, " {:.2} |", count as f64 / 1e6),
                    None => write!(text, " |"),
                };
            }
            if published {
                let _ = match variant.published.get(i).copied().flatten() {
                    Some(paper) => writeln!(text, " {paper:.2} |"),
                    None => writeln!(text, " |"),
                };
            } else {
                text.push('\n');
            }
        }
    }
    text
}

/// Introduction of tables.md: data, dimensions and protocols.
fn preamble(settings: &Settings, lines: &[CellResult]) -> String {
    let (s, r) = (settings, &settings.recipe);
    let (texts, images) = lines.first().map_or((0, 0), |l| (l.texts, l.images));
    format!(
        "# Ablations\n\n{} steps of {} pairs on {} ({} persons with {} pictures); judged on {texts} texts and {images} \
         pictures of persons that were not learned from. Vision {} layers of {}, text {} layers of {}, pictures of \
         {}x{}. Local: the first {} by cosine ranked anew by cosine + raw match logit; calibrated: by match \
         probability of logit, cosine and hubness, calibrated on {} other persons; query bank: cosine less hubness. \
         Per cent, mean ± standard deviation over seeds.\n\n",
        r.run.steps,
        r.run.batch,
        s.domains[0].name(),
        s.train.identities,
        s.train.views,
        r.shape.vision_layers,
        r.shape.vision_width,
        r.shape.text_layers,
        r.shape.text_width,
        r.shape.image[0],
        r.shape.image[1],
        s.k,
        s.calibration.identities,
    )
}

/// Writes tables.md and a plot per table into `folder`. `tokens` is that of [`variants`].
///
/// # Errors
/// A file that cannot be written.
pub fn summarise(
    folder: &Path,
    settings: &Settings,
    tokens: usize,
    tables: &[Table],
    lines: &[CellResult],
) -> Result<()> {
    let mut text = preamble(settings, lines);
    for table in Table::ALL.into_iter().filter(|t| tables.contains(t) || lines.iter().any(|l| l.table == *t)) {
        let rows = rows(table, settings, tokens, lines);
        if rows.is_empty() {
            continue;
        }
        let plot = format!("{table}.svg");
        text += &markdown(table, settings, tokens, lines);
        text += &format!("\n![{}]({plot})\n\n", table.title());
        let path = folder.join(plot);
        match table.axis() {
            Some(axis) => curve(&path, table, axis, &rows)?,
            None => bars(&path, table, &rows)?,
        }
    }
    atomic::file(&folder.join("tables.md"), text.as_bytes())
}

fn curve(path: &Path, table: Table, axis: &str, rows: &[(Variant, Vec<&CellResult>)]) -> Result<()> {
    let panel = |title: String, number: Number, y: &str| Panel {
        title,
        x: axis.to_owned(),
        y: format!("{y} (%)"),
        curves: PROTOCOLS
            .iter()
            .map(|(name, protocol)| {
                let mut curve = Curve::new(*name, Vec::new());
                for (variant, lines) in rows {
                    if let (Some(at), Some((mean, spread))) = (variant.at, mean_over_seeds(lines, *protocol, number)) {
                        curve.points.push((at, mean));
                        curve.spread.push(spread);
                    }
                }
                curve
            })
            .filter(|curve| !curve.points.is_empty())
            .collect(),
    };
    let rank1 = panel(table.title().to_owned(), NUMBERS[0].1, NUMBERS[0].0);
    plot::curves(path, &[rank1, panel(String::new(), NUMBERS[3].1, NUMBERS[3].0)])
}

fn bars(path: &Path, table: Table, rows: &[(Variant, Vec<&CellResult>)]) -> Result<()> {
    let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.0).collect();
    let bar = |(variant, lines): &(Variant, Vec<&CellResult>)| -> Row {
        (
            variant.row.clone(),
            PROTOCOLS.iter().map(|(_, protocol)| mean_over_seeds(lines, *protocol, NUMBERS[0].1)).collect(),
        )
    };
    plot::bars(path, table.title(), "Rank-1 (%)", &names, &rows.iter().map(bar).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ablate::{Domain, Persons};
    use crate::recipe::Recipe;

    #[test]
    fn the_table_of_layers_has_the_size_of_each_model() {
        let persons = |seed| Persons { identities: 8, views: 2, seed };
        let settings = Settings {
            recipe: Recipe::preset("quick").expect("a preset"),
            train: persons(1),
            test: persons(2),
            calibration: persons(3),
            k: 4,
            domains: vec![Domain::Drawn],
        };
        let ranks = Ranks { rank1: 10.0, rank5: 20.0, rank10: 30.0, map: 15.0 };
        let line = |table: Table, row: &str, parameters: Option<usize>| CellResult {
            table,
            row: row.to_owned(),
            seed: 1,
            run: "aaaa".to_owned(),
            parameters,
            k: 4,
            texts: 6,
            images: 6,
            global: ranks,
            bank: None,
            local: None,
            calibrated: None,
            seconds: 1.0,
        };
        let lines = [
            line(Table::Layers, "1", Some(1_234_567)),
            line(Table::Layers, "2", None),
            line(Table::Losses, "all", Some(1_234_567)),
        ];
        let text = markdown(Table::Layers, &settings, 25, &lines);
        for part in [
            "| seeds | parameters, millions |\n|---|---|---:|---:|---:|---:|---:|---:|\n",
            "| 1 | global | 10.00 | 20.00 | 30.00 | 15.00 | 1 | 1.23 |\n",
            "| 2 | global | 10.00 | 20.00 | 30.00 | 15.00 | 1 | |\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(!markdown(Table::Losses, &settings, 25, &lines).contains("parameters"));
        // A result of before the count is still read.
        let mut old = serde_json::to_value(&lines[1]).expect("serialises");
        old.as_object_mut().expect("an object").remove("parameters");
        assert_eq!(serde_json::from_value::<CellResult>(old).expect("read"), lines[1]);
    }

    #[test]
    fn mean_and_spread() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[3.0]), Some((3.0, 0.0)));
        let (m, s) = mean(&[1.0, 2.0, 3.0]).expect("three");
        assert!((m - 2.0).abs() < 1e-12 && (s - 1.0).abs() < 1e-12);
    }
}
