//! The source of `http`, `https` and `file` addresses: a bin around `souphttpsrc` or `filesrc`. It
//! gives the inner element its address when the guard has allowed the file, or with the guard's proxy.

use std::sync::{Arc, Mutex, OnceLock};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::ElementMetadata;
use gstreamer::subclass::prelude::*;
use url::Url;

use super::super::Guard;
use super::{GUARDED, lock, metadata, pad_template};

#[derive(Default)]
struct Inner {
    uri: String,
    /// The source has been set up for this address.
    configured: bool,
    /// `souphttpsrc` or `filesrc`.
    source: Option<gst::Element>,
    headers: Option<gst::Structure>,
}

#[derive(Default)]
pub struct GuardedSource {
    inner: Mutex<Inner>,
}

impl GuardedSource {
    /// Makes the element for the kind of address, unless it is there.
    fn prepare(&self, uri: &str) -> Result<gst::Element, glib::BoolError> {
        let kind =
            if uri.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("file:")) { "filesrc" } else { "souphttpsrc" };
        let mut inner = lock(&self.inner);
        if let Some(source) = &inner.source {
            if source.factory().is_some_and(|factory| factory.name() == kind) {
                return Ok(source.clone());
            }
            source.set_state(gst::State::Null).map_err(|_| glib::bool_error!("a source does not stop"))?;
            self.obj().remove(source)?;
        }
        let source = gst::ElementFactory::make(kind).build()?;
        self.obj().add(&source)?;
        let pad = self.obj().static_pad("src").and_then(|pad| pad.downcast::<gst::GhostPad>().ok());
        if let Some(pad) = pad {
            pad.set_target(source.static_pad("src").as_ref())?;
        }
        inner.source = Some(source.clone());
        Ok(source)
    }

    /// Sets the source up for the address, or refuses it and says so. Before that it has no address.
    fn configure(&self) -> Result<(), glib::BoolError> {
        if lock(&self.inner).configured {
            return Ok(());
        }
        self.configure_anew().inspect_err(|why| {
            gst::element_imp_error!(self, gst::ResourceError::Failed, ["{}", why.message]);
        })?;
        lock(&self.inner).configured = true;
        Ok(())
    }

    /// Whether the source has its address, or gets it now. `false` before it is part of a pipeline:
    /// without an address a source cannot say how it is read, and fails.
    fn is_ready(&self) -> bool {
        let configured = lock(&self.inner).configured;
        configured || Guard::of(self.obj().upcast_ref()).is_some() && self.configure().is_ok()
    }

    fn configure_anew(&self) -> Result<(), glib::BoolError> {
        let guard = Guard::of(self.obj().upcast_ref());
        let guard = guard.ok_or_else(|| glib::bool_error!("nobody guards this source"))?;
        let uri = lock(&self.inner).uri.clone();
        let url = Url::parse(&uri).map_err(|_| glib::bool_error!("this is no address"))?;
        let source = self.prepare(&uri)?;
        if url.scheme() != "file" {
            self.configure_http(&guard, &source, url.host_str().unwrap_or_default())?;
        } else if !url.to_file_path().is_ok_and(|path| guard.allows_file(&path)) {
            return Err(glib::bool_error!("this file is not allowed"));
        }
        let handler = source.dynamic_cast_ref::<gst::URIHandler>();
        let set = handler.is_some_and(|handler| handler.set_uri(&uri).is_ok());
        if set { Ok(()) } else { Err(glib::bool_error!("this address is not taken")) }
    }

    fn configure_http(&self, guard: &Arc<Guard>, source: &gst::Element, host: &str) -> Result<(), glib::BoolError> {
        let proxy = guard.proxy().ok_or_else(|| glib::bool_error!("there is no proxy"))?;
        source.set_property("proxy", format!("http://{proxy}"));
        source.set_property("timeout", u32::try_from(guard.connect.as_secs().max(1)).unwrap_or(u32::MAX));
        source.set_property("extra-headers", lock(&self.inner).headers.clone());
        let (user, password) = guard.credentials(host).unzip();
        source.set_property("user-id", user);
        source.set_property("user-pw", password);
        Ok(())
    }

    fn source(&self) -> Option<gst::Element> {
        lock(&self.inner).source.clone()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for GuardedSource {
    const NAME: &'static str = "SightlineGuardedSource";
    type Type = super::GuardedSource;
    type ParentType = gst::Bin;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for GuardedSource {
    fn constructed(&self) {
        self.parent_constructed();
        if let Some(template) = self.obj().pad_template("src") {
            let pad = gst::GhostPad::builder_from_template(&template).name("src").build();
            // It fails only for a second pad of the name.
            let _ = self.obj().add_pad(&pad);
        }
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: OnceLock<Vec<glib::ParamSpec>> = OnceLock::new();
        // Demuxers say with it that a playlist must not come from a cache.
        let headers = || glib::ParamSpecBoxed::builder::<gst::Structure>("extra-headers").build();
        PROPERTIES.get_or_init(|| vec![headers()])
    }

    fn set_property(&self, _: usize, value: &glib::Value, _: &glib::ParamSpec) {
        let mut inner = lock(&self.inner);
        inner.headers = value.get().ok().flatten();
        // Set anew for each playlist, also from the same address.
        inner.configured = false;
    }

    fn property(&self, _: usize, _: &glib::ParamSpec) -> glib::Value {
        lock(&self.inner).headers.to_value()
    }
}

impl GstObjectImpl for GuardedSource {}

impl ElementImpl for GuardedSource {
    fn metadata() -> Option<&'static ElementMetadata> {
        static METADATA: OnceLock<ElementMetadata> = OnceLock::new();
        Some(METADATA.get_or_init(|| metadata("Guarded source")))
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        pad_template()
    }

    fn change_state(&self, change: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if matches!(change, gst::StateChange::NullToReady | gst::StateChange::ReadyToPaused) {
            self.configure().map_err(|_| gst::StateChangeError)?;
        }
        self.parent_change_state(change)
    }

    fn send_event(&self, event: gst::Event) -> bool {
        // A bin would give a seek to its sinks, and has none.
        self.source().is_some_and(|source| source.send_event(event))
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        self.is_ready() && self.source().is_some_and(|source| source.query(query))
    }
}

impl BinImpl for GuardedSource {}

impl URIHandlerImpl for GuardedSource {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        GUARDED
    }

    fn uri(&self) -> Option<String> {
        Some(lock(&self.inner).uri.clone())
    }

    /// Takes every address: for one that is not taken, the next best element would be made.
    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        {
            let mut inner = lock(&self.inner);
            uri.clone_into(&mut inner.uri);
            inner.configured = false;
        }
        if let Err(error) = self.prepare(uri) {
            tracing::debug!(%error, "no source");
        }
        Ok(())
    }
}
