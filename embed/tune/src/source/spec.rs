//! Sources by name, as the command line and run.json write them: `synth:20000x4`,
//! `cuhk-pedes:ROOT`, `people:ROOT`, `garments:ROOT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::dataset::Dataset;
use crate::people::PeoplePart;

/// One source of training or validation data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSpec {
    /// Drawn persons.
    Synth {
        /// Number of persons.
        identities: u64,
        /// Pictures per person.
        views: u64,
    },
    /// An annotated dataset.
    Folder(Dataset, PathBuf),
    /// Labelled people.
    People(PeoplePart, PathBuf),
    /// Photographs of garments.
    Garments(PathBuf),
}

/// Name of [`DataSpec::Garments`].
const GARMENTS: &str = "garments";

impl fmt::Display for DataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synth { identities, views } => write!(f, "synth:{identities}x{views}"),
            Self::Folder(dataset, root) => write!(f, "{dataset}:{}", root.display()),
            Self::People(part, root) => write!(f, "{part}:{}", root.display()),
            Self::Garments(root) => write!(f, "{GARMENTS}:{}", root.display()),
        }
    }
}

impl FromStr for DataSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "it is synth:IDENTITIES[xVIEWS], LAYOUT:ROOT with cuhk-pedes, icfg-pedes or rstpreid, people:ROOT or \
                    garments:ROOT";
        let (kind, rest) = text.split_once(':').ok_or_else(|| format!("{text:?} names no source: {form}"))?;
        if kind != "synth" {
            let people = PeoplePart::ALL.into_iter().find(|part| part.name() == kind);
            let root = PathBuf::from(rest);
            let spec = match people {
                Some(part) => Self::People(part, root),
                None if kind == GARMENTS => Self::Garments(root),
                None => Self::Folder(kind.parse().map_err(|e| format!("{text:?}: {e}; {form}"))?, root),
            };
            return if rest.is_empty() { Err(format!("{text:?} has no root folder: {form}")) } else { Ok(spec) };
        }
        let (identities, views) = rest.split_once('x').unwrap_or((rest, "4"));
        match (identities.parse(), views.parse()) {
            (Ok(identities), Ok(views)) if identities >= 4 && views >= 1 => Ok(Self::Synth { identities, views }),
            _ => Err(format!("{text:?} is not at least 4 persons with 1 picture each: {form}")),
        }
    }
}

impl Serialize for DataSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sources() {
        for text in [
            "synth:20000x4",
            "cuhk-pedes:/data/cuhk: pedes",
            "rstpreid:r",
            "people:p",
            "people-stop:/p",
            "people-calibrate:p",
            "garments:/g",
        ] {
            let spec: DataSpec = text.parse().expect("a source");
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_string(&spec).expect("serialises");
            assert_eq!(serde_json::from_str::<DataSpec>(&json).expect("read back"), spec);
        }
        assert_eq!("synth:8".parse(), Ok(DataSpec::Synth { identities: 8, views: 4 }));
        for text in ["", "synth", "synth:3", "synth:8x0", "synth:ax2", "market:/x", "cuhk-pedes:", "people:"] {
            let e = text.parse::<DataSpec>().expect_err(text);
            assert!(e.contains("LAYOUT:ROOT"), "{e}");
        }
    }
}
