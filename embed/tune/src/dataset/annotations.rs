//! Parses annotation files. Each item is checked on its own, so that one bad item does not hide
//! another.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Entry, Problem, picture};

/// One item of the file, not yet checked.
#[derive(Debug)]
pub(crate) struct Item {
    /// Index of the item in the file, from 0.
    pub number: usize,
    /// Split of the item; empty if it names none.
    pub split: String,
    fields: Option<Box<Fields>>,
}

/// Fields that are read; others (`processed_tokens`) are skipped.
#[derive(Debug, Deserialize)]
struct Fields {
    split: Option<Value>,
    captions: Option<Value>,
    file_path: Option<Value>,
    img_path: Option<Value>,
    id: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Object(Box<Fields>),
    Other(IgnoredAny),
}

/// Reads a list of items, or an object with such a list per split.
///
/// # Errors
/// Text that is not JSON of either form.
pub(crate) fn parse(text: &str) -> Result<Vec<Item>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let lists: Vec<(Option<String>, Vec<Raw>)> = if text.trim_start().starts_with('{') {
        let by_split: BTreeMap<String, Vec<Raw>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        by_split.into_iter().map(|(split, items)| (Some(split), items)).collect()
    } else {
        vec![(None, serde_json::from_str(text).map_err(|e| e.to_string())?)]
    };
    let mut all = Vec::new();
    for (outer, items) in lists {
        for raw in items {
            let fields = match raw {
                Raw::Object(fields) => Some(fields),
                Raw::Other(_) => None,
            };
            let own = fields.as_ref().and_then(|f| f.split.as_ref()?.as_str().map(str::to_owned));
            let split = own.or_else(|| outer.clone()).unwrap_or_default();
            all.push(Item { number: all.len(), split, fields });
        }
    }
    Ok(all)
}

impl Item {
    /// Converts the item to an entry with at most `captions` captions, and checks that its picture
    /// is complete.
    ///
    /// # Errors
    /// The first problem of the item.
    pub fn check(&self, root: &Path, captions: usize) -> Result<Entry, Problem> {
        let mut name = String::new();
        self.entry(root, captions, &mut name).map_err(|message| Problem { item: self.number, picture: name, message })
    }

    fn entry(&self, root: &Path, captions: usize, name: &mut String) -> Result<Entry, String> {
        let fields =
            self.fields.as_ref().ok_or("not an object with split, captions, file_path (or img_path) and id")?;
        let path = fields.file_path.as_ref().or(fields.img_path.as_ref());
        let path = path.and_then(Value::as_str).ok_or("no file_path (or img_path)")?;
        path.clone_into(name);
        if path.is_empty()
            || !Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err("the path leads out of imgs/".into());
        }
        let id = fields.id.as_ref().ok_or("no id")?;
        let identity = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let identity = identity.ok_or_else(|| format!("the id {id} is not a whole number from 0"))?;
        let texts: Vec<&str> = match &fields.captions {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => {
                all.iter().map(|c| c.as_str().ok_or("a caption that is not a text")).collect::<Result<_, _>>()?
            }
            _ => return Err("no captions".into()),
        };
        if texts.is_empty() {
            return Err("no captions".into());
        }
        let texts: Vec<String> = texts.into_iter().take(captions).map(str::to_owned).collect();
        if let Some(empty) = texts.iter().position(|c| !c.chars().any(char::is_alphanumeric)) {
            return Err(format!("caption {empty} is empty"));
        }
        let path = root.join("imgs").join(path);
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "the picture is missing".to_owned(),
            _ => format!("the picture cannot be read: {e}"),
        })?;
        picture::check(&bytes)?;
        Ok(Entry { path, identity, captions: texts })
    }
}
