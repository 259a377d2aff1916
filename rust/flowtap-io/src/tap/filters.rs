//! The kernel's filters in step with the table.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_core::frame::LinkType;
use flowtap_core::table::{
    AnchorChanges, AnchorPrefix, Anchors, FamilyAnchorChanges, FamilyAnchors, FilterTable,
};

use crate::broker::Broker;
use crate::prefilter::{
    AddressBits, AddressCover, FamilyCover, InnerTunnels, Prefilter, PrefilterError,
    PrefilterOptions, Prefix, Step,
};

/// A filter for all sockets whose frames begin alike.
#[derive(Debug)]
struct Shared {
    link_type: LinkType,
    filter: Prefilter,
    /// The sockets by the numbers of their workers; another one takes the place where a capture was opened again.
    sockets: Vec<(usize, OwnedFd)>,
}

/// Which families have criteria that could match any packet.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    v4: bool,
    v6: bool,
}

#[derive(Debug)]
struct Inside {
    filters: Vec<Shared>,
    /// The table that the filters were narrowed to last, and what they let through for later ones. A worker may use any
    /// of these, so a filter that is made meanwhile lets all of it through.
    table: Arc<FilterTable>,
    widened: Vec<AddressCover>,
    open: Open,
    /// Workers whose socket keeps a filter that may miss something.
    stuck: Vec<usize>,
    /// The last filter that a socket did not take.
    failure: Option<String>,
}

/// All filters of a tap.
#[derive(Debug)]
pub(super) struct Filters {
    inner: InnerTunnels,
    ebpf: bool,
    broker: Option<Arc<Broker>>,
    inside: Mutex<Inside>,
    /// Whether some worker is stuck, for a look that costs nothing.
    has_stuck: AtomicBool,
}

fn prefixes<T: AddressBits>(list: &[AnchorPrefix<T>]) -> Vec<Prefix<T>> {
    list.iter()
        .filter_map(|prefix| Prefix::new(prefix.bits, prefix.length))
        .collect()
}

/// What can be matched through some prefixes; `is_open` says that anything can.
fn family<T: AddressBits>(
    source: &[AnchorPrefix<T>],
    destination: &[AnchorPrefix<T>],
    is_open: bool,
) -> FamilyCover<T> {
    FamilyCover {
        source: prefixes(source),
        destination: prefixes(destination),
        open: u32::from(is_open),
    }
}

/// What a table could match.
fn cover(anchors: &Anchors) -> AddressCover {
    fn all<T: AddressBits>(anchors: &FamilyAnchors<T>, is_open: bool) -> FamilyCover<T> {
        family(&anchors.source, &anchors.destination, is_open)
    }
    let is_open = anchors.is_open_to_frames;
    AddressCover {
        v4: all(&anchors.v4, anchors.v4.is_open || is_open),
        v6: all(&anchors.v6, anchors.v6.is_open || is_open),
    }
}

/// What a change of the table adds to a family; `opens` where that is now open and was not.
fn added<T: AddressBits>(changes: &FamilyAnchorChanges<T>, opens: bool) -> FamilyCover<T> {
    family(&changes.source.added, &changes.destination.added, opens)
}

/// What a change takes away; `closes` where the family was open and is not any more.
fn removed<T: AddressBits>(changes: &FamilyAnchorChanges<T>, closes: bool) -> FamilyCover<T> {
    family(
        &changes.source.removed,
        &changes.destination.removed,
        closes,
    )
}

/// Which families the second table of a change has open.
const fn opens(changes: &AnchorChanges) -> Open {
    Open {
        v4: changes.v4.is_open || changes.is_open_to_frames,
        v6: changes.v6.is_open || changes.is_open_to_frames,
    }
}

impl Inside {
    fn attach_all(&mut self, which: usize) {
        let Some(shared) = self.filters.get(which) else {
            return;
        };
        for (worker, socket) in &shared.sockets {
            if let Err(error) = shared.filter.attach(socket) {
                if matches!(error, PrefilterError::Detach { .. }) {
                    self.stuck.push(*worker);
                }
                self.failure = Some(error.to_string());
            }
        }
    }

