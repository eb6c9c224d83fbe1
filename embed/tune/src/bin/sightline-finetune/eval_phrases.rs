//! `eval --phrases`: measures how well a model separates the pictures that single phrases are true
//! of.

use anyhow::Result;
use serde_json::json;
use sightline_tune::evaluate::{LocalScore, dump};
use sightline_tune::facts::yardstick::Asks;
use sightline_tune::gallery::Gallery;
use sightline_tune::separation::{MeanArea, Separation, Truths};

use crate::eval::EvalArgs;
use crate::scorer::Scorer;

/// Scores the phrases against all pictures of `gallery` and prints the areas.
pub fn run(
    args: &EvalArgs,
    scorer: &Scorer,
    gallery: &Gallery,
    name: &str,
    truths: &Truths,
    local_score: Option<&LocalScore>,
) -> Result<()> {
    let gallery = gallery.with_texts(truths.texts());
    // The decoder scores every picture: with only the first K by cosine, this would measure a
    // search.
    let scores = scorer.scores(&gallery, gallery.len())?;
    let local_scores = local_score.map(|local_score| scores.local(local_score));
    if let Some(path) = &args.dump {
        dump(path, &scores.cosine, local_scores.as_deref(), &gallery.text_ids, &gallery.image_ids)?;
    }
    let global = truths.separation(&scores.cosine);
    let local = local_scores.map(|scores| truths.separation(&scores));
    let persons = gallery.identities();
    if args.json {
        let result = json!({"phrases": {"global": global, "local": local}, "images": gallery.len(),
                            "identities": persons, "model_id": scorer.id()});
        println!("{result}");
        return Ok(());
    }
    println!("model {} on {name}: {} pictures of {persons} identities", scorer.id(), gallery.len());
    println!("area under the ROC curve: 0.5 is chance, 1 is perfect\n");
    print(&global, local.as_ref());
    Ok(())
}

fn print(global: &Separation, local: Option<&Separation>) {
    println!("| {:<36} | {:>7} | {:>5} | {:>20} | {:>20} |", "phrase", "true of", "known", "global", "local");
    println!("|{:-<38}|{:->9}|{:->7}|{:->22}|{:->22}|", "", ":", ":", ":", ":");
    let number = |area: Option<f64>| area.map_or_else(String::new, |area| format!("{area:.3}"));
    let mut left_out = Vec::new();
    for (place, phrase) in global.phrases.iter().enumerate() {
        let Some(area) = phrase.auc else {
            left_out.push(format!("{:?} ({} of {})", phrase.text, phrase.positives, phrase.known));
            continue;
        };
        let other = local.and_then(|local| local.phrases[place].auc);
        row(phrase.text, &phrase.positives.to_string(), &phrase.known.to_string(), [number(Some(area)), number(other)]);
    }
    for mean in &global.means {
        let other = local.and_then(|local| same(&local.means, mean));
        row(&title(mean), "", "", [spread(Some(mean)), spread(other)]);
    }
    for (place, group) in global.groups.iter().enumerate() {
        for mean in &group.means {
            let other = local.and_then(|local| same(&local.groups[place].means, mean));
            let name = format!("{}: {}", group.name, title(mean));
            row(&name, "", &group.pictures.to_string(), [spread(Some(mean)), spread(other)]);
        }
    }
    println!("\nin brackets: the middle 95 % when the persons are drawn anew");
    if !left_out.is_empty() {
        println!("left out, true or false of fewer than 5 pictures: {}", left_out.join(", "));
    }
}

fn row(name: &str, positives: &str, known: &str, [global, local]: [String; 2]) {
    println!("| {name:<36} | {positives:>7} | {known:>5} | {global:>20} | {local:>20} |");
}

fn title(mean: &MeanArea) -> String {
    let what = if mean.asks == Asks::Kind { "kinds" } else { "colours" };
    format!("{what}, mean of {}", mean.phrases)
}

fn same<'a>(means: &'a [MeanArea], as_this: &MeanArea) -> Option<&'a MeanArea> {
    means.iter().find(|mean| mean.asks == as_this.asks)
}

fn spread(mean: Option<&MeanArea>) -> String {
    match mean.map(|mean| (mean.auc, mean.interval)) {
        None => String::new(),
        Some((auc, None)) => format!("{auc:.3}"),
        Some((auc, Some([low, high]))) => format!("{auc:.3} [{low:.3}, {high:.3}]"),
    }
}
