//! The active table, changed in one step under running workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use flowtap_core::table::FilterTable;

/// A table and its number.
#[derive(Debug)]
struct Numbered {
    generation: u64,
    table: Arc<FilterTable>,
}

/// Holds the active table.
///
/// A worker asks its [`TableReader`] at every block; who installs a table can wait until no worker uses an older one.
#[derive(Debug)]
pub struct TableCell {
    current: ArcSwap<Numbered>,
    /// The generation that each living reader uses.
    readers: Mutex<Vec<Arc<AtomicU64>>>,
    /// One installer at a time, so that generations and tables keep their order.
    installing: Mutex<()>,
}

impl TableCell {
    /// A cell with its first table: generation 1.
    pub fn new(table: Arc<FilterTable>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Numbered {
                generation: 1,
                table,
            }),
            readers: Mutex::default(),
            installing: Mutex::default(),
        }
    }

    /// Makes `table` the active one and returns its generation.
    pub fn install(&self, table: Arc<FilterTable>) -> u64 {
        let _one = self
            .installing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = self.current.load().generation + 1;
        self.current.store(Arc::new(Numbered { generation, table }));
        generation
    }

    /// The active table.
    pub fn table(&self) -> Arc<FilterTable> {
        Arc::clone(&self.current.load().table)
    }

    /// The active generation.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Whether no reader uses a table older than `generation`.
    pub fn is_released(&self, generation: u64) -> bool {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that is gone uses nothing.
        readers.retain(|reader| Arc::strong_count(reader) > 1);
        readers
            .iter()
            .all(|reader| reader.load(Ordering::Acquire) >= generation)
    }

    /// A reader for one worker, with the table to begin with and its generation.
    pub fn reader(self: &Arc<Self>) -> (TableReader, u64, Arc<FilterTable>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let using = Arc::new(AtomicU64::new(current.generation));
        readers.push(Arc::clone(&using));
        let reader = TableReader {
            cell: Arc::clone(self),
            using,
            announced: current.generation,
        };
        (reader, current.generation, Arc::clone(&current.table))
    }
}

/// One worker's view of a [`TableCell`].
#[derive(Debug)]
pub struct TableReader {
    cell: Arc<TableCell>,
    using: Arc<AtomicU64>,
    announced: u64,
}

impl TableReader {
    /// The active table, with its generation, where it is another one than before. The worker must let go of the old one, then call
    /// [`TableReader::release`].
    pub fn changed(&mut self) -> Option<(u64, Arc<FilterTable>)> {
        let current = self.cell.current.load();
        (current.generation != self.announced).then(|| {
            self.announced = current.generation;
            (current.generation, Arc::clone(&current.table))
        })
    }

    /// Says that the worker uses what [`TableReader::changed`] returned last.
    pub fn release(&self) {
        self.using.store(self.announced, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Arc<FilterTable> {
        Arc::new(FilterTable::compile(Vec::new(), Vec::new()).unwrap())
    }

    #[test]
    fn an_old_table_is_released_when_every_reader_has_gone_over_or_is_gone() {
        let cell = Arc::new(TableCell::new(table()));
        let (mut one, first, _) = cell.reader();
        let (two, ..) = cell.reader();
        assert_eq!(first, 1);
        assert!(one.changed().is_none());
        let second = table();
        let generation = cell.install(Arc::clone(&second));
        assert_eq!(generation, 2);
        assert!(!cell.is_released(generation));
        let (changed, table) = one.changed().unwrap();
        assert!(changed == generation && Arc::ptr_eq(&table, &second));
        assert!(!cell.is_released(generation));
        one.release();
        assert!(!cell.is_released(generation));
        drop(two);
        assert!(cell.is_released(generation));
        assert!(one.changed().is_none());
        assert_eq!(cell.generation(), 2);
    }
}
