//! The tracker reproduces the published Python implementation: single steps, and whole sequences
//! association by association. `tests/golden/tracker/README.md` describes the data and their
//! conventions.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sightline_detect::track::{
    Aged, ByteTrack, Kalman, Observation, Track, TrackRules, TrackState, assign, duplicates, fuse, iou,
};

/// Largest deviations seen, for the report.
#[derive(Default)]
struct Worst {
    boxes: f64,
    kalman: f64,
}

fn folder() -> PathBuf {
    std::env::var_os("SIGHTLINE_TRACKER_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tracker"), PathBuf::from)
}

fn load(name: &str) -> Value {
    let path = folder().join(name);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn floats<const N: usize>(v: &Value) -> [f64; N] {
    let all: Vec<f64> = list(v).iter().map(|x| x.as_f64().expect("a number")).collect();
    all.try_into().expect("the documented length")
}

fn matrix(v: &Value) -> [[f64; 8]; 8] {
    std::array::from_fn(|i| floats(&v[i]))
}

fn ints(v: &Value) -> Vec<u64> {
    list(v).iter().map(|x| x.as_u64().expect("a whole number")).collect()
}

/// |a - b| in units of the tolerance 1e-8 relative with a floor of 1e-9.
fn close(a: &[f64], b: &[f64], worst: &mut f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (x, y) in a.iter().zip(b) {
        let off = (x - y).abs() / (1e-8 * y.abs()).max(1e-9);
        assert!(off <= 1.0, "{what}: {x} instead of {y}");
        *worst = worst.max(off);
    }
}

fn diagonal(c: &[[f64; 8]; 8]) -> [f64; 8] {
    std::array::from_fn(|i| c[i][i])
}

#[test]
fn kalman_steps() {
    let data = load("unit_kalman.json");
    let mut worst = 0.0;
    for b in list(&data["boxes"]) {
        let seen = Observation { tlbr: floats(&b["tlbr"]), score: 1.0 };
        close(&seen.xyah(), &floats::<4>(&b["xyah"]), &mut worst, "xyah");
        let back = Kalman::initiate(seen.xyah()).tlbr();
        close(&back, &floats::<4>(&b["tlbr_back"]), &mut worst, "tlbr");
    }
    for c in list(&data["initiate"]) {
        let k = Kalman::initiate(floats(&c["z"]));
        close(&k.mean(), &floats::<8>(&c["mean"]), &mut worst, "initiate");
        close(k.covariance().as_flattened(), matrix(&c["cov"]).as_flattened(), &mut worst, "initiate");
    }
    for c in list(&data["predict"]) {
        let mut k = Kalman::from_moments(floats(&c["mean"]), &matrix(&c["cov"]));
        if c["state"] != "tracked" {
            k.hold_height();
        }
        k.predict(1.0);
        close(&k.mean(), &floats::<8>(&c["mean_out"]), &mut worst, "predict");
        close(k.covariance().as_flattened(), matrix(&c["cov_out"]).as_flattened(), &mut worst, "predict");
    }
    for c in list(&data["update"]) {
        let mut k = Kalman::from_moments(floats(&c["mean"]), &matrix(&c["cov"]));
        let (mean, var) = k.project();
        close(&mean, &floats::<4>(&c["proj_mean"]), &mut worst, "project");
        for (i, v) in var.iter().enumerate() {
            close(&[*v], &[floats::<4>(&c["proj_cov"][i])[i]], &mut worst, "project");
        }
        k.update(floats(&c["z"]));
        close(&k.mean(), &floats::<8>(&c["mean_out"]), &mut worst, "update");
        close(k.covariance().as_flattened(), matrix(&c["cov_out"]).as_flattened(), &mut worst, "update");
    }
    let mut steps = 0;
    for chain in list(&data["chains"]) {
        let mut k = Kalman::initiate(floats(&chain["steps"][0]["z"]));
        for (i, s) in list(&chain["steps"]).iter().enumerate() {
            match s["op"].as_str().expect("an operation") {
                "init" => assert_eq!(i, 0),
                "update" => k.update(floats(&s["z"])),
                op => {
                    if op == "predict_lost" {
                        k.hold_height();
                    }
                    k.predict(1.0);
                }
            }
            close(&k.mean(), &floats::<8>(&s["mean"]), &mut worst, "chain");
            close(&diagonal(&k.covariance()), &floats::<8>(&s["cov_diag"]), &mut worst, "chain");
            steps += 1;
        }
        close(k.covariance().as_flattened(), matrix(&chain["cov_full_end"]).as_flattened(), &mut worst, "chain end");
    }
    assert!(steps > 100);
    println!("unit_kalman: {steps} chained steps, worst {worst:.2e} of the tolerance");
}

#[test]
fn assignments_with_a_limit() {
    let data = load("unit_assign.json");
    assert_eq!(list(&data["cases"]).len(), 61);
    for c in list(&data["cases"]) {
        let [rows, cols] = ["rows", "cols"].map(|k| c[k].as_u64().expect("a count") as usize);
        let cost: Vec<f64> = list(&c["cost"]).iter().flat_map(list).filter_map(Value::as_f64).collect();
        let limit = c["limit"].as_f64().expect("a limit");
        let pairs = assign(&cost, rows, cols, limit);
        let golden: Vec<(usize, usize)> =
            list(&c["pairs"]).iter().map(|p| (ints(p)[0] as usize, ints(p)[1] as usize)).collect();
        let total: f64 = pairs.iter().map(|&(r, k)| cost[r * cols + k] - limit).sum();
        let expected = c["total"].as_f64().expect("a total") - limit * golden.len() as f64;
        assert!((total - expected).abs() < 1e-9, "{}: {total} instead of {expected}", c["name"]);
        if c["unique"] == true {
            assert_eq!(pairs, golden, "{}", c["name"]);
        }
    }
}

#[test]
fn overlaps_and_duplicates() {
    let data = load("unit_iou.json");
    let mut worst = 0.0;
    for c in list(&data["cases"]) {
        for (i, a) in list(&c["a"]).iter().enumerate() {
            for (j, b) in list(&c["b"]).iter().enumerate() {
                let o = iou(floats(a), floats(b));
                close(&[1.0 - o], &[c["iou_dist"][i][j].as_f64().expect("distance")], &mut worst, "IoU");
                let score = c["scores"][j].as_f64().expect("score");
                close(&[fuse(o, score)], &[c["fused"][i][j].as_f64().expect("cost")], &mut worst, "fused");
            }
        }
    }
    assert_eq!(list(&data["remove_duplicates"]).len(), 10);
    for c in list(&data["remove_duplicates"]) {
        let aged = |v: &Value| -> Vec<Aged> {
            let age = |t: &Value| t["last"].as_f64().expect("last") - t["start"].as_f64().expect("start");
            list(v).iter().map(|t| Aged { tlbr: floats(&t["tlbr"]), age: age(t) }).collect()
        };
        let (t, l) = duplicates(&aged(&c["tracked"]), &aged(&c["lost"]));
        let kept = |v: &Value, drop: &[bool]| -> Vec<u64> {
            list(v).iter().zip(drop).filter(|(_, d)| !**d).filter_map(|(t, _)| t["id"].as_u64()).collect()
        };
        assert_eq!(kept(&c["tracked"], &t), ints(&c["keep_tracked"]));
        assert_eq!(kept(&c["lost"], &l), ints(&c["keep_lost"]));
    }
    println!("unit_iou: worst {worst:.2e} of the tolerance");
}

fn state_name(t: &Track) -> &'static str {
    match t.state {
        TrackState::Tracked => "tracked",
        TrackState::Lost => "lost",
        TrackState::Removed => "removed",
    }
}

