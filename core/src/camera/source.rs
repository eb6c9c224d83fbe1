//! The kinds of source that a camera address can name, and the valid form of each address.
//!
//! Addresses are validated before anything is opened, so that a typing error is refused at once
//! with a sentence that says what is valid. Credentials are taken out of the address here and
//! handed to GStreamer separately.

use std::path::PathBuf;

use url::Url;

/// Names of the `videotestsrc` patterns that an address may select.
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
    #[error(
        "an @ stands behind the host of this address: in a user name or password write %23 for #, %2F for /, %3F for ? \
         and %40 for @, and %40 for an @ anywhere else"
    )]
    AtSignBehindHost,
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
    /// TCP port; the scheme's default when the address names none.
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

/// The synthetic camera:
/// `videotestsrc://?pattern=ball&num-buffers=100&width=320&height=240&framerate=25`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestPicture {
    /// One of [`PATTERNS`].
    pub pattern: String,
    /// Number of frames after which the footage ends; endless when `None`.
    pub num_buffers: Option<u32>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames a second.
    pub framerate: u32,
}

/// The source that an address names.
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

impl Source {
    /// Parses the address `text`; `shown` is the masked form that errors may quote.
    pub(super) fn parse(text: &str, shown: &str) -> Result<Self, UrlError> {
        if text.starts_with('/') {
            return Err(UrlError::BarePath(text.to_owned()));
        }
        let url = match text.strip_prefix("file:").filter(|path| !path.starts_with('/') && !path.is_empty()) {
            // Like every path of the configuration, relative to the working folder.
            Some(path) => {
                let absolute = std::path::absolute(path).map_err(|_| UrlError::NotLocal(text.to_owned()))?;
                Url::from_file_path(absolute).map_err(|()| UrlError::NotLocal(text.to_owned()))?
            }
            None => Url::parse(text).map_err(|_| UrlError::NotAnAddress(shown.to_owned()))?,
        };
        Ok(match url.scheme() {
            "rtsp" => Self::Rtsp(remote(&url, 554, shown)?),
            "rtsps" => Self::Rtsp(remote(&url, 322, shown)?),
            "http" => Self::Http(remote(&url, 80, shown)?),
            "https" => Self::Http(remote(&url, 443, shown)?),
            "file" => Self::File(file(&url, shown)?),
            "v4l2" => Self::V4l2(device(&url, shown)?),
            "videotestsrc" => Self::Test(test_picture(&url)?),
            other => return Err(UrlError::Scheme(other.to_owned())),
        })
    }
}

fn remote(url: &Url, port: u16, shown: &str) -> Result<Remote, UrlError> {
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| UrlError::NoHost(shown.to_owned()))?;
    if has_at_sign_behind_host(url) {
        return Err(UrlError::AtSignBehindHost);
    }
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

/// Whether there is an `@` in the path, the query or the fragment. The usual reason is a password
/// with an unescaped `/`, `?` or `#`: `rtsp://admin:2024#cam@10.0.0.7/` names the host `admin`.
pub(super) fn has_at_sign_behind_host(url: &Url) -> bool {
    [Some(url.path()), url.query(), url.fragment()].into_iter().flatten().any(|part| part.contains('@'))
}

/// `text` with its percent escapes decoded.
pub(super) fn percent_decoded(text: &str) -> String {
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
