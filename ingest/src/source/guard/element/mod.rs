//! The elements that GStreamer makes for an address. `uridecodebin` and the demuxers of playlists
//! look an element up by the scheme, also where no signal tells of it: playlists and keys are
//! fetched by elements outside of the pipeline. [`GuardedSource`] and [`RefusedSource`] have the
//! highest rank for every scheme, so that nothing else is made in this process.
//!
//! `udp` is left to GStreamer: RTSP takes its packets that way, and nobody is connected to.

mod guarded;
mod refused;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::ElementMetadata;

/// Schemes of [`GuardedSource`].
const GUARDED: &[&str] = &["http", "https", "file"];

/// What fetches on its own, past every element: the newer demuxers have an HTTP session of their
/// own, and that of session descriptions opens sockets to whatever they name.
const UNGUARDED: [&str; 4] = ["hlsdemux2", "dashdemux2", "mssdemux2", "sdpdemux"];

/// Above every source that GStreamer has.
const RANK: i32 = 1000;

/// Registers the elements, once per process.
///
/// # Errors
/// When GStreamer refuses them.
pub fn register() -> Result<(), glib::BoolError> {
    static DONE: OnceLock<Result<(), glib::BoolError>> = OnceLock::new();
    let register = || {
        let rank = gst::Rank::PRIMARY + RANK;
        // Before the second one is made: it takes the schemes that are known by then.
        refused_schemes();
        gst::Element::register(None, "sightlineguardedsrc", rank, GuardedSource::static_type())?;
        gst::Element::register(None, "sightlinerefusedsrc", rank, RefusedSource::static_type())?;
        for name in UNGUARDED {
            if let Some(factory) = gst::ElementFactory::find(name) {
                factory.set_rank(gst::Rank::NONE);
            }
        }
        Ok(())
    };
    DONE.get_or_init(register).clone()
}

/// All schemes of sources that are installed, but those that are guarded, and `udp`.
fn refused_schemes() -> &'static [&'static str] {
    static SCHEMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    SCHEMES.get_or_init(|| {
        let factories = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::ANY, gst::Rank::NONE);
        let sources = factories.into_iter().filter(|factory| factory.uri_type() == gst::URIType::Src);
        let mut schemes: Vec<String> =
            sources.flat_map(|factory| factory.uri_protocols()).map(|scheme| scheme.to_string()).collect();
        schemes.sort_unstable();
        schemes.dedup();
        let refused = schemes.into_iter().filter(|scheme| scheme != "udp" && !GUARDED.contains(&scheme.as_str()));
        // As long as the process, as GStreamer wants them.
        refused.map(|scheme| &*scheme.leak()).collect()
    })
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn metadata(name: &str) -> ElementMetadata {
    ElementMetadata::new(name, "Source/Network", "Goes where the camera may lead to", "Sightline")
}

fn pad_template() -> &'static [gst::PadTemplate] {
    static TEMPLATES: OnceLock<Vec<gst::PadTemplate>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let (any, always) = (gst::Caps::new_any(), gst::PadPresence::Always);
        gst::PadTemplate::new("src", gst::PadDirection::Src, always, &any).into_iter().collect()
    })
}

glib::wrapper! {
    /// Fetches an `http`, `https` or `file` address, if the camera may lead there.
    pub struct GuardedSource(ObjectSubclass<guarded::GuardedSource>)
        @extends gst::Bin, gst::Element, gst::Object, @implements gst::URIHandler, gst::ChildProxy;
}

glib::wrapper! {
    /// Stands for every other address, and fails.
    pub struct RefusedSource(ObjectSubclass<refused::RefusedSource>)
        @extends gst::Element, gst::Object, @implements gst::URIHandler;
}
