//! The store trait as calls of the Qdrant server.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use qdrant_client::qdrant::{
    AcornSearchParams, CountPoints, DeletePoints, Direction, FacetCounts, GetPoints, OrderBy, QuantizationSearchParams,
    Query, QueryPointGroups, QueryPoints, ReadConsistency, RetrievedPoint, ScrollPoints, SearchParams,
    SetPayloadPoints, UpsertPoints, facet_value,
};
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::super::point::{next_id, widened};
use super::QdrantStore;
use super::consistency;
use super::convert::{self, SPAN, TRACK_KEY, with_fields, with_payload, with_vectors};
use crate::store::names::{self, CAMERA, CAPTURED_AT};
use crate::store::tuning::MIN_BEAM;
use crate::store::{
    CameraExtent, Deleted, Filter, Payload, Point, Record, Scored, StoreError, VectorStore, check_vector,
};

/// Points per call: at most two megabytes of the widest vectors.
const CHUNK: usize = 500;

/// Ids listed or deleted per call: some 200 kB. A server refuses requests above 32 MB and is slow
/// with filters of many ids.
const IDS: usize = 5000;

/// Largest number of cameras listed.
const MAX_CAMERAS: u64 = 100_000;

impl QdrantStore {
    /// Search parameters. With a filter that keeps more than `COMPARE_ALL_BELOW` points of a
    /// segment, ACORN skips the points that it excludes. Servers before 1.16 do not know ACORN and
    /// ignore it.
    fn params(&self, limit: usize, filtered: bool) -> SearchParams {
        let acorn = AcornSearchParams { enable: Some(true), max_selectivity: None };
        let quantization = self.oversampling.map(|factor| QuantizationSearchParams {
            ignore: Some(false),
            rescore: Some(true),
            oversampling: Some(factor),
        });
        SearchParams {
            hnsw_ef: Some(MIN_BEAM.max(2 * limit) as u64),
            quantization,
            acorn: filtered.then_some(acorn),
            ..SearchParams::default()
        }
    }

    /// Returns the oldest or newest pictures of a filter by capture time.
    fn by_time(&self, filter: &Filter, limit: usize, direction: Direction) -> Result<Vec<Record>, StoreError> {
        let order = OrderBy { key: CAPTURED_AT.to_owned(), direction: Some(direction.into()), start_from: None };
        let request = ScrollPoints {
            collection_name: self.collection.clone(),
            filter: convert::filter(filter),
            limit: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            with_payload: with_payload(true),
            order_by: Some(order),
            ..ScrollPoints::default()
        };
        let page = self.client.call(|q| async move { q.scroll(request).await })?.result;
        page.into_iter().map(|r| convert::record(r.id, r.payload)).collect()
    }

    fn retrieve(
        &self,
        ids: &[SightingId],
        fields: Option<&[&str]>,
        vectors: bool,
        read_consistency: Option<ReadConsistency>,
    ) -> Result<Vec<RetrievedPoint>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let request = GetPoints {
                collection_name: self.collection.clone(),
                ids: chunk.iter().copied().map(convert::point_id).collect(),
                with_payload: match fields {
                    None => with_payload(true),
                    Some([]) => with_payload(false),
                    Some(fields) => with_fields(fields),
                },
                with_vectors: with_vectors(vectors),
                read_consistency,
                ..GetPoints::default()
            };
            found.extend(self.client.call(|q| async move { q.get_points(request).await })?.result);
        }
        Ok(found)
    }

    /// Returns the records of these ids in the given order.
    fn records(
        &self,
        ids: &[SightingId],
        vectors: bool,
        read_consistency: Option<ReadConsistency>,
    ) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        let mut found = HashMap::new();
        for r in self.retrieve(ids, None, vectors, read_consistency)? {
            let record = convert::record(r.id, r.payload)?;
            let vector = if vectors { convert::vector(r.vectors)? } else { Vec::new() };
            found.insert(record.id, (record, vector));
        }
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    fn count_points(&self, filter: &Filter, exact: bool) -> Result<u64, StoreError> {
        if filter.matches_nothing() {
            return Ok(0);
        }
        let request = CountPoints {
            collection_name: self.collection.clone(),
            filter: convert::filter(filter),
            exact: Some(exact),
            ..CountPoints::default()
        };
        Ok(self.client.call(|q| async move { q.count(request).await })?.result.map_or(0, |r| r.count))
    }

    /// Deletes stored points. The caller holds the writer's lock.
    fn delete_stored(&self, ids: &[SightingId]) -> Result<(), StoreError> {
        let request = DeletePoints {
            collection_name: self.collection.clone(),
            wait: Some(true),
            points: Some(convert::selector(ids)),
            ordering: consistency::in_order(),
            ..DeletePoints::default()
        };
        self.client.change(|q| async move { q.delete_points(request).await })
    }

    /// Opens the collections of other models on this server, to erase from them. They are found by
    /// their name, `<vectors.collection>-<model>`, and only those whose points say that they belong
    /// to that model are taken: another installation may have a name that begins like this one.
    fn other_models(&self) -> Result<Vec<Self>, StoreError> {
        let prefix = format!("{}-", self.alias);
        let listed = self.client.call(|q| async move { q.list_collections().await })?.collections;
        let mut others = Vec::new();
        for name in listed.into_iter().map(|c| c.name).filter(|name| *name != self.collection) {
            let Some(model_id) = name.strip_prefix(&prefix).filter(|id| names::check_model_id(id).is_ok()) else {
                continue;
            };
            let other = Self {
                client: Arc::clone(&self.client),
                alias: self.alias.clone(),
                model_id: model_id.to_owned(),
                // Nothing is written to it or compared with it.
                width: 0,
                oversampling: None,
                writer: std::sync::Mutex::default(),
                collection: name,
            };
            if other.belongs_to_its_model()? {
                others.push(other);
            }
        }
        Ok(others)
    }

    /// Whether a point of the collection says that it belongs to the model of the name; `false`
    /// for one without points.
    fn belongs_to_its_model(&self) -> Result<bool, StoreError> {
        let request = ScrollPoints {
            collection_name: self.collection.clone(),
            limit: Some(1),
            with_payload: with_fields(&["model_id"]),
            ..ScrollPoints::default()
        };
        let page = self.client.call(|q| async move { q.scroll(request).await })?.result;
        let said = page.into_iter().next().and_then(|mut point| point.payload.remove("model_id"));
        Ok(said.and_then(|v| v.into_json().as_str().map(|id| id == self.model_id)).unwrap_or_default())
    }

    /// Returns the stored time spans of these ids.
    fn spans(&self, ids: &[SightingId]) -> Result<HashMap<SightingId, Span>, StoreError> {
        let found = self.retrieve(ids, Some(&SPAN), false, consistency::newest())?;
        found
            .into_iter()
            .map(|r| {
                let id = convert::sighting_id(r.id)?;
                let span =
                    convert::value(r.payload).map_err(|e| convert::engine(format!("span of point {id}: {e}")))?;
                Ok((id, span))
            })
            .collect()
    }
}

