//! The commands of README.md, word for word: whoever types them must get what it promises.
//!
//! Every block there says what it is: `sh` and `console` hold commands, `text` is to be read. What
//! needs no other machine is run, against a server that the README's own line starts. `make`,
//! `docker compose` and `docker/local.sh` would build for minutes: that what they name exists is
//! checked. `sightline-finetune` checks its commands itself (its binary's tests).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sightline_testing::{Process, repository};

use crate::support::{tiny_model, token_of};

/// Configuration behind the README's `my.toml`: the tiny golden model, and cameras called as those
/// of the examples.
const CONFIG: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[model]\nfolder = \"tiny\"\n[embed]\nthreads = 1\n";

/// Address in the README's examples: that of the default configuration.
const ADDRESS: &str = "http://127.0.0.1:8780";

/// Returns the commands of a Markdown text; lines that go on in the next are joined.
fn commands(markdown: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut language, mut continued) = (None, false);
    for line in markdown.lines() {
        if let Some(word) = line.strip_prefix("```") {
            language = match (language, word) {
                (None, "sh" | "console" | "text") => Some(word),
                (None, _) => panic!("a block of README.md is neither sh nor console nor text: {word:?}"),
                (Some(_), _) => None,
            };
            continued = false;
            continue;
        }
        let command = match language {
            Some("sh") => Some(line),
            Some("console") => line.strip_prefix("$ "),
            _ => None,
        };
        let Some(command) = command.filter(|c| !c.trim().is_empty()) else { continue };
        let part = command.trim_end_matches('\\');
        match found.last_mut().filter(|_| continued) {
            Some(last) => last.push_str(part),
            None => found.push(part.to_owned()),
        }
        continued = command.ends_with(['\\', '&']);
    }
    found
}

fn readme() -> Vec<String> {
    commands(&std::fs::read_to_string(repository("README.md")).unwrap())
}

/// Returns the cameras that the examples take for granted: named, and not added by one of them.
fn cameras() -> BTreeSet<String> {
    let lines = readme();
    let mut named = BTreeSet::from(["town-square".to_owned()]);
    let mut added = BTreeSet::new();
    for words in lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
        named.extend(words.windows(2).filter(|w| w[0] == "--camera").map(|w| w[1].to_owned()));
        added.extend(words.windows(3).filter(|w| w[..2] == ["camera", "add"]).map(|w| w[2].to_owned()));
    }
    named.difference(&added).cloned().collect()
}

