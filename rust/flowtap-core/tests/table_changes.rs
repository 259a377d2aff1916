//! A table that was changed answers what a table that was compiled anew answers, and the table before the change
//! answers what it answered before.
#![cfg(test)]

mod tables;

use std::collections::{BTreeMap, BTreeSet};

use flowtap_core::criteria::CriteriaText;
use flowtap_core::packet::{Address, PacketKey, Transport};
use flowtap_core::table::{
    AnchorDifference, AnchorPrefix, Destination, Entry, FamilyAnchorChanges, FamilyAnchors,
    FilterTable, TableError,
};
use proptest::prelude::*;
use tables::{
    any_entry, any_entry_of_one_source, any_key, check, compile, destination, entry, found, from,
    ids,
};

fn host(id: u64) -> Entry {
    from(id, &format!("10.0.{}.{}", id / 250, id % 250))
}

fn named(name: &str) -> Destination {
    destination(name, "203.0.113.9", "203.0.113.1")
}

fn to(id: u64, places: &[u32]) -> Entry {
    Entry {
        destinations: places.to_vec(),
        ..host(id)
    }
}

/// The names that a criterion delivers to.
fn names(table: &FilterTable, id: u64) -> Vec<&str> {
    let slot = table.slot(table.slot_of(id).unwrap()).unwrap();
    let names = table.destinations_of(slot).map(|(place, destination)| {
        assert_eq!(
            &table.destinations()[usize::try_from(place).unwrap()],
            destination
        );
        destination.id.as_str()
    });
    names.collect()
}

#[test]
fn changes_that_cannot_be() {
    let table = compile(vec![host(1), host(2)]);
    let changed = |remove: &[u64], add| table.changed(remove, add, None).unwrap_err();
    assert_eq!(changed(&[3], Vec::new()), TableError::UnknownId { id: 3 });
    assert_eq!(
        changed(&[1, 1], Vec::new()),
        TableError::UnknownId { id: 1 }
    );
    assert_eq!(
        changed(&[], vec![host(2)]),
        TableError::DuplicateId { id: 2 }
    );
    assert_eq!(
        changed(&[], vec![host(3), host(3)]),
        TableError::DuplicateId { id: 3 }
    );
    assert!(matches!(
        changed(&[], vec![to(3, &[0])]),
        TableError::UnknownDestination { id: 3, .. }
    ));
    let delivering = FilterTable::compile(vec![to(1, &[0])], vec![named("a"), named("b")]).unwrap();
    assert_eq!(
        delivering
            .changed(&[], Vec::new(), Some(vec![named("b")]))
            .unwrap_err(),
        TableError::DestinationInUse { id: "a".to_owned() }
    );
    // What failed changed nothing.
    assert_eq!(table.slots().len(), 2);
    assert_eq!(names(&delivering, 1), ["a"]);
}

#[test]
fn slots_stay_with_their_criteria_and_free_ones_are_taken_again() {
    let table = compile((1..=1000).map(host).collect());
    let before: Vec<Option<u32>> = (1..=1000).map(|id| table.slot_of(id)).collect();
    let changed = table.changed(&[500, 7], vec![host(2000)], None).unwrap();
    for (id, slot) in (1..).zip(before) {
        let expected = slot.filter(|_| id != 500 && id != 7);
        assert_eq!(changed.slot_of(id), expected, "{id}");
    }
    assert!([table.slot_of(7), table.slot_of(500)].contains(&changed.slot_of(2000)));
    assert_eq!(changed.slots_end(), table.slots_end());
    let in_order: Vec<u64> = changed.slots().map(flowtap_core::table::Slot::id).collect();
    assert!(in_order.is_sorted());
    assert_eq!(in_order.len(), 999);
    // Replaced: the same id, another filter, the same slot.
    let replaced = changed
        .changed(&[8], vec![from(8, "192.0.2.8")], None)
        .unwrap();
    assert_eq!(replaced.slot_of(8), changed.slot_of(8));
    let mut differing = Vec::new();
    changed.differing_slots(&replaced, |slot| differing.push(slot));
    assert!(differing.contains(&changed.slot_of(8).unwrap()));
    assert!(differing.len() <= 64);
}

