//! The accounts of the engine, and the equations that they satisfy.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// The account of one criterion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CriterionCounters {
    /// The criterion.
    pub id: u64,
    /// Packets that matched.
    pub packets: u64,
    /// Their octets: IP total length.
    pub octets: u64,
    /// Copies made of them.
    pub copies: u64,
    /// When it last matched, on the engine's `now_ns`.
    pub last_match_ns: Option<u64>,
}

/// The account of one destination, as far as the engine goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounters {
    /// The destination's name.
    pub id: String,
    /// Copies that matches called for.
    pub wanted: u64,
    /// Copies made.
    pub copied: u64,
    /// Copies not made: too long for the destination, or more than the control source may have.
    pub refused: u64,
}

/// Copies of one criterion that one destination did not get, because they were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedCopies {
    /// The criterion.
    pub criteria_id: u64,
    /// The destination's name.
    pub destination_id: String,
    /// How many.
    pub copies: u64,
    /// Their octets.
    pub octets: u64,
}

/// The account of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that came in.
    pub frames: u64,
    /// Their octets as captured.
    pub octets: u64,
    /// Frames in which no IP packet could be read.
    pub undecodable: u64,
    /// Frames of the tap's own traffic.
    pub own: u64,
    /// Frames that criteria matched and that were seen just before.
    pub duplicates: u64,
    /// Frames that at least one criterion matched.
    pub matched: u64,
    /// Those of them that matched as whole frames only, whatever they carry.
    pub matched_whole: u64,
    /// Copies that matches called for: one for every destination of every matching criterion.
    pub wanted: u64,
    /// Copies made.
    pub copied: u64,
    /// Copies not made.
    pub refused: u64,
    /// Later fragments that wait for their first: a level, not a sum.
    pub held: u64,
    /// One account a criterion of the present table, in the order of the ids.
    pub criteria: Vec<CriterionCounters>,
    /// One account a destination of the present table, in its order.
    pub destinations: Vec<DestinationCounters>,
    /// What was refused of the criteria of the present table, in no order.
    pub refused_copies: Vec<RefusedCopies>,
}

/// An account that contradicts itself: a defect, never a matter of input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account contradicts itself: {equation}")]
pub struct AccountError {
    /// The equation that does not hold, with its numbers.
    pub equation: String,
}

impl Stats {
    /// The account of several engines with one table.
    #[must_use]
    pub fn merged(engines: &[Self]) -> Self {
        let mut all = Self::default();
        let mut criteria: BTreeMap<u64, CriterionCounters> = BTreeMap::new();
        let mut places: HashMap<&str, usize, RandomState> = HashMap::default();
        let mut refused: HashMap<(u64, &str), (u64, u64), RandomState> = HashMap::default();
        for engine in engines {
            all.frames += engine.frames;
            all.octets += engine.octets;
            all.undecodable += engine.undecodable;
            all.own += engine.own;
            all.duplicates += engine.duplicates;
            all.matched += engine.matched;
            all.matched_whole += engine.matched_whole;
            all.wanted += engine.wanted;
            all.copied += engine.copied;
            all.refused += engine.refused;
            all.held += engine.held;
            for one in &engine.criteria {
                let sum = criteria.entry(one.id).or_insert(CriterionCounters {
                    id: one.id,
                    ..CriterionCounters::default()
                });
                sum.packets += one.packets;
                sum.octets += one.octets;
                sum.copies += one.copies;
                sum.last_match_ns = sum.last_match_ns.max(one.last_match_ns);
            }
            for one in &engine.destinations {
                let at = *places.entry(&one.id).or_insert_with(|| {
                    all.destinations.push(DestinationCounters {
                        id: one.id.clone(),
                        ..DestinationCounters::default()
                    });
                    all.destinations.len() - 1
                });
                if let Some(sum) = all.destinations.get_mut(at) {
                    sum.wanted += one.wanted;
                    sum.copied += one.copied;
                    sum.refused += one.refused;
                }
            }
            for one in &engine.refused_copies {
                let key = (one.criteria_id, one.destination_id.as_str());
                let sum = refused.entry(key).or_default();
                sum.0 += one.copies;
                sum.1 += one.octets;
            }
        }
        all.criteria = criteria.into_values().collect();
        all.refused_copies = refused
            .into_iter()
            .map(
                |((criteria_id, destination_id), (copies, octets))| RefusedCopies {
                    criteria_id,
                    destination_id: destination_id.to_owned(),
                    copies,
                    octets,
                },
            )
            .collect();
        all
    }

    /// Checks the equations: what is wanted is copied or refused; what is counted as undecodable or own was received;
    /// a matched frame was decoded and is nobody's own.
    ///
    /// # Errors
    /// Names the equation that does not hold.
    pub fn check(&self) -> Result<(), AccountError> {
        let holds = |holds: bool, equation: String| {
            if holds {
                Ok(())
            } else {
                Err(AccountError { equation })
            }
        };
        holds(
            self.wanted == self.copied + self.refused,
            format!(
                "wanted {} = copied {} + refused {}",
                self.wanted, self.copied, self.refused
            ),
        )?;
        holds(
            self.undecodable + self.own + self.duplicates + self.matched + self.held
                <= self.frames + self.matched_whole,
            format!(
                "undecodable {} + own {} + duplicates {} + matched {} - matched as whole frames {} + held {} <= frames {}",
                self.undecodable,
                self.own,
                self.duplicates,
                self.matched,
                self.matched_whole,
                self.held,
                self.frames
            ),
        )?;
        for destination in &self.destinations {
            holds(
                destination.wanted == destination.copied + destination.refused,
                format!(
                    "destination {:?}: wanted {} = copied {} + refused {}",
                    destination.id, destination.wanted, destination.copied, destination.refused
                ),
            )?;
        }
        Ok(())
    }
}
