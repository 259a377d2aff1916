//! Ends the wait of another thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::sys;

/// Ends the wait that is under way, or the next one, at once. Copies wake the same wait.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<File>,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: Arc::new(File::from(sys::event()?)),
        })
    }

    /// Ends the wait.
    pub fn wake(&self) {
        // It fails only where the counter is full, and then the other side is awake.
        drop((&*self.event).write(&1_u64.to_ne_bytes()));
    }

    /// Makes the next wait a wait again.
    pub(super) fn clear(&self) {
        // It fails where nobody has woken, and then there is nothing to clear.
        drop((&*self.event).read(&mut [0; 8]));
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
