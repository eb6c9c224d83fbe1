//! `sightline audit` and `sightline-api audit`: check the audit trail directly in the data folder,
//! whether the server runs or not.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;
use sightline_api::state::{AuditEntry, State};

use crate::output::data_folder;

/// Audit commands
#[derive(clap::Subcommand)]
pub enum Command {
    /// Verify that no record of the audit trail was changed or is missing; fails if one is
    Verify {
        /// Print the verdict as JSON
        #[arg(long)]
        json: bool,
        /// Data folder [default: data.folder of the default configuration]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Verify { json, data } = command;
    let state = State::open_existing(&data_folder(data.as_deref())?)?;
    let verdict = state.verify_audit()?;
    let detail = json!({ "intact": verdict.intact, "records": verdict.records });
    state.record(&AuditEntry { who: "local".into(), action: "audit.verify", purpose: None, detail })?;
    if *json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else if verdict.intact {
        let from =
            verdict.oldest.filter(|&seq| seq > 1).map(|seq| format!(" from {seq} on; those before have expired"));
        println!("intact: {} records{}", verdict.records, from.unwrap_or_default());
    }
    if !verdict.intact {
        bail!("the audit trail is not intact: {}", verdict.why.unwrap_or_default());
    }
    Ok(())
}
