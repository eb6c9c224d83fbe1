//! Watches an `rtspsrc` for redirects. It follows them by itself: it sets its own `location` and
//! connects to the new server. Before it sends anything there, it asks `before-send`, which is
//! where the new server is checked.
//!
//! The `location` also changes when a session description names another address for control, as
//! cameras behind address translation do. Then the connection stays, so nothing is checked. Between
//! the description and the next request there is no answer that could redirect: the first change
//! after a description comes from it, and every other change is a redirect.

use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;
use url::Url;

use super::Guard;

/// Where an `rtspsrc` is connected to, as far as it has been checked.
#[derive(Debug)]
struct State {
    location: String,
    /// A session description came, and nothing was sent since.
    described: bool,
    refused: bool,
}

/// The watch over one `rtspsrc`.
#[derive(Debug)]
pub struct RtspWatch {
    guard: Arc<Guard>,
    state: Mutex<State>,
}

impl RtspWatch {
    /// Watches `source`, whose `location` is set and allowed.
    pub fn attach(guard: &Arc<Guard>, source: &gst::Element) {
        let state = State { location: source.property("location"), described: false, refused: false };
        let watch = Arc::new(Self { guard: Arc::clone(guard), state: Mutex::new(state) });
        let described = Arc::clone(&watch);
        source.connect("on-sdp", false, move |_| {
            described.state.lock().unwrap_or_else(PoisonError::into_inner).described = true;
            None
        });
        source.connect("before-send", false, move |args| {
            let source = args.first().and_then(|v| v.get::<gst::Element>().ok());
            let location = source.map(|source| source.property::<Option<String>>("location").unwrap_or_default());
            Some(location.is_some_and(|location| watch.may_send(&location)).to_value())
        });
    }

    /// Whether a request may be sent while the source has this `location`.
    fn may_send(&self, location: &str) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let described = std::mem::take(&mut state.described);
        if location != state.location {
            location.clone_into(&mut state.location);
            state.refused |= !described && !self.allows(location);
        }
        !state.refused
    }

    fn allows(&self, location: &str) -> bool {
        let url = Url::parse(location).ok();
        let server = url.as_ref().and_then(|url| match (url.scheme(), url.host_str()?) {
            ("rtsp", host) => Some(("rtsp", host, url.port().unwrap_or(554))),
            ("rtsps", host) => Some(("rtsps", host, url.port().unwrap_or(322))),
            _ => None,
        });
        match server {
            Some((scheme, host, port)) => self.guard.addresses(scheme, host.trim_matches(['[', ']']), port).is_ok(),
            None => {
                self.guard.refuse("the camera leads to an address that is neither rtsp:// nor rtsps://".into());
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::Config;
    use sightline_core::camera::AllowedSources;
    use sightline_core::config::{CameraConfig, IngestConfig};

    fn watch() -> RtspWatch {
        let rules = ["rtsp", "127.0.0.1/32"].map(str::to_owned).to_vec();
        let sources = AllowedSources::try_from(rules).expect("valid rules");
        let node = IngestConfig { sources, ..Config::layered(None, []).expect("default").ingest };
        let camera = CameraConfig::new("gate".parse().expect("valid"), "rtsp://127.0.0.1:1/a");
        let guard = Guard::new(&crate::CameraSpec::new(camera, &node).expect("valid"));
        let state = State { location: "rtsp://127.0.0.1:1/a".into(), described: false, refused: false };
        RtspWatch { guard, state: Mutex::new(state) }
    }

    fn described(watch: &RtspWatch) {
        watch.state.lock().expect("no panic").described = true;
    }

    #[test]
    fn a_redirect_to_what_is_not_allowed_ends_all_sending() {
        let w = watch();
        assert!(w.may_send("rtsp://127.0.0.1:1/a") && w.may_send("rtsp://127.0.0.1:2/b"));
        assert!(!w.may_send("rtsp://127.0.0.2:554/secret"));
        assert!(!w.may_send("rtsp://127.0.0.1:1/a"), "also what comes behind it");
        let refusal = w.guard.refusal().expect("told");
        assert!(refusal.contains("rtsp://127.0.0.2:554") && !refusal.contains("secret"), "{refusal}");
        for location in ["rtsps://127.0.0.1/a", "rtsph://127.0.0.1/a", "rtsp-sdp://v=0", "http://127.0.0.1/", ""] {
            assert!(!watch().may_send(location), "{location}");
        }
    }

    #[test]
    fn the_control_address_of_a_description_is_no_redirect_and_excuses_none() {
        let w = watch();
        described(&w);
        assert!(w.may_send("rtsp://192.168.7.7/control") && w.may_send("rtsp://192.168.7.7/control"));
        assert!(!w.may_send("rtsp://192.168.7.8/control"));
        // A description without one does not excuse the redirect that answers the next request.
        let w = watch();
        described(&w);
        assert!(w.may_send("rtsp://127.0.0.1:1/a"));
        assert!(!w.may_send("rtsp://192.168.7.7/control"));
    }
}
