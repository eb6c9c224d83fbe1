//! `sightline token` and `sightline-api token`: manage access tokens directly in the database of
//! the data folder. They work whether the server runs or not; whoever can write to that folder owns
//! the service anyway.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;
use sightline_api::state::{AuditEntry, NewToken, Role, State};
use sightline_core::{CameraId, Timestamp};

use crate::output::{data_folder, print_table};

/// Token commands
#[derive(clap::Subcommand)]
pub enum Command {
    /// Create a token and print it; it cannot be shown again
    Create {
        /// Name of the person or program that uses it [default: role and cameras]
        name: Option<String>,
        /// Role: admin, operator (may search), viewer (sees cameras), auditor (reads the audit trail) or metrics
        #[arg(long, default_value = "operator")]
        role: Role,
        /// Limit it to this camera (may be repeated)
        #[arg(long, value_name = "CAMERA")]
        camera: Vec<CameraId>,
        /// Let it expire after this many days
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
        /// Data folder [default: data.folder of the default configuration]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
    /// List all tokens (never their secrets)
    List {
        /// Data folder [default: data.folder of the default configuration]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
    /// Revoke a token: it stops working within a second
    Revoke {
        /// Id of the token, as listed; `start` is the one that the running server printed
        id: String,
        /// Data folder [default: data.folder of the default configuration]
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
}

fn record(state: &State, action: &'static str, detail: serde_json::Value) -> anyhow::Result<()> {
    state.record(&AuditEntry { who: "local".into(), action, purpose: None, detail })?;
    Ok(())
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, role, camera, days, data } => {
            let scope: Vec<&str> = camera.iter().map(CameraId::as_str).collect();
            let name = name.clone().unwrap_or_else(|| format!("{role} {}", scope.join(" ")).trim_end().to_owned());
            if name.trim().is_empty() {
                bail!("a token needs a name that says who uses it");
            }
            let state = State::open_existing(&data_folder(data.as_deref())?)?;
            let known = state.cameras()?;
            for id in camera.iter().filter(|id| known.iter().all(|k| k.spec.id != **id)) {
                // It may belong to a node, or be added later.
                eprintln!("note: {id} is no camera of this data folder");
            }
            let expires_at = days.map(|d| Timestamp::now() + Duration::from_secs(u64::from(d) * 86_400));
            let cameras = (!camera.is_empty()).then(|| camera.iter().cloned().collect());
            let new = NewToken { name: name.clone(), role: *role, cameras, expires_at };
            let (row, secret) = state.create_token(&new)?;
            record(
                &state,
                "token.create",
                json!({ "token": row.id, "name": name, "role": role, "cameras": row.cameras }),
            )?;
            eprintln!("token {} ({role}) for {name}; this is the only time it is shown:", row.id);
            println!("{secret}");
        }
        Command::List { data } => {
            let when = |t: Option<Timestamp>| t.map_or("-".to_owned(), |t| t.to_string());
            let rows: Vec<Vec<String>> = State::open_existing(&data_folder(data.as_deref())?)?
                .tokens()?
                .into_iter()
                .map(|t| {
                    let cameras = t
                        .cameras
                        .map_or("all".to_owned(), |c| c.iter().map(CameraId::to_string).collect::<Vec<_>>().join(","));
                    let expired = t.expires_at.is_some_and(|e| e <= Timestamp::now());
                    let state = match (t.revoked_at, expired) {
                        (Some(_), _) => "revoked",
                        (None, true) => "expired",
                        (None, false) => "works",
                    };
                    vec![
                        t.id,
                        t.name,
                        t.role.to_string(),
                        cameras,
                        state.into(),
                        when(t.expires_at),
                        when(t.last_used_at),
                    ]
                })
                .collect();
            print_table(&["ID", "NAME", "ROLE", "CAMERAS", "STATE", "EXPIRES", "LAST USED"], &rows);
        }
        Command::Revoke { id, data } => {
            let state = State::open_existing(&data_folder(data.as_deref())?)?;
            if !state.revoke_token(id)? {
                return Err(anyhow!("there is no token {id} that still works"));
            }
            record(&state, "token.revoke", json!({ "token": id }))?;
            println!("{id}: revoked");
        }
    }
    Ok(())
}