#[test]
fn destinations_keep_their_criteria_by_name() {
    let first = vec![named("a"), named("b"), named("c")];
    let table =
        FilterTable::compile(vec![to(1, &[0]), to(2, &[2, 0]), to(3, &[1])], first).unwrap();
    assert_eq!(names(&table, 2), ["c", "a"]);
    // b goes with its criterion, d comes, a and c change places, a gets another port.
    let moved = Destination {
        port: 7,
        ..named("a")
    };
    let second = vec![named("c"), named("d"), moved];
    let changed = table
        .changed(&[3], vec![to(4, &[1, 2])], Some(second))
        .unwrap();
    assert_eq!(names(&changed, 1), ["a"]);
    assert_eq!(names(&changed, 2), ["c", "a"]);
    assert_eq!(names(&changed, 4), ["d", "a"]);
    assert_eq!(changed.destinations()[2].port, 7);
    // The number of b was taken by d; the old table does not notice.
    assert_eq!(names(&table, 3), ["b"]);
    assert!(table.shares_destinations(&table.changed(&[1], Vec::new(), None).unwrap()));
    assert!(!table.shares_destinations(&changed));
}

#[test]
fn a_change_shares_nearly_everything() {
    let table = compile((1..=20_000).map(host).collect());
    let changed = table.changed(&[77], vec![host(30_000)], None).unwrap();
    let mut differing = 0;
    table.differing_slots(&changed, |_| differing += 1);
    assert_eq!(differing, 64);
    let changes = table.anchor_changes(&changed).v4;
    assert_eq!(changes.source.added.len(), 1);
    assert_eq!(changes.source.removed.len(), 1);
    assert_eq!(changes.destination.added.len(), 0);
}

#[test]
fn what_goes_does_not_pass_the_first_look_for_ever() {
    let mut table = compile((1..=4000).map(host).collect());
    for id in 1..=3999 {
        table = table.changed(&[id], Vec::new(), None).unwrap();
    }
    let gone = (1..=3999).filter(|&id| {
        let key = tables::packet(
            tables::v4(&format!("10.0.{}.{}", id / 250, id % 250)),
            tables::v4("192.0.2.1"),
            17,
            (1, 1),
        );
        table.may_match(key.source, key.destination)
    });
    assert!(gone.count() < 300);
    // Nor does the index keep the shape that it had.
    let last = tables::packet(tables::v4("10.0.16.0"), tables::v4("192.0.2.1"), 17, (1, 1));
    let alone = compile(vec![host(4000)]);
    assert_eq!(table.work(&last).probes, alone.work(&last).probes);
    assert_eq!(table.work(&last).criteria_asked, 1);
}

#[test]
fn a_later_fragment_waits_only_for_criteria_that_are_still_there() {
    let with_port = |id| {
        let text = CriteriaText {
            source: Some("192.0.2.1"),
            destination_port: Some("53"),
            ..CriteriaText::default()
        };
        entry(id, &text)
    };
    let mut entries: Vec<Entry> = (1..=12).map(|id| from(id, "192.0.2.1")).collect();
    entries.extend((13..=15).map(with_port));
    let table = compile(entries);
    let fragment = PacketKey {
        transport: Transport::None,
        ..tables::packet(tables::v4("192.0.2.1"), tables::v4("192.0.2.2"), 17, (0, 0))
    };
    let mut slots = Vec::new();
    let two = table.changed(&[13, 15], Vec::new(), None).unwrap();
    let none = two.changed(&[14], Vec::new(), None).unwrap();
    assert!(table.classify_later_fragment(&fragment, &mut slots));
    assert!(two.classify_later_fragment(&fragment, &mut slots));
    assert!(!none.classify_later_fragment(&fragment, &mut slots));
    assert_eq!(slots.len(), 12);
}

