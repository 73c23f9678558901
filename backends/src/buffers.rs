//! Memory that is used again: an allocator that is asked for megabytes by ever other threads keeps far
//! more than is in use, a third of a worker's memory in all, and every page of what it gives anew costs
//! a fault.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers that nobody uses at the moment, for the next who need one.
#[derive(Debug)]
pub struct Buffers {
    initial: usize,
    largest: usize,
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// What was lent as [`Bytes`].
struct Lent {
    bytes: Vec<u8>,
    buffers: Arc<Buffers>,
}

impl Buffers {
    /// New buffers have room for `initial` bytes. Kept are at most `most`, and none that has grown beyond
    /// `largest` bytes.
    pub fn new(initial: usize, largest: usize, most: usize) -> Arc<Self> {
        Arc::new(Self { initial, largest, most, free: Mutex::default() })
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.initial))
    }

    /// Keeps a buffer for the next who takes one. Nobody has to: what is dropped is made anew.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most && (1..=self.largest).contains(&buffer.capacity()) {
            buffer.clear();
            free.push(buffer);
        }
    }

    /// The bytes, whose memory comes back when the last who holds them is gone; at once where they fill
    /// less than half of it, so that few bytes do not hold much memory.
    pub fn lend(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if bytes.len() < bytes.capacity() / 2 {
            let copy = Bytes::copy_from_slice(&bytes);
            self.give_back(bytes);
            return copy;
        }
        Bytes::from_owner(Lent { bytes, buffers: Arc::clone(self) })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Buffers, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = buffers.take();
        assert!(buffer.is_empty());
        buffer.extend_from_slice(bytes);
        buffer
    }

    #[test]
    fn memory_is_used_again_when_the_last_who_holds_it_is_gone() {
        let buffers = Buffers::new(8, 8, 2);
        let first = buffers.lend(filled(&buffers, b"firstone"));
        let of_first = first.as_ptr();
        let held = first.clone();
        drop(first);
        let second = buffers.lend(filled(&buffers, b"secondly"));
        assert_eq!((&held[..], &second[..]), (&b"firstone"[..], &b"secondly"[..]));
        assert_ne!(second.as_ptr(), of_first);
        drop(held);
        let third = buffers.lend(filled(&buffers, b"thirdone"));
        assert_eq!((&third[..], third.as_ptr()), (&b"thirdone"[..], of_first));
    }

    #[test]
    fn few_bytes_hold_no_more_memory_than_they_need() {
        let buffers = Buffers::new(1_000, 1_000, 2);
        let buffer = filled(&buffers, b"few");
        let at = buffer.as_ptr();
        let few = buffers.lend(buffer);
        assert_ne!(few.as_ptr(), at);
        let next = buffers.take();
        assert_eq!((&few[..], next.as_ptr()), (&b"few"[..], at));
    }

    #[test]
    fn neither_many_buffers_nor_large_ones_are_kept() {
        let buffers = Buffers::new(0, 100, 2);
        for capacity in [10, 0, 101, 20, 30] {
            buffers.give_back(Vec::with_capacity(capacity));
        }
        let kept: Vec<_> = (0..3).map(|_| buffers.take().capacity()).collect();
        assert_eq!(kept, [20, 10, 0]);
    }
}
