//! What an engine keeps of its criteria and destinations, from table to table.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{CriterionState, DestinationState, Engine, Totals};
use crate::counters::{CriterionCounters, DestinationCounters, RefusedCopies, Stats};
use crate::table::{Destination, FilterTable, Slot};

impl Engine {
    /// Goes over to another table. Accounts and ages follow the ids of criteria and the names of destinations; those
    /// that left stay in the totals. Where the new table is a change of the present one, this costs about as much as the
    /// change.
    pub fn install(&mut self, table: Arc<FilterTable>) {
        let mut moved: Vec<(usize, Option<CriterionState>)> = Vec::new();
        self.table.differing_slots(&table, |number| {
            let (old, new) = (self.table.slot(number), table.slot(number));
            if let Some(new) = new {
                self.hand_on(new);
            }
            if let (Some(new), Ok(at)) = (new, usize::try_from(number))
                && old.map(Slot::id) != Some(new.id())
            {
                let state = self.table.slot_of(new.id()).and_then(|old| self.state(old));
                moved.push((at, state));
            }
        });
        let end = usize::try_from(table.slots_end()).unwrap_or(usize::MAX);
        self.criteria.resize(end, CriterionState::default());
        for (at, state) in moved {
            if let Some(place) = self.criteria.get_mut(at) {
                *place = state.unwrap_or_default();
                if place.since_ns.is_none() {
                    self.fresh.push(at);
                }
            }
        }
        self.is_unusual = true;
        if self.fresh.len() > 2 * self.criteria.len() {
            // Many changes without a frame between them: some slots are there several times.
            self.fresh = (0..self.criteria.len()).collect();
        }
        if !self.table.shares_destinations(&table) {
            self.destinations = self.destinations_of(&table);
            self.refused = self.refused_of(&table);
            if let Some(own) = &mut self.own {
                own.follow(&table);
            }
        }
        if !self.refused.is_empty() {
            self.refused
                .retain(|&(id, _), _| table.slot_of(id).is_some());
        }
        self.table = table;
        self.number_interfaces();
    }

    /// Lets a criterion of another table go on from what that with its id has used.
    fn hand_on(&self, new: &Slot) {
        let Some((_, used)) = new.limits() else {
            return;
        };
        let Some(old) = self.table.slot_of(new.id()) else {
            return;
        };
        match self.table.slot(old).and_then(Slot::limits) {
            Some((_, before)) if std::ptr::eq(before, used) => {}
            Some((_, before)) => {
                let (packets, octets, last_match_ns) = before.counts();
                used.raise(packets, octets, last_match_ns);
            }
            None => {
                let state = self.state(old).unwrap_or_default();
                used.raise(state.packets, state.octets, state.last_match_ns);
            }
        }
    }

    /// The states of another table's destinations: those of the present ones with the same names.
    fn destinations_of(&self, table: &FilterTable) -> Vec<DestinationState> {
        let present = self.table.destinations().iter();
        let states: HashMap<&str, DestinationState, RandomState> = present
            .map(|destination| destination.id.as_str())
            .zip(self.destinations.iter().copied())
            .collect();
        let state = |destination: &Destination| states.get(destination.id.as_str()).copied();
        let others = table.destinations().iter();
        others
            .map(|destination| state(destination).unwrap_or_default())
            .collect()
    }

    /// What was refused, by the indexes of another table's destinations.
    fn refused_of(&self, table: &FilterTable) -> HashMap<(u64, u32), (u64, u64), RandomState> {
        let index_of: HashMap<&str, u32, RandomState> = table
            .destinations()
            .iter()
            .map(|destination| destination.id.as_str())
            .zip(0..)
            .collect();
        let others = self.refused.iter().filter_map(|(&(id, index), &refused)| {
            let index = usize::try_from(index).ok()?;
            let name = self.table.destinations().get(index)?.id.as_str();
            Some(((id, *index_of.get(name)?), refused))
        });
        others.collect()
    }

    /// The state of the criterion in a slot.
    pub(super) fn state(&self, slot: u32) -> Option<CriterionState> {
        self.criteria.get(usize::try_from(slot).ok()?).copied()
    }

    /// The account.
    pub fn stats(&self) -> Stats {
        let Totals {
            frames,
            octets,
            undecodable,
            own,
            duplicates,
            matched,
            matched_whole,
            wanted,
            copied,
            refused,
        } = self.totals;
        let criteria = self.table.slots().numbered();
        let destinations = self.table.destinations().iter().zip(&self.destinations);
        Stats {
            frames,
            octets,
            undecodable,
            own,
            duplicates,
            matched,
            matched_whole,
            wanted,
            copied,
            refused,
            held: u64::try_from(self.fragments.held_frames()).unwrap_or(u64::MAX),
            criteria: criteria
                .map(|(number, slot)| {
                    let state = self.state(number).unwrap_or_default();
                    CriterionCounters {
                        id: slot.id(),
                        packets: state.packets,
                        octets: state.octets,
                        copies: state.copies,
                        last_match_ns: state.last_match_ns,
                    }
                })
                .collect(),
            destinations: destinations
                .map(|(destination, state)| DestinationCounters {
                    id: destination.id.clone(),
                    wanted: state.wanted,
                    copied: state.copied,
                    refused: state.refused,
                })
                .collect(),
            refused_copies: self
                .refused
                .iter()
                .filter_map(|(&(criteria_id, index), &(copies, octets))| {
                    let index = usize::try_from(index).ok()?;
                    Some(RefusedCopies {
                        criteria_id,
                        destination_id: self.table.destinations().get(index)?.id.clone(),
                        copies,
                        octets,
                    })
                })
                .collect(),
        }
    }
}
