//! Stored pictures: metadata, the other pictures of the track, and the JPEG.

use bytes::Bytes;
use serde_json::json;
use sightline_core::SightingId;
use sightline_search::{CropHash, Record};

use super::{Desk, Viewer};
use crate::error::Error;

impl Desk<Viewer> {
    /// Returns a stored picture's metadata and all pictures of its track by time, including it.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for a picture outside of the caller's scope, or
    /// [`Error::Unavailable`].
    pub async fn sighting(&self, id: SightingId) -> Result<(Record, Vec<Record>), Error> {
        let sighting = self.visible(id).await?;
        self.record("view", None, json!({ "sighting": id, "camera": sighting.payload.camera })).await?;
        let track = self.index()?.track(&sighting.payload.camera, sighting.payload.track).await?;
        Ok((sighting, track))
    }

    /// Returns the JPEG of a stored picture: with `crop` of this one alone, also for a while after
    /// a better one has replaced it; otherwise of the present one.
    ///
    /// # Errors
    /// The errors of [`Desk::sighting`]; [`Error::NotFound`] also when the picture asked for was
    /// replaced more than a while ago.
    pub async fn picture(&self, id: SightingId, crop: Option<CropHash>) -> Result<Bytes, Error> {
        let sighting = self.visible(id).await?;
        let replaced = crop.is_some() && crop != sighting.payload.crop;
        self.app.state().note_picture(&self.caller.signature(), id).await?;
        let picture = self.index()?.picture(sighting, crop).await?;
        picture.ok_or_else(|| {
            let why = if replaced { "not kept any more: a later one has replaced it" } else { "not there" };
            Error::NotFound(format!("the picture of sighting {id} is {why}"))
        })
    }

    async fn visible(&self, id: SightingId) -> Result<Record, Error> {
        let found = self.index()?.sighting(id).await?.filter(|s| self.caller.sees(&s.payload.camera));
        // A picture outside the token's scope is answered like a missing one.
        found.ok_or_else(|| Error::NotFound(format!("there is no sighting {id}")))
    }
}
