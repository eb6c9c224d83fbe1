//! The address of a camera. It may contain a password, so it is masked wherever it is printed; only
//! [`CameraUrl::expose`] returns the whole address.
//!
//! Camera addresses carry secrets in many places. Most have `user:password@`, some have them in
//! query values (`?loginuse=admin&loginpas=...`), and a large family of recorders in the path
//! (`/user=admin&password=...&channel=1`). Masking therefore goes by the name of a value, wherever
//! it stands, and hides too much rather than too little.

use std::fmt;

use serde::{Deserialize, Serializer};
use url::Url;

use super::source::{Source, UrlError, has_at_sign_behind_host, percent_decoded};

/// A value is secret if its name contains one of these.
const SECRET_PARTS: [&str; 11] = ["pas", "psw", "pwd", "token", "key", "auth", "secret", "sig", "user", "usr", "cred"];
/// A value is secret if its name is one of these, which are too short to be searched for in other
/// names.
const SECRET_NAMES: [&str; 3] = ["p", "pw", "u"];
/// Characters that separate one value from the next in a path or query.
const SEPARATORS: [char; 4] = ['/', '?', '&', ';'];
/// Largest number of characters that are quoted of an unreadable address.
const MAX_QUOTED_CHARS: usize = 200;

/// The address of a camera, as it was given. It need not be valid: [`CameraUrl::source`] checks it.
///
/// `Display` and `Debug` print it masked. It does not implement `Serialize`: code that stores or
/// sends the whole address must name [`CameraUrl::serialize_exposed`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct CameraUrl(String);

impl CameraUrl {
    /// The whole address, secrets included.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// For `#[serde(serialize_with)]` where the whole address is stored or sent.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize_exposed<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }

    /// Whether the address is empty, as for a camera whose address only its node knows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names a local file. The file need not exist.
    pub fn is_file(&self) -> bool {
        self.0.starts_with("file:")
    }

    /// The source that it names.
    ///
    /// # Errors
    /// An error that says what is wrong and what would be valid. Its message contains no
    /// credentials.
    pub fn source(&self) -> Result<Source, UrlError> {
        Source::parse(&self.0, &self.to_string())
    }

    /// Removes this camera's secrets from `text`: servers and libraries quote addresses in their
    /// errors.
    pub fn scrub(&self, text: &str) -> String {
        let bare = match self.source() {
            Ok(Source::Rtsp(remote) | Source::Http(remote)) => text.replace(&remote.address, &self.to_string()),
            _ => text.to_owned(),
        };
        self.secrets().iter().fold(bare, |text, secret| text.replace(secret, "***"))
    }

    /// Password and secret values, as written and decoded. Those shorter than four characters are
    /// left out: they would match parts of ordinary words.
    fn secrets(&self) -> Vec<String> {
        let Ok(url) = Url::parse(&self.0) else { return Vec::new() };
        let mut found: Vec<&str> = url.password().into_iter().collect();
        for part in [Some(url.path()), url.query(), url.fragment()].into_iter().flatten() {
            let pairs = part.split(SEPARATORS).filter_map(|pair| pair.split_once('='));
            found.extend(pairs.filter(|(name, _)| is_secret(name)).map(|(_, value)| value));
        }
        let both = found.into_iter().flat_map(|secret| [secret.to_owned(), percent_decoded(secret)]);
        both.filter(|secret| secret.len() >= 4).collect()
    }
}

impl From<&str> for CameraUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for CameraUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CameraUrl({self})")
    }
}

/// The address with user name, password and secret values replaced by `***`.
fn masked(text: &str) -> String {
    if ["file:", "v4l2:", "videotestsrc:"].iter().any(|local| text.starts_with(local)) {
        return text.to_owned();
    }
    let Ok(mut url) = Url::parse(text) else { return masked_unreadable(text) };
    if has_at_sign_behind_host(&url) {
        // It is unknown where user name and password end.
        return masked_unreadable(text);
    }
    if !url.username().is_empty() || url.password().is_some() {
        // These two fail only for addresses without a host, and those have neither.
        let _ = url.set_username("***");
        let _ = url.set_password(None);
    }
    let path = masked_values(url.path());
    url.set_path(&path);
    let (query, fragment) = (url.query().map(masked_values), url.fragment().map(masked_values));
    url.set_query(query.as_deref());
    url.set_fragment(fragment.as_deref());
    url.to_string()
}

/// `text` with the values of secret names replaced by `***`.
fn masked_values(text: &str) -> String {
    let mask = |piece: &str| {
        let end = piece.trim_end_matches(SEPARATORS);
        match end.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***{}", &piece[end.len()..]),
            _ => piece.to_owned(),
        }
    };
    text.split_inclusive(SEPARATORS).map(mask).collect()
}

