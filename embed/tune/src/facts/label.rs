//! Labels of real persons, read from `labels.json` in a folder of people.
//!
//! Free text (`"cardigan over turquoise top"`) comes with groups of a fixed vocabulary. A group
//! that is not in the vocabulary is an error: otherwise it would become "not known" without anyone
//! noticing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::{Result, TrainError};

/// Label of one person.
#[derive(Debug, Clone, Deserialize)]
pub struct Label {
    /// Identity, as in the annotation file.
    pub id: u32,
    /// Group of pictures, where the set has groups.
    pub group: Option<String>,
    /// Name of the person, if several identities are the same person in other clothes.
    pub actor: Option<String>,
    /// Length and colour of the hair.
    pub hair: String,
    /// Clothes of the upper body.
    pub upper: Worn,
    /// Clothes of the lower body.
    pub lower: Worn,
    /// Shoes, with their colour.
    pub shoes: String,
    /// Bag, with its colour.
    pub bag: String,
    /// Hat, with its colour.
    pub hat: String,
    /// Other things, separated by commas.
    pub carried: String,
    /// The same facts in a fixed vocabulary.
    pub normalised: Normalised,
    /// Whether it is unclear which of several persons in the picture is meant.
    #[serde(default)]
    pub several_people: bool,
    /// Descriptions, as operators type them.
    #[serde(default)]
    pub captions: Vec<String>,
}

/// Kind and colour of clothes, in free text.
#[derive(Debug, Clone, Deserialize)]
pub struct Worn {
    /// Kind of the clothes: "cardigan over turquoise top".
    pub kind: String,
    /// Colour of the clothes: "black over turquoise".
    pub colour: String,
}

/// Groups of a fixed vocabulary.
#[derive(Debug, Clone, Copy, Deserialize)]
#[allow(missing_docs)]
pub struct Normalised {
    pub sex: Sex,
    pub hair_length: HairLength,
    pub sleeves: Sleeves,
    pub upper_group: UpperGroup,
    pub lower_group: LowerGroup,
    pub bag_group: BagGroup,
    pub hat_group: HatGroup,
    pub glasses_group: GlassesGroup,
}

/// Declares the words of a group; every group also has `unknown`.
macro_rules! group {
    ($name:ident: $($value:ident = $word:literal),+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[allow(missing_docs)]
        pub enum $name {
            $(#[serde(rename = $word)] $value,)+
            #[serde(rename = "unknown")]
            Unknown,
        }
    };
}

group!(Sex: Male = "male", Female = "female");
group!(HairLength: ShortMedium = "short/medium", Long = "long", TiedUp = "tied up", Bald = "bald", Hidden = "hidden");
group!(Sleeves: Long = "long", Short = "short", ThreeQuarter = "three-quarter", None = "none");
group!(UpperGroup: TShirt = "t-shirt/polo", Outerwear = "outerwear", Shirt = "shirt/blouse/top",
    Sweater = "hoodie/sweater", Dress = "dress", Uniform = "uniform/suit/other", None = "none");
group!(LowerGroup: Trousers = "trousers", Jeans = "jeans", Shorts = "shorts", Skirt = "skirt/dress/kilt",
    Leggings = "leggings");
group!(BagGroup: None = "none", Backpack = "backpack", Handbag = "handbag/shoulder bag", Suitcase = "suitcase/large bag");
group!(HatGroup: None = "none", Cap = "cap", Helmet = "helmet", Hat = "hat/other", Beanie = "beanie", Hood = "hood");
group!(GlassesGroup: NoneSeen = "none seen", Glasses = "glasses", Sunglasses = "sunglasses");

/// Reads the `labels.json` at `path`; returns the labels by identity.
///
/// # Errors
/// A file that cannot be read or is not a list, an item of another form, or a second item of an
/// identity. The error names the item's index and identity.
pub fn read_labels(path: &Path) -> Result<BTreeMap<u32, Label>> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let items: Vec<Value> =
        serde_json::from_str(&text).map_err(|e| TrainError::content(path, format!("not a list of labels: {e}")))?;
    let mut labels = BTreeMap::new();
    for (number, item) in items.into_iter().enumerate() {
        let name = match &item["id"] {
            Value::Null => format!("item {number}"),
            id => format!("item {number} (id {id})"),
        };
        let label: Label =
            serde_json::from_value(item).map_err(|e| TrainError::content(path, format!("{name}: {e}")))?;
        let id = label.id;
        if labels.insert(id, label).is_some() {
            return Err(TrainError::content(path, format!("{name}: there is another label of this id")));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(id: u32) -> Value {
        json!({
            "id": id, "hair": "long, blond", "upper": {"kind": "shirt", "colour": "blue", "sleeve": "long"},
            "lower": {"kind": "unknown", "colour": "unknown"}, "shoes": "unknown", "bag": "none", "hat": "none",
            "carried": "none",
            "normalised": {"sex": "female", "hair_length": "long", "sleeves": "long", "upper_group": "shirt/blouse/top",
                "lower_group": "unknown", "bag_group": "none", "hat_group": "none", "glasses_group": "none seen"},
        })
    }

    fn read(items: &Value) -> Result<BTreeMap<u32, Label>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("labels.json");
        std::fs::write(&path, items.to_string()).expect("written");
        read_labels(&path)
    }

    #[test]
    fn labels_are_read_by_identity() {
        let labels = read(&json!([item(7), item(3)])).expect("labels");
        assert_eq!(labels.keys().copied().collect::<Vec<_>>(), [3, 7]);
        assert_eq!(labels[&3].normalised.upper_group, UpperGroup::Shirt);
        assert!(!labels[&3].several_people && labels[&3].group.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let mut strange = item(9);
        strange["normalised"]["hat_group"] = "crown".into();
        let mut lacking = item(9);
        lacking.as_object_mut().expect("an object").remove("bag");
        for (items, parts) in [
            (json!([item(1), strange]), ["item 1 (id 9)", "crown"]),
            (json!([lacking]), ["item 0 (id 9)", "bag"]),
            (json!([item(4), item(4)]), ["item 1 (id 4)", "another label"]),
            (json!({"a": 1}), ["labels.json", "not a list"]),
            (json!([{"hair": "grey"}]), ["item 0:", "missing field"]),
        ] {
            let e = read(&items).expect_err("wrong").to_string();
            assert!(e.contains("labels.json") && parts.iter().all(|part| e.contains(part)), "{e}");
        }
    }
}
