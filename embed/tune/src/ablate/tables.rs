//! The paper's tables and figures as lists of variants of one training recipe.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::losses::{GlobalLoss, Groups};
use crate::objective::Objective;
use crate::recipe::{Recipe, Shape};
use sightline_figures::Words;

/// One of the paper's tables or figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Table IV: combinations of losses.
    Losses,
    /// Table V: groups of tokens in the local half of ATP.
    Groups,
    /// Fig. 3: number K of re-ranked pictures.
    K,
    /// Fig. 4: masking rate of ARA.
    Masking,
    /// Table VII: layers of the text transformer, which is the decoder too.
    Layers,
    /// Test texts with words seen in training, or with held-out synonyms.
    Words,
    /// Training on one kind of pictures, test on another.
    Domains,
}

impl Table {
    /// All tables, in the paper's order.
    pub const ALL: [Self; 7] =
        [Self::Losses, Self::Groups, Self::K, Self::Masking, Self::Layers, Self::Words, Self::Domains];

    /// Name of the table on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Losses => "losses",
            Self::Groups => "groups",
            Self::K => "k",
            Self::Masking => "masking",
            Self::Layers => "layers",
            Self::Words => "words",
            Self::Domains => "domains",
        }
    }

    /// Heading of the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Losses => "Losses (Table IV)",
            Self::Groups => "Groups of tokens (Table V)",
            Self::K => "Pictures the decoder judges (Fig. 3)",
            Self::Masking => "Masking rate of ARA (Fig. 4)",
            Self::Layers => "Layers of the text transformer (Table VII)",
            Self::Words => "Synonyms that training was kept from",
            Self::Domains => "Across domains",
        }
    }

    /// Name of the horizontal axis; `None` for a table drawn as bars.
    pub fn axis(self) -> Option<&'static str> {
        match self {
            Self::K => Some("K"),
            Self::Masking => Some("masking rate"),
            Self::Layers => Some("layers"),
            _ => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let paper = match name {
            "iv" => Some(Self::Losses),
            "v" => Some(Self::Groups),
            "fig3" => Some(Self::K),
            "fig4" => Some(Self::Masking),
            "vii" => Some(Self::Layers),
            "cross" => Some(Self::Domains),
            _ => Self::ALL.into_iter().find(|t| t.name() == name),
        };
        paper.ok_or_else(|| {
            format!(
                "there is no table {name:?}: it is losses (iv), groups (v), k (fig3), masking (fig4), layers (vii), \
                 words or domains (cross)"
            )
        })
    }
}

/// One row of a table: what is trained, on which domain, and how it is tested.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Table of the row.
    pub table: Table,
    /// Name of the row.
    pub row: String,
    /// Position on the horizontal axis, if there is one.
    pub at: Option<f64>,
    /// The losses.
    pub objective: Objective,
    /// Dimensions.
    pub shape: Shape,
    /// Number of pictures per text that are re-ranked with the decoder.
    pub k: usize,
    /// Index of the training domain and of the test domain.
    pub domains: [usize; 2],
    /// Vocabulary of the test texts.
    pub words: Words,
    /// The paper's Rank-1 on CUHK-PEDES by the global and by the local protocol, in per cent.
    pub published: [Option<f64>; 2],
}

/// Tokens of the paper's texts without `[CLS]`, which its Table V divides into groups.
pub(super) const PAPER_TOKENS: usize = 72;

/// Sizes and strides of the paper's groups of tokens (Table V).
const PAPER_GROUPS: [(usize, usize); 6] = [(72, 72), (36, 36), (36, 18), (24, 24), (18, 18), (12, 12)];

