//! The guard of one connection: it decides where the camera may lead to. The address of a camera is
//! checked when the camera is added, but a server answers with redirects, and a playlist names
//! playlists, segments and keys anywhere; all of these must be allowed by `ingest.sources`, too.
//!
//! ```text
//! uridecodebin, hlsdemux, its downloader of playlists and keys
//!     -> GuardedSource (every http, https and file address) -> souphttpsrc -> Proxy -> server
//!     -> RefusedSource (every other address)
//! rtspsrc -> RtspWatch: a redirect is checked before the first request to the new server
//! ```
//!
//! The proxy makes every HTTP connection. It resolves the name, checks each address and connects to
//! one of those, so that a name that changes its address meanwhile gains nothing.
//!
//! - Always allowed: the camera's own server. If the camera was added at run time, its addresses
//!   must still lie in the networks of `ingest.sources`: the name may have others than it had then.
//! - For a camera of the configuration file every port of its own host, by http and https.
//! - For a local playlist, the files beside it.
//! - Everything else by `ingest.sources`. No server may lead to a file.

mod element;
mod proxy;
mod rtsp;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use sightline_core::camera::{AllowedSources, Remote, Source, SourceRefused, lies_in};
use tracing::warn;

use crate::CameraSpec;
pub use element::register;
use proxy::Proxy;
pub use rtsp::RtspWatch;

/// Type of the context in which elements find the guard of their pipeline.
const CONTEXT: &str = "sightline.guard";

/// Why a server is not connected to.
#[derive(Debug, PartialEq, Eq)]
pub enum NotConnected {
    /// It is not allowed; the reason is recorded.
    Refused,
    /// Its name has no address.
    Unresolved,
}

/// The guard of one connection, see the module.
#[derive(Debug)]
pub struct Guard {
    camera: String,
    allowed: AllowedSources,
    configured: bool,
    scheme: String,
    source: Source,
    connect: Duration,
    refusal: Mutex<Option<String>>,
    proxy: OnceLock<Option<Proxy>>,
}

/// A guard as the value of a context.
#[derive(Clone, Debug, glib::Boxed)]
#[boxed_type(name = "SightlineGuard")]
struct Handle(Arc<Guard>);

impl Guard {
    /// The guard of a connection to this camera.
    pub fn new(spec: &CameraSpec) -> Arc<Self> {
        Arc::new(Self {
            camera: spec.id.to_string(),
            allowed: spec.sources.clone(),
            configured: spec.configured,
            scheme: spec.url.expose().split(':').next().unwrap_or_default().to_ascii_lowercase(),
            source: spec.source.clone(),
            connect: spec.connect,
            refusal: Mutex::default(),
            proxy: OnceLock::new(),
        })
    }

    /// Lets the elements of `pipeline` find this guard.
    pub fn install(self: &Arc<Self>, pipeline: &gst::Pipeline) {
        let mut context = gst::Context::new(CONTEXT, true);
        context.make_mut().structure_mut().set("guard", Handle(Arc::clone(self)));
        pipeline.set_context(&context);
    }

    /// The guard of the pipeline that an element belongs to.
    fn of(element: &gst::Element) -> Option<Arc<Self>> {
        // An element that a demuxer keeps outside of the pipeline has to ask.
        if element.context(CONTEXT).is_none() {
            let question = gst::message::NeedContext::builder(CONTEXT).src(element).build();
            let _ = element.post_message(question);
        }
        let context = element.context(CONTEXT)?;
        context.structure().get::<Handle>("guard").ok().map(|handle| handle.0)
    }

    /// Why the camera may not lead to where it led; the first reason. It names hosts and ports, but
    /// no path, so that it contains no secret.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, reason: String) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if refusal.is_none() {
            warn!(camera = self.camera, reason, "refused");
            *refusal = Some(reason);
        }
    }

    fn remote(&self) -> Option<&Remote> {
        match &self.source {
            Source::Rtsp(remote) | Source::Http(remote) => Some(remote),
            _ => None,
        }
    }

    fn is_own_host(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        self.remote().is_some_and(|own| own.host.eq_ignore_ascii_case(host))
    }

    /// Checks the camera's own server, before a connection that no proxy makes.
    ///
    /// # Errors
    /// When it is refused; a name without an address is left to whoever connects.
    pub fn check_own_server(&self) -> Result<(), NotConnected> {
        match self.remote() {
            // Without networks there is nothing to compare an address with.
            Some(own) if !self.configured && self.allowed.has_networks() => {
                match self.addresses(&self.scheme, &own.host, own.port) {
                    Err(NotConnected::Refused) => Err(NotConnected::Refused),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The addresses of a server that the camera leads to, each of them allowed. Blocks while a name
    /// is resolved.
    fn addresses(&self, scheme: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, NotConnected> {
        let web = |scheme: &str| matches!(scheme, "http" | "https");
        let own_host = self.is_own_host(host);
        let own_server = own_host && scheme == self.scheme && self.remote().is_some_and(|own| own.port == port);
        let found = if self.configured && (own_server || own_host && web(scheme) && web(&self.scheme)) {
            AllowedSources::default().resolve(host, port)
        } else if own_server {
            self.allowed.resolve(host, port)
        } else {
            self.allowed.resolve_allowed(scheme, host, port)
        };
        found.map_err(|why| match why {
            SourceRefused::Unresolved => NotConnected::Unresolved,
            _ if own_server => {
                self.refuse(format!("{host} has an address outside of the networks of ingest.sources"));
                NotConnected::Refused
            }
            _ => {
                self.refuse(format!(
                    "the camera leads to {scheme}://{host}:{port}, which ingest.sources does not allow"
                ));
                NotConnected::Refused
            }
        })
    }

    /// Whether footage may go on in this file.
    fn allows_file(&self, path: &Path) -> bool {
        let allowed = match &self.source {
            Source::File(own) => path == own || own.parent().is_some_and(|folder| lies_in(path, folder)),
            _ => false,
        };
        if !allowed {
            self.refuse("the camera leads to a file of this machine, which no playlist and no redirect may".into());
        }
        allowed
    }

    /// User name and password, for the camera's own host alone.
    fn credentials(&self, host: &str) -> Option<(String, String)> {
        let own = self.remote().filter(|_| self.is_own_host(host))?;
        Some((own.user.clone()?, own.password.clone().unwrap_or_default()))
    }

    /// Address of the proxy, which starts with the first call; `None` when it cannot, or the
    /// connection is over.
    fn proxy(self: &Arc<Self>) -> Option<SocketAddr> {
        let start = || {
            let failed = |error: &std::io::Error| warn!(camera = self.camera, %error, "no proxy for the camera");
            Proxy::start(Arc::downgrade(self)).inspect_err(failed).ok()
        };
        self.proxy.get_or_init(start).as_ref().map(Proxy::address)
    }

    /// Ends all connections, because the pipeline is given up.
    pub fn close(&self) {
        // Nothing starts a proxy any more.
        if let Some(proxy) = self.proxy.get_or_init(|| None) {
            proxy.close();
        }
    }
}
