//! Addresses of cameras hold passwords; what leaves the process is masked.

use url::Url;

/// The address without its secrets: password, and query values whose name speaks of one.
pub fn mask(text: &str) -> String {
    if text.starts_with("file:") || text.starts_with("v4l2:") {
        return text.to_owned();
    }
    let Ok(mut url) = Url::parse(text) else { return "(not an address)".to_owned() };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "(address hidden)".to_owned();
    }
    if url.query().is_some() {
        let secret = |k: &str| ["pass", "pwd", "token", "key", "auth", "secret", "sig"].iter().any(|s| k.contains(s));
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(k, v)| (k.to_string(), if secret(&k.to_ascii_lowercase()) { "***".into() } else { v.to_string() }))
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_leave() {
        assert_eq!(mask("rtsp://user:hunter2@cam/1"), "rtsp://user:***@cam/1");
        assert_eq!(mask("http://cam/v?Password=x&ch=2"), "http://cam/v?Password=***&ch=2");
        assert_eq!(mask("videotestsrc://"), "videotestsrc://");
        assert_eq!(mask("file:cache/a.avi"), "file:cache/a.avi");
    }
}
