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
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{path}: {message}")]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// Problem with the content.
        message: String,
    },
    /// A split that an annotation file does not have.
    #[error("{path}: there is no split {split:?}; there is {present}")]
    NoSplit {
        /// The annotation file.
        path: PathBuf,
        /// The requested split.
        split: String,
        /// Splits of the file, each with its number of items.
        present: String,
    },
    /// Items of an annotation file that cannot be used.
    #[error("{path}: {} of {items} items cannot be used{}\nmend them, or leave them out with --skip-bad", problems.len(), format_problems(problems))]
    Dataset {
        /// The annotation file.
        path: PathBuf,
        /// Items of the split.
        items: usize,
        /// Every bad item and what is wrong with it.
        problems: Vec<String>,
    },
    /// Arguments or settings that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A run folder that was made with other settings.
    #[error(
        "{path} holds a run with other settings:{}\ngo on with it as it is by --resume alone, or choose another --run",
        lines(differences)
    )]
    OtherRun {
        /// The run.json of that folder.
        path: PathBuf,
        /// One line per setting that differs: its value in the folder and the requested value.
        differences: Vec<String>,
    },
    /// The loss, a gradient or a weight is no longer finite.
    #[error("{what} at step {step}; {}", kept_message(run, *kept))]
    Diverged {
        /// Step of the run, counted from 1.
        step: usize,
        /// The value that is not finite, and where it is.
        what: String,
        /// Folder of the run.
        run: PathBuf,
        /// Step of the last checkpoint.
        kept: Option<usize>,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint of step {step} cannot be written: {source}; {}", kept_message(run, *kept))]
    Checkpoint {
        /// Step of the checkpoint that failed.
        step: usize,
        /// Cause of the failure.
        source: Box<TrainError>,
        /// Folder of the run.
        run: PathBuf,
        /// Step of the previous checkpoint, which is intact.
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

/// Lists the first twenty problems, one per line, and the number of the others.
fn format_problems(problems: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = problems.iter().take(SHOWN).map(|p| format!("\n  {p}")).collect();
    if problems.len() > SHOWN {
        text += &format!("\n  and {} more", problems.len() - SHOWN);
    }
    text
}
