//! The source of every other address. It takes the address, so that no other element is made, and
//! fails with the reason.

use std::sync::{Mutex, OnceLock};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::ElementMetadata;
use gstreamer::subclass::prelude::*;

use super::super::Guard;
use super::{lock, metadata, pad_template, refused_schemes};

#[derive(Default)]
pub struct RefusedSource {
    uri: Mutex<String>,
}

#[glib::object_subclass]
impl ObjectSubclass for RefusedSource {
    const NAME: &'static str = "SightlineRefusedSource";
    type Type = super::RefusedSource;
    type ParentType = gst::Element;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for RefusedSource {
    fn constructed(&self) {
        self.parent_constructed();
        if let Some(template) = self.obj().pad_template("src") {
            // It fails only for a second pad of the name.
            let _ = self.obj().add_pad(&gst::Pad::from_template(&template));
        }
    }
}

impl GstObjectImpl for RefusedSource {}

impl ElementImpl for RefusedSource {
    fn metadata() -> Option<&'static ElementMetadata> {
        static METADATA: OnceLock<ElementMetadata> = OnceLock::new();
        Some(METADATA.get_or_init(|| metadata("Refused source")))
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        pad_template()
    }

    fn change_state(&self, change: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if change == gst::StateChange::NullToReady {
            let uri = lock(&self.uri).clone();
            let scheme = uri.split(':').next().unwrap_or_default();
            if let Some(guard) = Guard::of(self.obj().upcast_ref()) {
                guard.refuse(format!("the camera leads to a {scheme} address, which no playlist may"));
            }
            gst::element_imp_error!(self, gst::ResourceError::Failed, ["this address is not allowed"]);
            return Err(gst::StateChangeError);
        }
        self.parent_change_state(change)
    }
}

impl URIHandlerImpl for RefusedSource {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        refused_schemes()
    }

    fn uri(&self) -> Option<String> {
        Some(lock(&self.uri).clone())
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        uri.clone_into(&mut lock(&self.uri));
        Ok(())
    }
}
