//! How many machines for how many cameras: a discrete-event simulation of the pipeline with measured service times.
//!
//! ```text
//! cargo run --release -p sightline-core --example capacity              # the tables of docker/SIZING.md
//! cargo run --release -p sightline-core --example capacity -- --seed 7
//! cargo test -p sightline-core --example capacity                       # against M/M/1, M/D/1, M/M/c and M/M/1/K
//! ```
//!
//! Frames of live cameras wait in a queue of two each for a detector (drop oldest); pictures go through the topic `crops`
//! to the embed workers (batches of 8, 40 ms of linger), their features through the topic `sightings` to the index workers
//! (batches of 64, no linger). A topic holds days, so between processes nothing is dropped: it waits. What is assumed is
//! in `assumed`, what was measured, and where, in `measured`. The same seed gives the same tables.

mod plan;
mod random;
mod records;
mod station;
mod summary;
mod tables;
mod traffic;

fn main() {
    let mut seed = 1;
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match (argument.as_str(), given.next().map(|v| v.parse())) {
            ("--seed", Some(Ok(value))) => seed = value,
            _ => {
                eprintln!("usage: capacity [--seed NUMBER]");
                std::process::exit(2);
            }
        }
    }
    println!("{}", tables::all(seed));
}
