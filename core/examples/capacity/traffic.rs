//! What cameras send: frames at a steady rate, and the pictures of people, who come in groups.

use crate::random::Random;
use crate::station::Item;

/// How people pass a camera, on average over its busy hour.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Pictures published a second and camera.
    pub crops: f64,
    /// People who come together: the numbers of groups are geometric with this mean, their times Poisson.
    pub group: f64,
    /// Pictures of a track (at most `shots.per_track`): the first at once, the others later.
    pub per_track: usize,
    /// Mean seconds between two pictures of a track.
    pub gap: f64,
}

impl Traffic {
    /// Crops of `cameras` during `seconds`, in order of time; an item's queue is its camera.
    pub fn crops(&self, cameras: usize, seconds: f64, random: &mut Random) -> Vec<Item> {
        let groups = self.crops / (self.group * self.per_track as f64);
        let mut items = Vec::with_capacity((cameras as f64 * seconds * self.crops * 1.1) as usize);
        for camera in 0..cameras as u32 {
            let mut at = random.exponential(1.0 / groups);
            while at < seconds {
                for _ in 0..random.geometric(self.group) {
                    // Those of a group come into view one after the other.
                    let mut shot = at + random.exponential(1.0);
                    for _ in 0..self.per_track {
                        if shot < seconds {
                            items.push(Item { at: shot, queue: camera, born: shot });
                        }
                        shot += random.exponential(self.gap);
                    }
                }
                at += random.exponential(1.0 / groups);
            }
        }
        items.sort_by(|a, b| a.at.total_cmp(&b.at));
        items
    }
}

/// Frames of `cameras` at `fps` each during `seconds`: each camera in its own phase, frames late by up to `jitter` seconds
/// (network, decoder).
pub fn frames(cameras: usize, fps: f64, jitter: f64, seconds: f64, random: &mut Random) -> Vec<Item> {
    let mut items = Vec::with_capacity((cameras as f64 * fps * seconds) as usize);
    for camera in 0..cameras as u32 {
        let phase = random.uniform() / fps;
        for n in 0..(seconds * fps) as usize {
            let at = phase + n as f64 / fps + jitter * random.uniform();
            items.push(Item { at, queue: camera, born: at });
        }
    }
    items.sort_by(|a, b| a.at.total_cmp(&b.at));
    items
}

/// The partition a camera's records go to: a hash, as the producer's, so partitions are filled unevenly.
pub fn partition(camera: u32, partitions: usize) -> u32 {
    let mut x = u64::from(camera).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 29;
    (x.wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) as u32 % partitions as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_crops_as_said_and_more_uneven_than_chance() {
        let traffic = Traffic { crops: 0.2, group: 2.5, per_track: 3, gap: 2.0 };
        let items = traffic.crops(200, 2000.0, &mut Random::new(4));
        let rate = items.len() as f64 / 200.0 / 2000.0;
        assert!((rate / 0.2 - 1.0).abs() < 0.05, "{rate}");
        assert!(items.is_sorted_by(|a, b| a.at <= b.at));
        // Of a Poisson process the counts of a camera in 10 s would vary by their mean.
        let mut counts = vec![0f64; 200 * 200];
        items.iter().for_each(|i| counts[i.queue as usize * 200 + (i.at / 10.0) as usize] += 1.0);
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!(variance > 3.0 * mean, "variance {variance}, mean {mean}");
    }

    #[test]
    fn frames_come_at_their_rate_and_partitions_are_all_used() {
        assert_eq!(frames(7, 5.0, 0.02, 10.0, &mut Random::new(1)).len(), 350);
        let mut used = [0; 12];
        (0..1000).for_each(|camera| used[partition(camera, 12) as usize] += 1);
        assert!(used.iter().all(|n| (50..120).contains(n)), "{used:?}");
    }
}
