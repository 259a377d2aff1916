//! The kernel's filters in step with the table.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtap_core::frame::LinkType;
use flowtap_core::table::{AnchorChanges, AnchorPrefix, Anchors, FamilyAnchors, FilterTable};

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

#[derive(Debug, Default)]
struct Inside {
    filters: Vec<Shared>,
    open: Open,
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
}

fn prefixes<T: AddressBits>(list: &[AnchorPrefix<T>]) -> Vec<Prefix<T>> {
    list.iter()
        .filter_map(|prefix| Prefix::new(prefix.bits, prefix.length))
        .collect()
}

fn family<T: AddressBits>(anchors: &FamilyAnchors<T>, is_open: bool) -> FamilyCover<T> {
    difference(
        &anchors.source,
        &anchors.destination,
        anchors.is_open || is_open,
    )
}

/// What a table could match.
fn cover(anchors: &Anchors) -> AddressCover {
    let is_open = anchors.is_open_to_frames;
    AddressCover {
        v4: family(&anchors.v4, is_open),
        v6: family(&anchors.v6, is_open),
    }
}

/// What a change of the table adds, or takes away. `open` is what becomes open, or is no longer.
fn difference<T: AddressBits>(
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
        for (_, socket) in &shared.sockets {
            if let Err(error) = shared.filter.attach(socket) {
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
        table: &FilterTable,
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
            ..Inside::default()
        };
        Self {
            inner,
            ebpf,
            broker,
            inside: Mutex::new(inside),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a worker's socket its filter, in place of any other that the worker had. `table` is the active one.
    ///
    /// # Errors
    /// The socket could not be kept, or keeps a filter that may miss something. That it takes none is no error: then
    /// everything passes.
    pub(super) fn attach(
        &self,
        worker: usize,
        socket: impl AsFd,
        link_type: LinkType,
        table: &FilterTable,
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
            inside.filters.push(Shared {
                link_type,
                filter: Prefilter::with_broker(
                    &cover(&table.anchors()),
                    options,
                    self.broker.clone(),
                ),
                sockets: Vec::new(),
            });
            inside.filters.len() - 1
        });
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
            v4: difference(
                &changes.v4.source.added,
                &changes.v4.destination.added,
                is.v4 && !was.v4,
            ),
            v6: difference(
                &changes.v6.source.added,
                &changes.v6.destination.added,
                is.v6 && !was.v6,
            ),
        };
        inside.step(|filter| filter.add(&additions));
        inside.open = Open {
            v4: was.v4 || is.v4,
            v6: was.v6 || is.v6,
        };
    }

    /// Drops what only an earlier table needed; when no worker uses it.
    pub(super) fn narrow(&self, earlier: &FilterTable, active: &FilterTable) {
        let changes = earlier.anchor_changes(active);
        let mut inside = self.lock();
        let (was, is) = (inside.open, opens(&changes));
        let removals = AddressCover {
            v4: difference(
                &changes.v4.source.removed,
                &changes.v4.destination.removed,
                was.v4 && !is.v4,
            ),
            v6: difference(
                &changes.v6.source.removed,
                &changes.v6.destination.removed,
                was.v6 && !is.v6,
            ),
        };
        inside.step(|filter| filter.remove(&removals));
        inside.open = is;
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
