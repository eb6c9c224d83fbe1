//! A bounded queue that drops its oldest element when full: the rule for live video.
//!
//! A full queue means that the consumer is too slow. Blocking would stall the camera and growing
//! would exhaust the memory, so the oldest element is dropped and returned, because every drop has
//! to be counted against its camera. Where nothing may be dropped (files, sightings) the same queue
//! offers [`Queue::push_wait`], which blocks instead.

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

/// A multi-producer, multi-consumer queue for threads. Clones share it.
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

/// Outcome of a push.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// The element is queued.
    Queued,
    /// The element is queued; this older one was dropped.
    Dropped(T),
    /// The queue is closed; contains the element.
    Closed(T),
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` (at least 1) elements.
    pub fn new(capacity: usize) -> Self {
        let state = Mutex::new(State { items: VecDeque::with_capacity(capacity.max(1)), closed: false });
        Self { shared: Arc::new(Shared { state, changed: Condvar::new(), capacity: capacity.max(1) }) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic while holding the lock cannot leave the deque half-changed, so a poisoned lock is
        // still usable.
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds `item` without waiting; when the queue is full, the oldest element is dropped and
    /// returned.
    pub fn push(&self, item: T) -> Pushed<T> {
        self.push_evicting(item, |_| true)
    }

    /// As [`Queue::push`], but drops the oldest element that `droppable` allows (the oldest of all
    /// when it allows none): crops may be lost under load, but the end of a track should not.
    pub fn push_evicting(&self, item: T, droppable: impl Fn(&T) -> bool) -> Pushed<T> {
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

    /// As [`Queue::push_evicting`], but never drops an element that `droppable` forbids. Returns
    /// the dropped element, or `None` when there was room.
    ///
    /// # Errors
    /// Returns `item` when no room can be made, or when the queue is closed.
    pub fn try_push(&self, item: T, droppable: impl Fn(&T) -> bool) -> Result<Option<T>, T> {
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
    /// Returns `item` when there was no room in time, or when the queue is closed.
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
    /// Returns `item` when the queue is closed.
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

    /// Takes the oldest element, waiting at most `timeout`; `None` on time-out, or when the queue
    /// is closed and empty.
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

    /// Closes the queue to pushes; elements inside can still be popped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.changed.notify_all();
    }

    /// Whether [`Queue::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether the queue has no elements.
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
    fn a_full_queue_drops_and_returns_the_oldest() {
        let q = Queue::new(2);
        assert_eq!(q.push(1), Pushed::Queued);
        assert_eq!(q.push(2), Pushed::Queued);
        assert_eq!(q.push(3), Pushed::Dropped(1));
        assert_eq!((q.pop(SOON), q.pop(SOON), q.pop(Duration::ZERO)), (Some(2), Some(3), None));
    }

    #[test]
    fn eviction_spares_what_must_not_be_dropped() {
        let q = Queue::new(2);
        let odd = |i: &i32| i % 2 == 1;
        assert_eq!(q.push_evicting(2, odd), Pushed::Queued);
        assert_eq!(q.push_evicting(3, odd), Pushed::Queued);
        assert_eq!(q.push_evicting(4, odd), Pushed::Dropped(3));
        assert_eq!(q.push_evicting(6, odd), Pushed::Dropped(2));
    }

    #[test]
    fn try_push_never_evicts_what_must_not_be_dropped() {
        let q = Queue::new(2);
        let odd = |i: &i32| i % 2 == 1;
        assert_eq!((q.try_push(2, odd), q.try_push(3, odd)), (Ok(None), Ok(None)));
        assert_eq!(q.try_push(4, odd), Ok(Some(3)));
        assert_eq!(q.try_push(5, odd), Err(5));
        assert_eq!(q.push_timeout(6, Duration::from_millis(5)), Err(6));
        assert_eq!((q.pop(SOON), q.push_timeout(6, SOON)), (Some(2), Ok(())));
        q.close();
        assert_eq!((q.try_push(7, odd), q.push_timeout(8, SOON)), (Err(7), Err(8)));
    }

    #[test]
    fn push_wait_loses_nothing() {
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
