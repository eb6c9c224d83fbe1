//! `eval --explain`: measures whether the model's explanations point at what a phrase names, and at
//! what its score depends on.

use anyhow::{Result, ensure};
use serde_json::json;
use sightline_tune::explain::{Figures, measure};

use crate::eval::{DEFAULTS, EvalArgs};
use crate::report::{contrast_head, contrast_row, counted};

/// Measures the explanations on drawn persons and prints the figures.
pub fn run(args: &EvalArgs) -> Result<()> {
    ensure!(args.dump.is_none(), "--explain makes no scores: no --dump");
    let model = args.machine.model(&args.model)?;
    let (drawn, name) = args.data.drawn(&DEFAULTS)?;
    let progress = counted();
    let figures = measure(&model, &drawn.corpus, 0..drawn.identities, drawn.views, |done, all| {
        progress("pictures explained", done, all);
    })?;
    if args.json {
        println!("{}", json!({"explain": figures, "model_id": model.info().id}));
        return Ok(());
    }
    println!("model {} on {name}: {} pictures of {} persons\n", model.info().id, figures.pictures, figures.persons);
    print(&figures);
    Ok(())
}

fn print(figures: &Figures) {
    contrast_head();
    for method in &figures.methods {
        let serves = if method.default { " (serves)" } else { "" };
        contrast_row(&format!("{}{serves}: pointing", method.method), &method.pointing);
        contrast_row("  pointing, phrase alone", &method.pointing_alone);
        contrast_row("  pointing, beside the other phrases' maps", &method.pointing_swapped);
        contrast_row("  deletion, phrases", &method.phrase_deletion);
        contrast_row("  deletion, match", &method.match_deletion);
    }
    for method in figures.methods.iter().filter(|method| method.default) {
        for part in &method.parts {
            contrast_row(&format!("{}: {}", method.method, part.part), &part.pointing);
        }
    }
    println!(
        "\npointing: share of the patch with the largest weight that shows the part, beside the part's share of the picture\n\
         beside the other phrases' maps: chance is what the patch of another phrase of the same query shows of the part\n\
         deletion: fall of the logit without the {} strongest of {} patches, beside as many random ones\n\
         in brackets: the middle 95 % when the persons are drawn anew",
        figures.blanked, figures.patches
    );
}
