//! Training with a backbone: its weights are read from the published form, tokens are kept, and a
//! step leaves what is frozen as it was.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use sightline_embed::graph::WordPredictor;
use sightline_embed::model::{Architecture, Backbone, Preprocess, TextPooling};
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::Corpus;
use sightline_tune::augment::Augment;
use sightline_tune::backbone;
use sightline_tune::batch::{BatchBuilder, Pictures, TokenMaker};
use sightline_tune::objective::{Objective, loss};
use sightline_tune::ops::{backward, network};
use sightline_tune::pool::Pool;
use sightline_tune::run::{Frozen, Trainee};
use sightline_tune::source::{BatchSequence, Order};
use sightline_tune::token_cache::TokenCache;

use crate::golden;
use crate::train_cli::{binary, said};

const KIND: Backbone = Backbone::EfficientNetLite0;
const SIZE: [usize; 2] = [64, 32];

fn arch() -> Architecture {
    Architecture {
        image_size: SIZE,
        patch_size: Backbone::TOKEN,
        backbone: Some(KIND),
        vision_width: 32,
        vision_depth: 1,
        vision_heads: 2,
        text_hidden_size: 32,
        text_layers: 2,
        text_heads: 2,
        text_intermediate: 64,
        vocab_size: 1200,
        enc_token_id: 1199,
        text_pooling: TextPooling::Mean,
        embed_dim: 16,
        ..Architecture::cada_base()
    }
}

fn trainee(text_layers: usize) -> Trainee {
    Trainee::with_frozen(&arch(), WordPredictor::None, 3, Frozen { text_layers }).unwrap()
}

fn pool() -> Pool {
    Pool::new(Corpus::new(3), 0, 16, 2, SIZE)
}

fn number(i: usize, k: usize) -> f32 {
    ((i * 37 + k * 101) % 211) as f32 / 105.5 - 1.0
}

/// Writes tensors of every name that the published form has to `path`, and gives them.
fn published(path: &Path) -> HashMap<String, Tensor> {
    let mut all: HashMap<String, Tensor> = HashMap::new();
    let mut put = |name: String, shape: &[usize], offset: f32| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| number(i, name.len()) + offset).collect();
        all.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    let mut layer = |conv: String, norm: String, shape: &[usize]| {
        put(format!("{conv}.weight"), shape, 0.0);
        for (part, offset) in [("weight", 2.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 2.0)] {
            put(format!("{norm}.{part}"), &shape[..1], offset);
        }
    };
    layer("_conv_stem".into(), "_bn0".into(), &[32, 3, 3, 3]);
    for (i, b) in KIND.blocks().into_iter().enumerate() {
        let own = format!("_blocks.{i}.");
        if b.expanded != b.inputs {
            layer(format!("{own}_expand_conv"), format!("{own}_bn0"), &[b.expanded, b.inputs, 1, 1]);
        }
        layer(format!("{own}_depthwise_conv"), format!("{own}_bn1"), &[b.expanded, 1, b.side, b.side]);
        layer(format!("{own}_project_conv"), format!("{own}_bn2"), &[b.outputs, b.expanded, 1, 1]);
    }
    candle_core::safetensors::save(&all, path).unwrap();
    all
}

/// A file with batch norms in the published form, and what each convolution becomes.
#[test]
fn batch_norms_are_folded_into_the_convolutions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("published.safetensors");
    let mut all = published(&path);
    let trainee = trainee(0);
    backbone::from_published(&trainee, KIND, &path).unwrap();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let own = trainee.variables.data().lock().unwrap();
    let of = |name: &str| values(own[&format!("visual_encoder.backbone.{name}")].as_tensor());
    let published = |name: &str| values(&all[&format!("_blocks.3._bn1.{name}")]);
    let (g, beta, mean, var) =
        (published("weight"), published("bias"), published("running_mean"), published("running_var"));
    let conv = values(&all["_blocks.3._depthwise_conv.weight"]);
    let (weight, bias) = (of("blocks.3.depthwise.weight"), of("blocks.3.depthwise.bias"));
    let per = conv.len() / g.len();
    for (c, bias) in bias.iter().enumerate() {
        let factor = g[c] / (var[c] + 1e-3).sqrt();
        assert!((bias - (beta[c] - mean[c] * factor)).abs() < 1e-5);
        assert!((weight[c * per] - conv[c * per] * factor).abs() < 1e-5);
    }
    drop(own);
    all.remove("_blocks.7._bn2.running_var");
    candle_core::safetensors::save(&all, &path).unwrap();
    let said = backbone::from_published(&trainee, KIND, &path).unwrap_err().to_string();
    assert!(said.contains("_blocks.7._bn2.running_var") && said.contains("efficientnet-lite0"), "{said}");
}