/// One step: criteria that go, by their place among those that are there, criteria that come, and destinations.
type Step = (
    Vec<prop::sample::Index>,
    Vec<(Option<Entry>, Vec<bool>)>,
    Vec<bool>,
);

fn any_step() -> impl Strategy<Value = Step> {
    let bits = || prop::collection::vec(any::<bool>(), 4);
    let remove = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    let add = prop::collection::vec((any_entry(), bits()), 0..20);
    (remove, add, bits())
}

/// Destination names, and which of them a table has.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A set of anchors, for comparison.
fn set<T: Copy + Ord>(prefixes: &[AnchorPrefix<T>]) -> BTreeSet<AnchorPrefix<T>> {
    let set: BTreeSet<_> = prefixes.iter().copied().collect();
    assert_eq!(set.len(), prefixes.len(), "a prefix is given twice");
    set
}

fn follow<T: Copy + Ord>(
    before: &[AnchorPrefix<T>],
    difference: &AnchorDifference<T>,
) -> BTreeSet<AnchorPrefix<T>> {
    let mut set = set(before);
    for removed in &difference.removed {
        assert!(set.remove(removed));
    }
    for &added in &difference.added {
        assert!(set.insert(added));
    }
    set
}

fn check_anchors<T: Copy + Ord + std::fmt::Debug>(
    before: &FamilyAnchors<T>,
    changes: &FamilyAnchorChanges<T>,
    after: &FamilyAnchors<T>,
    anew: &FamilyAnchors<T>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(follow(&before.source, &changes.source), set(&after.source));
    prop_assert_eq!(
        follow(&before.destination, &changes.destination),
        set(&after.destination)
    );
    prop_assert_eq!(changes.is_open, after.is_open);
    prop_assert_eq!(set(&after.source), set(&anew.source));
    prop_assert_eq!(set(&after.destination), set(&anew.destination));
    prop_assert_eq!(after.is_open, anew.is_open);
    Ok(())
}

