//! The binary `sightline` as a user meets it: start, search, cameras, tokens, stop, and every way
//! in which a start can fail. The model is the tiny golden one; the camera is GStreamer's test
//! picture, which shows nobody.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sightline_testing::{Process, free_address, repository, tiny_weights, until};

use crate::support::{tiny_model, token_of};

const BINARY: &str = env!("CARGO_BIN_EXE_sightline");

/// A folder with a whole model, a configuration for it, and room for data.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(extra: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let model = place.path("model");
        tiny_model(&model);
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = {:?}\n[model]\nfolder = {model:?}\n\
             [detect]\nweights = {:?}\ninput_size = 128\n[embed]\nthreads = 1\n{extra}",
            place.path("data"),
            repository("models/nanodet-g.safetensors"),
        );
        std::fs::write(place.path("sightline.toml"), config).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(self.dir.path()).env_clear().env("SIGHTLINE_LOG", "warn").env("TZ", "UTC");
        // GStreamer's registry cache belongs into the test's own folder.
        command.env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts the server and waits until it reports that it is ready.
    fn serve(&self) -> Process {
        Process::start(&mut self.command(&["serve", "--config", "sightline.toml"]))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts exit code 1, an empty standard output and one line on standard error; returns the line.
fn one_line_failure(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with("error: ") && err.trim_end().lines().count() == 1, "{err}");
    err
}