/// Runs one golden run and compares everything it lists.
fn replay(what: &str, file: &Value, dets: &[Value], run: &Value, worst: &mut Worst) -> usize {
    let p = &run["params"];
    let num = |k: &str| p[k].as_f64().unwrap_or_else(|| panic!("{what}: no {k}"));
    let mut tracker = ByteTrack::new(TrackRules {
        new_track: num("det_thresh"),
        fuse_score: p["mot20"] != true,
        ..TrackRules::published(num("track_thresh"), num("match_thresh"), num("max_time_lost"))
    });
    let (info, size) = (floats::<2>(&file["img_info"]), floats::<2>(&file["img_size"]));
    let scale = (size[0] / info[0]).min(size[1] / info[1]);
    let mut states = list(&run["states"]).iter().peekable();
    let (mut ids, mut compared) = (0, 0);
    let stride = run["stride"].as_u64().expect("a stride") as usize;
    let golden = list(&run["frames"]);
    for (k, (frame, expected)) in dets.iter().step_by(stride).zip(golden).enumerate() {
        let what = format!("{what}, update {}", k + 1);
        let seen: Vec<Observation> = list(frame)
            .iter()
            .map(floats::<5>)
            .map(|d| Observation { tlbr: [0, 1, 2, 3].map(|i| d[i] / scale), score: d[4] })
            .collect();
        let got = tracker.update(1.0, &seen);
        compared += 1;

        let matches: Vec<Vec<u64>> =
            got.matches.iter().map(|m| vec![m.stage as u64, m.track, m.observation as u64]).collect();
        assert_eq!(matches, list(&expected["m"]).iter().map(ints).collect::<Vec<_>>(), "{what}: matches");
        let born: Vec<u64> = got.born.iter().map(|b| b.0).collect();
        assert_eq!(born, ints(&expected["n"]), "{what}: born");
        ids += born.len() as u64;
        let pick =
            |all: &[Track], f: fn(&Track) -> bool| -> Vec<u64> { all.iter().filter(|t| f(t)).map(|t| t.id).collect() };
        assert_eq!(pick(tracker.tracked(), |t| !t.confirmed), ints(&expected["u"]), "{what}: unconfirmed");
        assert_eq!(pick(tracker.lost(), |_| true), ints(&expected["l"]), "{what}: lost");
        let zombies = pick(tracker.lost(), |t| t.state == TrackState::Removed);
        assert_eq!(zombies, ints(&expected["z"]), "{what}: expired");
        assert_eq!(got.removed, ints(&expected["r"]), "{what}: removed");
        let mut doubles: Vec<(String, u64)> = Vec::new();
        doubles.extend(got.duplicate_tracked.iter().map(|&id| ("tracked".to_owned(), id)));
        doubles.extend(got.duplicate_lost.iter().map(|&id| ("lost".to_owned(), id)));
        let golden_doubles: Vec<(String, u64)> = list(&expected["d"])
            .iter()
            .map(|d| (d[0].as_str().expect("a list").to_owned(), d[1].as_u64().expect("an id")))
            .collect();
        assert_eq!(doubles, golden_doubles, "{what}: duplicates");

        let output: Vec<&Track> = tracker.tracked().iter().filter(|t| t.confirmed).collect();
        assert_eq!(output.len(), list(&expected["o"]).len(), "{what}: output");
        for (t, o) in output.iter().zip(list(&expected["o"]).iter().map(floats::<6>)) {
            assert_eq!((t.id as f64, t.score), (o[0], o[5]), "{what}: id and score");
            let [x0, y0, x1, y1] = t.tlbr();
            for (a, b) in [x0, y0, x1 - x0, y1 - y0].into_iter().zip(&o[1..5]) {
                let off = (a - b).abs() / 2e-4;
                assert!(off <= 1.0, "{what}, track {}: {a} instead of {b}", t.id);
                worst.boxes = worst.boxes.max(off);
            }
        }
        while let Some(s) = states.next_if(|s| s["f"].as_u64() == Some(k as u64 + 1)) {
            let id = s["id"].as_u64().expect("an id");
            let mut live = tracker.tracked().iter().chain(tracker.lost());
            let t = live.find(|t| t.id == id).unwrap_or_else(|| panic!("{what}: track {id} is gone"));
            assert_eq!(state_name(t), s["state"], "{what}, track {id}");
            assert_eq!(Some(t.confirmed), s["act"].as_bool(), "{what}, track {id}");
            assert_eq!((Some(t.start), Some(t.last)), (s["start"].as_f64(), s["last"].as_f64()), "{what}, track {id}");
            assert_eq!(Some(u64::from(t.streak)), s["len"].as_u64(), "{what}, track {id}");
            close(&t.kalman.mean(), &floats::<8>(&s["mean"]), &mut worst.kalman, &what);
            close(&diagonal(&t.kalman.covariance()), &floats::<8>(&s["cov"]), &mut worst.kalman, &what);
        }
    }
    assert_eq!(compared, golden.len(), "{what}: every golden frame was compared");
    assert!(states.next().is_none(), "{what}: every golden state was compared");
    if let Some(used) = run["ids_used"].as_u64() {
        assert_eq!(ids, used, "{what}: ids given out");
    }
    compared
}

#[test]
fn sequences() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("the golden folder")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.starts_with("seq_") || (n.starts_with("vtest_") && n != "vtest_dets.json"))
        .collect();
    names.sort();
    let (mut runs, mut updates, mut worst) = (0, 0, Worst::default());
    for name in &names {
        let file = load(name);
        let dets = file["dets"].as_str().map_or_else(|| file["dets"].clone(), |n| load(n)["dets"].clone());
        let all: Vec<(String, &Value)> = match file["runs"].as_object() {
            Some(runs) => runs.iter().map(|(k, r)| (format!("{name} {k}"), r)).collect(),
            None => vec![(name.clone(), &file["run"])],
        };
        assert!(!all.is_empty(), "{name} holds no run");
        for (what, run) in all {
            updates += replay(&what, &file, list(&dets), run, &mut worst);
            runs += 1;
        }
    }
    assert!(names.len() >= 16, "the golden files are there: {names:?}");
    println!(
        "{} files, {runs} runs, {updates} updates; of the tolerances: boxes {:.2e}, filter {:.2e}",
        names.len(),
        worst.boxes,
        worst.kalman
    );
}
