//! A line between the first camera node and the broker that can be cut: a proxy that stops passing
//! bytes on, in both directions, and keeps every connection open. Neither end hears anything, as
//! when a switch fails.
//!
//! The broker has a listener of its own for this node, and advertises the proxy's address there
//! (`SIGHTLINE_KAFKA_PROXY` of `docker/kafka/kafka.sh`), so that the client comes through the proxy
//! for every connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a side looks whether the line was cut or mended.
const POLL: Duration = Duration::from_millis(100);

/// The line; cut while [`Line::cut`] was called last.
pub struct Line {
    /// Port on which the node reaches the broker.
    pub port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    /// Starts the proxy. `folder` is the broker's; its port is read there at each connection, since
    /// the broker starts later.
    pub fn new(folder: PathBuf) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, is_cut) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let state = Arc::clone(&is_cut);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (folder, state) = (folder.clone(), Arc::clone(&state));
                std::thread::spawn(move || connect(&near, &folder, &state));
            }
        });
        Ok(Self { port, is_cut })
    }

    /// Passes nothing on any more.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Passes everything on again, what waits included.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

/// Serves one connection of the node until either side ends it.
fn connect(near: &TcpStream, folder: &Path, is_cut: &AtomicBool) {
    // A connection attempt through a cut line gets no answer.
    while is_cut.load(Ordering::Relaxed) {
        std::thread::sleep(POLL);
    }
    let far = std::fs::read_to_string(folder.join("proxied")).ok();
    let Some(far) = far.and_then(|address| TcpStream::connect(address.trim()).ok()) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| pass(near, &far, is_cut));
        scope.spawn(|| pass(&far, near, is_cut));
    });
}

/// Copies bytes from one side to the other until a side ends.
fn pass(mut from: &TcpStream, mut to: &TcpStream, is_cut: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while is_cut.load(Ordering::Relaxed) {
            std::thread::sleep(POLL);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // Errors here mean that a side has ended already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
