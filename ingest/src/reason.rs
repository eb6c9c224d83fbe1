//! GStreamer's errors, retold for the person who has to mend the camera.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;

use crate::{Remote, Source};

/// One sentence for an error message of a pipeline; `missing` are the decoders it asked for in vain.
pub fn explain(error: &glib::Error, debug: Option<&str>, missing: &[String]) -> String {
    if !missing.is_empty() {
        return format!("no decoder is installed for {}", missing.join(", "));
    }
    if error.matches(gst::ResourceError::NotAuthorized) {
        return "the camera refuses the user name or password".into();
    }
    if error.matches(gst::StreamError::TypeNotFound) {
        return "this is no video: its format is not known".into();
    }
    let message = error.message().trim_end_matches('.');
    // The last line of the debug text says what happened; the ones before say where in GStreamer's source.
    let detail = debug.and_then(|d| d.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.contains("/GstPipeline:")));
    let text = match detail {
        Some(d) if !message.contains(d) => format!("{message} ({})", d.trim_end_matches('.')),
        _ => message.to_owned(),
    };
    text.chars().take(300).collect()
}

/// What can be said of a source before a pipeline is built. Only local sources are looked at.
pub fn preflight(source: &Source) -> Result<(), String> {
    let open = |path: &Path, what: &str| match std::fs::File::open(path) {
        Ok(f) => f.metadata().map_err(|e| format!("{what} {}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(format!("{what} {} does not exist", path.display())),
        Err(e) => Err(format!("{what} {} cannot be opened: {e}", path.display())),
    };
    match source {
        Source::File(path) => match open(path, "file")? {
            m if m.is_dir() => Err(format!("{} is a folder, not a video file", path.display())),
            m if m.is_file() && m.len() == 0 => Err(format!("file {} is empty", path.display())),
            _ => Ok(()),
        },
        Source::V4l2(path) => open(path, "device").map(|_| ()),
        _ => Ok(()),
    }
}

/// Why a server cannot be reached, asked of the network itself after GStreamer failed: it says "generic error" for a
/// refused connection. `None` when the server does accept connections.
pub fn unreachable(remote: &Remote) -> Option<String> {
    let whom = format!("{}:{}", remote.host, remote.port);
    let mut addresses = match (remote.host.as_str(), remote.port).to_socket_addrs() {
        Ok(a) => a,
        Err(_) => return Some(format!("host name {:?} is not known", remote.host)),
    };
    let address = addresses.next()?;
    match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        Ok(_) => None,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Some(format!("{whom} refuses the connection")),
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => Some(format!("{whom} does not answer")),
        Err(e) => Some(format!("{whom} cannot be reached: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_is_kept_and_the_place_in_the_source_is_not() {
        gst::init().expect("GStreamer");
        let e = glib::Error::new(gst::ResourceError::OpenRead, "Could not open resource.");
        let debug =
            "../gst/rtsp/gstrtspsrc.c(8336): f (): /GstPipeline:p/GstRTSPSrc:s:\nFailed to connect. (Generic error)";
        assert_eq!(explain(&e, Some(debug), &[]), "Could not open resource (Failed to connect. (Generic error))");
        assert_eq!(explain(&e, None, &["AV1".into()]), "no decoder is installed for AV1");
        let e = glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        assert!(explain(&e, None, &[]).contains("user name or password"));
    }

    #[test]
    fn local_sources_are_looked_at_first() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let empty = dir.path().join("empty.avi");
        std::fs::write(&empty, b"").expect("writable");
        let says = |p: &Path| preflight(&Source::File(p.to_owned())).expect_err("refused");
        assert!(says(&dir.path().join("gone.avi")).contains("does not exist"));
        assert!(says(&empty).contains("is empty"));
        assert!(says(dir.path()).contains("is a folder"));
        assert!(preflight(&Source::V4l2("/dev/video-none".into())).expect_err("refused").contains("does not exist"));
    }
}