/// Whether a value with this name is a secret.
fn is_secret(name: &str) -> bool {
    let name = percent_decoded(name).to_lowercase();
    SECRET_NAMES.contains(&name.as_str()) || SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// Masks a text that is not an address: everything before an `@` and after a `?`, where secrets
/// are.
fn masked_unreadable(text: &str) -> String {
    let (start, tail) = text.rsplit_once('@').map_or(("", text), |(_, tail)| ("***@", tail));
    let (head, query) = tail.split_once('?').map_or((tail, ""), |(head, _)| (head, "?***"));
    format!("{start}{}{query}", masked_values(head)).chars().take(MAX_QUOTED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &str) -> Source {
        CameraUrl::from(text).source().expect(text)
    }

    #[test]
    fn relative_files_are_relative_to_the_working_folder() {
        let expected = std::env::current_dir().expect("a working folder").join("footage/a b.avi");
        assert_eq!(source("file:footage/a b.avi"), Source::File(expected));
        assert!(CameraUrl::from("file:").source().is_err());
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
        let url = CameraUrl::from("rtsp://admin:p%40s%2Bs+w@10.0.0.7:8554/live?channel=1&token=abc");
        let Ok(Source::Rtsp(r)) = url.source() else { panic!("rtsp") };
        assert_eq!((r.user.as_deref(), r.password.as_deref()), (Some("admin"), Some("p@s+s+w")));
        assert_eq!(r.address, "rtsp://10.0.0.7:8554/live?channel=1&token=abc");
        assert_eq!(url.to_string(), "rtsp://***@10.0.0.7:8554/live?channel=1&token=***");
        assert!(!format!("{url:?} {r:?}").contains("p%40s") && !format!("{url:?}").contains("abc"));
        let e = CameraUrl::from("rtsp//admin:secret@host").source().expect_err("no scheme").to_string();
        assert!(!e.contains("secret"), "{e}");
    }

    #[test]
    fn secrets_are_masked_wherever_cameras_put_them() {
        for (text, shown) in [
            ("rtsp://user:hunter2@cam/1", "rtsp://***@cam/1"),
            ("http://cam/v?Password=x&ch=2", "http://cam/v?Password=***&ch=2"),
            ("http://cam/v?loginuse=admin&loginpas=x1", "http://cam/v?loginuse=admin&loginpas=***"),
            ("http://cam/v?usr=admin&pswd=x1&p=x2&size=2", "http://cam/v?usr=***&pswd=***&p=***&size=2"),
            (
                "rtsp://10.0.0.7:554/user=admin&password=S3cret&channel=1&stream=0.sdp",
                "rtsp://10.0.0.7:554/user=***&password=***&channel=1&stream=0.sdp",
            ),
            ("rtsp://cam/live;token=abc/1", "rtsp://cam/live;token=***/1"),
            ("videotestsrc://?pattern=ball", "videotestsrc://?pattern=ball"),
            ("file:cache/a.avi", "file:cache/a.avi"),
            // Refused addresses are shown, too, in errors and lists.
            ("rtsp://admin:2024#cam@10.0.0.7/", "***@10.0.0.7/"),
            ("rtsp://admin:a?b@10.0.0.7/s?c=1", "***@10.0.0.7/s?***"),
        ] {
            assert_eq!(CameraUrl::from(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_password_with_unescaped_characters_is_refused_with_advice() {
        for text in [
            "rtsp://admin:2024#cam@10.0.0.7/",
            "rtsp://admin:20/24@10.0.0.7/",
            "rtsp://admin:20?24@10.0.0.7/",
            "rtsp://admin:a@b/c@10.0.0.7/",
        ] {
            let e = CameraUrl::from(text).source().expect_err(text).to_string();
            assert!(e.contains("%23") && e.contains("%2F") && e.contains("%3F") && !e.contains("20"), "{text}: {e}");
        }
        assert!(CameraUrl::from("rtsp://admin:2024%23cam%40@10.0.0.7/x%40y").source().is_ok());
    }

    #[test]
    fn errors_that_quote_the_address_are_scrubbed() {
        let url = CameraUrl::from("http://admin:hunter2@cam/x.mjpg?token=sesame&size=2");
        let said = url.scrub("Not Found, URL: http://cam/x.mjpg?token=sesame&size=2 (token sesame, hunter2)");
        assert_eq!(said, "Not Found, URL: http://***@cam/x.mjpg?token=***&size=2 (token ***, ***)");
        let url = CameraUrl::from("rtsp://cam/user=admin&password=S3cret&channel=1");
        assert_eq!(url.scrub("S3cret was wrong for admin"), "*** was wrong for ***");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let url = CameraUrl::from(text);
            let _ = (url.source(), url.scrub("text"), url.to_string());
        }

        #[test]
        fn no_password_is_ever_shown(
            password in "[A-Z][A-Za-z0-9%!+#/?@]{6,20}", scheme in "rtsp|rtsps|http|https|ftp|x y", path in "s|s/pwd=",
        ) {
            // The places where cameras put it: the user-info, a value of the query, a value of the
            // path.
            let user_info = format!("{scheme}://admin:{password}@cam.example/s");
            let escaped: String = url::form_urlencoded::byte_serialize(password.as_bytes()).collect();
            let values = format!("{scheme}://cam.example/{path}?pwd={escaped}");
            for (text, password) in [(user_info, password), (values, escaped)] {
                let url = CameraUrl::from(text);
                let said = match url.source() {
                    Ok(source) => format!("{url} {url:?} {source:?}"),
                    Err(e) => format!("{url} {url:?} {e}"),
                };
                prop_assert!(!said.contains(&password), "{}", said);
            }
        }
    }

    #[test]
    fn typing_errors_are_refused_with_advice() {
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
            let e = CameraUrl::from(text).source().expect_err(text).to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }
}
