//! The content destinations of a table. Criteria hold numbers that stay with a destination's name through changes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

use super::register::Shared;
use super::{Destination, Protection, TableError};

/// The destinations as given, and both ways between their places and their numbers.
#[derive(Debug, Default)]
struct List {
    destinations: Vec<Destination>,
    handles: Vec<u32>,
    /// Place by number; None for a number that is free.
    places: Vec<Option<u32>>,
}

/// All destinations of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Destinations {
    list: Arc<List>,
    /// By number, how many criteria have the destination.
    users: Shared<u32>,
}

impl Destinations {
    pub(super) fn as_slice(&self) -> &[Destination] {
        &self.list.destinations
    }

    /// The place of a destination among those given, and the destination.
    #[inline]
    pub(super) fn get(&self, handle: u32) -> Option<(u32, &Destination)> {
        let place = (*self.list.places.get(usize::try_from(handle).ok()?)?)?;
        let destination = self.list.destinations.get(usize::try_from(place).ok()?)?;
        Some((place, destination))
    }

    /// Whether both tables have the same list, not only an equal one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.list, &other.list)
    }

    /// Puts other destinations in the place of the present ones; those whose name stays keep their number.
    pub(super) fn replace(&mut self, destinations: Vec<Destination>) -> Result<(), TableError> {
        if let Some(mixed) = destinations.iter().find(|destination| {
            destination.address.is_ipv4() != destination.source_address.is_ipv4()
        }) {
            return Err(TableError::MixedFamilies {
                id: mixed.id.clone(),
            });
        }
        for destination in &destinations {
            let source = destination.source_address;
            // Copies may go to a group, but they come from one host.
            let is_one_host = !source.is_unspecified()
                && !source.is_multicast()
                && source != IpAddr::V4(Ipv4Addr::BROADCAST);
            let which = match (destination.address.is_unspecified(), is_one_host) {
                (true, _) => "address",
                (false, false) => "source address",
                (false, true) => continue,
            };
            let id = destination.id.clone();
            return Err(TableError::NoHost { id, which });
        }
        if let Some(id) = repeated(&destinations) {
            return Err(TableError::DuplicateDestination { id });
        }
        let kept = self.kept(&destinations)?;
        let mut places: Vec<Option<u32>> = vec![None; self.list.places.len()];
        for (place, handle) in (0_u32..).zip(&kept) {
            if let Some(handle) = handle
                && let Some(taken) = usize::try_from(*handle)
                    .ok()
                    .and_then(|handle| places.get_mut(handle))
            {
                *taken = Some(place);
            }
        }
        let mut next = 0;
        let mut handles = Vec::with_capacity(kept.len());
        for (place, kept) in (0_u32..).zip(kept) {
            handles.push(kept.unwrap_or_else(|| {
                while places.get(next).is_some_and(Option::is_some) {
                    next += 1;
                }
                match places.get_mut(next) {
                    Some(free) => *free = Some(place),
                    None => places.push(Some(place)),
                }
                u32::try_from(next).unwrap_or(u32::MAX)
            }));
        }
        self.list = Arc::new(List {
            destinations,
            handles,
            places,
        });
        Ok(())
    }

    /// The numbers of those destinations that are known by name already; an error where one in use is left out.
    fn kept(&self, destinations: &[Destination]) -> Result<Vec<Option<u32>>, TableError> {
        let names = self.list.destinations.iter();
        let mut known: HashMap<&str, u32, RandomState> = names
            .map(|destination| destination.id.as_str())
            .zip(self.list.handles.iter().copied())
            .collect();
        let kept = destinations
            .iter()
            .map(|destination| known.remove(destination.id.as_str()))
            .collect();
        for (id, handle) in known {
            if self.users.get(handle).is_some_and(|&users| users > 0) {
                return Err(TableError::DestinationInUse { id: id.to_owned() });
            }
        }
        Ok(kept)
    }

    /// The numbers of the destinations in some places, for one criterion.
    pub(super) fn handles(&self, id: u64, places: &[u32]) -> Result<Vec<u32>, TableError> {
        let mut handles = Vec::with_capacity(places.len());
        for (at, &index) in places.iter().enumerate() {
            let handle = usize::try_from(index)
                .ok()
                .and_then(|index| self.list.handles.get(index));
            let Some(&handle) = handle else {
                return Err(TableError::UnknownDestination {
                    id,
                    index,
                    count: self.list.destinations.len(),
                });
            };
            if places.iter().take(at).any(|&earlier| earlier == index) {
                return Err(TableError::RepeatedDestination { id, index });
            }
            handles.push(handle);
        }
        Ok(handles)
    }

    pub(super) fn add_user(&mut self, handles: &[u32]) {
        for &handle in handles {
            if let Some(users) = self.users.get_mut(handle) {
                *users = users.saturating_add(1);
            }
        }
    }

    pub(super) fn remove_user(&mut self, handles: impl Iterator<Item = u32>) {
        for handle in handles {
            if let Some(users) = self.users.get_mut(handle) {
                *users = users.saturating_sub(1);
            }
        }
    }

    pub(super) fn heap_octets(&self) -> usize {
        let names: usize = self
            .list
            .destinations
            .iter()
            .map(|destination| destination.id.capacity())
            .sum();
        let protections = self.list.destinations.iter();
        let protections: usize = protections
            .filter_map(|destination| destination.protection.as_ref())
            .map(|each| super::trie::ARC_OCTETS + size_of::<Protection>() + each.tunnel.capacity())
            .sum();
        super::trie::ARC_OCTETS
            + size_of::<List>()
            + self.list.destinations.capacity() * size_of::<Destination>()
            + names
            + protections
            + self.list.handles.capacity() * size_of::<u32>()
            + self.list.places.capacity() * size_of::<Option<u32>>()
            + self.users.heap_octets()
    }
}

/// The first name that is given twice.
fn repeated(destinations: &[Destination]) -> Option<String> {
    let mut names: HashSet<&str, RandomState> = HashSet::default();
    destinations
        .iter()
        .find(|destination| !names.insert(&destination.id))
        .map(|destination| destination.id.clone())
}
