//! Camera addresses: which kinds of source there are, and what each address may say.
//!
//! Addresses are checked before anything is opened, so that a slip of the pen is refused at once with a sentence that
//! says what is valid. Credentials are taken out of the address here and handed to GStreamer separately: what is shown,
//! logged or quoted in an error never holds them.

use std::path::PathBuf;

use url::Url;

/// Names of `videotestsrc`'s patterns that an address may ask for.
pub const PATTERNS: [&str; 24] = [
    "smpte",
    "snow",
    "black",
    "white",
    "red",
    "green",
    "blue",
    "checkers-1",
    "checkers-2",
    "checkers-4",
    "checkers-8",
    "circular",
    "blink",
    "smpte75",
    "zone-plate",
    "gamut",
    "chroma-zone-plate",
    "ball",
    "smpte100",
    "bar",
    "pinwheel",
    "spokes",
    "gradient",
    "colors",
];

/// Query keys whose values are secrets in the addresses of cameras on the market.
const SECRET_KEYS: [&str; 10] =
    ["password", "passwd", "pass", "pwd", "token", "auth", "key", "secret", "access_token", "user"];

/// Why an address is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UrlError {
    #[error("{0:?} is not an address: use rtsp://, rtsps://, http(s)://, file:///, v4l2:///dev/... or videotestsrc://")]
    NotAnAddress(String),
    #[error("{0:?} is a path, not an address: use file://{0}")]
    BarePath(String),
    #[error("unknown scheme {0:?}: use rtsp, rtsps, http, https, file, v4l2 or videotestsrc")]
    Scheme(String),
    #[error("{0} names no host")]
    NoHost(String),
    #[error("{0} is not a local file: use file:///absolute/path or file:relative/path")]
    NotLocal(String),
    #[error("{0} names no device: use v4l2:///dev/video0")]
    NoDevice(String),
    #[error("videotestsrc:// has no setting {0:?}: use pattern, num-buffers, width, height, framerate")]
    TestKey(String),
    #[error("videotestsrc://: {key}={value:?} is not {expected}")]
    TestValue { key: &'static str, value: String, expected: String },
}

/// A server's address without credentials, and the credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// The address as given, without user name and password.
    pub address: String,
    /// Host name or IP address.
    pub host: String,
    /// TCP port, the scheme's own when the address names none.
    pub port: u16,
    /// User name, percent-decoded.
    pub user: Option<String>,
    /// Password, percent-decoded.
    pub password: Option<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({}:{})", self.host, self.port)
    }
}

/// The synthetic camera: `videotestsrc://?pattern=ball&num-buffers=100&width=320&height=240&framerate=25`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestPicture {
    /// One of [`PATTERNS`].
    pub pattern: String,
    /// The footage ends after so many frames; endless when `None`.
    pub num_buffers: Option<u32>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames a second.
    pub framerate: u32,
}

/// What kind of source an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An IP camera.
    Rtsp(Remote),
    /// HTTP: HLS, multipart JPEG, or a file on a server.
    Http(Remote),
    /// A local file.
    File(PathBuf),
    /// A local capture device.
    V4l2(PathBuf),
    /// A synthetic camera.
    Test(TestPicture),
}

/// A checked camera address.
#[derive(Clone, PartialEq, Eq)]
pub struct CameraUrl {
    source: Source,
    shown: String,
    secrets: Vec<String>,
}

impl CameraUrl {
    /// Checks `text`.
    ///
    /// # Errors
    /// Says what is wrong and what would be valid. The message never holds credentials.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.starts_with('/') {
            return Err(UrlError::BarePath(text.to_owned()));
        }
        let url = match text.strip_prefix("file:").filter(|path| !path.starts_with('/') && !path.is_empty()) {
            // As every path of the configuration, relative to the working folder.
            Some(path) => {
                let absolute = std::path::absolute(path).map_err(|_| UrlError::NotLocal(text.to_owned()))?;
                Url::from_file_path(absolute).map_err(|()| UrlError::NotLocal(text.to_owned()))?
            }
            None => Url::parse(text).map_err(|_| UrlError::NotAnAddress(mask_unparsed(text)))?,
        };
        let shown = mask(&url);
        let source = match url.scheme() {
            "rtsp" => Source::Rtsp(remote(&url, 554, &shown)?),
            "rtsps" => Source::Rtsp(remote(&url, 322, &shown)?),
            "http" => Source::Http(remote(&url, 80, &shown)?),
            "https" => Source::Http(remote(&url, 443, &shown)?),
            "file" => Source::File(file(&url, &shown)?),
            "v4l2" => Source::V4l2(device(&url, &shown)?),
            "videotestsrc" => Source::Test(test_picture(&url)?),
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let secrets = secrets(&url);
        Ok(Self { source, shown, secrets })
    }

    /// The kind of source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The address for logs and screens, credentials masked.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// `text` without this camera's secrets: servers and libraries like to quote addresses in their errors.
    pub fn scrub(&self, text: &str) -> String {
        let bare = match &self.source {
            Source::Rtsp(r) | Source::Http(r) => text.replace(&r.address, &self.shown),
            _ => text.to_owned(),
        };
        self.secrets.iter().fold(bare, |text, secret| text.replace(secret, "***"))
    }
}