/// Rows of `table` as variants of `base`, with `k` pictures for the decoder and `domains` kinds of
/// pictures. `tokens` is the usual length of a caption without `[CLS]`: groups of tokens are the
/// paper's in proportion to it, because groups longer than the texts would all be the same.
pub fn variants(table: Table, base: &Recipe, k: usize, domains: usize, tokens: usize) -> Vec<Variant> {
    let full = &base.run.objective;
    let row = |row: &str, objective: Objective| Variant {
        table,
        row: row.to_owned(),
        at: None,
        objective,
        shape: base.shape.clone(),
        k,
        domains: [0, 0],
        words: base.words(),
        published: [None, None],
    };
    match table {
        Table::Losses => {
            losses(full).into_iter().map(|(name, o, published)| Variant { published, ..row(name, o) }).collect()
        }
        Table::Groups => groups(tokens)
            .into_iter()
            .map(|(size, stride)| {
                let mut objective = full.clone();
                if let Some(atp) = &mut objective.atp {
                    atp.groups = Groups { size, stride, masked: atp.groups.masked };
                }
                let count = 1 + tokens.saturating_sub(size).div_ceil(stride);
                let lap = if stride < size { ", overlapping" } else { "" };
                row(&format!("{count} x {size} tokens{lap}"), objective)
            })
            .collect(),
        Table::K => [1, 2, 4, 8, 16, 32, 64, 128]
            .into_iter()
            .map(|k| Variant { k, at: Some(k as f64), ..row(&format!("K = {k}"), full.clone()) })
            .collect(),
        Table::Masking => [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
            .into_iter()
            .map(|rate: f32| {
                let mut objective = full.clone();
                if let Some(ara) = &mut objective.ara {
                    ara.probability = rate;
                }
                Variant { at: Some(f64::from(rate)), ..row(&format!("{:.0} %", rate * 100.0), objective) }
            })
            .collect(),
        Table::Layers => (1..=base.shape.text_layers.max(3))
            .map(|layers| {
                let shape = Shape { text_layers: layers, ..base.shape.clone() };
                Variant { shape, at: Some(layers as f64), ..row(&format!("{layers}"), full.clone()) }
            })
            .collect(),
        Table::Words => [("seen words", Words::Seen), ("held-out synonyms", Words::HeldOut)]
            .into_iter()
            .map(|(name, words)| Variant { words, ..row(name, full.clone()) })
            .collect(),
        Table::Domains => (0..domains)
            .flat_map(|from| (0..domains).map(move |to| [from, to]))
            .map(|domains| Variant { domains, ..row("", full.clone()) })
            .collect(),
    }
}

/// Sizes and strides of the paper's groups in proportion to texts of `tokens` tokens, rounded, each
/// at least 1 and none twice.
fn groups(tokens: usize) -> Vec<(usize, usize)> {
    let scaled = |size: usize| ((size * tokens + PAPER_TOKENS / 2) / PAPER_TOKENS).max(1);
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (size, stride) in PAPER_GROUPS {
        let group = (scaled(size), scaled(stride));
        if !all.contains(&group) {
            all.push(group);
        }
    }
    all
}

/// Rows of Table IV with the paper's results.
fn losses(full: &Objective) -> Vec<(&'static str, Objective, [Option<f64>; 2])> {
    let alone = |global: GlobalLoss| Objective { global, atp: None, ara: None, ..full.clone() };
    let ndf = alone(full.global);
    let baseline = alone(GlobalLoss::Cmpm);
    let half = |local: bool| full.atp.clone().map(|atp| crate::atp::Atp { local, ..atp });
    vec![
        ("baseline (CMPM)", baseline, [Some(64.36), None]),
        ("NDF", ndf.clone(), [Some(71.79), None]),
        ("NDF + ARA", Objective { ara: full.ara.clone(), ..ndf.clone() }, [Some(72.93), None]),
        ("NDF + ATP, whole texts", Objective { atp: half(false), ..ndf.clone() }, [None, None]),
        ("NDF + ATP", Objective { atp: half(true), ..ndf }, [Some(73.01), Some(77.78)]),
        ("all", full.clone(), [Some(73.48), Some(78.37)]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_every_table_can_be_trained() {
        let base = Recipe::preset("quick").expect("a preset");
        for table in Table::ALL {
            assert_eq!(table.name().parse(), Ok(table));
            let rows = variants(table, &base, 32, 2, 25);
            assert!(rows.len() >= 2, "{table}");
            for (i, variant) in rows.iter().enumerate() {
                variant.objective.check().expect("a sound objective");
                variant.shape.architecture(1200).expect("sound dimensions");
                let same = |v: &Variant| (&v.row, v.domains) == (&variant.row, variant.domains);
                assert_eq!(rows.iter().position(same), Some(i), "{table}: {} twice", variant.row);
            }
        }
        assert!("viii".parse::<Table>().expect_err("unknown").contains("fig3"));
    }

    #[test]
    fn table_iv_adds_one_loss_at_a_time() {
        let base = Recipe::preset("quick").expect("a preset");
        let rows = variants(Table::Losses, &base, 32, 1, 25);
        let has = |i: usize| (rows[i].objective.atp.is_some(), rows[i].objective.ara.is_some());
        assert_eq!(
            [has(0), has(1), has(2), has(4), has(5)],
            [(false, false), (false, false), (false, true), (true, false), (true, true)]
        );
        assert_eq!(rows[0].objective.global, GlobalLoss::Cmpm);
        assert!(rows[3].objective.atp.as_ref().is_some_and(|atp| atp.global && !atp.local));
        assert_eq!(rows[5].objective, base.run.objective);
    }

    #[test]
    fn groups_cover_the_text() {
        let base = Recipe::preset("quick").expect("a preset");
        let names = |tokens: usize| -> Vec<String> {
            variants(Table::Groups, &base, 32, 1, tokens).into_iter().map(|v| v.row).collect()
        };
        let paper = [
            "1 x 72 tokens",
            "2 x 36 tokens",
            "3 x 36 tokens, overlapping",
            "3 x 24 tokens",
            "4 x 18 tokens",
            "6 x 12 tokens",
        ];
        assert_eq!(names(72), paper);
        // Captions of drawn persons: no group is longer than half of them, except the whole one.
        let drawn = [
            "1 x 25 tokens",
            "2 x 13 tokens",
            "3 x 13 tokens, overlapping",
            "4 x 8 tokens",
            "5 x 6 tokens",
            "7 x 4 tokens",
        ];
        assert_eq!(names(25), drawn);
        assert_eq!(names(4), ["1 x 4 tokens", "2 x 2 tokens", "3 x 2 tokens, overlapping", "4 x 1 tokens"]);
        assert_eq!(names(0), ["1 x 1 tokens"]);
        for variant in variants(Table::Groups, &base, 32, 1, 25) {
            let groups = variant.objective.atp.expect("the full method").groups;
            assert!(variant.row.contains(&format!("x {} tokens", groups.size)), "{}: {groups:?}", variant.row);
            assert!((1..=groups.size).contains(&groups.stride), "{}: {groups:?}", variant.row);
        }
    }
}
