//! Losses, hard negatives, groups and metrics against the reference's own numbers.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use sightline_tune::evaluate::ranks;
use sightline_tune::losses::{Groups, HardNegative, MatchTargets, NdfVariant, hard_negatives, match_loss, ndf};

fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = format!("{}/tests/golden/train/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(&path, &Device::Cpu).expect(&path)
}

fn ids(t: &Tensor) -> Vec<u32> {
    t.to_vec1::<i64>().expect("i64").into_iter().map(|v| v as u32).collect()
}

fn scalar(t: &Tensor) -> f32 {
    t.to_dtype(DType::F32).and_then(|t| t.to_scalar()).expect("a scalar")
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar()).expect("same shapes")
}

#[test]
fn ndf_and_its_gradients() -> Result<()> {
    let g = golden("ndf");
    let (mut worst, mut worst_grad) = (0f32, 0f32);
    for case in ["repeat", "unique", "all_same", "spread"] {
        let of = |name: &str| &g[&format!("{case}.{name}")];
        for (form, name) in [(NdfVariant::Code, "code"), (NdfVariant::Paper, "paper")] {
            let (image, text) = (Var::from_tensor(of("image_feats"))?, Var::from_tensor(of("text_feats"))?);
            let loss = ndf(image.as_tensor(), text.as_tensor(), &ids(of("labels")), form)?;
            let expected = scalar(of(&format!("loss_{name}")));
            let off = (scalar(&loss) - expected).abs() / expected.abs().max(1.0);
            assert!(off < 2e-5, "{case} {name}: {} instead of {expected}", scalar(&loss));
            worst = worst.max(off);
            let grads = loss.backward()?;
            for (var, side) in [(&image, "image"), (&text, "text")] {
                let expected = of(&format!("grad_{name}_{side}"));
                let off = largest_difference(grads.get(var.as_tensor()).expect("a gradient"), expected);
                assert!(off < 5e-5, "{case} {name} gradient of {side}: off by {off}");
                worst_grad = worst_grad.max(off);
            }
        }
    }
    println!("NDF: worst relative {worst:.1e} (limit 2e-5), worst gradient {worst_grad:.1e} (limit 5e-5)");
    Ok(())
}

#[test]
fn hard_negatives_by_both_rules() -> Result<()> {
    let g = golden("hard_negatives");
    for case in ["normal", "varied_norms", "norm_x3", "norm_x10", "two_identities"] {
        let of = |name: &str| &g[&format!("{case}.{name}")];
        let identities = ids(of("identity"));
        let index = |name: &str| ids(of(name)).into_iter().map(|v| v as usize).collect::<Vec<_>>();
        for (rule, prefix) in [(HardNegative::Cosine, "cosine_"), (HardNegative::Code, "")] {
            let found = hard_negatives(
                of("image_feats"),
                of("text_feats"),
                &MatchTargets::of_identities(&identities),
                rule,
                0,
            )?
            .expect("two identities");
            for (chosen, name) in
                [(&found.image_for_text, "neg_image_for_text"), (&found.text_for_image, "neg_text_for_image")]
            {
                let expected = index(&format!("{prefix}{name}"));
                for (i, (&ours, &theirs)) in chosen.iter().zip(&expected).enumerate() {
                    assert_ne!(identities[ours], identities[i], "{case}: a positive was chosen");
                    // Where the reference's softmax underflows to a row of zeros its argmax is 0,
                    // right or wrong.
                    let weights = if name == "neg_image_for_text" { "weights_t2i" } else { "weights_i2t" };
                    let row: Vec<f32> = of(weights).get(i)?.to_vec1()?;
                    let underflow = prefix.is_empty() && row.iter().all(|w| *w == 0.0);
                    assert!(ours == theirs || underflow, "{case} {rule:?} {name}[{i}]: {ours}, reference {theirs}");
                }
            }
        }
    }
    let same = &g["all_same_identity.image_feats"];
    assert_eq!(hard_negatives(same, same, &MatchTargets::of_identities(&[4; 6]), HardNegative::Cosine, 0)?, None);
    Ok(())
}

#[test]
fn matching_losses_of_given_logits() -> Result<()> {
    let g = golden("train_losses");
    for (logits, labels, loss) in [
        ("atp.global_logits", "atp.global_labels", "atp.loss_global"),
        ("atp.local_logits", "atp.local_labels", "atp.loss_local"),
    ] {
        let matched: Vec<bool> = ids(&g[labels]).into_iter().map(|l| l == 1).collect();
        let ours = scalar(&match_loss(&g[logits], &matched)?);
        let off = (ours - scalar(&g[loss])).abs();
        assert!(off < 2e-6, "{loss}: off by {off}");
        println!("{loss}: off by {off:.1e} (limit 2e-6)");
    }
    Ok(())
}

#[test]
fn groups_with_and_without_padding() -> Result<()> {
    let fused = Tensor::arange(0f32, 2.0 * 7.0 * 3.0, &Device::Cpu)?.reshape((2, 7, 3))?;
    let (all, owner) = Groups::of(3, false).means(&fused, &[7, 3])?;
    assert_eq!((all.dims(), owner), (&[4, 3][..], vec![0, 0, 1, 1]));
    assert_eq!(
        all.to_vec2::<f32>()?[1],
        fused.narrow(0, 0, 1)?.narrow(1, 4, 3)?.mean(1)?.squeeze(0)?.to_vec1::<f32>()?
    );
    let (masked, owner) = Groups::of(3, true).means(&fused, &[7, 3])?;
    assert_eq!((masked.dims(), owner), (&[3, 3][..], vec![0, 0, 1]));
    assert_eq!(
        masked.to_vec2::<f32>()?[2],
        fused.narrow(0, 1, 1)?.narrow(1, 1, 2)?.mean(1)?.squeeze(0)?.to_vec1::<f32>()?
    );
    Ok(())
}

#[test]
fn ranks_and_mean_average_precision() -> Result<()> {
    let g = golden("metrics");
    let found = ranks(&g["scores"].to_vec2()?, &ids(&g["txt2pid"]), &ids(&g["img2pid"]));
    assert_eq!((found.rank1, found.rank5, found.rank10), (58.0, 96.0, 100.0));
    assert!((found.map - 59.738_521_850_850_21).abs() < 1e-4, "{found:?}");
    let ap: Vec<f64> = g["ap"].to_vec1()?;
    assert!((found.map - 100.0 * ap.iter().sum::<f64>() / ap.len() as f64).abs() < 1e-4);
    Ok(())
}