impl std::fmt::Debug for CameraUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CameraUrl({})", self.shown)
    }
}

impl std::fmt::Display for CameraUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

fn remote(url: &Url, port: u16, shown: &str) -> Result<Remote, UrlError> {
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| UrlError::NoHost(shown.to_owned()))?;
    let mut bare = url.clone();
    // These two fail only for addresses without a host, and there is one.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    Ok(Remote {
        address: bare.to_string(),
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(port),
        user: Some(url.username()).filter(|u| !u.is_empty()).map(percent_decoded),
        password: url.password().map(percent_decoded),
    })
}

fn percent_decoded(text: &str) -> String {
    // The form parser decodes percent escapes; a literal plus must survive it.
    let escaped = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(escaped.as_bytes()).map(|(_, v)| v.into_owned()).next().unwrap_or_default()
}

fn file(url: &Url, shown: &str) -> Result<PathBuf, UrlError> {
    let path = url.to_file_path().ok().filter(|p| p.file_name().is_some());
    path.ok_or_else(|| UrlError::NotLocal(shown.to_owned()))
}

fn device(url: &Url, shown: &str) -> Result<PathBuf, UrlError> {
    let path = url.path();
    if url.host_str().is_some_and(|h| !h.is_empty()) || !path.starts_with("/dev/") || path.len() <= "/dev/".len() {
        return Err(UrlError::NoDevice(shown.to_owned()));
    }
    Ok(PathBuf::from(path))
}

fn test_picture(url: &Url) -> Result<TestPicture, UrlError> {
    let mut t = TestPicture { pattern: "smpte".into(), num_buffers: None, width: 640, height: 480, framerate: 25 };
    let number = |key: &'static str, value: &str, min: u32, max: u32| match value.parse::<u32>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => {
            let expected = format!("a whole number from {min} to {max}");
            Err(UrlError::TestValue { key, value: value.to_owned(), expected })
        }
    };
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "pattern" if PATTERNS.contains(&value.as_ref()) => t.pattern = value.into_owned(),
            "pattern" => {
                let expected = format!("one of {}", PATTERNS.join(", "));
                return Err(UrlError::TestValue { key: "pattern", value: value.into_owned(), expected });
            }
            "num-buffers" => t.num_buffers = Some(number("num-buffers", &value, 1, i32::MAX as u32)?),
            "width" => t.width = number("width", &value, 1, 8192)?,
            "height" => t.height = number("height", &value, 1, 8192)?,
            "framerate" => t.framerate = number("framerate", &value, 1, 240)?,
            other => return Err(UrlError::TestKey(other.to_owned())),
        }
    }
    Ok(t)
}

/// The address with user name, password and secret query values replaced by `***`.
fn mask(url: &Url) -> String {
    let mut shown = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        let _ = shown.set_username("***");
        let _ = shown.set_password(None);
    }
    if let Some(query) = url.query() {
        let masked: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((k, _)) if is_secret(k) => format!("{k}=***"),
                _ => pair.to_owned(),
            })
            .collect();
        shown.set_query(Some(&masked.join("&")));
    }
    shown.to_string()
}

/// Whether the value of this query key is a secret.
fn is_secret(key: &str) -> bool {
    SECRET_KEYS.contains(&key.to_ascii_lowercase().as_str())
}

/// Password and secret query values, as written and decoded. Shorter ones than four characters are left out: they
/// would be found in every other word.
fn secrets(url: &Url) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(p) = url.password() {
        found.extend([p.to_owned(), percent_decoded(p)]);
    }
    let written = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    found.extend(written.filter(|(k, _)| is_secret(k)).map(|(_, v)| v.to_owned()));
    found.extend(url.query_pairs().filter(|(k, _)| is_secret(k)).map(|(_, v)| v.into_owned()));
    found.retain(|s| s.len() >= 4);
    found
}

