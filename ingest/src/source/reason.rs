//! Reasons: GStreamer's errors rewritten for the person who has to fix the camera.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;

use sightline_core::camera::{Remote, Source};

/// One sentence for an error message of a pipeline; `missing` are the decoders that GStreamer did
/// not find.
pub fn explain(error: &glib::Error, debug: Option<&str>, missing: &[String]) -> String {
    // A stream that is not used, metadata for example, may lack a decoder during the whole
    // connection: that does not explain a failure of the network or the disk.
    if !missing.is_empty() && !error.is::<gst::ResourceError>() {
        return format!("no decoder is installed for {}", missing.join(", "));
    }
    if error.matches(gst::ResourceError::NotAuthorized) {
        return "the camera refuses the user name or password".into();
    }
    if error.matches(gst::StreamError::TypeNotFound) {
        return "this is no video: its format is not known".into();
    }
    let message = error.message().trim_end_matches('.');
    // The last line of the debug text says what happened; the lines before it name the place in
    // GStreamer's source.
    let detail = debug.and_then(|d| d.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.contains("/GstPipeline:")));
    let text = match detail {
        Some(d) if !message.contains(d) => format!("{message} ({})", d.trim_end_matches('.')),
        _ => message.to_owned(),
    };
    text.chars().take(300).collect()
}

/// Checks a source before a pipeline is built. Only local sources are checked.
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

/// Largest number of a host's addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why a server cannot be reached, found by connecting to it after GStreamer failed, because
/// GStreamer reports a "generic error" for a refused connection. `None` when the server accepts
/// connections at one of its addresses: `localhost` often resolves to `::1` first, where a camera
/// that only speaks IPv4 refuses.
pub fn unreachable(remote: &Remote) -> Option<String> {
    let whom = format!("{}:{}", remote.host, remote.port);
    let addresses = match (remote.host.as_str(), remote.port).to_socket_addrs() {
        Ok(a) => a,
        Err(_) => return Some(format!("host name {:?} is not known", remote.host)),
    };
    let mut last = None;
    for address in addresses.take(MAX_ADDRESSES) {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(_) => return None,
            Err(e) => last = Some(e),
        }
    }
    last.map(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("{whom} refuses the connection"),
        std::io::ErrorKind::TimedOut => format!("{whom} does not answer"),
        _ => format!("{whom} cannot be reached: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::CameraUrl;

    #[test]
    fn the_detail_is_kept_and_the_place_in_the_source_is_not() {
        gst::init().expect("GStreamer");
        let e = glib::Error::new(gst::ResourceError::OpenRead, "Could not open resource.");
        let debug =
            "../gst/rtsp/gstrtspsrc.c(8336): f (): /GstPipeline:p/GstRTSPSrc:s:\nFailed to connect. (Generic error)";
        assert_eq!(explain(&e, Some(debug), &[]), "Could not open resource (Failed to connect. (Generic error))");
        assert_eq!(explain(&e, None, &["KLV metadata".into()]), "Could not open resource");
        let e = glib::Error::new(gst::StreamError::CodecNotFound, "Your installation lacks a plug-in");
        assert_eq!(explain(&e, None, &["AV1".into()]), "no decoder is installed for AV1");
        let e = glib::Error::new(gst::ResourceError::NotAuthorized, "Unauthorized");
        assert!(explain(&e, None, &[]).contains("user name or password"));
    }

    #[test]
    fn a_server_is_reachable_at_any_of_its_addresses() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = server.local_addr().expect("bound").port();
        let at = |host: &str, port| {
            let Ok(Source::Rtsp(remote)) = CameraUrl::from(format!("rtsp://{host}:{port}/s")).source() else {
                panic!("an address")
            };
            unreachable(&remote)
        };
        // `localhost` may resolve to ::1 first, where nobody listens.
        assert_eq!((at("127.0.0.1", port), at("localhost", port)), (None, None));
        drop(server);
        assert_eq!(at("127.0.0.1", port), Some(format!("127.0.0.1:{port} refuses the connection")));
        assert!(at("no-such-host.invalid", port).expect("unknown").contains("is not known"));
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
