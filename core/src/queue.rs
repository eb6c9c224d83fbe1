//! Bounded queue that drops its oldest element when full: the rule for live video.
//!
//! A full queue means the consumer is too slow. Blocking would stall the camera and growing would eat the memory, so
//! the oldest element goes and the caller is told, because every drop has to be counted against its camera. Where
//! nothing may be dropped (files, sightings) the same queue offers [`Queue::push_wait`], which blocks instead.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    capacity: usize,
}

/// A many-producer, many-consumer queue for threads. Cloning shares it.
pub struct Queue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({}/{})", self.len(), self.shared.capacity)
    }
}

/// What became of a pushed element.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// It is in the queue.
    Queued,
    /// It is in the queue; this older one had to go.
    Dropped(T),
    /// The queue is closed; here it is back.
    Closed(T),
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` (at least 1) elements.
    pub fn new(capacity: usize) -> Self {
        let state = Mutex::new(State { items: VecDeque::with_capacity(capacity.max(1)), closed: false });
        Self { shared: Arc::new(Shared { state, changed: Condvar::new(), capacity: capacity.max(1) }) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic while holding the lock cannot leave the deque half-changed, so a poisoned lock is still sound.
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds `item` at once; when the queue is full the oldest element is dropped and returned.
    pub fn push(&self, item: T) -> Pushed<T> {
        self.push_sparing(item, |_| true)
    }

    /// As [`Queue::push`], but what has to go is the oldest element that `droppable` allows (the oldest of all when it
    /// allows none): crops may be lost under load, the news that a track ended should not.
    pub fn push_sparing(&self, item: T, droppable: impl Fn(&T) -> bool) -> Pushed<T> {
        let mut s = self.lock();
        if s.closed {
            return Pushed::Closed(item);
        }
        let dropped = if s.items.len() == self.shared.capacity {
            let at = s.items.iter().position(droppable).unwrap_or(0);
            s.items.remove(at)
        } else {
            None
        };
        s.items.push_back(item);
        self.shared.changed.notify_all();
        dropped.map_or(Pushed::Queued, Pushed::Dropped)
    }

    /// As [`Queue::push_sparing`], but nothing that `droppable` forbids ever goes: the displaced element comes back as
    /// `Some`, `None` when there was room.
    ///
    /// # Errors
    /// Gives `item` back when there is no room to be had, or when the queue was closed.
    pub fn offer(&self, item: T, droppable: impl Fn(&T) -> bool) -> Result<Option<T>, T> {
        let mut s = self.lock();
        if s.closed {
            return Err(item);
        }
        let displaced = if s.items.len() == self.shared.capacity {
            match s.items.iter().position(droppable) {
                Some(at) => s.items.remove(at),
                None => return Err(item),
            }
        } else {
            None
        };
        s.items.push_back(item);
        self.shared.changed.notify_all();
        Ok(displaced)
    }

    /// Waits at most `timeout` for room, then adds `item`.
    ///
    /// # Errors
    /// Gives `item` back when no room came in time, or when the queue was closed.
    pub fn push_timeout(&self, item: T, timeout: Duration) -> Result<(), T> {
        let deadline = Instant::now() + timeout;
        let mut s = self.lock();
        while !s.closed && s.items.len() == self.shared.capacity {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(item);
            }
            s = self.shared.changed.wait_timeout(s, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        if s.closed {
            return Err(item);
        }
        s.items.push_back(item);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits for room, then adds `item`.
    ///
    /// # Errors
    /// Gives `item` back when the queue was closed.
    pub fn push_wait(&self, item: T) -> Result<(), T> {
        let mut s = self.lock();
        while !s.closed && s.items.len() == self.shared.capacity {
            s = self.shared.changed.wait(s).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if s.closed {
            return Err(item);
        }
        s.items.push_back(item);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// The oldest element, waiting at most `timeout`; `None` on time-out, or when closed and empty.
    pub fn pop(&self, timeout: Duration) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut s = self.lock();
        loop {
            if let Some(item) = s.items.pop_front() {
                self.shared.changed.notify_all();
                return Some(item);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if s.closed || left.is_zero() {
                return None;
            }
            s = self.shared.changed.wait_timeout(s, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// No more pushes; what is inside can still be popped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.changed.notify_all();
    }

    /// Whether [`Queue::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Elements waiting.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn the_oldest_is_dropped_and_told() {
        let q = Queue::new(2);
        assert_eq!(q.push(1), Pushed::Queued);
        assert_eq!(q.push(2), Pushed::Queued);
        assert_eq!(q.push(3), Pushed::Dropped(1));
        assert_eq!((q.pop(SOON), q.pop(SOON), q.pop(Duration::ZERO)), (Some(2), Some(3), None));
    }

    #[test]
    fn what_must_stay_is_spared() {
        let q = Queue::new(2);
        let odd = |i: &i32| i % 2 == 1;
        assert_eq!(q.push_sparing(2, odd), Pushed::Queued);
        assert_eq!(q.push_sparing(3, odd), Pushed::Queued);
        assert_eq!(q.push_sparing(4, odd), Pushed::Dropped(3));
        assert_eq!(q.push_sparing(6, odd), Pushed::Dropped(2));
    }

    #[test]
    fn an_offer_never_displaces_what_must_stay() {
        let q = Queue::new(2);
        let odd = |i: &i32| i % 2 == 1;
        assert_eq!((q.offer(2, odd), q.offer(3, odd)), (Ok(None), Ok(None)));
        assert_eq!(q.offer(4, odd), Ok(Some(3)));
        assert_eq!(q.offer(5, odd), Err(5));
        assert_eq!(q.push_timeout(6, Duration::from_millis(5)), Err(6));
        assert_eq!((q.pop(SOON), q.push_timeout(6, SOON)), (Some(2), Ok(())));
        q.close();
        assert_eq!((q.offer(7, odd), q.push_timeout(8, SOON)), (Err(7), Err(8)));
    }

    #[test]
    fn waiting_pushes_lose_nothing() {
        let q = Queue::new(1);
        let p = q.clone();
        let producer = thread::spawn(move || (0..100).all(|i| p.push_wait(i).is_ok()));
        let got: Vec<i32> = (0..100).filter_map(|_| q.pop(SOON)).collect();
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        assert!(producer.join().expect("no panic"));
    }

    #[test]
    fn closing_wakes_everyone_and_keeps_what_is_inside() {
        let q = Queue::new(1);
        assert_eq!(q.push(7), Pushed::Queued);
        let p = q.clone();
        let blocked = thread::spawn(move || p.push_wait(8));
        thread::sleep(Duration::from_millis(20));
        q.close();
        assert_eq!(blocked.join().expect("no panic"), Err(8));
        assert_eq!(q.push(9), Pushed::Closed(9));
        assert_eq!((q.pop(SOON), q.pop(SOON)), (Some(7), None));
    }
}
