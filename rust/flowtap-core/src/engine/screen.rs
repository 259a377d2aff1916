//! What can be said of a frame by itself, so that other threads can say it for an engine.
//!
//! Most frames match nothing, and of most others it depends on nothing but the table which criteria they match. That is
//! found out by [`Screen`]s, on as many threads as there are; what order changes (later fragments, limits, rates, accounts,
//! the copies themselves) stays with the one engine, which takes the frames in their order.

use std::sync::Arc;

use super::{Engine, MatchSink, Verdict};
use crate::batch::CopyBatch;
use crate::decode::{InnerTunnels, Outer, tunnel_in};
use crate::frame::Frame;
use crate::table::FilterTable;

/// What a frame is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screened<'a> {
    /// No IP packet can be read.
    Undecodable,
    /// No criterion matches.
    Missed,
    /// The criteria of these slots match.
    Matching(&'a [u32]),
    /// What it is depends on other frames: a fragment, or a tunnel whose inner packets count.
    Open,
}

/// Frames that nobody has to see again, between two others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScreenedCount {
    /// How many.
    pub frames: u64,
    /// Their octets as captured.
    pub octets: u64,
    /// Those of them in which no IP packet could be read.
    pub undecodable: u64,
    /// When the first of them came, on the engine's `now_ns`.
    pub first_ns: u64,
    /// The latest time that any of them had; clocks are set back.
    pub latest_ns: u64,
}

/// Looks at frames for an engine.
#[derive(Clone, Debug)]
pub struct Screen {
    table: Arc<FilterTable>,
    inner: InnerTunnels,
    slots: Vec<u32>,
}

impl Screen {
    /// Looks at one frame.
    #[inline]
    pub fn look(&mut self, frame: &Frame<'_>) -> Screened<'_> {
        let Some(outer) = Outer::of(frame) else {
            return Screened::Undecodable;
        };
        if !self.inner.is_empty() && tunnel_in(frame, self.inner).is_some() {
            return Screened::Open;
        }
        if !self.table.may_match(outer.source, outer.destination) {
            return Screened::Missed;
        }
        let packet = outer.packet();
        if packet
            .fragment
            .is_some_and(|fragment| !fragment.is_atomic())
        {
            return Screened::Open;
        }
        self.table.classify(&packet.key, &mut self.slots);
        if self.slots.is_empty() {
            Screened::Missed
        } else {
            Screened::Matching(&self.slots)
        }
    }
}

impl Engine {
    /// What looks at frames for this engine as long as it has this table. None where every frame has to be seen by the
    /// engine itself: some criteria are about whole frames, or there is traffic of its own.
    pub fn screen(&self) -> Option<Screen> {
        let is_possible = self.table.circuits().is_empty() && self.own.is_none();
        is_possible.then(|| Screen {
            table: Arc::clone(&self.table),
            inner: self.options.inner,
            slots: Vec::new(),
        })
    }

    /// Whether held fragments are decided by [`Engine::count_screened`] of such a count, so that the sink has them somewhere
    /// among its frames.
    pub fn decides_among(&self, count: &ScreenedCount) -> bool {
        self.is_unusual && self.fragments.is_overdue(count.latest_ns)
    }

    /// Counts frames that came next and were [`Screened::Undecodable`] or [`Screened::Missed`].
    pub fn count_screened(
        &mut self,
        count: &ScreenedCount,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) {
        if self.is_unusual && count.frames > 0 {
            self.begin_lifetimes(count.first_ns);
            self.decide_overdue(count.latest_ns, batch, sink);
        }
        self.totals.frames += count.frames;
        self.totals.octets += count.octets;
        self.totals.undecodable += count.undecodable;
    }

    /// Takes the next frame, which was [`Screened::Matching`] with these slots; as [`Engine::process`], which is for those
    /// that were [`Screened::Open`].
    pub fn process_matching(
        &mut self,
        frame: &Frame<'_>,
        matching: &[u32],
        now_ns: u64,
        batch: &mut CopyBatch,
        sink: &mut impl MatchSink,
    ) -> Verdict {
        let Some(outer) = Outer::of(frame) else {
            return self.process(frame, now_ns, batch, sink);
        };
        self.totals.frames += 1;
        self.totals.octets += u64::try_from(frame.data.len()).unwrap_or(u64::MAX);
        if self.is_unusual {
            self.begin_lifetimes(now_ns);
            self.decide_overdue(now_ns, batch, sink);
        }
        let passage = self.passage(frame, Some(outer.source));
        if self.is_out_of_question(passage) {
            return Verdict::Missed;
        }
        let packet = outer.packet();
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        slots.extend_from_slice(matching);
        let verdict = self.decide(frame, &packet, passage, &mut slots, now_ns, batch, sink);
        self.slots = slots;
        verdict
    }
}