/// What may be quoted of a text that is no address: nothing before an `@` and nothing after a `?`, where secrets are.
fn mask_unparsed(text: &str) -> String {
    let text = text.split_once('?').map_or_else(|| text.to_owned(), |(head, _)| format!("{head}?***"));
    let tail = text.rsplit_once('@').map_or_else(|| text.clone(), |(_, tail)| format!("***@{tail}"));
    tail.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &str) -> Source {
        CameraUrl::parse(text).expect(text).source().clone()
    }

    #[test]
    fn relative_files_are_relative_to_the_working_folder() {
        let url = CameraUrl::parse("file:footage/a b.avi").expect("valid");
        let expected = std::env::current_dir().expect("a working folder").join("footage/a b.avi");
        assert_eq!(*url.source(), Source::File(expected));
        assert!(CameraUrl::parse("file:").is_err());
    }

    #[test]
    fn every_kind_is_recognised() {
        assert!(matches!(source("rtsp://cam.example/s1"), Source::Rtsp(r) if r.port == 554 && r.host == "cam.example"));
        assert!(matches!(source("rtsps://[::1]/s1"), Source::Rtsp(r) if r.port == 322 && r.host == "::1"));
        assert!(matches!(source("https://cam.example:8443/a.m3u8"), Source::Http(r) if r.port == 8443));
        assert_eq!(source("file:///a%20b/c.mp4"), Source::File("/a b/c.mp4".into()));
        assert_eq!(source("v4l2:///dev/video0"), Source::V4l2("/dev/video0".into()));
        let Source::Test(t) = source("videotestsrc://?pattern=ball&num-buffers=7&width=322&height=242&framerate=10")
        else {
            panic!("a test picture")
        };
        assert_eq!(
            (t.pattern.as_str(), t.num_buffers, t.width, t.height, t.framerate),
            ("ball", Some(7), 322, 242, 10)
        );
    }

    #[test]
    fn credentials_are_split_off_and_never_shown() {
        let url = CameraUrl::parse("rtsp://admin:p%40s%2Bs+w@10.0.0.7:8554/live?channel=1&token=abc").expect("valid");
        let Source::Rtsp(r) = url.source() else { panic!("rtsp") };
        assert_eq!((r.user.as_deref(), r.password.as_deref()), (Some("admin"), Some("p@s+s+w")));
        assert_eq!(r.address, "rtsp://10.0.0.7:8554/live?channel=1&token=abc");
        assert_eq!(url.shown(), "rtsp://***@10.0.0.7:8554/live?channel=1&token=***");
        assert!(!format!("{url:?} {url}").contains("p%40s") && !format!("{url:?}").contains("abc"));
        let e = CameraUrl::parse("rtsp//admin:secret@host").expect_err("no scheme").to_string();
        assert!(!e.contains("secret"), "{e}");
    }

    #[test]
    fn errors_that_quote_the_address_are_scrubbed() {
        let url = CameraUrl::parse("http://admin:hunter2@cam/x.mjpg?token=sesame&size=2").expect("valid");
        let said = url.scrub("Not Found, URL: http://cam/x.mjpg?token=sesame&size=2 (token sesame, hunter2)");
        assert_eq!(said, "Not Found, URL: http://***@cam/x.mjpg?token=***&size=2 (token ***, ***)");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = CameraUrl::parse(&text);
        }

        #[test]
        fn no_password_is_ever_shown(password in "[A-Z][A-Za-z0-9%!+]{6,20}", scheme in "rtsp|rtsps|http|https|ftp|x y") {
            let text = format!("{scheme}://admin:{password}@cam.example/s?pwd={password}");
            let said = match CameraUrl::parse(&text) {
                Ok(url) => format!("{url} {url:?} {:?}", url.source()),
                Err(e) => e.to_string(),
            };
            prop_assert!(!said.contains(&password), "{}", said);
        }
    }

    #[test]
    fn slips_are_refused_with_what_would_be_valid() {
        for (text, part) in [
            ("/tmp/a.mp4", "file:///tmp/a.mp4"),
            ("front door", "rtsp://"),
            ("", "rtsp://"),
            ("gopher://x/y", "unknown scheme \"gopher\""),
            ("rtsp:///stream", "no host"),
            ("file://server/share/a.mp4", "file:///absolute/path"),
            ("v4l2://video0", "v4l2:///dev/video0"),
            ("v4l2:///dev/", "v4l2:///dev/video0"),
            ("videotestsrc://?patern=ball", "no setting \"patern\""),
            ("videotestsrc://?pattern=cats", "one of smpte"),
            ("videotestsrc://?width=0", "from 1 to 8192"),
        ] {
            let e = CameraUrl::parse(text).expect_err(text).to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }
}
