//! Many copies in one arena.

/// One copy, or one fragment of a copy's outer datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRecord {
    /// Where its octets begin in [`CopyBatch::bytes`].
    pub start: usize,
    /// Where they end.
    pub end: usize,
    /// Octets of outer headers in front of the tapped packet; in a later fragment, of the outer IP header.
    pub header_octets: u32,
    /// The criterion that matched.
    pub criteria_id: u64,
    /// Index into the table's destinations; [`NO_DESTINATION`] for a criterion that has none.
    pub destination: u32,
    /// When the tapped packet was captured, in nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// Length of the tapped IP packet on the wire.
    pub original_length_octets: u32,
}

/// The destination of a copy that goes nowhere.
pub const NO_DESTINATION: u32 = u32::MAX;

/// Copies in the order in which they were made, all in one piece of memory that is used again.
#[derive(Clone, Debug, Default)]
pub struct CopyBatch {
    bytes: Vec<u8>,
    records: Vec<CopyRecord>,
}

impl CopyBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            records: Vec::new(),
        }
    }

    /// An empty batch with room for so many octets.
    pub fn with_capacity(octets: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(octets),
            records: Vec::new(),
        }
    }

    /// Forgets the copies and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// All octets in order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What each copy is and where its octets are.
    pub fn records(&self) -> &[CopyRecord] {
        &self.records
    }

    /// The octets of one copy, None where there are not so many.
    pub fn copy(&self, index: usize) -> Option<&[u8]> {
        let record = self.records.get(index)?;
        self.bytes.get(record.start..record.end)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a copy whose octets `write` appends; `record` says everything but where they are.
    pub(crate) fn push(&mut self, record: CopyRecord, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.records.push(CopyRecord {
            start,
            end: self.bytes.len(),
            ..record
        });
    }
}
