//! Which addresses a camera that is added at run time may have (`ingest.sources`). Whoever may add
//! cameras could otherwise let the server open any file that it can read, or any port that it can
//! reach, and learn from the camera's state what is there.
//!
//! The rules, each a string of the list:
//!
//! ```text
//! "rtsp" "rtsps" "http" "https" "videotestsrc" "file" "v4l2"    a scheme, whatever it names
//! "10.20.0.0/16"                  a network; with one or more, hosts must lie in one of them
//! "file:/srv/footage"             files below this folder
//! "v4l2:///dev/video0"            this device
//! ```
//!
//! Cameras of the configuration file need no rule. A host name is resolved, and each of its addresses
//! must be allowed: when the camera is added, and again whenever a node connects to it
//! ([`AllowedSources::resolve`]). Wherever a camera leads to from there, by a redirect or a playlist,
//! must be allowed, too ([`AllowedSources::resolve_allowed`]).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{CameraUrl, Source, UrlError};

const SCHEMES: [&str; 7] = ["rtsp", "rtsps", "http", "https", "videotestsrc", "file", "v4l2"];

/// Reason why a camera may not be added at run time.
#[derive(Debug, thiserror::Error)]
pub enum SourceRefused {
    /// The address is not valid.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No rule allows it.
    #[error(
        "ingest.sources allows no {what} for cameras that are added at run time: put the camera into the configuration \
         file, or allow it there"
    )]
    NotAllowed {
        /// What is not allowed, without the address: `rtsp address`, `file there`.
        what: String,
    },
    /// The host name cannot be resolved, so that nobody knows whether it is allowed.
    #[error("the camera's host cannot be resolved, and ingest.sources allows certain networks only")]
    Unresolved,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Scheme(String),
    Network(IpNet),
    Folder(PathBuf),
    Device(PathBuf),
}

/// The rules of `ingest.sources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct AllowedSources {
    texts: Vec<String>,
    rules: Vec<Rule>,
}

impl From<AllowedSources> for Vec<String> {
    fn from(allowed: AllowedSources) -> Self {
        allowed.texts
    }
}

impl TryFrom<Vec<String>> for AllowedSources {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let rules = texts.iter().map(|text| rule(text)).collect::<Result<_, _>>()?;
        Ok(Self { texts, rules })
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    if SCHEMES.contains(&text) {
        return Ok(Rule::Scheme(text.to_owned()));
    }
    if let Ok(network) = text.parse() {
        return Ok(Rule::Network(network));
    }
    match CameraUrl::from(text).source() {
        Ok(Source::File(folder)) => Ok(Rule::Folder(folder)),
        Ok(Source::V4l2(device)) => Ok(Rule::Device(device)),
        _ => Err(format!(
            "ingest.sources: {text:?} is no rule; use a scheme ({}), a network (10.20.0.0/16), file:FOLDER or \
             v4l2:///dev/NAME",
            SCHEMES.join(", ")
        )),
    }
}

impl AllowedSources {
    /// Checks the address of a camera that is added at run time. With rules for networks it
    /// resolves host names, which blocks.
    ///
    /// # Errors
    /// The reason why the camera may not be added; it quotes no address.
    pub fn check(&self, url: &CameraUrl) -> Result<(), SourceRefused> {
        let scheme = url.expose().split(':').next().unwrap_or_default().to_ascii_lowercase();
        let by_scheme = self.rules.contains(&Rule::Scheme(scheme.clone()));
        let (allowed, what) = match url.source()? {
            Source::Rtsp(remote) | Source::Http(remote) => {
                // Without networks a host need not have an address yet.
                if by_scheme && self.has_networks() {
                    self.resolve(&remote.host, remote.port)?;
                }
                (by_scheme, format!("{scheme} address"))
            }
            Source::Test(_) => (by_scheme, format!("{scheme} address")),
            Source::File(path) => {
                let below = |r: &Rule| matches!(r, Rule::Folder(folder) if lies_in(&path, folder));
                (by_scheme || self.rules.iter().any(below), "file there".into())
            }
            Source::V4l2(path) => (by_scheme || self.rules.contains(&Rule::Device(path)), "such device".into()),
        };
        if allowed { Ok(()) } else { Err(SourceRefused::NotAllowed { what }) }
    }

    /// The addresses of a host that a camera leads to. Whoever connects must connect to these: a
    /// name may have others a moment later. Blocks while a name is resolved.
    ///
    /// # Errors
    /// When no rule allows the scheme, or as [`AllowedSources::resolve`].
    pub fn resolve_allowed(&self, scheme: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, SourceRefused> {
        if self.rules.contains(&Rule::Scheme(scheme.to_ascii_lowercase())) {
            self.resolve(host, port)
        } else {
            Err(SourceRefused::NotAllowed { what: format!("{scheme} address") })
        }
    }

    /// The addresses of a host, each of which lies in one of the networks if there are any.
    ///
    /// # Errors
    /// An address outside of the networks, or a name without an address.
    pub fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, SourceRefused> {
        let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|_| SourceRefused::Unresolved)?.collect();
        if found.is_empty() {
            return Err(SourceRefused::Unresolved);
        }
        let inside = |ip: IpAddr| self.networks().any(|net| net.contains(&ip.to_canonical()));
        if !self.has_networks() || found.iter().all(|address| inside(address.ip())) {
            Ok(found)
        } else {
            Err(SourceRefused::NotAllowed { what: "host in that network".into() })
        }
    }