/// Stored time span of a track, in microseconds.
#[derive(Clone, Copy, serde::Deserialize)]
struct Span {
    first_seen: i64,
    last_seen: i64,
    ended: bool,
}

impl Span {
    fn widen(self, payload: &mut Payload) {
        let at = Timestamp::from_micros;
        payload.widen(at(self.first_seen), at(self.last_seen), self.ended);
    }
}

impl VectorStore for QdrantStore {
    fn model_id(&self) -> &str {
        &self.model_id
    }

    fn width(&self) -> usize {
        self.width
    }

    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.check(points)?;
        if points.is_empty() {
            return Ok(());
        }
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<SightingId> = points.iter().map(|p| p.id).collect();
        let stored = self.spans(&ids)?;
        let mut known: HashMap<SightingId, Payload> = HashMap::new();
        let mut list = Vec::with_capacity(points.len());
        for point in points {
            let mut payload = point.payload.clone();
            if let Some(span) = stored.get(&point.id) {
                span.widen(&mut payload);
            }
            if let Some(earlier) = known.get(&point.id) {
                payload.widen(earlier.first_seen, earlier.last_seen, earlier.ended);
            }
            list.push(convert::point(point.id, &point.vector, &payload)?);
            known.insert(point.id, payload);
        }
        while !list.is_empty() {
            let rest = list.split_off(list.len().min(CHUNK));
            let request = UpsertPoints {
                collection_name: self.collection.clone(),
                wait: Some(true),
                points: std::mem::replace(&mut list, rest),
                ordering: consistency::in_order(),
                ..UpsertPoints::default()
            };
            self.client.change(|q| async move { q.upsert_points(request).await })?;
        }
        Ok(())
    }

    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        check_vector(vector, self.width)?;
        if limit == 0 || filter.matches_nothing() {
            return Ok(Vec::new());
        }
        let filter = convert::filter(filter);
        let request = QueryPoints {
            collection_name: self.collection.clone(),
            query: Some(Query::new_nearest(vector.to_vec())),
            params: Some(self.params(limit, filter.is_some())),
            filter,
            limit: Some(limit as u64),
            with_payload: with_payload(true),
            ..QueryPoints::default()
        };
        let found = self.client.call(|q| async move { q.query(request).await })?.result;
        found.into_iter().map(convert::scored).collect()
    }

    fn nearest_tracks(
        &self,
        vector: &[f32],
        wanted: usize,
        _crops: usize,
        filter: &Filter,
    ) -> Result<Vec<Vec<Scored>>, StoreError> {
        check_vector(vector, self.width)?;
        if wanted == 0 || filter.matches_nothing() {
            return Ok(Vec::new());
        }
        let filter = convert::filter(filter);
        let request = QueryPointGroups {
            collection_name: self.collection.clone(),
            query: Some(Query::new_nearest(vector.to_vec())),
            params: Some(self.params(wanted, filter.is_some())),
            filter,
            limit: Some(wanted as u64),
            // The server counts a group only when it is full: with more than one picture a group, it
            // searches up to ten times for tracks that have fewer. The others are fetched by id.
            group_size: Some(1),
            group_by: TRACK_KEY.to_owned(),
            with_payload: with_payload(true),
            ..QueryPointGroups::default()
        };
        let groups = self.client.call(|q| async move { q.query_groups(request).await })?.result.unwrap_or_default();
        let mut tracks = Vec::with_capacity(groups.groups.len());
        for group in groups.groups {
            let mut crops = group.hits.into_iter().map(convert::scored).collect::<Result<Vec<_>, _>>()?;
            crops.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
            if !crops.is_empty() {
                tracks.push(crops);
            }
        }
        tracks.sort_by(|a, b| b[0].cosine.total_cmp(&a[0].cosine));
        Ok(tracks)
    }

    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        Ok(self.records(ids, false, None)?.into_iter().map(|(record, _)| record).collect())
    }

    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.records(ids, true, None)
    }

    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        if limit == 0 || filter.matches_nothing() {
            return Ok(Vec::new());
        }
        let mut page = self.by_time(filter, limit, Direction::Desc)?;
        page.sort_by_key(|r| (std::cmp::Reverse(r.payload.captured_at), r.id));
        Ok(page)
    }

    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        let Some(first) = next_id(after).filter(|_| limit > 0 && !filter.matches_nothing()) else {
            return Ok(Vec::new());
        };
        let request = ScrollPoints {
            collection_name: self.collection.clone(),
            filter: convert::filter(filter),
            offset: after.map(|_| convert::point_id(first)),
            limit: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            with_payload: with_payload(false),
            read_consistency: consistency::newest(),
            ..ScrollPoints::default()
        };
        let page = self.client.call(|q| async move { q.scroll(request).await })?;
        page.result.into_iter().map(|point| convert::sighting_id(point.id)).collect()
    }

    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        let mut deleted = 0;
        for chunk in ids.chunks(IDS) {
            let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let stored = self.retrieve(chunk, Some(&[]), false, consistency::newest())?;
            let stored: Vec<_> = stored.into_iter().map(|r| convert::sighting_id(r.id)).collect::<Result<_, _>>()?;
            if !stored.is_empty() {
                self.delete_stored(&stored)?;
                deleted += stored.len() as u64;
            }
        }
        Ok([(self.model_id.clone(), deleted)].into())
    }

    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        if filter.is_unrestricted() {
            return Err(StoreError::Unrestricted);
        }
        let (mut deleted, mut after) = (0, None);
        loop {
            let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = self.scroll(filter, after, IDS)?;
            let Some(last) = ids.last() else { return Ok(deleted) };
            self.delete_stored(&ids)?;
            deleted += ids.len() as u64;
            after = Some(*last);
        }
    }

    fn beside(&self) -> Result<Vec<Arc<dyn VectorStore>>, StoreError> {
        Ok(self.other_models()?.into_iter().map(|store| Arc::new(store) as Arc<dyn VectorStore>).collect())
    }

    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = self.ids(&Filter::track(camera.clone(), track))?;
        let points: Vec<Record> =
            self.records(&ids, false, consistency::newest())?.into_iter().map(|(record, _)| record).collect();
        let Some((span, stale)) = widened(&points, first, last, ended) else { return Ok(0) };
        if !stale.is_empty() {
            let request = SetPayloadPoints {
                collection_name: self.collection.clone(),
                wait: Some(true),
                payload: convert::span(&span),
                points_selector: Some(convert::selector(&stale)),
                ordering: consistency::in_order(),
                ..SetPayloadPoints::default()
            };
            self.client.change(|q| async move { q.set_payload(request).await })?;
        }
        Ok(points.len() as u64)
    }

    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.count_points(filter, false)
    }

    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.count_points(filter, true)
    }

    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        let request = FacetCounts {
            collection_name: self.collection.clone(),
            key: CAMERA.to_owned(),
            limit: Some(MAX_CAMERAS),
            exact: Some(true),
            ..FacetCounts::default()
        };
        let mut cameras = Vec::new();
        for hit in self.client.call(|q| async move { q.facet(request).await })?.hits {
            let Some(facet_value::Variant::StringValue(name)) = hit.value.and_then(|v| v.variant) else { continue };
            let camera: CameraId = name.parse().map_err(|e| convert::engine(format!("stored camera id: {e}")))?;
            let filter = Filter::camera(camera.clone());
            let first = self.by_time(&filter, 1, Direction::Asc)?.pop();
            let last = self.by_time(&filter, 1, Direction::Desc)?.pop();
            // Deleted between the two calls.
            let (Some(first), Some(last)) = (first, last) else { continue };
            let (first, last) = (first.payload.captured_at, last.payload.captured_at);
            cameras.push(CameraExtent { camera, points: hit.count, first, last });
        }
        cameras.sort_by(|a, b| a.camera.cmp(&b.camera));
        Ok(cameras)
    }

    /// No-op: an applied change is in the server's log already.
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// No-op: the server builds its indexes by itself.
    fn optimize(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}
