//! One stage of the pipeline as a queueing station, simulated event by event.
//!
//! The pipeline feeds forward only, and between processes lies a topic that holds days: so what leaves one station is what
//! arrives at the next, and stations can be simulated one after the other without changing any result.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::random::Random;

/// Something that waits for service: when it came, and which queue (camera or partition) it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    pub at: f64,
    pub queue: u32,
    /// When it began its way through the pipeline, for lags over several stations.
    pub born: f64,
}

/// How long a server takes: `fixed + items * each` seconds, constant or exponentially distributed around that.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub fixed: f64,
    pub each: f64,
    pub exponential: bool,
}

impl Service {
    /// Constant times.
    pub fn constant(fixed: f64, each: f64) -> Self {
        Self { fixed, each, exponential: false }
    }

    fn draw(&self, items: usize, random: &mut Random) -> f64 {
        let mean = self.fixed + self.each * items as f64;
        if self.exponential { random.exponential(mean) } else { mean }
    }
}

/// A stage.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Queues, one a camera or a partition.
    pub queues: usize,
    /// Most items that wait in a queue; the oldest goes when one more comes. `None`: no bound.
    pub capacity: Option<usize>,
    pub servers: usize,
    /// Any server serves any queue (threads of a process). Otherwise queue q belongs to server q modulo their number
    /// (partitions of a topic).
    pub shared: bool,
    /// Items served at once at most.
    pub batch: usize,
    /// How long the first of a batch waits for company, seconds.
    pub linger: f64,
    pub service: Service,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Items served, at the moment they were done, in that order.
    pub done: Vec<Item>,
    /// Seconds from arrival to the begin of service, of every item served.
    pub waits: Vec<f64>,
    pub dropped: usize,
    /// Seconds all servers together were at work.
    pub busy: f64,
    /// Most items that waited at one moment.
    pub longest: usize,
}

/// Queues that the same servers serve.
struct Pool {
    /// Queues with something in them, in the order of their turns.
    turns: VecDeque<u32>,
    waiting: usize,
    idle: usize,
    /// When the wait for company ends, if somebody waits for it.
    deadline: f64,
}

impl Station {
    /// Serves `arrivals` (in order of time) until the last one is done.
    pub fn run(&self, arrivals: &[Item], random: &mut Random) -> Outcome {
        let pools = if self.shared { 1 } else { self.servers };
        let servers = if self.shared { self.servers } else { 1 };
        let pool = || Pool { turns: VecDeque::new(), waiting: 0, idle: servers, deadline: f64::INFINITY };
        let mut run = Run {
            station: self,
            queues: vec![VecDeque::new(); self.queues],
            pools: (0..pools).map(|_| pool()).collect(),
            events: BinaryHeap::new(),
            waiting: 0,
            outcome: Outcome::default(),
        };
        let mut next = 0;
        loop {
            let arrival = arrivals.get(next).map_or(f64::INFINITY, |a| a.at);
            match run.events.peek() {
                Some(Reverse((Time(at), _))) if *at <= arrival => {
                    let at = *at;
                    if let Some(Reverse((_, event))) = run.events.pop() {
                        run.happen(at, event, random);
                    }
                }
                _ if next < arrivals.len() => {
                    run.arrive(arrivals[next], random);
                    next += 1;
                }
                _ => break,
            }
        }
        // Batches begin in the order of time, but they do not end in it.
        run.outcome.done.sort_by(|a, b| a.at.total_cmp(&b.at));
        run.outcome
    }
}

#[derive(Clone, Copy)]
struct Time(f64);

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A server of the pool is free again.
    Free(usize),
    /// The first of a batch has waited long enough.
    Deadline(usize),
}

struct Run<'a> {
    station: &'a Station,
    queues: Vec<VecDeque<Item>>,
    pools: Vec<Pool>,
    events: BinaryHeap<Reverse<(Time, Event)>>,
    waiting: usize,
    outcome: Outcome,
}

