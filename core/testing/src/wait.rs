//! Waiting until something holds, with a limit and the name of what is waited for; and addresses
//! where nobody listens.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// Shortest pause between two looks, for what happens in memory.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longest pause between two looks, for what takes another process minutes.
const LONGEST: Duration = Duration::from_millis(50);

/// Waits until `there` returns a value, and returns it. The pauses between two looks are a
/// twentieth of the time waited so far, so that neither the waiting nor the looking costs much.
///
/// # Panics
/// After `limit`, with `what`.
#[track_caller]
pub fn until_some<T>(limit: Duration, what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = there() {
            return value;
        }
        let waited = begun.elapsed();
        assert!(waited < limit, "waited in vain for {limit:?}: {what}");
        std::thread::sleep((waited / 20).clamp(SHORTEST, LONGEST));
    }
}

/// Waits until `reached` is true.
///
/// # Panics
/// After `limit`, with `what`.
#[track_caller]
pub fn until(limit: Duration, what: &str, mut reached: impl FnMut() -> bool) {
    until_some(limit, what, || reached().then_some(()));
}

/// Returns an address of the loopback that was free a moment ago.
///
/// # Panics
/// When no port is free.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_at_once_what_is_there() {
        assert_eq!(until_some(Duration::ZERO, "a number", || Some(7)), 7);
        let mut looks = 0;
        until(Duration::from_secs(60), "the third look", || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "a miracle")]
    fn it_says_what_it_waited_for() {
        until(Duration::from_millis(20), "a miracle", || false);
    }

    #[test]
    fn nobody_listens_at_a_free_address() {
        assert!(std::net::TcpStream::connect(free_address()).is_err());
    }
}
