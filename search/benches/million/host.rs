//! What the operating system says of a process and a folder.

use std::fs;
use std::path::Path;

/// A process's memory in MB and its processor time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Memory of its own: it cannot be taken away without swapping.
    pub anonymous: f64,
    /// Pages of files that are in memory and mapped: the kernel drops them when it needs room.
    pub of_files: f64,
    /// Most of both together so far.
    pub peak: f64,
    /// Processor seconds of all its threads.
    pub cpu: f64,
}

impl Usage {
    /// Of process `pid`, or of this one.
    pub fn of(pid: Option<u32>) -> anyhow::Result<Self> {
        let folder = pid.map_or("/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let megabytes = |field: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(field));
            let kilobytes = line.and_then(|l| l.trim_matches([':', '\t', ' ']).split(' ').next()?.parse::<f64>().ok());
            kilobytes.unwrap_or(0.0) / 1024.0
        };
        // utime and stime are fields 14 and 15; the name in field 2 may hold anything but ends with the last ')'.
        let stat = fs::read_to_string(format!("{folder}/stat"))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>();
        /// Ticks a second, which Linux has fixed for programs.
        const TICKS: f64 = 100.0;
        Ok(Self {
            anonymous: megabytes("RssAnon"),
            of_files: megabytes("RssFile"),
            peak: megabytes("VmHWM"),
            cpu: ticks / TICKS,
        })
    }
}

/// MB on the disk below `path`: blocks that are taken, not lengths, because the engine makes sparse files.
pub fn disk(path: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    fn blocks(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        let of = |entry: fs::DirEntry| match entry.metadata() {
            Ok(m) if m.is_dir() => blocks(&entry.path()),
            Ok(m) => m.blocks(),
            // Gone meanwhile: the engine cleans up.
            Err(_) => 0,
        };
        entries.flatten().map(of).sum()
    }
    blocks(path) as f64 * 512.0 / 1e6
}

/// Runnable programs a processor, over the last minute.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|l| Some(l.split(' ').next()?.to_owned())).unwrap_or_default()
}