/// A maker of tokens for `pool`, kept in `folder` in `variants` variants.
fn maker(trainee: &Trainee, pool: &Pool, folder: &Path, drop: f32, variants: &[usize]) -> TokenMaker {
    let network = backbone::network(trainee).unwrap().unwrap();
    TokenMaker::new(network, pool, drop, variants, |records| TokenCache::open(folder, "test", KIND, [4, 2], records))
        .unwrap()
}

#[test]
fn tokens_are_standardised_kept_and_the_same_again() {
    let (trainee, pool, prep) = (trainee(0), pool(), Preprocess::default());
    let texts = CaptionTokenizer::load(&golden::path("cada-tiny/tokenizer.json"), &arch()).unwrap();
    let pixels: Vec<f32> = {
        let pictures: Vec<&[u8]> = (0..16).map(|i| pool.picture(i, 0)).collect();
        sightline_embed::preprocess::normalize_all(&pictures, &prep)
    };
    backbone::standardise(&trainee, &pixels, SIZE).unwrap();
    let network = backbone::network(&trainee).unwrap().unwrap();
    let tokens = network.tokens(&pixels, SIZE).unwrap();
    let width = KIND.token_width();
    for column in [0, 150, 440, width - 1] {
        let values: Vec<f64> = tokens.chunks_exact(width).map(|row| f64::from(row[column])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Of numbers that hardly differ the scale is bounded.
        assert!(mean.abs() < 1e-3 && var < 1.01, "{column}: {mean} {var}");
        assert!(column < width - 1 || (var - 1.0).abs() < 1e-2, "a pixel's mean has deviation {var}");
    }
    let folder = tempfile::tempdir().unwrap();
    let arch = arch();
    let batch = |maker: &TokenMaker| {
        let batches = BatchBuilder {
            source: &pool,
            sequence: BatchSequence::new(&pool, Order::IDENTITIES, 1, 16).unwrap(),
            augment: Augment::Strong,
            word_drop: 0.0,
            arch: &arch,
            prep: &prep,
            texts: &texts,
            truth: None,
            tokens: Some(maker),
            seed: 1,
        };
        batches.build(0).unwrap()
    };
    let values = |pictures: &Pictures| pictures.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let whole = maker(&trainee, &pool, folder.path(), 0.0, &[2]);
    let first = batch(&whole);
    assert_eq!(first.pictures.tensor().dims(), [16, 8, width]);
    let made = whole.cache.as_ref().unwrap().complete();
    assert!((8..=16).contains(&made), "{made} records");
    assert_eq!(values(&first.pictures), values(&batch(&whole).pictures), "from the file as when made");
    let Pictures::Tokens { places, .. } = batch(&maker(&trainee, &pool, folder.path(), 0.5, &[2])).pictures else {
        panic!("tokens")
    };
    assert_eq!(places.len(), 4);
    let Pictures::Tokens { places, .. } =
        batch(&maker(&trainee, &pool, folder.path(), 0.5, &[2]).whole_from(0)).pictures
    else {
        panic!("tokens")
    };
    assert_eq!(places.len(), 8, "from its first whole batch on");
    assert!(places.windows(2).all(|two| two[0] < two[1]));
    assert!(
        TokenMaker::new(network, &pool, 0.0, &[], |_| unreachable!("no variants, no cache")).unwrap().cache.is_none()
    );
}

/// All tokens at all places give what the whole image encoder gives of the pixels.
#[test]
fn tokens_give_what_pixels_give() {
    let (trainee, pool, prep) = (trainee(0), pool(), Preprocess::default());
    let pixels = sightline_embed::preprocess::normalize_all(&[pool.picture(0, 0), pool.picture(1, 0)], &prep);
    let graph = Tensor::from_slice(&pixels, (2, 3, SIZE[0], SIZE[1]), &Device::Cpu).unwrap();
    let whole = network::image_embeds(&trainee.model, &graph).unwrap();
    let network = backbone::network(&trainee).unwrap().unwrap();
    let tokens = network.tokens(&pixels, SIZE).unwrap();
    let tokens = Tensor::from_slice(&tokens, (2, 8, KIND.token_width()), &Device::Cpu).unwrap();
    let places: Vec<u32> = (0..8).collect();
    let ours = network::image_embeds_of_tokens(&trainee.model, &tokens, &places).unwrap();
    let off = (whole - ours).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(off < 1e-3, "{off}");
    let some = network::image_embeds_of_tokens(&trainee.model, &tokens.narrow(1, 2, 3).unwrap(), &[2, 3, 4]).unwrap();
    assert_eq!(some.dims(), [2, 4, 32]);
}

#[test]
fn frozen_variables_stay_and_the_others_move() {
    let (trainee, pool, prep, arch) = (trainee(1), pool(), Preprocess::default(), arch());
    let texts = CaptionTokenizer::load(&golden::path("cada-tiny/tokenizer.json"), &arch).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let maker = maker(&trainee, &pool, folder.path(), 0.25, &[1]);
    let batches = BatchBuilder {
        source: &pool,
        sequence: BatchSequence::new(&pool, Order::IDENTITIES, 1, 8).unwrap(),
        augment: Augment::Strong,
        word_drop: 0.0,
        arch: &arch,
        prep: &prep,
        texts: &texts,
        truth: None,
        tokens: Some(&maker),
        seed: 1,
    };
    let objective = Objective { ara: None, dropout: 0.0, ..Objective::default() };
    let (total, _) = loss(&trainee, &objective, &batches.build(0).unwrap(), 0, 1).unwrap();
    let before: HashMap<String, Vec<f32>> = values(&trainee);
    let mut optimizer = trainee.optimizer(0.05);
    optimizer.step(&backward(&total).unwrap(), 1e-3, None, |_| false).unwrap();
    let after = values(&trainee);
    let moved = |name: &str| before[name] != after[name];
    for name in before.keys() {
        let frozen = name.starts_with("visual_encoder.backbone.")
            || name.starts_with("text_encoder.embeddings.")
            || name.starts_with("text_encoder.encoder.layer.0.") && !name.contains("crossattention");
        assert!(!frozen || !moved(name), "{name} is frozen and moved");
    }
    for name in [
        "visual_encoder.patch_embed.proj.weight",
        "visual_encoder.pos_embed",
        "text_encoder.encoder.layer.1.output.dense.weight",
        "text_encoder.encoder.layer.0.crossattention.self.query.weight",
        "vision_proj.weight",
        "text_proj.weight",
    ] {
        assert!(moved(name), "{name} did not move");
    }
}

fn values(trainee: &Trainee) -> HashMap<String, Vec<f32>> {
    let data = trainee.variables.data().lock().unwrap();
    data.iter().map(|(n, v)| (n.clone(), v.as_tensor().flatten_all().unwrap().to_vec1().unwrap())).collect()
}

/// Runs with the same pictures share kept tokens; after a picture was replaced they are made anew.
#[test]
fn tokens_of_replaced_pictures_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (file, root, cache) =
        (folder.path().join("published.safetensors"), folder.path().join("data"), folder.path().join("cache"));
    published(&file);
    crate::train_run::dataset(&root, 20);
    // Number of files of tokens after training.
    let train = |name: &str, flags: &[&str]| {
        let mut command = binary();
        command.args(["train", "--run"]).arg(folder.path().join(name)).arg("--token-cache").arg(&cache);
        let done = command.args(flags).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        std::fs::read_dir(&cache).unwrap().count()
    };
    let small = "--preset quick --validate none --image 64x32 --width 64 --vision-layers 1 --text-layers 1 --batch 8 \
                 --warmup 1 --fall 0 --atp off --ara off --backbone efficientnet-lite0 --variants 1 --steps 1";
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/former/tokenizer.json");
    let data = format!("cuhk-pedes:{}", root.display());
    let paths =
        ["--data", &data, "--backbone-init", file.to_str().unwrap(), "--tokenizer", tokenizer.to_str().unwrap()];
    let flags: Vec<&str> = small.split_whitespace().chain(paths).collect();
    assert_eq!([train("first", &flags), train("second", &flags)], [1, 1]);
    let picture = |name: &str| root.join("imgs/synth/000").join(name);
    std::fs::copy(picture("000003_00.jpg"), picture("000002_00.jpg")).unwrap();
    assert_eq!(train("first", &["--resume", "--steps", "2"]), 2);
    assert_eq!(train("second", &["--resume", "--steps", "2"]), 2);
}

/// A process that goes on with a run makes the tokens that are still missing as the one before
/// would have.
#[test]
fn a_resumed_run_makes_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("published.safetensors");
    published(&file);
    let run = |name: &str, more: &[&str]| {
        let mut command = binary();
        command.args(["train", "--run"]).arg(folder.path().join(name)).args(more);
        let done = command.output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    };
    let anew = |name: &str, steps: &str| {
        let backbone = file.to_str().unwrap();
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/former/tokenizer.json");
        let flags = [
            "--preset quick --data synth:16x2 --validate none --image 64x32 --width 64 --vision-layers 1 --text-layers 1",
            "--batch 8 --warmup 1 --fall 0 --atp off --ara off --backbone efficientnet-lite0 --variants 2 --steps",
        ];
        let flags = flags.iter().flat_map(|line| line.split(' '));
        let paths = [steps, "--backbone-init", backbone, "--tokenizer", tokenizer.to_str().unwrap()];
        run(name, &flags.chain(paths).collect::<Vec<_>>());
    };
    anew("whole", "6");
    anew("parts", "2");
    run("parts", &["--resume", "--steps", "6"]);
    let weights =
        |name: &str| std::fs::read(folder.path().join(name).join("checkpoint/variables.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"), "another model than without a stop");
}
