//! One large buffer between the system and the records: refilled in whole pieces, never copied per record.

use super::input::{Input, InputError};

/// Octets asked of the system at once: small enough to stay in a core's second-level cache.
const PIECE_OCTETS: usize = 256 << 10;
/// What is left of a piece when the next is read goes in front of it; this much room is there at first.
const FIRST_HEAD_OCTETS: usize = 64 << 10;
/// Below this much room behind the data it is better to make room than to read tiny pieces.
const LEAST_READ_OCTETS: usize = 32 << 10;
/// Where pieces begin, so that the kernel copies to whole cache lines.
const ALIGNMENT_OCTETS: usize = 64;

/// The unread octets are `data[start..end]`.
pub(crate) struct Buffer {
    input: Input,
    pub(crate) data: Vec<u8>,
    pub(crate) start: usize,
    end: usize,
    /// Where a new piece is put.
    head: usize,
    /// Octets taken from the input so far: the stream position of `end`.
    position: u64,
    ended: bool,
}

/// Where pieces begin in `data` so that at least `room` octets fit in front.
fn head(data: &[u8], room: usize) -> usize {
    let first = data.as_ptr().align_offset(ALIGNMENT_OCTETS);
    room.next_multiple_of(ALIGNMENT_OCTETS)
        .saturating_add(first.min(ALIGNMENT_OCTETS))
}

/// A buffer in which a piece and `room` octets before it fit, whatever its address.
fn allocate(room: usize) -> Vec<u8> {
    vec![
        0;
        room.next_multiple_of(ALIGNMENT_OCTETS)
            .saturating_add(ALIGNMENT_OCTETS + PIECE_OCTETS)
    ]
}

impl Buffer {
    /// An empty buffer.
    pub(crate) fn new(input: Input) -> Self {
        let data = allocate(FIRST_HEAD_OCTETS);
        let head = head(&data, FIRST_HEAD_OCTETS);
        Self {
            input,
            data,
            start: head,
            end: head,
            head,
            position: 0,
            ended: false,
        }
    }

    /// Stream position of the next unread octet.
    pub(crate) fn position(&self) -> u64 {
        self.position
            .saturating_sub(u64::try_from(self.available()).unwrap_or(u64::MAX))
    }

    /// How many octets can be seen without reading.
    #[inline]
    pub(crate) fn available(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// The octets that can be seen without reading.
    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes octets off the front.
    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Reads until `needed` octets can be seen or the input ends; returns how many can be seen.
    ///
    /// # Errors
    /// What the input says; what had been read before stays visible.
    #[inline]
    pub(crate) fn fill(&mut self, needed: usize) -> Result<usize, InputError> {
        let available = self.available();
        if available >= needed {
            Ok(available)
        } else {
            self.refill(needed)
        }
    }

    #[cold]
    fn refill(&mut self, needed: usize) -> Result<usize, InputError> {
        while self.available() < needed && !self.ended {
            if self.data.len().saturating_sub(self.end) < LEAST_READ_OCTETS {
                self.make_room();
            }
            // Whole pieces of the file as well: the first bytes were read apart to tell the format.
            let into_piece = usize::try_from(self.position).unwrap_or(0) % PIECE_OCTETS;
            let end = self
                .end
                .saturating_add(PIECE_OCTETS.saturating_sub(into_piece))
                .min(self.data.len());
            let space = self.data.get_mut(self.end..end).unwrap_or_default();
            let count = self.input.read(space).inspect_err(|_| self.ended = true)?;
            if count == 0 {
                self.ended = true;
            }
            self.end = self.end.saturating_add(count);
            self.position = self
                .position
                .saturating_add(u64::try_from(count).unwrap_or(0));
        }
        Ok(self.available())
    }

    /// Takes off octets that nobody wants to see, without keeping them; returns how many there were.
    ///
    /// # Errors
    /// What the input says.
    pub(crate) fn skip(&mut self, count: u64) -> Result<u64, InputError> {
        let mut left = count;
        while left > 0 {
            let seen = self.fill(1)?;
            if seen == 0 {
                break;
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(seen);
            self.consume(step);
            left = left.saturating_sub(u64::try_from(step).unwrap_or(left));
        }
        Ok(count.saturating_sub(left))
    }

    /// Moves what is unread in front of the place for the next piece, in a larger buffer where it does not fit: the
    /// buffer thus grows with octets that are there, never with octets that are announced.
    #[cold]
    fn make_room(&mut self) {
        let tail = self.available();
        if tail > self.head {
            let room = tail.saturating_mul(2);
            let mut data = allocate(room);
            let head = head(&data, room);
            let start = head.saturating_sub(tail);
            if let Some(front) = data.get_mut(start..head) {
                front.copy_from_slice(self.data.get(self.start..self.end).unwrap_or_default());
            }
            self.data = data;
            self.head = head;
        } else {
            self.data
                .copy_within(self.start..self.end, self.head.saturating_sub(tail));
        }
        self.start = self.head.saturating_sub(tail);
        self.end = self.head;
    }
}
