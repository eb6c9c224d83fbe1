//! Compares `core/bus/src/wire/sightline.v1.rs` with what `core/bus/proto/sightline.proto` gives;
//! `--write` writes it. `make check` runs the comparison.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let bus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let (folder, committed) = (bus.join("proto"), bus.join("src/wire/sightline.v1.rs"));
    let messages = protox::compile([folder.join("sightline.proto")], [folder])?;
    let out = tempfile::tempdir()?;
    // Pictures share the memory of the record that they came in.
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(messages)?;
    let generated = std::fs::read_to_string(out.path().join("sightline.v1.rs"))?;
    if std::env::args().any(|argument| argument == "--write") {
        std::fs::write(committed, generated)?;
    } else if std::fs::read_to_string(committed)? != generated {
        return Err(
            "core/bus/src/wire/sightline.v1.rs is not what core/bus/proto/sightline.proto gives. This writes it: \
                    cargo run --manifest-path core/bus/schema/Cargo.toml -- --write"
                .into(),
        );
    }
    Ok(())
}
