//! What needs no broker to be tested: a broker that is not there.

use std::time::Duration;

use sightline_bus::{TopicSpec, await_topics};
use sightline_core::config::{BusConfig, Config};
use sightline_core::shutdown::Shutdown;

#[test]
fn topics_are_waited_for() {
    let brokers = sightline_testing::free_address().to_string();
    let config = BusConfig { brokers, ..Config::layered(None, []).unwrap().bus };
    let shutdown = Shutdown::new();
    let waiting = std::thread::spawn({
        let shutdown = shutdown.clone();
        move || await_topics(&config, &[TopicSpec::aging("crops")], &shutdown)
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(!waiting.is_finished());
    shutdown.trigger();
    assert!(waiting.join().unwrap().is_err());
}
