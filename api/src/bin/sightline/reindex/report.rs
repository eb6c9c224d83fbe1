//! Output of `sightline reindex`: progress on a terminal line and in the log, then a summary.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use sightline_search::reindex::{Event, LeftOut, Outcome};

/// Interval between updates of the terminal line, and between log lines.
const LINE_INTERVAL: Duration = Duration::from_millis(500);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Number of sightings without a readable picture that are listed at the end; the log and the JSON
/// list all.
const MAX_LISTED: usize = 20;

/// Printed when nothing is left to do.
const NEW_MODEL_ANSWERS: &str = "the new model answers from the next start of the server on";

/// Progress printed to standard error.
pub struct Report {
    terminal: bool,
    bytes_each: usize,
    /// Time of the first event.
    started: Option<Instant>,
    shown: Option<Instant>,
    logged: Option<Instant>,
}

impl Report {
    /// Creates a report that prints nothing before the first event.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), bytes_each: 0, started: None, shown: None, logged: None }
    }

    /// Whether the progress line goes to a terminal.
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Sets the disk space that one sighting takes, in bytes.
    pub fn set_bytes_each(&mut self, bytes: usize) {
        self.bytes_each = bytes;
    }

    /// Prints an event.
    pub fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::LeftOut(LeftOut { sighting, camera, captured_at, why }) => {
                self.clear();
                tracing::warn!(%sighting, %camera, %captured_at, why, "cannot be embedded anew");
            }
            Event::Progress { done, embedded, total, left_out } => {
                let now = Instant::now();
                let first = self.started.is_none();
                let elapsed = now - *self.started.get_or_insert(now);
                let left = total.saturating_sub(done + left_out);
                if first {
                    let megabytes = (left * self.bytes_each as u64).div_ceil(1_000_000);
                    tracing::info!(sightings = total, found = done, to_embed = left, megabytes, "embedding anew");
                    if self.terminal {
                        // Write errors are ignored here and below: a closed terminal must not end
                        // the work.
                        let _ = writeln!(
                            std::io::stderr(),
                            "{total} sightings, {done} of them embedded already; the others take about {megabytes} MB of disk"
                        );
                    }
                }
                let pace = Pace::of(embedded + left_out, left, elapsed);
                let due = |last: Option<Instant>, every| left == 0 || last.is_none_or(|at| now - at >= every);
                if due(self.logged, LOG_INTERVAL) && !first {
                    self.logged = Some(now);
                    let (per_second, left_s) = ((pace.per_second * 10.0).round() / 10.0, pace.left_s.round());
                    tracing::info!(done, total, left_out, per_second, left_s, "embedding anew");
                }
                self.logged.get_or_insert(now);
                if self.terminal && due(self.shown, LINE_INTERVAL) {
                    self.shown = Some(now);
                    let _ = write!(std::io::stderr(), "\r\x1b[2K{}", line(done, total, left_out, &pace));
                    let _ = std::io::stderr().flush();
                }
            }
        }
    }

    /// Ends the progress line and leaves it on the screen.
    pub fn end(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }

    fn clear(&self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

/// Rate and remaining time.
#[derive(Debug, PartialEq)]
struct Pace {
    per_second: f64,
    left_s: f64,
}

impl Pace {
    /// Computes the pace of this run: `worked` sightings in `elapsed`, with `left` to go.
    fn of(worked: u64, left: u64, elapsed: Duration) -> Self {
        let per_second = worked as f64 / elapsed.as_secs_f64().max(1e-3);
        Self { per_second, left_s: if left == 0 { 0.0 } else { left as f64 / per_second.max(1e-9) } }
    }
}

fn line(done: u64, total: u64, left_out: u64, pace: &Pace) -> String {
    let per_second = pace.per_second;
    let time = match pace.left_s {
        s if per_second == 0.0 || s == 0.0 => String::new(),
        s if s < 90.0 => format!("  {s:.0} s left"),
        s if s < 5400.0 => format!("  {:.0} min left", s / 60.0),
        s => format!("  {:.1} h left", s / 3600.0),
    };
    let without = if left_out == 0 { String::new() } else { format!("  {left_out} without a readable picture") };
    format!("{done}/{total} sightings  {per_second:.1}/s{time}{without}")
}

/// Summary of a reindex.
#[derive(Default)]
pub struct Summary {
    /// Id of the new model.
    pub model: String,
    /// Models that had an index before.
    pub former: Vec<String>,
    /// Counts of the run.
    pub outcome: Outcome,
    /// Whether the new model answers now.
    pub finished: bool,
    /// Models whose indexes were deleted.
    pub dropped: Vec<String>,
    /// Duration of the run.
    pub seconds: f64,
}

impl Summary {
    /// Prints the summary to standard output.
    pub fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            let Outcome { total, found, embedded, erased, left_out, stopped } = &self.outcome;
            let value = json!({
                "model": self.model, "former": self.former, "finished": self.finished, "stopped": stopped,
                "total": total, "found": found, "embedded": embedded, "erased": erased, "left_out": left_out,
                "dropped": self.dropped, "seconds": self.seconds,
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
        } else {
            self.lines().iter().for_each(|line| println!("{line}"));
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let Self { model, outcome, .. } = self;
        let Outcome { total, found, embedded, left_out, stopped, .. } = outcome;
        if self.former.is_empty() {
            return vec![format!("nothing to do: nobody was indexed by another model than {model}")];
        }
        let mut lines = Vec::new();
        let without = left_out.len();
        if without > 0 {
            lines.push(format!("{} no readable picture:", sightings(without, "have", "has")));
            let name = |l: &LeftOut| format!("  {}  {}  {}  {}", l.sighting, l.camera, l.captured_at, l.why);
            lines.extend(left_out.iter().take(MAX_LISTED).map(name));
            if without > MAX_LISTED {
                lines.push(format!("  and {} more (--json lists all)", without - MAX_LISTED));
            }
        }
        let done = found + embedded;
        let seconds = self.seconds;
        lines.push(format!(
            "{done} of {total} sightings are embedded by model {model}, {embedded} of them now, in {seconds:.0} s"
        ));
        let who = if self.finished { "the new model" } else { "the former model" };
        let old = self.former.join(", ");
        lines.push(match (*stopped, self.finished, self.dropped.is_empty()) {
            (true, ..) => format!("stopped; {who} goes on answering. Run `sightline reindex` again to go on"),
            (false, false, _) => format!(
                "the former model goes on answering. Bring the pictures back and run `sightline reindex` again, or let the \
                 new model do without: `sightline reindex --leave-out {without}`"
            ),
            (false, true, false) => format!("{NEW_MODEL_ANSWERS}. Deleted: the index of {}", self.dropped.join(", ")),
            (false, true, true) if without == 0 => {
                format!("{NEW_MODEL_ANSWERS}. The index of {old} is kept to go back to; `sightline reindex --drop-former` deletes it")
            }
            (false, true, true) => format!(
                "{NEW_MODEL_ANSWERS}, without {}. The index of {old} is kept; `sightline reindex --leave-out {without} --drop-former` \
                 deletes it, and them for good",
                if without == 1 { "that one" } else { "those" },
            ),
        });
        lines
    }
}

/// Formats a count: "1 sighting has", "2 sightings have".
fn sightings(n: usize, many: &str, one: &str) -> String {
    if n == 1 { format!("1 sighting {one}") } else { format!("{n} sightings {many}") }
}

#[cfg(test)]
mod tests {
    use sightline_core::{SightingId, Timestamp};

    use super::*;

    #[test]
    fn rate_and_time_left_are_of_this_run() {
        let pace = Pace::of(50, 100, Duration::from_secs(10));
        assert_eq!(pace, Pace { per_second: 5.0, left_s: 20.0 });
        assert_eq!(line(900, 1000, 0, &pace), "900/1000 sightings  5.0/s  20 s left");
        let slow = Pace::of(1, 18_000, Duration::from_secs(1));
        assert_eq!(line(1, 18_003, 2, &slow), "1/18003 sightings  1.0/s  5.0 h left  2 without a readable picture");
        let none = Pace::of(0, 7, Duration::ZERO);
        assert_eq!(line(0, 7, 0, &none), "0/7 sightings  0.0/s");
        assert_eq!(Pace::of(3, 0, Duration::from_secs(1)).left_s, 0.0);
    }

    #[test]
    fn the_last_line_says_who_answers_and_what_to_do() {
        let last = |summary: &Summary| summary.lines().pop().unwrap_or_default();
        let mut summary = Summary { model: "new".into(), ..Summary::default() };
        assert!(last(&summary).starts_with("nothing to do"));
        summary.former = vec!["old".into()];
        summary.outcome = Outcome { total: 3, embedded: 1, stopped: true, ..Outcome::default() };
        assert!(last(&summary).contains("the former model goes on answering. Run `sightline reindex` again"));
        let left = LeftOut {
            sighting: SightingId::nil(),
            camera: "gate".parse().expect("a name"),
            captured_at: Timestamp::from_micros(0),
            why: "its picture is not there".into(),
        };
        summary.outcome = Outcome { total: 3, embedded: 2, left_out: vec![left; 1], ..Outcome::default() };
        assert!(last(&summary).contains("--leave-out 1"), "{}", last(&summary));
        assert!(summary.lines()[0].starts_with("1 sighting has") && summary.lines()[1].contains("gate"));
        summary.finished = true;
        assert!(last(&summary).contains("without that one") && last(&summary).contains("--leave-out 1 --drop-former"));
        summary.outcome.left_out.clear();
        assert!(last(&summary).contains("The index of old is kept to go back to"), "{}", last(&summary));
        summary.dropped = vec!["old".into()];
        assert!(last(&summary).contains("Deleted: the index of old"), "{}", last(&summary));
    }
}
