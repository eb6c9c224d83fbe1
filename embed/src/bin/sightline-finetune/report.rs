//! What a person waiting at a terminal sees.

use std::io::Write;
use std::time::Instant;

/// Counted progress on standard error, with rate and what is left.
pub fn progress(what: &'static str, total: u64) -> impl Fn(u64) + Sync {
    let start = Instant::now();
    move |done| {
        if done % 200 == 0 || done == total {
            let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-9);
            let left = total.saturating_sub(done) as f64 / rate;
            eprint!("\r{what}: {done}/{total}  {rate:.0}/s  {left:.0} s left   ");
            if done == total {
                eprintln!();
            }
            let _ = std::io::stderr().flush();
        }
    }
}
