//! `eval --attributes`: measures whether the model's word head predicts masked words of captions
//! from the picture.

use anyhow::{Result, ensure};
use serde_json::json;
use sightline_tune::masked_words::measure;

use crate::eval::{DEFAULTS, EvalArgs};
use crate::report::{contrast_head, contrast_row, counted};

/// Measures the word head on a gallery and prints the figures.
pub fn run(args: &EvalArgs) -> Result<()> {
    ensure!(args.dump.is_none(), "--attributes makes no scores: no --dump");
    let model = args.machine.model(&args.model)?;
    let (gallery, name) = args.data.gallery(&DEFAULTS)?;
    let figures = measure(&model, &gallery, counted())?;
    if args.json {
        println!("{}", json!({"attributes": figures, "model_id": model.info().id}));
        return Ok(());
    }
    println!("model {} on {name}: masked words of captions, {} pictures\n", model.info().id, figures.pictures);
    contrast_head();
    contrast_row("adjectives among the first three", &figures.adjectives);
    contrast_row("nouns among the first three", &figures.nouns);
    println!(
        "\nchance: the same word of the same caption, asked of somebody else's picture\n\
         in brackets: the middle 95 % when the persons are drawn anew"
    );
    Ok(())
}
