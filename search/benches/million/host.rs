//! Memory, processor time and disk use, as the operating system reports them.

use std::fs;
use std::path::Path;

/// Memory in MB and processor time in seconds of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Anonymous memory, which only swapping could free.
    pub anonymous: f64,
    /// Mapped pages of files that are in memory: the kernel drops them when it needs room.
    pub of_files: f64,
    /// Peak of both together so far.
    pub peak: f64,
    /// Processor seconds of all threads.
    pub cpu: f64,
}

impl Usage {
    /// Reads the usage of process `pid`, or of this one.
    pub fn of(pid: Option<u32>) -> anyhow::Result<Self> {
        let folder = pid.map_or("/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let megabytes = |field: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(field));
            let kilobytes = line.and_then(|l| l.trim_matches([':', '\t', ' ']).split(' ').next()?.parse::<f64>().ok());
            kilobytes.unwrap_or(0.0) / 1024.0
        };
        // utime and stime are fields 14 and 15; the name in field 2 may hold anything but ends with
        // the last ')'.
        let stat = fs::read_to_string(format!("{folder}/stat"))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>();
        /// Clock ticks per second, which Linux has fixed for programs.
        const TICKS: f64 = 100.0;
        Ok(Self {
            anonymous: megabytes("RssAnon"),
            of_files: megabytes("RssFile"),
            peak: megabytes("VmHWM"),
            cpu: ticks / TICKS,
        })
    }
}

/// Disk use below `path` in MB: allocated blocks, not lengths, because the engine creates sparse
/// files.
pub fn disk(path: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    fn blocks(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        let of = |entry: fs::DirEntry| match entry.metadata() {
            Ok(m) if m.is_dir() => blocks(&entry.path()),
            Ok(m) => m.blocks(),
            // Deleted meanwhile: the engine cleans up.
            Err(_) => 0,
        };
        entries.flatten().map(of).sum()
    }
    blocks(path) as f64 * 512.0 / 1e6
}

/// Load average of the last minute per processor.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|l| Some(l.split(' ').next()?.to_owned())).unwrap_or_default()
}