    fn step(&mut self, mut change: impl FnMut(&mut Prefilter) -> Step) {
        for which in 0..self.filters.len() {
            let step = self
                .filters
                .get_mut(which)
                .map(|shared| change(&mut shared.filter));
            if step == Some(Step::Attach) {
                self.attach_all(which);
            }
        }
    }
}

impl Filters {
    /// Filters for what a table could match; none is attached yet.
    pub(super) fn new(
        table: &Arc<FilterTable>,
        inner: InnerTunnels,
        ebpf: bool,
        broker: Option<Arc<Broker>>,
    ) -> Self {
        let cover = cover(&table.anchors());
        let inside = Inside {
            open: Open {
                v4: cover.v4.open > 0,
                v6: cover.v6.open > 0,
            },
            filters: Vec::new(),
            table: Arc::clone(table),
            widened: Vec::new(),
            stuck: Vec::new(),
            failure: None,
        };
        Self {
            inner,
            ebpf,
            broker,
            inside: Mutex::new(inside),
            has_stuck: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a worker's socket its filter, in place of any other that the worker had.
    ///
    /// # Errors
    /// The socket could not be kept, or keeps a filter that may miss something. That it takes none is no error: then
    /// everything passes.
    pub(super) fn attach(
        &self,
        worker: usize,
        socket: impl AsFd,
        link_type: LinkType,
    ) -> Result<(), String> {
        let socket = socket.as_fd();
        let kept = socket
            .try_clone_to_owned()
            .map_err(|error| format!("a packet socket: {error}"))?;
        let mut inside = self.lock();
        let inside = &mut *inside;
        let known = inside
            .filters
            .iter()
            .position(|shared| shared.link_type == link_type);
        let which = known.unwrap_or_else(|| {
            let options = PrefilterOptions {
                link_type,
                inner: self.inner,
                ebpf: self.ebpf,
            };
            let table = cover(&inside.table.anchors());
            let mut filter = Prefilter::with_broker(&table, options, self.broker.clone());
            for additions in &inside.widened {
                // It is attached below, whatever has become of it.
                let _step = filter.add(additions);
            }
            inside.filters.push(Shared {
                link_type,
                filter,
                sockets: Vec::new(),
            });
            inside.filters.len() - 1
        });
        inside.stuck.retain(|number| *number != worker);
        for shared in &mut inside.filters {
            shared.sockets.retain(|(number, _)| *number != worker);
        }
        let Some(shared) = inside.filters.get_mut(which) else {
            return Ok(());
        };
        let attached = shared.filter.attach(socket);
        shared.sockets.push((worker, kept));
        match attached {
            Ok(()) => Ok(()),
            Err(error @ PrefilterError::Detach { .. }) => Err(error.to_string()),
            Err(error) => {
                inside.failure = Some(error.to_string());
                Ok(())
            }
        }
    }

    /// Lets through what the next table adds; before it is installed.
    pub(super) fn widen(&self, active: &FilterTable, next: &FilterTable) {
        let changes = active.anchor_changes(next);
        let mut inside = self.lock();
        let (was, is) = (inside.open, opens(&changes));
        let additions = AddressCover {
            v4: added(&changes.v4, is.v4 && !was.v4),
            v6: added(&changes.v6, is.v6 && !was.v6),
        };
        inside.step(|filter| filter.add(&additions));
        inside.widened.push(additions);
        self.tell_stuck(&inside);
        inside.open = Open {
            v4: was.v4 || is.v4,
            v6: was.v6 || is.v6,
        };
    }

    /// Drops what only an earlier table needed; when no worker uses it.
    pub(super) fn narrow(&self, earlier: &FilterTable, active: &Arc<FilterTable>) {
        let changes = earlier.anchor_changes(active);
        let mut inside = self.lock();
        let (was, is) = (inside.open, opens(&changes));
        let removals = AddressCover {
            v4: removed(&changes.v4, was.v4 && !is.v4),
            v6: removed(&changes.v6, was.v6 && !is.v6),
        };
        inside.step(|filter| filter.remove(&removals));
        inside.open = is;
        inside.widened.clear();
        let table = mem::replace(&mut inside.table, Arc::clone(active));
        self.tell_stuck(&inside);
        drop(inside);
        // Perhaps the last one who has it: that takes its time.
        drop(table);
    }

    fn tell_stuck(&self, inside: &Inside) {
        self.has_stuck
            .store(!inside.stuck.is_empty(), Ordering::Release);
    }

    /// Whether a worker's socket keeps a filter that may miss something, so that it must be opened anew. It is told once.
    pub(super) fn take_stuck(&self, worker: usize) -> bool {
        if !self.has_stuck.load(Ordering::Acquire) {
            return false;
        }
        let mut inside = self.lock();
        let before = inside.stuck.len();
        inside.stuck.retain(|number| *number != worker);
        self.tell_stuck(&inside);
        inside.stuck.len() < before
    }

    /// What filters the frames of a link type, in words.
    pub(super) fn kind(&self, link_type: LinkType) -> String {
        let inside = self.lock();
        let kind = inside
            .filters
            .iter()
            .find(|shared| shared.link_type == link_type)
            .map_or_else(
                || "none".to_owned(),
                |shared| shared.filter.kind().to_string(),
            );
        match &inside.failure {
            Some(failure) => format!("{kind}; {failure}"),
            None => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use flowtap_core::criteria::{Criteria, CriteriaText};
    use flowtap_core::table::Entry;

    use super::*;

    fn entry(id: u64, source: &str) -> Entry {
        let text = CriteriaText {
            source: Some(source),
            ..CriteriaText::default()
        };
        Entry::new(id, Criteria::parse(&text).unwrap())
    }

    fn table(sources: &[&str]) -> Arc<FilterTable> {
        let entries = (1..).zip(sources);
        let entries = entries.map(|(id, source)| entry(id, source)).collect();
        Arc::new(FilterTable::compile(entries, Vec::new()).unwrap())
    }

    fn filters(table: &Arc<FilterTable>) -> Filters {
        Filters::new(table, InnerTunnels::default(), true, None)
    }

    /// A bare IPv4 packet.
    fn packet(source: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend([198, 51, 100, 1, 0, 9, 0, 9, 0, 8, 0, 0]);
        packet
    }

    fn passes(filters: &Filters, source: [u8; 4]) -> bool {
        let inside = filters.lock();
        let judgement = inside.filters[0].filter.judge(&packet(source), 1);
        judgement.unwrap().passes
    }

    #[test]
    fn a_filter_that_is_made_during_a_change_serves_both_tables() {
        let (old, new) = (
            table(&["192.0.2.1", "192.0.2.9"]),
            table(&["192.0.2.2", "192.0.2.9"]),
        );
        let filters = filters(&old);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        filters.widen(&old, &new);
        filters.attach(0, &socket, LinkType::Ipv4).unwrap();
        let passing = || [1, 2, 9, 7].map(|last| passes(&filters, [192, 0, 2, last]));
        assert_eq!(passing(), [true, true, true, false]);
        filters.narrow(&old, &new);
        assert_eq!(passing(), [false, true, true, false]);
        filters.attach(0, &socket, LinkType::Ipv4).unwrap();
        assert_eq!(passing(), [false, true, true, false]);
    }

    #[test]
    fn a_socket_that_keeps_its_old_filter_is_told_once() {
        let old = table(&["192.0.2.1"]);
        let filters = Filters::new(&old, InnerTunnels::default(), false, None);
        let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (worker, socket) in sockets.iter().enumerate() {
            filters.attach(worker, socket, LinkType::Ipv4).unwrap();
        }
        crate::export::lock_filter(sockets[1].as_fd()).unwrap();
        assert!(!filters.take_stuck(1));
        // The classic filter is another one for every table.
        let new = table(&["192.0.2.1", "192.0.2.2"]);
        filters.widen(&old, &new);
        assert!(!filters.take_stuck(0));
        assert!(filters.take_stuck(1));
        assert!(!filters.take_stuck(1));
    }
}