/// A working folder in which the README's commands find what they name.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_sightline"));
        tiny_model(&dir.path().join("tiny"));
        let cameras: String =
            cameras().iter().map(|id| format!("[[cameras]]\nid = \"{id}\"\nurl = \"videotestsrc://\"\n")).collect();
        std::fs::write(dir.path().join("my.toml"), format!("{CONFIG}{cameras}")).unwrap();
        image::RgbImage::from_pixel(64, 96, image::Rgb([90, 120, 90])).save(dir.path().join("picture.jpg")).unwrap();
        std::fs::create_dir(dir.path().join("target")).unwrap();
        for (from, to) in [
            (binary.to_owned(), "sightline"),
            (binary.parent().unwrap().to_owned(), "target/debug"),
            (repository("models").canonicalize().unwrap(), "models"),
        ] {
            std::os::unix::fs::symlink(from, dir.path().join(to)).unwrap();
        }
        Self { dir }
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-ec", line]).current_dir(&self.dir).stdin(Stdio::null()).env_clear();
        // GStreamer's registry cache belongs into the test's own folder.
        command.env("HOME", self.dir.path()).env("SIGHTLINE_LOG", "error");
        command.env("PATH", format!("{}:{path}", self.dir.path().display()));
        command
    }

    fn serve(&self, line: &str) -> Process {
        Process::start(&mut self.shell(&format!("exec {line}")))
    }

    /// Runs a command, which must succeed.
    fn run(&self, line: &str, server: Option<&Process>) -> Output {
        let here = server.map_or(line.to_owned(), |s| line.replace(ADDRESS, s.url()));
        let output = self.shell(&here).env("TOKEN", server.map_or("", token_of)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // A sighting that an example names exists nowhere else; the server, not the command line, must
        // say so.
        let unknown = line.contains("--sighting ") && output.status.code() == Some(1) && said.contains("sighting");
        let well = output.status.success() || unknown;
        assert!(well, "README.md: {line}\n{said}{}", String::from_utf8_lossy(&output.stdout));
        output
    }
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let desk = Desk::new();
    let mut server: Option<Process> = None;
    let mut ran = Vec::new();
    for line in readme() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let program = words[0].trim_start_matches("target/debug/");
        match (program, words[1]) {
            ("sightline", "serve" | "reindex") => {
                // One program alone may use the data folder.
                if let Some(running) = server.take() {
                    running.stop();
                }
                if words[1] == "serve" {
                    server = Some(desk.serve(&line));
                } else {
                    desk.run(&line, None);
                }
            }
            ("sightline" | "curl", _) => {
                let output =
                    desk.run(&line, Some(server.get_or_insert_with(|| desk.serve("sightline serve --config my.toml"))));
                let said = String::from_utf8(output.stdout).unwrap();
                match (program, words[1], words[2]) {
                    // curl succeeds with an error of the server, too.
                    ("curl", ..) => {
                        let answer: Value =
                            serde_json::from_str(&said).unwrap_or_else(|e| panic!("{line}: {e}: {said}"));
                        assert!(answer["results"].is_array(), "{line}: {answer}");
                    }
                    (_, "camera", "list") => assert!(said.contains("north-gate"), "{said}"),
                    (_, "token", "create") => assert_eq!(said.lines().count(), 1, "{said}"),
                    _ => assert!(!said.is_empty() || line.contains("--sighting "), "{line} prints nothing"),
                }
            }
            _ => continue,
        }
        ran.push(format!("{program} {}", words[1]));
    }
    if let Some(running) = server {
        running.stop();
    }
    for wanted in
        ["sightline search", "curl -s", "sightline camera", "sightline token", "sightline detect", "sightline reindex"]
    {
        assert!(ran.iter().any(|r| r == wanted), "README.md has no `{wanted}` any more: {ran:?}");
    }
}

#[test]
fn what_the_other_commands_of_the_readme_name_exists() {
    let makefile = std::fs::read_to_string(repository("Makefile")).unwrap();
    for line in readme() {
        let code = line.split(" #").next().unwrap();
        let words: Vec<&str> = code.split_whitespace().collect();
        match words[..] {
            ["make", target] => {
                let rule = makefile.lines().any(|l| l.split(':').next().unwrap().split(' ').any(|t| t == target));
                assert!(rule, "README.md: {line}: the Makefile has no {target}");
            }
            ["docker", "compose", "-f", file, "up", "--build"] => {
                assert!(repository(file).is_file(), "README.md: {line}")
            }
            ["docker/local.sh", command, ..] => {
                // Options are read before the help that ends the script.
                let asked =
                    Command::new("sh").args(["-ec", &format!("{code} --help")]).current_dir(repository("")).output();
                let asked = asked.unwrap();
                let said = String::from_utf8_lossy(&asked.stdout).into_owned();
                assert!(asked.status.success(), "README.md: {line}: {}", String::from_utf8_lossy(&asked.stderr));
                assert!(said.contains(&format!("docker/local.sh {command} ")), "README.md: {line}: {said}");
            }
            ["sightline" | "target/debug/sightline" | "curl" | "sightline-finetune", ..] => {}
            _ => panic!("README.md: no test knows this command: {line}"),
        }
    }
}

#[test]
fn commands_are_found_where_they_are() {
    let text = "```text\nsightline no\n```\nsightline no\n```sh\na b \\\n  c\n\nd &&\n    e\n```\n```console\n$ f\nanswer\n```\n";
    assert_eq!(commands(text), ["a b   c", "d &&    e", "f"]);
    assert!(std::panic::catch_unwind(|| commands("```\nsightline camera list\n```\n")).is_err());
}