    /// Whether hosts must lie in certain networks.
    pub fn has_networks(&self) -> bool {
        self.networks().next().is_some()
    }

    fn networks(&self) -> impl Iterator<Item = &IpNet> {
        self.rules.iter().filter_map(|rule| if let Rule::Network(net) = rule { Some(net) } else { None })
    }
}

/// Whether a file lies below a folder, symbolic links followed where the file is on this machine.
pub fn lies_in(path: &Path, folder: &Path) -> bool {
    let plain = !path.components().any(|part| part == Component::ParentDir);
    // A file that is not there (yet, or on this machine) has a folder that may be.
    let real = |path: &Path| {
        let by_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(by_folder).unwrap_or_else(|| path.to_owned())
    };
    plain && real(path).starts_with(real(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(rules: &[&str]) -> AllowedSources {
        let texts: Vec<String> = rules.iter().map(|r| (*r).to_owned()).collect();
        AllowedSources::try_from(texts).expect("valid rules")
    }

    fn check(rules: &[&str], url: &str) -> bool {
        allowed(rules).check(&url.into()).is_ok()
    }

    #[test]
    fn schemes_are_allowed_by_name() {
        let default = ["rtsp", "rtsps", "http", "https", "videotestsrc"];
        for url in ["rtsp://cam/1", "RTSP://cam/1", "https://cam/x.m3u8", "videotestsrc://"] {
            assert!(check(&default, url), "{url}");
        }
        for url in ["file:///etc/passwd", "file:etc/passwd", "FILE:///etc/passwd", "v4l2:///dev/video0"] {
            assert!(!check(&default, url), "{url}");
        }
        assert!(!check(&["rtsps"], "rtsp://cam/1") && !check(&[], "rtsp://cam/1"));
        assert!(check(&["file", "v4l2"], "file:///a.mp4") && check(&["file", "v4l2"], "v4l2:///dev/video0"));
    }

    #[test]
    fn hosts_lie_in_the_networks() {
        let rules = ["rtsp", "10.20.0.0/16", "fd00::/8", "127.0.0.0/8", "::1/128"];
        for url in ["rtsp://10.20.3.4/1", "rtsp://u:p@[fd00::7]:554/1", "rtsp://localhost/1"] {
            assert!(check(&rules, url), "{url}");
        }
        for url in ["rtsp://10.21.0.1/1", "rtsp://[2001:db8::1]/1", "http://10.20.3.4/"] {
            assert!(!check(&rules, url), "{url}");
        }
    }

    #[test]
    fn where_a_camera_leads_to_is_checked_address_by_address() {
        let rules = allowed(&["http", "127.0.0.1/32"]);
        let at = |scheme: &str, host: &str| rules.resolve_allowed(scheme, host, 80);
        assert_eq!(at("HTTP", "127.0.0.1").expect("allowed"), ["127.0.0.1:80".parse().expect("valid")]);
        for (scheme, host) in [("https", "127.0.0.1"), ("http", "127.0.0.2"), ("http", "::1"), ("file", "127.0.0.1")] {
            assert!(matches!(at(scheme, host), Err(SourceRefused::NotAllowed { .. })), "{scheme} {host}");
        }
        assert!(matches!(at("http", "no-such-host.invalid"), Err(SourceRefused::Unresolved)));
        assert!(allowed(&["http"]).resolve_allowed("http", "127.0.0.2", 80).is_ok());
    }

    #[test]
    fn files_lie_below_the_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = dir.path().join("footage");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("a.mp4"), "").expect("written");
        let rule = format!("file:{}", folder.display());
        let there = |name: &str| check(&[&rule], &format!("file://{}/{name}", folder.display()));
        assert!(there("a.mp4") && there("not-there-yet.mp4"));
        assert!(!there("../secret") && !there("%2e%2e/secret"));
        assert!(!check(&[&rule], &format!("file://{}-other/a.mp4", folder.display())));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("linked");
            assert!(!there("link"), "a link leads out of the folder");
        }
        assert!(check(&["v4l2:///dev/video0"], "v4l2:///dev/video0"));
        assert!(!check(&["v4l2:///dev/video0"], "v4l2:///dev/video1"));
    }

    #[test]
    fn a_refusal_quotes_no_address_and_a_bad_rule_is_named() {
        let refused = allowed(&[]).check(&"file:///srv/secret.mp4".into()).expect_err("refused").to_string();
        assert!(refused.contains("ingest.sources") && !refused.contains("srv"), "{refused}");
        let bad = AllowedSources::try_from(vec!["gopher".to_owned()]).expect_err("no rule");
        assert!(bad.contains("gopher"), "{bad}");
    }
}
