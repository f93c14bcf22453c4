//! The queue between the thread that reads and the consumer, bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::chunk::WalChunk;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct ByteQueue {
    state: Mutex<State>,
    limit: usize,
    /// There is room again, or nobody takes chunks any more.
    room: Condvar,
    /// There is a chunk, or the end: for a consumer that blocks, and for one that awaits.
    filled: Condvar,
    filled_async: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<WalChunk>,
    bytes: usize,
    /// What is pushed is dropped.
    discarding: bool,
    ended: bool,
    failure: Option<Error>,
}

/// What the consumer finds.
pub(super) type Item = Option<Result<WalChunk>>;

impl ByteQueue {
    pub(super) fn new(limit: usize) -> Self {
        let state = Mutex::new(State::default());
        Self { state, limit, room: Condvar::new(), filled: Condvar::new(), filled_async: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below can panic with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a chunk once there is room. A chunk larger than the bound goes alone.
    pub(super) fn push(&self, chunk: WalChunk) {
        let size = chunk.size();
        let mut state = self.lock();
        while state.bytes > 0 && state.bytes.saturating_add(size) > self.limit && !state.discarding {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.discarding {
            return;
        }
        state.bytes = state.bytes.saturating_add(size);
        state.chunks.push_back(chunk);
        drop(state);
        self.filled.notify_one();
        self.filled_async.notify_one();
    }

    /// Whether `push` would have to wait.
    pub(super) fn is_full(&self, size: usize) -> bool {
        let state = self.lock();
        state.bytes > 0 && state.bytes.saturating_add(size) > self.limit && !state.discarding
    }

    /// Drops what is there and what is still pushed: nobody will take it.
    pub(super) fn discard(&self) {
        let mut state = self.lock();
        state.discarding = true;
        state.chunks.clear();
        state.bytes = 0;
        drop(state);
        self.room.notify_all();
    }

    /// Ends the queue, behind what is in it.
    pub(super) fn end(&self, failure: Option<Error>) {
        let mut state = self.lock();
        state.ended = true;
        state.failure = failure;
        drop(state);
        self.filled.notify_all();
        self.filled_async.notify_one();
    }

    fn pop(&self, state: &mut State) -> Option<Item> {
        if let Some(chunk) = state.chunks.pop_front() {
            state.bytes = state.bytes.saturating_sub(chunk.size());
            self.room.notify_one();
            return Some(Some(Ok(chunk)));
        }
        // A failure is told once.
        state.ended.then(|| state.failure.take().map(Err))
    }

    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.pop(&mut self.lock()) {
                return item;
            }
            // A notification between the two lines above and below is kept until it is awaited.
            self.filled_async.notified().await;
        }
    }

    /// Waits until `deadline`, or for ever without one; `None` when the time is over.
    pub(super) fn blocking_next(&self, deadline: Option<Instant>) -> Option<Item> {
        let mut state = self.lock();
        loop {
            if let Some(item) = self.pop(&mut state) {
                return Some(item);
            }
            state = match deadline {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left == Duration::ZERO {
                        return None;
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::error::ErrorKind;

    fn chunk(size: usize) -> WalChunk {
        let length = u32::try_from(size - 1).unwrap().to_be_bytes();
        let run = [&b"d"[..], &length, b"w", &[0; 24], &vec![1; size - 30]].concat();
        assert_eq!(run.len(), size);
        WalChunk::new(run.into()).unwrap()
    }

    #[tokio::test]
    async fn the_bound_holds_the_writer_until_there_is_room() {
        let queue = Arc::new(ByteQueue::new(250));
        let writer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                for _ in 0..100 {
                    queue.push(chunk(100));
                    assert!(queue.lock().bytes <= 250);
                }
                queue.push(chunk(1000));
                queue.end(None);
            }
        });
        let mut sizes = Vec::new();
        while let Some(item) = queue.next().await {
            sizes.push(item.unwrap().size());
        }
        writer.join().unwrap();
        assert_eq!(sizes.len(), 101);
        assert_eq!(sizes.last(), Some(&1000));
    }

    #[test]
    fn the_end_comes_behind_the_chunks_and_a_failure_once() {
        let queue = ByteQueue::new(1000);
        assert!(queue.blocking_next(Some(Instant::now() + Duration::from_millis(5))).is_none());
        queue.push(chunk(100));
        queue.end(Some(Error::new(ErrorKind::Closed, "test", "")));
        assert!(queue.blocking_next(None).unwrap().unwrap().is_ok());
        assert_eq!(queue.blocking_next(None).unwrap().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(queue.blocking_next(None).unwrap().is_none());
    }

    #[test]
    fn discarding_frees_a_writer_that_waits() {
        let queue = Arc::new(ByteQueue::new(100));
        queue.push(chunk(100));
        assert!(queue.is_full(1));
        let writer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.push(chunk(100))
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!writer.is_finished());
        queue.discard();
        writer.join().unwrap();
        assert_eq!(queue.lock().bytes, 0);
    }
}
