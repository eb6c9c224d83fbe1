//! Our binaries as processes of their own, so that tests can kill and stop them. Each prints one
//! line when it serves, and the line names its address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Returns the path of a binary, which lies in the folder above that of the running test.
/// (`CARGO_BIN_EXE_<name>` does not reach the compiler when the name has a hyphen: the shell of
/// `.cargo/rustc-wrapper` drops such variables.)
///
/// # Panics
/// When the binary is missing: cargo builds it along with the tests of its own package, if the
/// features that it requires are on.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().nth(2).unwrap().join(name);
    assert!(found.is_file(), "{} is missing: build its package with the feature that it requires", found.display());
    found
}

/// A running binary that has told its address. It is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    line: String,
    url: String,
}

/// How a process ended that was asked to stop.
#[derive(Debug)]
pub struct Stopped {
    /// Time from the signal to the end.
    pub took: Duration,
    /// Standard output behind the first line.
    pub rest: String,
}

impl Process {
    /// Starts the process and waits for its first line.
    ///
    /// # Panics
    /// When it cannot be started, or its first line names no address.
    pub fn start(command: &mut Command) -> Self {
        Self::try_start(command).unwrap_or_else(|said| panic!("{said}"))
    }

    /// As [`Process::start`].
    ///
    /// # Errors
    /// When the first line names no address: the line, and how the process ended.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn try_start(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let Some(url) = url_in(&line) else {
            let _ = child.kill();
            let status = child.wait().unwrap();
            return Err(format!("no address in {line:?}, {status}"));
        };
        Ok(Self { child, output, url: url.to_owned(), line: line.trim_end().to_owned() })
    }

    /// Returns the first line that it printed, without the line's end.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Returns scheme, host and port, for example `http://127.0.0.1:9464`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns host and port.
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// Kills it: no destructor and no flush runs.
    ///
    /// # Panics
    /// When that fails.
    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it ends with a failure.
    pub fn stop(mut self) -> Stopped {
        let begun = Instant::now();
        // The shell's own `kill`: not every machine has the program.
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(kill.unwrap().success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "asked to stop, it ends with {status}");
        let took = begun.elapsed();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        Stopped { took, rest }
    }

    /// Makes a GET request over plain HTTP; returns the answer with its head.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Returns whether it answers that it is ready.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn is_ready(&self) -> bool {
        self.ask("/readyz").starts_with("HTTP/1.1 200")
    }

    /// Returns the sum of a metric over all its labels.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_with(name, "")
    }

    /// Returns the sum of a metric over the lines that contain `label`.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn metric_with(&self, name: &str, label: &str) -> f64 {
        sum_of(&self.ask("/metrics"), name, label)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns scheme, host and port of the first address in a line.
fn url_in(line: &str) -> Option<&str> {
    let url = &line[line.find("http")?..];
    let host = url.find("://")? + 3;
    let end = url[host..].find(|c: char| c == '/' || c.is_whitespace()).map_or(url.len(), |end| host + end);
    Some(&url[..end])
}

fn sum_of(metrics: &str, name: &str, label: &str) -> f64 {
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|more| more.starts_with([' ', '{']));
    let lines = metrics.lines().filter(named).filter(|line| line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_line_names_an_address() {
        assert_eq!(url_in("ready: http://127.0.0.1:80/#token=a\n"), Some("http://127.0.0.1:80"));
        assert_eq!(url_in("listens on https://[::1]:443\n"), Some("https://[::1]:443"));
        assert_eq!(url_in("error: nothing\n"), None);
        assert_eq!(url_in(""), None);
    }

    #[test]
    fn a_metric_is_the_sum_over_its_lines() {
        let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\na_total 5\na 7\n";
        assert_eq!((sum_of(text, "a", ""), sum_of(text, "a", "x=\"2\""), sum_of(text, "b", "")), (12.0, 3.0, 0.0));
    }

    #[test]
    fn a_process_is_started_and_stopped() {
        let script = "trap 'echo done; exit 0' TERM; echo on http://127.0.0.1:1/x; while :; do sleep 0.05; done";
        let process = Process::start(&mut shell(script));
        assert_eq!((process.address(), process.line()), ("127.0.0.1:1", "on http://127.0.0.1:1/x"));
        assert_eq!(process.stop().rest, "done\n");
    }

    #[test]
    fn one_that_cannot_start_says_why() {
        let said = Process::try_start(&mut shell("echo no weights; exit 3")).unwrap_err();
        assert!(said.contains("no weights"), "{said}");
    }
}
