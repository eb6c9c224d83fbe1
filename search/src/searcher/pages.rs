//! Paging: the ranked list of a search is kept for a while under an opaque cursor.
//!
//! The list is frozen, so that new footage shifts nothing between two pages; pictures that were
//! deleted meanwhile are left out when a page is read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::phrases::QueryUnderstanding;
use super::request::Hit;

/// Ranked list of one search.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    /// Owner, the only one who may read it.
    pub owner: String,
    /// Description that was searched for.
    pub query: Option<String>,
    /// All hits of the search.
    pub hits: Vec<Hit>,
    /// Hits per page.
    pub limit: usize,
    /// Whether the decoder judged the hits.
    pub judged: bool,
    /// Notes of the first page about what was degraded.
    pub degraded: Vec<String>,
    /// Interpretation of the description.
    pub understanding: QueryUnderstanding,
}

/// Part of a list that a cursor refers to.
pub(super) struct Page {
    /// The whole list.
    pub list: Frozen,
    /// Positions of the page's hits in the list.
    pub range: Range<usize>,
    pub next_cursor: Option<String>,
}

/// Cache of ranked lists, bounded in number and age. Each owner has a bound of its own, so that one
/// program with many searches does not expire the pages of everybody else.
#[derive(Debug)]
pub(super) struct SearchPages {
    lists: Mutex<HashMap<Uuid, (Instant, Frozen)>>,
    of_an_owner: usize,
    of_all: usize,
    keep: Duration,
}

impl SearchPages {
    /// Creates a cache of `of_an_owner` lists for each owner and `of_all` lists together, each kept
    /// for `keep` after its last use; the least recently used list is evicted first.
    pub fn new(of_an_owner: usize, of_all: usize, keep: Duration) -> Self {
        Self { lists: Mutex::default(), of_an_owner: of_an_owner.max(1), of_all: of_all.max(1), keep }
    }

    /// Stores a list and returns the cursor of its second page; `None` when there is no second
    /// page.
    pub fn freeze(&self, list: Frozen) -> Option<String> {
        if list.hits.len() <= list.limit {
            return None;
        }
        let (id, offset) = (Uuid::new_v4(), list.limit);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|_, (used, _)| used.elapsed() < self.keep);
        evict(&mut lists, self.of_an_owner, |kept| kept.owner == list.owner);
        evict(&mut lists, self.of_all, |_| true);
        lists.insert(id, (Instant::now(), list));
        Some(cursor(id, offset))
    }

    /// Returns the page of a cursor; `None` when the cursor is malformed, unknown, expired or of
    /// another owner.
    pub fn read(&self, text: &str, owner: &str) -> Option<Page> {
        let (id, offset) = text.split_once('.')?;
        let (id, offset): (Uuid, usize) = (id.parse().ok()?, offset.parse().ok()?);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, list) = lists.get_mut(&id)?;
        if used.elapsed() >= self.keep || list.owner != owner || offset >= list.hits.len() {
            return None;
        }
        *used = Instant::now();
        let end = offset.saturating_add(list.limit).min(list.hits.len());
        let next_cursor = (end < list.hits.len()).then(|| cursor(id, end));
        Some(Page { list: list.clone(), range: offset..end, next_cursor })
    }
}

/// Removes the least recently used of the lists that `counts` selects, until there is room for one
/// more.
fn evict(lists: &mut HashMap<Uuid, (Instant, Frozen)>, capacity: usize, counts: impl Fn(&Frozen) -> bool) {
    loop {
        let counted = || lists.iter().filter(|(_, (_, list))| counts(list));
        if counted().count() < capacity {
            return;
        }
        let Some(oldest) = counted().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id) else { return };
        lists.remove(&oldest);
    }
}

fn cursor(id: Uuid, offset: usize) -> String {
    format!("{}.{offset}", id.simple())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::{BBox, Timestamp, TrackId};

    fn list(owner: &str, hits: u128) -> Frozen {
        let at = Timestamp::from_micros(0);
        let hit = |i| Hit {
            sighting_id: Uuid::from_u128(i),
            camera: "gate".parse().expect("valid"),
            track_id: TrackId { born: at, ordinal: i as u16 },
            first_seen: at,
            last_seen: at,
            ended: false,
            captured_at: at,
            crop: None,
            bbox: BBox::default(),
            frame_size: (1, 1),
            similarity: 0.0,
            match_logit: None,
            hubness: None,
            probability: None,
            phrases: vec![],
            score: 0.0,
            crops: vec![],
        };
        let hits = (0..hits).map(hit).collect();
        Frozen {
            owner: owner.to_owned(),
            query: None,
            hits,
            limit: 3,
            judged: true,
            degraded: vec![],
            understanding: QueryUnderstanding::default(),
        }
    }

    #[test]
    fn pages_cover_the_list_once() {
        let pages = SearchPages::new(4, 4, Duration::from_secs(60));
        let mut seen: Vec<u128> = vec![0, 1, 2];
        let mut next = pages.freeze(list("a", 8));
        while let Some(cursor) = next {
            let again = pages.read(&cursor, "a").expect("known");
            let page = pages.read(&cursor, "a").expect("a page can be read twice");
            assert_eq!(again.range, page.range);
            seen.extend(page.list.hits[page.range].iter().map(|h| h.sighting_id.as_u128()));
            next = page.next_cursor;
        }
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        assert_eq!(pages.freeze(list("a", 3)), None, "one page only");
    }

    #[test]
    fn a_cursor_is_its_owners_and_ages() {
        let pages = SearchPages::new(2, 9, Duration::from_secs(60));
        let first = pages.freeze(list("a", 8)).expect("two pages");
        assert!(pages.read(&first, "b").is_none());
        for bad in ["", ".", "x.1", &first.replace(".3", ".8"), &first.replace(".3", ".-1"), &first.replace('.', "")] {
            assert!(pages.read(bad, "a").is_none(), "{bad:?}");
        }
        let second = pages.freeze(list("a", 8)).expect("two pages");
        assert!(pages.read(&first, "a").is_some(), "used last");
        pages.freeze(list("a", 8)).expect("two pages");
        assert!(pages.read(&first, "a").is_some());
        assert!(pages.read(&second, "a").is_none(), "used longest ago, so it went");
        for _ in 0..6 {
            pages.freeze(list("b", 8)).expect("two pages");
        }
        assert!(pages.read(&first, "a").is_some(), "another owner's searches evict their own pages");
        for owner in ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
            pages.freeze(list(owner, 8)).expect("two pages");
        }
        assert!(pages.read(&first, "a").is_none(), "all owners together are bounded, too");
        let brief = SearchPages::new(2, 9, Duration::ZERO);
        let cursor = brief.freeze(list("a", 8)).expect("two pages");
        assert!(brief.read(&cursor, "a").is_none(), "too old");
    }
}
