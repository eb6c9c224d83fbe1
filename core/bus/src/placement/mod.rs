//! Placement: which camera node runs which camera.
//!
//! [`placement`] is a pure function of the cameras and the live nodes. It is rendezvous hashing with
//! bounded loads: every camera ranks all nodes by a hash, weighted by capacity, and runs on the
//! first of them that has room for it. So a node that comes or goes moves about its own share of
//! the cameras, and there is no table that anybody would have to keep.
//!
//! Each node computes it for itself. Two nodes may see a change at different moments, so a
//! placement alone does not start a camera: a node first takes the camera's *hold* in the topic
//! `nodes`, whose one order of records all nodes share ([`Membership`]). [`Agent`] does that.

mod agent;
mod membership;
mod record;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use sightline_core::CameraId;
use uuid::Uuid;

pub use agent::{Agent, CameraChange, Verdict};
pub use membership::{HEARTBEAT_INTERVAL, LEASE, Membership};
pub use record::{Beat, Hold, Record, RecordError, Span};

/// A node takes at most this many times its fair share while others have room. With less, a change
/// moves more cameras; with more, nodes are loaded less evenly.
const LOAD_FACTOR: f64 = 1.25;

/// Namespace of the hashes. Another value would move every camera once.
const NAMESPACE: Uuid = Uuid::from_u128(0x2c5f_9a10_74d3_5e8b_9b1e_30c7_d4a8_6f52);

/// A live node, as the placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSlots {
    /// Its name.
    pub name: String,
    /// How many cameras of the topic it can run.
    pub capacity: u32,
    /// It gives its cameras away and takes no others.
    pub draining: bool,
}

/// Why no node runs a camera.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Unplaced {
    #[error("no camera node takes cameras at present")]
    NoNode,
    #[error("all camera nodes are full: {nodes} of them take {capacity} cameras (ingest.max_cameras)")]
    Full { nodes: usize, capacity: u64 },
    #[error("it is pinned to node {node:?}, which is not running")]
    PinnedNodeAbsent { node: String },
    #[error("it is pinned to node {node:?}, which is being drained")]
    PinnedNodeDraining { node: String },
    #[error("it is pinned to node {node:?}, which is full: it takes {capacity} cameras (ingest.max_cameras)")]
    PinnedNodeFull { node: String, capacity: u32 },
}

/// Where each camera runs; every camera stands in one of the two maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The node that runs the camera.
    pub node_of: BTreeMap<CameraId, String>,
    /// Cameras that no node can run, with the reason.
    pub unplaced: BTreeMap<CameraId, Unplaced>,
}

/// Places `cameras`, each with the node that it is pinned to, on `nodes`. The order of the inputs
/// does not matter.
pub fn placement<'a>(
    cameras: impl IntoIterator<Item = (&'a CameraId, Option<&'a str>)>,
    nodes: impl IntoIterator<Item = &'a NodeSlots>,
) -> Placement {
    let cameras: BTreeMap<&CameraId, Option<&str>> = cameras.into_iter().collect();
    let by_name: BTreeMap<&str, &NodeSlots> = nodes.into_iter().map(|node| (node.name.as_str(), node)).collect();
    let open: Vec<&NodeSlots> = by_name.values().copied().filter(|n| !n.draining && n.capacity > 0).collect();
    let mut room: Vec<u64> = open.iter().map(|n| u64::from(n.capacity)).collect();
    let mut done = Placement::default();
    let mut free = Vec::new();
    for (camera, pin) in &cameras {
        let Some(pin) = pin else {
            free.push(*camera);
            continue;
        };
        match pinned(pin, &by_name, &open, &mut room) {
            Ok(()) => drop(done.node_of.insert((*camera).clone(), (*pin).to_owned())),
            Err(why) => drop(done.unplaced.insert((*camera).clone(), why)),
        }
    }
    let capacity: u64 = open.iter().map(|n| u64::from(n.capacity)).sum();
    // Pinned cameras count as load of their node, so that it gets fewer of the others.
    let share = LOAD_FACTOR * (done.node_of.len() + free.len()) as f64 / capacity.max(1) as f64;
    let bounded: Vec<u64> = open
        .iter()
        .zip(&room)
        .map(|(node, room)| {
            let bound = (share * f64::from(node.capacity)).ceil() as u64;
            let taken = u64::from(node.capacity) - room;
            bound.saturating_sub(taken).min(*room)
        })
        .collect();
    let mut left = assign(&free, &open, &bounded, &mut room, &mut done);
    if !left.is_empty() {
        // The bounds leave room for all, unless pinned cameras load some nodes beyond theirs.
        let whole = room.clone();
        left = assign(&left, &open, &whole, &mut room, &mut done);
    }
    let why = if open.is_empty() { Unplaced::NoNode } else { Unplaced::Full { nodes: open.len(), capacity } };
    done.unplaced.extend(left.into_iter().map(|camera| (camera.clone(), why.clone())));
    done
}