proptest! {
    #[test]
    fn crowds_that_shrink_become_few_again(
        entries in prop::collection::vec(any_entry_of_one_source(), 9..20),
        order in prop::collection::vec(any::<prop::sample::Index>(), 20),
        keys in prop::collection::vec(any_key(), 10),
    ) {
        let entries = entries.into_iter().flatten().zip(1..);
        let mut left: Vec<Entry> = entries.map(|(entry, id)| Entry { id, ..entry }).collect();
        let mut table = compile(left.clone());
        for at in order {
            if left.is_empty() {
                break;
            }
            let gone = left.swap_remove(at.index(left.len()));
            table = table.changed(&[gone.id], Vec::new(), None).unwrap();
            let anew = compile(left.clone());
            for key in &keys {
                let key = PacketKey { source: tables::v4("192.0.2.1"), destination: match key.destination {
                    Address::V4(_) => key.destination,
                    Address::V6(_) => tables::v4("192.0.2.5"),
                }, ..*key };
                check(&table, &key)?;
                prop_assert!(table.work(&key).criteria_asked >= anew.work(&key).criteria_asked);
            }
        }
    }

    #[test]
    fn changes_lead_where_compiling_leads(
        steps in prop::collection::vec(any_step(), 1..6),
        keys in prop::collection::vec(any_key(), 10),
    ) {
        let mut table = FilterTable::compile(Vec::new(), Vec::new()).unwrap();
        // What is in the table: criteria by id, with the names that they deliver to.
        let mut model: BTreeMap<u64, (Entry, Vec<&str>)> = BTreeMap::new();
        let mut next_id = 1;
        for (remove, add, has) in steps {
            let present: Vec<u64> = model.keys().copied().collect();
            let gone: BTreeSet<u64> = remove
                .iter()
                .filter(|_| !present.is_empty())
                .map(|at| *at.get(&present))
                .collect();
            let kept_model = model.clone();
            model.retain(|id, _| !gone.contains(id));
            let in_use: BTreeSet<&str> = model.values().flat_map(|(_, to)| to.clone()).collect();
            let here: Vec<&str> = NAMES
                .into_iter()
                .zip(has)
                .filter(|&(name, has)| has || in_use.contains(name))
                .map(|(name, _)| name)
                .collect();
            // Every second criterion that comes replaces one that goes.
            let mut free = gone.iter().copied();
            let mut added = Vec::new();
            for (at, (entry, to)) in add.into_iter().enumerate() {
                let Some(entry) = entry else { continue };
                let reused = if at % 2 == 0 { free.next() } else { None };
                let id = reused.unwrap_or_else(|| { next_id += 1; next_id });
                let places: Vec<u32> = (0..)
                    .zip(&here)
                    .zip(to)
                    .filter(|&(_, to)| to)
                    .map(|((place, _), _)| place)
                    .collect();
                let to = places.iter().map(|&at| here[usize::try_from(at).unwrap()]).collect();
                let entry = Entry { id, destinations: places, ..entry };
                model.insert(id, (entry.clone(), to));
                added.push(entry);
            }
            let gone: Vec<u64> = gone.into_iter().collect();
            let destinations = here.iter().map(|name| named(name)).collect();
            let changed = table.changed(&gone, added, Some(destinations)).unwrap();

            let anew = model.values().map(|(entry, to)| {
                let place = |name| here.iter().position(|other| *other == name).unwrap();
                let places = to.iter().map(|&name| u32::try_from(place(name)).unwrap());
                Entry { destinations: places.collect(), ..entry.clone() }
            });
            let anew = FilterTable::compile(anew.collect(), changed.destinations().to_vec()).unwrap();
            prop_assert_eq!(changed.slots().len(), model.len());
            for key in &keys {
                check(&changed, key)?;
                prop_assert_eq!(found(&changed, key), found(&anew, key));
                // Only the first looks remember what has gone.
                prop_assert!(changed.work(key).criteria_asked >= anew.work(key).criteria_asked);
                let mut alone = (Vec::new(), Vec::new());
                let later = PacketKey { transport: Transport::None, ..*key };
                prop_assert_eq!(
                    changed.classify_later_fragment(&later, &mut alone.0),
                    anew.classify_later_fragment(&later, &mut alone.1)
                );
                prop_assert_eq!(ids(&changed, &alone.0), ids(&anew, &alone.1));
                // The table before the change still holds what it held.
                check(&table, key)?;
                let still: Vec<u64> = kept_model
                    .iter()
                    .filter(|(_, (entry, _))| entry.criteria.matches(key))
                    .map(|(&id, _)| id)
                    .collect();
                prop_assert_eq!(found(&table, key), still);
            }
            let mut expected_differences = BTreeSet::new();
            for (&id, (_, to)) in &model {
                prop_assert_eq!(&names(&changed, id), to);
                let slot = changed.slot_of(id).unwrap();
                if let Some(before) = table.slot_of(id) {
                    if !gone.contains(&id) {
                        prop_assert_eq!(slot, before);
                    }
                } else {
                    expected_differences.insert(slot);
                }
            }
            table.differing_slots(&changed, |slot| { expected_differences.remove(&slot); });
            prop_assert!(expected_differences.is_empty());

            let changes = table.anchor_changes(&changed);
            let (before, after, anew) = (table.anchors(), changed.anchors(), anew.anchors());
            check_anchors(&before.v4, &changes.v4, &after.v4, &anew.v4)?;
            check_anchors(&before.v6, &changes.v6, &after.v6, &anew.v6)?;
            table = changed;
        }
    }
}
