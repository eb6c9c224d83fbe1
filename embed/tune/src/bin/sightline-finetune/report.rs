//! Progress output of the commands: text for people on standard error, JSON lines for programs on
//! standard output.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;
use sightline_tune::contrast::Contrast;
use sightline_tune::evaluate::EvalStage;

/// Prints counted progress to standard error, with rate and time left: one line per kind of item,
/// overwritten at most twice a second.
pub fn counted() -> impl Fn(&'static str, usize, usize) + Sync {
    let state: Mutex<Option<(&str, Instant, Instant)>> = Mutex::new(None);
    move |what, done, total| {
        let now = Instant::now();
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, start, last_shown) = match state.as_mut() {
            Some(state) if state.0 == what => state,
            _ => state.insert((what, now, now)),
        };
        if done < total && now.duration_since(*last_shown).as_millis() < 500 {
            return;
        }
        *last_shown = now;
        let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-3);
        let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
        // Errors are ignored: a closed terminal must not end a run.
        let mut out = std::io::stderr();
        let _ = write!(out, "\r{what}: {done}/{total}  {rate:.0}/s  {left:.0} s left   ");
        if done == total {
            let _ = writeln!(out);
        }
        let _ = out.flush();
    }
}

/// Prints progress like [`counted`], for the stages of an evaluation.
pub fn staged() -> impl Fn(EvalStage, usize, usize) {
    let counted = counted();
    move |stage, done, total| {
        let what = match stage {
            EvalStage::Pictures => "pictures encoded",
            EvalStage::Texts => "texts encoded",
            EvalStage::Pairs => "texts ranked",
        };
        counted(what, done, total);
    }
}

/// Prints a line to standard error. Errors are ignored: a closed terminal must not end a run.
pub fn print_stderr(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a JSON line to standard output. Errors are ignored: the reader may have ended.
fn print_json(line: &Value) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Reports the progress of a run, as text on standard error or as JSON lines on standard output.
pub struct Reporter {
    json: bool,
    terminal: bool,
}

impl Reporter {
    /// Creates a reporter of JSON lines if `json`, of text otherwise.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a remark to standard error.
    pub fn note(&self, text: &str) {
        print_stderr(text);
    }

    /// Prints a JSON line, if this reporter prints JSON.
    pub fn value(&self, value: &Value) {
        if self.json {
            print_json(value);
        }
    }

    /// Reports a line of the log.
    pub fn line(&self, line: &Value) {
        if self.json {
            print_json(line);
            return;
        }
        let scores = |name: &str| {
            let r = &line["validation"][name];
            let number = |key: &str| r[key].as_f64().unwrap_or_default();
            let [r1, r5, r10, map] = ["rank1", "rank5", "rank10", "map"].map(number);
            (!r.is_null()).then(|| format!("{name} R1 {r1:.1} R5 {r5:.1} R10 {r10:.1} mAP {map:.1}"))
        };
        let ranks: Vec<String> = ["global", "local"].into_iter().filter_map(scores).collect();
        let text = if let Some(step) = line["resumed_at"].as_u64() {
            format!("goes on after step {step}")
        } else if let Some(steps) = line["planned_steps"].as_u64() {
            format!("{steps} steps in all fit into the time; the learning rate falls from here")
        } else if !ranks.is_empty() {
            format!("validation at step {}: {}", line["step"], ranks.join("; "))
        } else if line["loss"].is_number() {
            return self.progress(line);
        } else {
            return;
        };
        self.finish_progress();
        print_stderr(&text);
    }

    /// Prints step, loss, speed and time left; on a terminal, it overwrites the previous line.
    fn progress(&self, line: &Value) {
        let number = |key: &str| line[key].as_f64().unwrap_or_default();
        let of = line["steps"].as_u64().map(|steps| format!("/{steps}")).unwrap_or_default();
        let left = number("eta_min");
        let left = if left < 90.0 { format!("{left:.0} min") } else { format!("{:.1} h", left / 60.0) };
        let text = format!(
            "step {}{of}  loss {:.4}  lr {:.2e}  {:.0} pairs/s  {left} left",
            line["step"],
            number("loss"),
            number("lr"),
            number("pairs_per_s")
        );
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[2K{text}");
            let _ = std::io::stderr().flush();
        } else {
            print_stderr(&text);
        }
    }

    fn finish_progress(&self) {
        if self.terminal && !self.json {
            print_stderr("");
        }
    }

    /// Prints the last line of a command to standard error.
    pub fn end(&self, text: &str) {
        self.finish_progress();
        print_stderr(text);
    }
}

/// Prints the head of a table of contrasts.
pub fn contrast_head() {
    let [what, reached, chance, times] = ["", "reached", "chance", "times chance"];
    println!("| {what:<50} | {:>6} | {reached:>8} | {chance:>8} | {times:>20} |", "cases");
    println!("|{:-<52}|{:->8}|{:->10}|{:->10}|{:->22}|", "", ":", ":", ":", ":");
}

/// Prints a row of a table of contrasts.
pub fn contrast_row(name: &str, contrast: &Contrast) {
    let times = match (contrast.times, contrast.interval) {
        (None, _) => "chance reaches none".to_owned(),
        (Some(times), None) => format!("{times:.2}"),
        (Some(times), Some([low, high])) => format!("{times:.2} [{low:.2}, {high:.2}]"),
    };
    let Contrast { cases, reached, chance, .. } = contrast;
    println!("| {name:<50} | {cases:>6} | {reached:>8.4} | {chance:>8.4} | {times:>20} |");
}
