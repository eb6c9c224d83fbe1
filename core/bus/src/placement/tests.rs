//! Properties of the placement: complete, within capacity, stable, and the same on every node.

use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

fn cameras(count: usize) -> Vec<(CameraId, Option<String>)> {
    (0..count).map(|n| (format!("cam-{n}").parse().expect("valid"), None)).collect()
}

fn node(name: impl Into<String>, capacity: u32) -> NodeSlots {
    NodeSlots { name: name.into(), capacity, draining: false }
}

fn place(cameras: &[(CameraId, Option<String>)], nodes: &[NodeSlots]) -> Placement {
    placement(cameras.iter().map(|(id, pin)| (id, pin.as_deref())), nodes)
}

fn loads(placed: &Placement) -> BTreeMap<&str, usize> {
    let mut all = BTreeMap::new();
    for node in placed.node_of.values() {
        *all.entry(node.as_str()).or_default() += 1;
    }
    all
}

/// Fraction of the cameras that two placements both run, on different nodes.
fn moved(a: &Placement, b: &Placement) -> f64 {
    let moved = a.node_of.iter().filter(|(camera, node)| b.node_of.get(*camera).is_some_and(|n| n != *node)).count();
    moved as f64 / a.node_of.len() as f64
}

proptest! {
    #[test]
    fn every_camera_is_placed_once_while_capacity_allows_and_no_node_is_overloaded(
        capacities in prop::collection::vec((0u32..20, any::<bool>()), 0..12),
        count in 0usize..120,
        pins in prop::collection::vec((any::<prop::sample::Index>(), 0usize..14), 0..10),
        seed in any::<u64>(),
    ) {
        let nodes: Vec<NodeSlots> = capacities.iter().enumerate()
            .map(|(n, (capacity, draining))| NodeSlots { draining: *draining && n % 3 == 0, ..node(format!("node-{n}"), *capacity) })
            .collect();
        let mut all = cameras(count);
        if count > 0 {
            for (which, to) in &pins {
                // Some name a node that is not there.
                all[which.index(count)].1 = Some(format!("node-{to}"));
            }
        }
        let placed = place(&all, &nodes);
        for (camera, pin) in &all {
            prop_assert!(placed.node_of.contains_key(camera) != placed.unplaced.contains_key(camera), "{camera}");
            if let (Some(pin), Some(node)) = (pin, placed.node_of.get(camera)) {
                prop_assert_eq!(pin, node);
            }
        }
        let loads = loads(&placed);
        for (name, load) in &loads {
            let node = nodes.iter().find(|n| n.name == *name).expect("known");
            prop_assert!(!node.draining && *load <= node.capacity as usize, "{name} runs {load}");
        }
        // Who could run here and does not: all that takes cameras is full.
        let without_reason = |camera: &CameraId| all.iter().any(|(id, pin)| id == camera && pin.is_none());
        if placed.unplaced.keys().any(without_reason) {
            let full = |n: &NodeSlots| n.draining || loads.get(n.name.as_str()).copied().unwrap_or(0) == n.capacity as usize;
            prop_assert!(nodes.iter().all(full));
        }
        // The order of the inputs does not matter.
        let (mut other, mut others) = (all.clone(), nodes.clone());
        other.sort_by_key(|(id, _)| Uuid::new_v5(&NAMESPACE, format!("{seed}{id}").as_bytes()));
        others.reverse();
        prop_assert_eq!(place(&other, &others), placed);
    }
}

#[test]
fn a_node_that_goes_or_comes_moves_about_its_share() {
    for (count, size, capacity) in [(100, 24, 16), (100, 10, 16), (100, 7, 16), (300, 24, 16), (1000, 72, 16)] {
        let (mut gone, mut come) = (0.0, 0.0);
        let rounds = 5;
        for round in 0..rounds {
            let nodes: Vec<_> = (0..size).map(|n| node(format!("round-{round}-{n}"), capacity)).collect();
            let all = cameras(count);
            let whole = place(&all, &nodes);
            assert!(whole.unplaced.is_empty());
            let less = place(&all, &nodes[1..]);
            gone += moved(&whole, &less) / f64::from(rounds);
            come += moved(&less, &whole) / f64::from(rounds);
        }
        let fair = 1.0 / f64::from(size);
        for moved in [gone, come] {
            assert!(moved < 1.75 * fair, "{count} cameras on {size} nodes: {moved:.3} moved, 1/n is {fair:.3}");
        }
    }
}

#[test]
fn loads_follow_the_capacities_and_stay_near_the_fair_share() {
    let nodes: Vec<_> = (0..20).map(|n| node(format!("node-{n}"), if n < 10 { 10 } else { 40 })).collect();
    let placed = place(&cameras(200), &nodes);
    let large: usize =
        loads(&placed).iter().filter(|(n, _)| nodes[10..].iter().any(|l| l.name == **n)).map(|(_, l)| l).sum();
    assert!((130..=190).contains(&large), "{large} of 200 run on four fifths of the capacity");
    for node in &nodes {
        let bound = (1.25 * 200.0 * f64::from(node.capacity) / 500.0).ceil() as usize;
        let load = loads(&placed).get(node.name.as_str()).copied().unwrap_or(0);
        assert!(load <= bound, "{} runs {load} of at most {bound}", node.name);
    }
}

/// More nodes than a topic has partitions by default: all of them get cameras, whereas a partition
/// went to one node.
#[test]
fn no_number_of_partitions_bounds_the_nodes() {
    let nodes: Vec<_> = (0..72).map(|n| node(format!("node-{n}"), 16)).collect();
    let placed = place(&cameras(1000), &nodes);
    assert_eq!((placed.node_of.len(), loads(&placed).len()), (1000, 72));
}

#[test]
fn what_cannot_run_says_why() {
    let mut all = cameras(4);
    let full = place(&all, &[node("a", 1), node("b", 2)]);
    assert_eq!(full.node_of.len(), 3);
    let why = full.unplaced.values().next().expect("one").to_string();
    assert_eq!(why, "all camera nodes are full: 2 of them take 3 cameras (ingest.max_cameras)");
    assert!(place(&all, &[]).unplaced.values().all(|why| *why == Unplaced::NoNode));
    for (n, pin) in ["a", "b", "c", "a"].into_iter().enumerate() {
        all[n].1 = Some(pin.into());
    }
    let nodes = [node("a", 1), NodeSlots { draining: true, ..node("b", 9) }];
    let placed = place(&all, &nodes);
    assert_eq!(placed.node_of.iter().map(|(c, n)| (c.as_str(), n.as_str())).collect::<Vec<_>>(), [("cam-0", "a")]);
    let reasons: BTreeSet<String> = placed.unplaced.values().map(ToString::to_string).collect();
    for part in ["\"b\", which is being drained", "\"c\", which is not running", "\"a\", which is full"] {
        assert!(reasons.iter().any(|why| why.contains(part)), "{reasons:?}");
    }
}

#[test]
fn a_pinned_camera_keeps_its_node_whoever_comes() {
    let mut all = cameras(40);
    all[7].1 = Some("node-3".into());
    for size in 4..12 {
        let nodes: Vec<_> = (0..size).map(|n| node(format!("node-{n}"), 16)).collect();
        assert_eq!(place(&all, &nodes).node_of[&all[7].0], "node-3");
    }
}
