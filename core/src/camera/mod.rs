//! The camera as all of Sightline sees it: its address, masked in this one place, its configuration,
//! and its state.

mod allowed;
mod config;
mod source;
mod state;
mod url;

pub use allowed::{AllowedSources, SourceRefused, lies_in};
pub use config::{CAMERA_KEYS, CameraConfig, CameraConfigError};
pub use source::{PATTERNS, Remote, Source, TestPicture, UrlError};
pub use state::CameraState;
pub use url::CameraUrl;