/// Takes a slot of the node that a camera names.
fn pinned(
    pin: &str,
    by_name: &BTreeMap<&str, &NodeSlots>,
    open: &[&NodeSlots],
    room: &mut [u64],
) -> Result<(), Unplaced> {
    let node = pin.to_owned();
    let Some(slots) = by_name.get(pin) else { return Err(Unplaced::PinnedNodeAbsent { node }) };
    if slots.draining {
        return Err(Unplaced::PinnedNodeDraining { node });
    }
    let at = open.iter().position(|n| n.name == pin).filter(|at| room[*at] > 0);
    let at = at.ok_or(Unplaced::PinnedNodeFull { node, capacity: slots.capacity })?;
    room[at] -= 1;
    Ok(())
}

/// A camera's rank of a node. Ordered by the score, equal ones by the camera.
#[derive(PartialEq)]
struct Bid<'a> {
    score: f64,
    camera: &'a CameraId,
}

impl Eq for Bid<'_> {}

impl PartialOrd for Bid<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bid<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then_with(|| self.camera.cmp(other.camera))
    }
}

/// Assigns cameras to nodes, at most `bound` to each, and takes them from `room`. Returns those for
/// which there is none.
///
/// Deferred acceptance: each camera asks its nodes in the order of its scores, and a full node
/// keeps those with the highest score. The result is the same whoever asks first.
fn assign<'a>(
    cameras: &[&'a CameraId],
    nodes: &[&NodeSlots],
    bound: &[u64],
    room: &mut [u64],
    done: &mut Placement,
) -> Vec<&'a CameraId> {
    let mut kept: Vec<BinaryHeap<Reverse<Bid<'a>>>> = nodes.iter().map(|_| BinaryHeap::new()).collect();
    let mut ranked: BTreeMap<&CameraId, std::vec::IntoIter<(f64, usize)>> = BTreeMap::new();
    let (mut asking, mut left) = (cameras.to_vec(), Vec::new());
    while let Some(camera) = asking.pop() {
        let next = ranked.entry(camera).or_insert_with(|| rank(camera, nodes).into_iter());
        let Some((score, node)) = next.next() else {
            left.push(camera);
            continue;
        };
        kept[node].push(Reverse(Bid { score, camera }));
        if kept[node].len() as u64 > bound[node]
            && let Some(Reverse(refused)) = kept[node].pop()
        {
            asking.push(refused.camera);
        }
    }
    for ((node, kept), room) in nodes.iter().zip(kept).zip(room) {
        *room -= kept.len() as u64;
        done.node_of.extend(kept.into_iter().map(|Reverse(bid)| (bid.camera.clone(), node.name.clone())));
    }
    left
}

/// The nodes in the order of this camera's scores, best first.
fn rank(camera: &CameraId, nodes: &[&NodeSlots]) -> Vec<(f64, usize)> {
    let mut all: Vec<(f64, usize)> = nodes.iter().enumerate().map(|(n, node)| (score(camera, node), n)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all
}

/// Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): with `weight / -ln(uniform)` a
/// node has the highest score for a share of the cameras that is proportional to its weight.
fn score(camera: &CameraId, node: &NodeSlots) -> f64 {
    let (hash, _) = Uuid::new_v5(&NAMESPACE, format!("{}\0{camera}", node.name).as_bytes()).as_u64_pair();
    // 53 bits, centred, so that it is neither 0 nor 1.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(node.capacity) / -uniform.ln()
}

#[cfg(test)]
mod tests;