impl Run<'_> {
    fn arrive(&mut self, item: Item, random: &mut Random) {
        let at = item.queue as usize % self.pools.len();
        let queue = &mut self.queues[item.queue as usize];
        queue.push_back(item);
        if self.station.capacity.is_some_and(|c| queue.len() > c) {
            queue.pop_front();
            self.outcome.dropped += 1;
            return;
        }
        if queue.len() == 1 {
            self.pools[at].turns.push_back(item.queue);
        }
        self.pools[at].waiting += 1;
        self.waiting += 1;
        self.outcome.longest = self.outcome.longest.max(self.waiting);
        self.start(at, item.at, random);
    }

    fn happen(&mut self, now: f64, event: Event, random: &mut Random) {
        match event {
            Event::Free(pool) => {
                self.pools[pool].idle += 1;
                self.start(pool, now, random);
            }
            Event::Deadline(pool) => self.start(pool, now, random),
        }
    }

    /// Begins what can be begun.
    fn start(&mut self, at: usize, now: f64, random: &mut Random) {
        while self.pools[at].idle > 0 && self.pools[at].waiting > 0 {
            let (batch, pool) = (self.station.batch, &mut self.pools[at]);
            if pool.waiting < batch && self.station.linger > 0.0 {
                if pool.deadline == f64::INFINITY {
                    pool.deadline = now + self.station.linger;
                    self.events.push(Reverse((Time(pool.deadline), Event::Deadline(at))));
                }
                if now < pool.deadline {
                    return;
                }
            }
            pool.deadline = f64::INFINITY;
            pool.idle -= 1;
            let taken: Vec<Item> = (0..batch).map_while(|_| self.take(at)).collect();
            let seconds = self.station.service.draw(taken.len(), random);
            self.outcome.busy += seconds;
            self.events.push(Reverse((Time(now + seconds), Event::Free(at))));
            for item in taken {
                self.outcome.waits.push(now - item.at);
                self.outcome.done.push(Item { at: now + seconds, ..item });
            }
        }
    }

    /// The next item of a pool: queues take turns.
    fn take(&mut self, at: usize) -> Option<Item> {
        let pool = &mut self.pools[at];
        let number = pool.turns.pop_front()?;
        let queue = &mut self.queues[number as usize];
        let item = queue.pop_front()?;
        if !queue.is_empty() {
            pool.turns.push_back(number);
        }
        pool.waiting -= 1;
        self.waiting -= 1;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::summary::quantile;

    fn poisson(rate: f64, n: usize, random: &mut Random) -> Vec<Item> {
        let mut at = 0.0;
        (0..n)
            .map(|_| {
                at += random.exponential(1.0 / rate);
                Item { at, queue: 0, born: at }
            })
            .collect()
    }

    fn one_server(exponential: bool) -> Station {
        Station {
            queues: 1,
            capacity: None,
            servers: 1,
            shared: true,
            batch: 1,
            linger: 0.0,
            service: Service { fixed: 1.0, each: 0.0, exponential },
        }
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// M/M/1: mean wait rho / (mu - lambda), and P(wait > t) = rho exp(-(mu - lambda) t).
    #[test]
    fn exponential_service_waits_as_the_closed_form_says() {
        for rho in [0.5, 0.8] {
            let mut random = Random::new(7);
            let arrivals = poisson(rho, 400_000, &mut random);
            let outcome = one_server(true).run(&arrivals, &mut random);
            let expected = rho / (1.0 - rho);
            let got = mean(&outcome.waits);
            assert!((got / expected - 1.0).abs() < 0.04, "rho {rho}: mean wait {got}, not {expected}");
            let p99 = quantile(&outcome.waits, 0.99);
            let expected = (rho / 0.01f64).ln() / (1.0 - rho);
            assert!((p99 / expected - 1.0).abs() < 0.06, "rho {rho}: p99 {p99}, not {expected}");
            let utilisation = outcome.busy / outcome.done.last().expect("customers were served").at;
            assert!((utilisation - rho).abs() < 0.01, "{utilisation}");
        }
    }

    /// M/D/1: half the wait of M/M/1.
    #[test]
    fn constant_service_waits_half_as_long() {
        for rho in [0.5, 0.8] {
            let mut random = Random::new(11);
            let arrivals = poisson(rho, 400_000, &mut random);
            let got = mean(&one_server(false).run(&arrivals, &mut random).waits);
            let expected = rho / (2.0 * (1.0 - rho));
            assert!((got / expected - 1.0).abs() < 0.03, "rho {rho}: {got}, not {expected}");
        }
    }

    /// M/M/c by Erlang's C formula.
    #[test]
    fn servers_that_share_a_queue_wait_as_erlang_says() {
        let (servers, load) = (4usize, 3.2f64);
        let mut random = Random::new(5);
        let arrivals = poisson(load, 400_000, &mut random);
        let station = Station { servers, ..one_server(true) };
        let got = mean(&station.run(&arrivals, &mut random).waits);
        let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
        let last = load.powi(4) / factorial(4) * servers as f64 / (servers as f64 - load);
        let others: f64 = (0..servers).map(|k| load.powi(k as i32) / factorial(k)).sum();
        let expected = last / (others + last) / (servers as f64 - load);
        assert!((got / expected - 1.0).abs() < 0.05, "{got}, not {expected}");
    }

    /// M/M/1/K loses (1 - rho) rho^K / (1 - rho^(K+1)), whichever of the waiting ones goes.
    #[test]
    fn a_bounded_queue_drops_as_many_as_the_closed_form_says() {
        let (rho, waiting) = (0.9f64, 2);
        let mut random = Random::new(3);
        let arrivals = poisson(rho, 400_000, &mut random);
        let station = Station { capacity: Some(waiting), ..one_server(true) };
        let outcome = station.run(&arrivals, &mut random);
        // K counts the one in service.
        let k = waiting as i32 + 1;
        let expected = (1.0 - rho) * rho.powi(k) / (1.0 - rho.powi(k + 1));
        let got = outcome.dropped as f64 / arrivals.len() as f64;
        assert!((got / expected - 1.0).abs() < 0.03, "{got}, not {expected}");
        assert_eq!(outcome.dropped + outcome.done.len(), arrivals.len());
    }

    #[test]
    fn batches_fill_up_or_leave_when_the_first_has_waited_long_enough() {
        let station = Station { batch: 4, linger: 0.5, service: Service::constant(0.1, 0.01), ..one_server(false) };
        let item = |at| Item { at, queue: 0, born: at };
        let full: Vec<Item> = (0..4).map(|i| item(f64::from(i) * 0.1)).collect();
        let outcome = station.run(&full, &mut Random::new(1));
        assert!(outcome.done.iter().all(|d| (d.at - 0.44).abs() < 1e-9), "{:?}", outcome.done);
        let alone = station.run(&full[..2], &mut Random::new(1));
        assert!(alone.done.iter().all(|d| (d.at - 0.62).abs() < 1e-9), "{:?}", alone.done);
    }

    #[test]
    fn a_busy_partition_does_not_get_another_ones_server() {
        let station = Station { queues: 2, servers: 2, shared: false, ..one_server(false) };
        let items: Vec<Item> = (0..10).map(|_| Item { at: 0.0, queue: 0, born: 0.0 }).collect();
        assert_eq!(station.run(&items, &mut Random::new(1)).done.last().map(|d| d.at), Some(10.0));
        let shared = Station { shared: true, ..station };
        assert_eq!(shared.run(&items, &mut Random::new(1)).done.last().map(|d| d.at), Some(5.0));
    }

    #[test]
    fn cameras_take_turns_and_lose_only_their_own() {
        let station = Station { queues: 2, capacity: Some(2), ..one_server(false) };
        // Camera 0 floods, camera 1 sends one frame.
        let mut items: Vec<Item> = (0..9).map(|i| Item { at: 0.01 * f64::from(i), queue: 0, born: 0.0 }).collect();
        items.push(Item { at: 0.1, queue: 1, born: 0.1 });
        let outcome = station.run(&items, &mut Random::new(1));
        assert_eq!((outcome.dropped, outcome.done.len()), (6, 4));
        assert!(outcome.done.iter().any(|d| d.queue == 1 && d.at <= 3.0));
    }
}