#[test]
fn from_start_to_stop() {
    let place = Place::new("[[cameras]]\nid = \"test\"\nurl = \"videotestsrc://\"\n");
    let server = place.serve();
    let (base, token) = (server.url(), token_of(&server));
    assert!(base.starts_with("http://127.0.0.1:"), "{base}");
    let client: Value = serde_json::from_slice(&std::fs::read(place.path("data/client.json")).unwrap()).unwrap();
    assert_eq!(client, json!({ "server": base, "token": token }));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("data"), mode("data/client.json"), mode("data/state.db")), (0o700, 0o600, 0o600));
    }

    // The camera becomes searchable: progress reaches the index although nobody walks by.
    let cameras = || -> Value {
        let out = place.run(&["camera", "list", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stderr)))
    };
    until(Duration::from_secs(40), "the camera is searchable", || cameras()["cameras"][0]["state"] == "searchable");
    let out = place.run(&["search", "a man in a white shirt", "--json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&answer["results"], &answer["coverage"][0]["camera"]), (&json!([]), &json!("test")));
    let out = place.run(&["search", "a man", "--camera", "nowhere"]);
    assert!(one_line_failure(&out).contains("unknown camera \"nowhere\""), "{}", text(&out.stderr));
    let out = place.run(&["search", "\u{1F600}"]);
    assert!(one_line_failure(&out).contains("empty_query"));

    // A second server on the same data is refused, and the first is not disturbed.
    let second = one_line_failure(&place.run(&["serve", "--config", "sightline.toml"]));
    assert!(second.contains("another running Sightline"), "{second}");

    // Cameras are added and removed.
    let out = place.run(&["camera", "add", "bad", "gopher://x"]);
    assert!(one_line_failure(&out).contains("gopher"), "{}", text(&out.stderr));
    for local in ["file:///etc/passwd", "v4l2:///dev/video0"] {
        let out = place.run(&["camera", "add", "bad", local]);
        assert!(one_line_failure(&out).contains("ingest.sources"), "{}", text(&out.stderr));
    }
    let out = place.run(&["camera", "add", "second", "videotestsrc://"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = place.run(&["camera", "remove", "second"]);
    assert!(text(&out.stdout).contains("second: removed, 0 sightings erased"), "{}", text(&out.stderr));

    // A token created beside the running server works at once, until it is revoked.
    let out = place.run(&["token", "create", "desk", "--role", "viewer", "--data", "data"]);
    let viewer = text(&out.stdout).trim().to_owned();
    let searched = place.run(&["search", "a man", "--server", base, "--token", &viewer]);
    assert!(one_line_failure(&searched).contains("needs the role operator"));
    let listed = text(&place.run(&["token", "list", "--data", "data"]).stdout);
    assert!(listed.contains("desk") && listed.contains("viewer") && !listed.contains(&viewer), "{listed}");
    let id = listed.lines().find(|l| l.contains("desk")).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(place.run(&["token", "revoke", &id, "--data", "data"]).status.success());
    // The server looks a token up again after a second.
    std::thread::sleep(Duration::from_millis(1100));
    let refused = place.run(&["camera", "list", "--server", base, "--token", &viewer]);
    assert!(one_line_failure(&refused).contains("revoked"));

    // As the README writes it, without a name.
    let out = place.run(&["token", "create", "--role", "viewer", "--camera", "north-gate", "--data", "data"]);
    assert!(out.status.success() && text(&out.stderr).contains("north-gate is no camera"), "{}", text(&out.stderr));
    let wrong = one_line_failure(&place.run(&["token", "create", "desk", "--data", "dta"]));
    assert!(wrong.contains("--data") && !place.path("dta").exists(), "{wrong}");

    // The token of the start can be revoked like any other, and the trail of all this is intact.
    assert!(place.run(&["token", "revoke", "start", "--data", "data"]).status.success());
    std::thread::sleep(Duration::from_millis(1100));
    assert!(one_line_failure(&place.run(&["camera", "list"])).contains("revoked"));
    let verified = place.run(&["audit", "verify", "--data", "data"]);
    assert!(text(&verified.stdout).starts_with("intact: "), "{}", text(&verified.stderr));

    let stopped = server.stop();
    assert!(stopped.rest.is_empty(), "one line on standard output: {:?}", stopped.rest);
    assert!(stopped.took < Duration::from_secs(10), "{:?}", stopped.took);
    assert!(!place.path("data/client.json").exists(), "the token's file goes with the server");
    let out = one_line_failure(&place.run(&["camera", "list"]));
    assert!(out.contains("no Sightline runs here"), "{out}");
}

#[test]
fn over_tls_and_with_metrics_beside() {
    let place = Place::new("");
    let tls = repository("api/tests/golden/tls");
    let config = std::fs::read_to_string(place.path("sightline.toml")).unwrap();
    let probed = free_address();
    let own = format!(
        "[server]\ntls_certificate = {:?}\ntls_key = {:?}\nmetrics_listen = \"{probed}\"\n",
        tls.join("one/certificate.pem"),
        tls.join("one/key.pem"),
    );
    std::fs::write(place.path("sightline.toml"), config.replace("[server]\n", &own)).unwrap();
    let server = place.serve();
    let (base, token) = (server.url(), token_of(&server));
    assert!(base.starts_with("https://127.0.0.1:"), "{base}");
    let out = place.run(&["camera", "list"]);
    assert!(out.status.success(), "on the same machine: {}", text(&out.stderr));
    let ca = tls.join("one/ca.pem");
    let out = place.run(&["camera", "list", "--server", base, "--token", token, "--ca", ca.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let other = tls.join("two/ca.pem");
    for wrong in [vec![], vec!["--ca", other.to_str().unwrap()]] {
        let args = [vec!["camera", "list", "--server", base, "--token", token], wrong].concat();
        assert!(one_line_failure(&place.run(&args)).contains("does not answer"));
    }
    // For Prometheus, without a token.
    let ask =
        |path: &str| ureq::get(format!("http://{probed}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(ask("/metrics").contains("sightline_api_requests_total"));
    assert!(ask("/readyz").contains("\"checks\""));
    server.stop();
}

#[test]
fn a_bad_model_is_named() {
    let place = Place::new("");
    let weights = place.path("model/model.safetensors");
    std::fs::write(&weights, b"").unwrap();
    let failed = one_line_failure(&place.run(&["serve", "--config", "sightline.toml"]));
    assert!(failed.contains("model.safetensors"), "{failed}");
    let mut tensors = tiny_weights();
    let name = tensors.keys().find(|k| k.contains("vision_proj.weight")).unwrap().clone();
    tensors.insert(name.clone(), tensors[&name].t().unwrap().contiguous().unwrap());
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let failed = one_line_failure(&place.run(&["serve", "--config", "sightline.toml"]));
    assert!(failed.contains("vision_proj.weight"), "{failed}");
    std::fs::remove_dir_all(place.path("model")).unwrap();
    let failed = one_line_failure(&place.run(&["serve", "--config", "sightline.toml"]));
    assert!(failed.contains("model"), "{failed}");
}

#[test]
fn other_failures_of_the_start_are_one_line_too() {
    let place = Place::new("");
    let config = std::fs::read_to_string(place.path("sightline.toml")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (text, part) in [
        (config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")), format!("cannot listen on 127.0.0.1:{port}")),
        (config.replace("threads = 1", "thread = 1"), "embed.threads".into()),
        (config.replace("127.0.0.1:0\"", "0.0.0.0:0\"\nrequire_tokens = false"), "server.require_tokens".into()),
        (config.replace("nanodet-g.safetensors", "nothing.safetensors"), "nothing.safetensors".into()),
    ] {
        std::fs::write(place.path("bad.toml"), text).unwrap();
        let failed = one_line_failure(&place.run(&["serve", "--config", "bad.toml"]));
        assert!(failed.contains(&part), "{failed}");
    }
    let failed = one_line_failure(&place.run(&["serve", "--config", "missing.toml"]));
    assert!(failed.contains("missing.toml"), "{failed}");
    std::fs::write(place.path("file"), "in the way").unwrap();
    std::fs::write(place.path("bad.toml"), config.replace("/data\"", "/file\"")).unwrap();
    let failed = one_line_failure(&place.run(&["serve", "--config", "bad.toml"]));
    assert!(failed.contains("file"), "{failed}");
}

#[test]
fn a_camera_that_cannot_work_says_so_and_stops_nothing() {
    let place = Place::new(
        "[[cameras]]\nid = \"bad\"\nurl = \"gopher://x\"\n[[cameras]]\nid = \"gone\"\nurl = \"file:gone.mp4\"\n",
    );
    let server = place.serve();
    assert!(server.line().starts_with("Sightline is ready"), "{}", server.line());
    until(Duration::from_secs(20), "both say why", || {
        let list: Value = serde_json::from_slice(&place.run(&["camera", "list", "--json"]).stdout).unwrap();
        let of = |i: usize| (list["cameras"][i]["state"].clone(), list["cameras"][i]["reason"].clone());
        let ((bad, why), (gone, missing)) = (of(0), of(1));
        let told = bad == "failed" && (gone == "failed" || gone == "retrying");
        if told {
            assert!(why.as_str().unwrap().contains("gopher"), "{why}");
            assert!(!missing.as_str().unwrap().is_empty());
        }
        told
    });
    server.stop();
}

#[test]
fn detect_goes_on_after_a_bad_picture() {
    let place = Place::new("");
    image::RgbImage::from_pixel(64, 96, image::Rgb([90, 120, 90])).save(place.path("empty.png")).unwrap();
    std::fs::write(place.path("bad.jpg"), "not a picture").unwrap();
    let args = ["detect", "gone.png", "bad.jpg", "empty.png", "--json", "--out", "drawn", "--config", "sightline.toml"];
    let out = place.run(&args);
    assert_eq!(out.status.code(), Some(1));
    let lines: Vec<Value> = text(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, [json!({ "image": "empty.png", "persons": [] })]);
    let err = text(&out.stderr);
    assert!(err.contains("gone.png") && err.contains("bad.jpg") && err.lines().count() == 2, "{err}");
    assert!(place.path("drawn/empty.png").exists());
}
