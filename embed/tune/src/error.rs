//! Errors of training commands. Each message names what to change.

use std::path::{Path, PathBuf};

use sightline_embed::EmbedError;

/// Result of training code.
pub type Result<T> = std::result::Result<T, TrainError>;

/// Why a training command failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An error of the model or its folder.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// An error of candle.
    #[error("the arithmetic failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{path}: {message}")]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Items of an annotation file that cannot be used.
    #[error("{path}: {} of {items} items cannot be used{}\nmend them, or leave them out with --skip-bad", problems.len(), some(problems))]
    Dataset {
        /// The annotation file.
        path: PathBuf,
        /// Items of the split.
        items: usize,
        /// Every bad item and what is wrong with it.
        problems: Vec<String>,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A run folder that was made with other settings.
    #[error(
        "{path} holds a run with other settings:{}\ngo on with it as it is by --resume alone, or choose another --run",
        lines(differences)
    )]
    OtherRun {
        /// Its run.json.
        path: PathBuf,
        /// Setting, what the folder has and what was asked for.
        differences: Vec<String>,
    },
    /// Loss, gradient or weights are not numbers any more.
    #[error("{what} at step {step}; {}", kept_message(run, *kept))]
    Diverged {
        /// Of the run, from 1.
        step: usize,
        /// What was not finite, and where.
        what: String,
        /// Folder of the run.
        run: PathBuf,
        /// Step of the last checkpoint.
        kept: Option<usize>,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint of step {step} cannot be written: {source}; {}", kept_message(run, *kept))]
    Checkpoint {
        /// Step it was of.
        step: usize,
        /// Why it could not be written.
        source: Box<TrainError>,
        /// Folder of the run.
        run: PathBuf,
        /// Step of the checkpoint before, which is intact.
        kept: Option<usize>,
    },
    /// A thread of the run ended before its work was done.
    #[error("the thread that makes batches has stopped")]
    Stopped,
}

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn content(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Content { path: path.to_owned(), message: message.to_string() }
    }
}

fn kept_message(run: &Path, kept: Option<usize>) -> String {
    match kept {
        Some(step) => {
            format!("the checkpoint of step {step} in {} is whole: go on from it with --resume", run.display())
        }
        None => format!("there is no checkpoint in {} yet", run.display()),
    }
}

fn lines(items: &[String]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}

/// The first twenty, a line each, and how many more there are.
fn some(problems: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = problems.iter().take(SHOWN).map(|p| format!("\n  {p}")).collect();
    if problems.len() > SHOWN {
        text += &format!("\n  and {} more", problems.len() - SHOWN);
    }
    text
}
