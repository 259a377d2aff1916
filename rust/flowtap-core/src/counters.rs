//! The accounts of the engine, and the equations that they satisfy.

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
    /// Copies not made: too long for the destination.
    pub refused: u64,
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
    /// Frames that at least one criterion matched.
    pub matched: u64,
    /// Copies that matches called for: one for every destination of every matching criterion.
    pub wanted: u64,
    /// Copies made.
    pub copied: u64,
    /// Copies not made: too long for the destination.
    pub refused: u64,
    /// Later fragments that wait for their first: a level, not a sum.
    pub held: u64,
    /// One account a criterion of the present table, in the order of the ids.
    pub criteria: Vec<CriterionCounters>,
    /// One account a destination of the present table, in its order.
    pub destinations: Vec<DestinationCounters>,
}

/// An account that contradicts itself: a defect, never a matter of input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account contradicts itself: {equation}")]
pub struct AccountError {
    /// The equation that does not hold, with its numbers.
    pub equation: String,
}

impl Stats {
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
            self.undecodable + self.own + self.matched + self.held <= self.frames,
            format!(
                "undecodable {} + own {} + matched {} + held {} <= frames {}",
                self.undecodable, self.own, self.matched, self.held, self.frames
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
