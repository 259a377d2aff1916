//! The criteria of one address family.

use super::addresses::{Address, Addresses, Sought};
use super::level::Find;
use super::reach::{Network, Networks, Ports, Reach};
use super::register::Register;
use super::trie::Seek;
use crate::criteria::{Criteria, Side};

/// Two indexes, each behind a first look that most packets do not pass.
#[derive(Clone, Debug)]
pub(super) struct Family<K> {
    /// Criteria that addresses tell from most traffic.
    pub(super) narrow: Addresses<K>,
    narrow_reach: Reach,
    /// The others: about any address, or about a large part of the address space on both sides.
    pub(super) open: Addresses<K>,
    open_reach: Reach,
    open_ports: Ports,
}

impl<K> Default for Family<K> {
    fn default() -> Self {
        Self {
            narrow: Addresses::default(),
            narrow_reach: Reach::default(),
            open: Addresses::default(),
            open_reach: Reach::default(),
            open_ports: Ports::default(),
        }
    }
}

/// What a criterion is to a family, with the networks that it is about.
enum Kind {
    /// It matches nothing of this family.
    None,
    Narrow(Networks, Networks),
    Open(Networks, Networks),
}

impl Kind {
    fn of<K: Address + Network>(criteria: &Criteria) -> Self {
        let source = K::ranges(criteria, Side::Source);
        let destination = K::ranges(criteria, Side::Destination);
        if source.is_empty() || destination.is_empty() {
            return Self::None;
        }
        let (source, destination) = (K::networks(&source), K::networks(&destination));
        if Reach::is_open(source, destination) {
            Self::Open(source, destination)
        } else {
            Self::Narrow(source, destination)
        }
    }
}

impl<K: Address + Network> Family<K> {
    pub(super) fn add(&mut self, slot: u32, register: &Register) {
        let Some(criteria) = register.criteria(slot) else {
            return;
        };
        let kind = Kind::of::<K>(criteria);
        match kind {
            Kind::None => return,
            Kind::Open(..) => self.open.add(slot, criteria, register),
            Kind::Narrow(..) => self.narrow.add(slot, criteria, register),
        }
        self.let_pass(&kind, criteria);
    }

    pub(super) fn remove(&mut self, slot: u32, register: &Register) {
        let Some(criteria) = register.criteria(slot) else {
            return;
        };
        match Kind::of::<K>(criteria) {
            Kind::None => {}
            Kind::Open(..) => self.open.remove(slot, criteria, register),
            Kind::Narrow(..) => self.narrow.remove(slot, criteria, register),
        }
    }

    /// Lets the packets of a criterion pass the first look.
    fn let_pass(&mut self, kind: &Kind, criteria: &Criteria) {
        match *kind {
            Kind::None => {}
            Kind::Narrow(source, destination) => self.narrow_reach.add(source, destination),
            Kind::Open(source, destination) => {
                self.open_reach.add(source, destination);
                self.open_ports.add(criteria);
            }
        }
    }

    /// Makes the first looks anew from the criteria that are left.
    pub(super) fn renew<'a>(&mut self, criteria: impl Iterator<Item = &'a Criteria>) {
        self.narrow_reach = Reach::default();
        self.open_reach = Reach::default();
        self.open_ports = Ports::default();
        self.narrow.renew();
        self.open.renew();
        for criteria in criteria {
            self.let_pass(&Kind::of::<K>(criteria), criteria);
        }
    }

    #[inline]
    pub(super) fn may_match<S: Seek>(&self, source: K, destination: K, seek: &mut S) -> bool {
        (self.narrow_reach.holds(source, destination, seek)
            && self.narrow.may_hold(source, destination, seek))
            || (!self.open.is_empty() && self.open_reach.holds(source, destination, seek))
    }

    #[inline]
    pub(super) fn visit<F: Find>(&self, sought: &Sought<K>, find: &mut F) {
        let &Sought {
            source,
            destination,
            upper,
        } = sought;
        if self.narrow_reach.holds(source, destination, find) {
            self.narrow.visit(sought, find);
        }
        if !self.open.is_empty()
            && self.open_reach.holds(source, destination, find)
            && self.open_ports.holds(upper, find)
        {
            self.open.visit(sought, find);
        }
    }

    pub(super) fn heap_octets(&self) -> usize {
        self.narrow.heap_octets()
            + self.narrow_reach.heap_octets()
            + self.open.heap_octets()
            + self.open_reach.heap_octets()
            + self.open_ports.heap_octets()
    }
}
