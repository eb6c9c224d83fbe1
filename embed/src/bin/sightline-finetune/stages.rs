//! Progress of an evaluation on a terminal.

use std::cell::RefCell;
use std::io::Write;
use std::time::Instant;

use sightline_embed::train::evaluate::Stage;

/// A line on standard error per stage, written over twice a second at most.
pub fn staged() -> impl Fn(Stage, usize, usize) {
    let state: RefCell<Option<(Stage, Instant, Instant)>> = RefCell::new(None);
    move |stage, done, total| {
        let now = Instant::now();
        let mut state = state.borrow_mut();
        let (_, start, told) = match state.as_mut() {
            Some(state) if state.0 == stage => state,
            _ => state.insert((stage, now, now)),
        };
        if done < total && now.duration_since(*told).as_millis() < 500 {
            return;
        }
        *told = now;
        let name = match stage {
            Stage::Pictures => "pictures encoded",
            Stage::Texts => "texts encoded",
            Stage::Pairs => "texts ranked",
        };
        let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-3);
        let left = if done == total { 0.0 } else { (total - done) as f64 / rate.max(1e-9) };
        // Nobody there to read it is no reason to stop.
        let mut out = std::io::stderr();
        let _ = write!(out, "\r{name}: {done}/{total}  {rate:.0}/s  {left:.0} s left   ");
        if done == total {
            let _ = writeln!(out);
        }
        let _ = out.flush();
    }
}
