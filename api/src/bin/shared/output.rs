//! Output of the binaries: one line for an error, aligned columns for a list.

use std::path::{Path, PathBuf};

use sightline_core::Config;

/// Formats an error and its causes on one line; a cause that its parent already quotes is left out.
pub fn one_line(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain() {
        let cause = cause.to_string().replace('\n', " ");
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints a table whose columns are as wide as their widest cell.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    for line in table(head, rows) {
        println!("{line}");
    }
}

/// Formats a table as lines: the head, then one line for each row.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, &w)| format!("{c:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(rows).collect()
}

/// Returns the given data folder, or that of the default configuration and the environment.
pub fn data_folder(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(Config::load(None)?.data.folder),
    }
}
