//! The spool of one destination behind a gate: what waits for it, what was sent to it, and the only way out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowtap_core::table::{Destination, FilterTable, Protection, SpoolKind};

use super::queue::{Loss, Queue};
use super::sent::{Kept, SentCounts};
use super::{HeldCopy, Way};
use crate::export::ExportCount;
use crate::export::gate::Passage;
use crate::export::sockets::{Route, Sockets};
use crate::export::udp::{Outcome, Patience, Span};

/// How long a closed way is not tried again: a rule or a route that is put in order is noticed soon, and until then
/// trying costs next to nothing.
const PAUSE: Duration = Duration::from_millis(100);
/// How much longer than asked for copies are kept: what is in doubt is rounded outward.
const GRACE: Duration = Duration::from_secs(1);
/// Copies that leave the spool in one piece: as many as two calls of the kernel take.
const PIECE: usize = 128;

/// What is kept to be sent again is in memory, also where what waits is on disk, and takes no more than this there.
const KEPT_OCTETS_MAX: u64 = 64 << 20;

const SHUT: &str = "the gate of its tunnel is shut, and it has no spool";
const NO_DIRECTORY: &str =
    "the gate of its tunnel is shut, and there is no directory for its spool on disk";
const FULL: &str = "the spool is full: the oldest copies that waited are dropped";
const FORGOTTEN: &str =
    "too many destinations that left the table had copies waiting: those of the oldest are dropped";
const ENDED: &str = "the tap ended while copies waited in memory";

/// The spool of one destination, shared by all workers.
pub(in crate::export) struct DestinationSpool {
    destination: Destination,
    pub(super) way: Arc<Way>,
    state: Mutex<State>,
}

struct State {
    route: Route,
    spool: SpoolKind,
    /// Whether there is a directory for a spool on disk, where one is wanted.
    has_place: bool,
    spool_octets: u64,
    resend: Duration,
    queue: Queue,
    kept: Kept,
    sent: SentCounts,
    /// Losses of the tunnel that are dealt with.
    losses: u64,
    /// Until when it is not tried to send.
    paused_until: Option<Instant>,
    /// Whether it stands in the list of those where copies wait.
    is_listed: bool,
    /// Whether it was given up: nothing is taken any more.
    is_closed: bool,
    count: ExportCount,
}

impl DestinationSpool {
    pub(super) fn new(
        destination: Destination,
        way: Arc<Way>,
        segmentation: bool,
        queue: Queue,
    ) -> Self {
        let losses = way.gate.losses();
        let count = ExportCount::new(&destination.id);
        let state = State {
            route: Route::new(&destination, segmentation),
            spool: SpoolKind::None,
            has_place: true,
            spool_octets: 0,
            resend: Duration::ZERO,
            queue,
            kept: Kept::default(),
            sent: SentCounts::default(),
            losses,
            paused_until: None,
            is_listed: false,
            is_closed: false,
            count,
        };
        Self {
            destination,
            way,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier run has left for a destination that no table may ever have; it waits like all else.
    pub(super) fn recover(self: &Arc<Self>) {
        let mut state = self.lock();
        state.spool = SpoolKind::Disk;
        state.spool_octets = u64::MAX;
        state.count.recovered = state.queue.unsent();
        self.list(&mut state);
    }

    /// Goes on with the room and the time that a table gives.
    pub(super) fn configure(&self, protection: &Protection, has_directory: bool) {
        let mut state = self.lock();
        state.spool = match protection.spool {
            SpoolKind::Disk if !has_directory => SpoolKind::None,
            kind => kind,
        };
        state.has_place = state.spool == protection.spool;
        state.spool_octets = protection.spool_octets;
        state.queue.set_room(protection.spool_octets);
        state.resend = match state.spool {
            SpoolKind::None => Duration::ZERO,
            SpoolKind::Memory | SpoolKind::Disk => protection.resend,
        };
        state.bound();
    }

    /// Forgets by name what ended criteria have lost; it is in the sums.
    pub(super) fn forget_ended(&self, table: &FilterTable) {
        let mut state = self.lock();
        let lost = &mut state.count.lost;
        lost.0.retain(|&id, _| table.slot_of(id).is_some());
    }

    /// Sends copies, or lets them wait. False if the spool has been given up, and nothing was done.
    pub(in crate::export) fn accept(
        self: &Arc<Self>,
        sockets: &mut Sockets,
        bytes: &[u8],
        spans: &[Span],
        patience: &mut Patience,
    ) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return false;
        }
        let passage = state.follow(self);
        let is_open = passage.is_some();
        let mut waiting = spans;
        if is_open && state.queue.is_empty() && !state.is_paused(Instant::now()) {
            // What may wait in the spool does not keep the worker waiting.
            let mut none = Patience::new(Duration::ZERO, Duration::ZERO);
            let patience = if state.spool == SpoolKind::None {
                patience
            } else {
                &mut none
            };
            let held = state.send(&self.destination, sockets, bytes, spans, patience, |_| {
                false
            });
            waiting = spans
                .get(spans.len().saturating_sub(held)..)
                .unwrap_or(spans);
        }
        drop(passage);
        if waiting.is_empty() {
            return true;
        }
        if state.spool == SpoolKind::None {
            let reason = state.count.last_error.take().filter(|_| is_open);
            let shut = if state.has_place { SHUT } else { NO_DIRECTORY };
            state.count.lose(waiting, reason.as_deref().unwrap_or(shut));
            return true;
        }
        for span in waiting {
            let octets = bytes.get(span.start..span.end).unwrap_or_default();
            state.queue.push(HeldCopy::new(span.criteria_id, octets));
        }
        if is_open {
            self.way.admit(waiting.len());
        }
        state.bound();
        state.settle();
        self.list(&mut state);
        true
    }

    /// Says where copies are waiting.
    fn list(self: &Arc<Self>, state: &mut State) {
        if !state.is_listed && !state.queue.is_empty() {
            state.is_listed = true;
            self.way.list(Arc::clone(self));
        }
    }

    /// Sends what waits, at most so many, and not after a moment; each piece is put together in `bytes`. Returns how many
    /// are gone, and whether others wait.
    pub(super) fn drain(
        &self,
        sockets: &mut Sockets,
        most: u64,
        until: Instant,
        bytes: &mut Vec<u8>,
    ) -> (u64, bool) {
        let mut state = self.lock();
        let mut count: u64 = 0;
        if let Some(_passage) = state.follow(self) {
            loop {
                let now = Instant::now();
                let left = usize::try_from(most.saturating_sub(count)).unwrap_or(usize::MAX);
                if state.queue.is_empty() || state.is_paused(now) || left == 0 || now >= until {
                    break;
                }
                let (gone, is_held) =
                    state.send_piece(&self.destination, sockets, left.min(PIECE), bytes);
                count = count.saturating_add(gone);
                if is_held {
                    break;
                }
            }
        }
        state.settle();
        let is_waiting = !state.queue.is_empty();
        state.is_listed = is_waiting;
        (count, is_waiting)
    }

    /// Goes on with time and with what has become of the tunnel.
    pub(super) fn look(self: &Arc<Self>) {
        let mut state = self.lock();
        drop(state.follow(self));
        state.forget_old(Instant::now());
        // What waits briefly is not worth a write.
        if state.is_listed {
            state.queue.flush();
        }
        state.settle();
        self.list(&mut state);
    }

    /// The account of this moment.
    pub(super) fn count(&self) -> ExportCount {
        let mut state = self.lock();
        drop(state.follow(self));
        state.count.in_spool = state.queue.unsent();
        state.count.clone()
    }

    /// Whether nothing waits and nothing is kept.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && state.kept.is_empty()
    }

    /// Whether nothing is taken any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.lock().is_closed
    }

    /// When something was sent last.
    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.lock().sent.last()
    }

    /// Gives it up with what waits; returns the last account.
    pub(super) fn give_up(&self) -> ExportCount {
        let mut state = self.lock();
        drop(state.follow(self));
        let loss = state.queue.abandon(FORGOTTEN);
        state.close(loss);
        state.count.clone()
    }

    /// Ends it with the tap: what waits on disk stays where the next run can read it.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        drop(state.follow(self));
        let loss = state.queue.finish(ENDED);
        state.close(loss);
    }
}

impl State {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Deals with losses of the tunnel; the right to send if the gate is open afterwards.
    fn follow<'a>(&mut self, spool: &'a DestinationSpool) -> Option<Passage<'a>> {
        let gate = &spool.way.gate;
        loop {
            while let Some((since, losses)) = gate.lost_beyond(self.losses) {
                self.losses = losses;
                self.doubt(since);
            }
            let passage = gate.pass();
            // It may have been lost and opened again in between.
            if passage.is_none() || gate.losses() == self.losses {
                return passage;
            }
        }
    }

    /// What was sent since a moment may not have arrived: it is sent again where it is still there, and counted where
    /// it is not.
    fn doubt(&mut self, since: Instant) {
        let Some((sent, since)) = self.sent.take_since(since) else {
            return;
        };
        let mut again: u64 = 0;
        for mut copy in self.kept.take_since(since) {
            copy.was_sent = true;
            self.queue.put_back(copy);
            again = again.saturating_add(1);
        }
        let in_doubt = sent.saturating_sub(again);
        self.count.exported_in_doubt = self.count.exported_in_doubt.saturating_add(in_doubt);
    }

    /// Takes nothing any more.
    fn close(&mut self, loss: Loss) {
        self.is_closed = true;
        while self.kept.forget_oldest() {}
        self.settle();
        self.lose_held(loss);
        self.count.in_spool = self.queue.unsent();
    }

    /// Counts what the disk has lost.
    fn settle(&mut self) {
        for loss in self.queue.take_losses() {
            self.lose_held(loss);
        }
    }

    fn lose_held(&mut self, loss: Loss) {
        for copy in &loss.copies {
            self.count.drop_held(copy, &loss.reason);
        }
        let count = &mut self.count;
        if loss.others.copies > 0 {
            count.dropped = count.dropped.saturating_add(loss.others.unsent);
            let again = loss.others.copies.saturating_sub(loss.others.unsent);
            count.exported_in_doubt = count.exported_in_doubt.saturating_add(again);
            count.last_error = Some(loss.reason);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        if self.resend.is_zero() {
            while self.kept.forget_oldest() {}
        } else if let Some(moment) = now.checked_sub(self.resend.saturating_add(GRACE)) {
            self.kept.forget_before(moment);
        }
    }

    /// Keeps what is held within the room that there is: what is kept goes first, then what has waited longest.
    fn bound(&mut self) {
        let room = self.spool_octets;
        while self.spool == SpoolKind::Disk && self.kept.octets() > KEPT_OCTETS_MAX {
            self.kept.forget_oldest();
        }
        while self.queue.octets().saturating_add(self.kept.octets()) > room {
            if self.kept.forget_oldest() {
                continue;
            }
            let Some(copy) = self.queue.pop() else {
                return;
            };
            self.count.drop_held(&copy, FULL);
        }
    }

    /// Sends the first copies that wait. Returns how many are gone, and whether the others could not leave.
    fn send_piece(
        &mut self,
        destination: &Destination,
        sockets: &mut Sockets,
        most: usize,
        bytes: &mut Vec<u8>,
    ) -> (u64, bool) {
        bytes.clear();
        let mut copies = Vec::new();
        let mut spans = Vec::new();
        while copies.len() < most {
            let Some(copy) = self.queue.pop() else {
                break;
            };
            let start = bytes.len();
            bytes.extend_from_slice(&copy.octets);
            spans.push(Span {
                start,
                end: bytes.len(),
                criteria_id: copy.criteria_id,
            });
            copies.push(copy);
        }
        // Who drains does not wait: frames are to be captured meanwhile.
        let mut patience = Patience::new(Duration::ZERO, Duration::ZERO);
        let was_sent = |at: usize| copies.get(at).is_some_and(|copy| copy.was_sent);
        let held = self.send(destination, sockets, bytes, &spans, &mut patience, was_sent);
        let gone = copies.len().saturating_sub(held);
        for copy in copies.drain(gone..).rev() {
            self.queue.put_back(copy);
        }
        (u64::try_from(gone).unwrap_or(u64::MAX), held > 0)
    }

    /// Sends copies and counts them; `was_sent` says of which it is the second time. Returns how many of the last ones
    /// could not leave; they are not counted.
    fn send(
        &mut self,
        destination: &Destination,
        sockets: &mut Sockets,
        bytes: &[u8],
        spans: &[Span],
        patience: &mut Patience,
        was_sent: impl Fn(usize) -> bool,
    ) -> usize {
        let mut outcome = Outcome::holding();
        sockets.send(
            destination,
            &mut self.route,
            bytes,
            spans,
            patience,
            &mut outcome,
        );
        let hold = outcome.hold.take().unwrap_or_default();
        let now = Instant::now();
        let pause = now.checked_add(PAUSE).filter(|_| hold.is_closed);
        self.paused_until = pause;
        // From the first that is held on all are, also those among them that never can leave: that shows another time.
        let first = hold.held.first().map(|span| span.start);
        let handled = spans.iter().position(|span| Some(span.start) == first);
        let (handled, held) = spans.split_at(handled.unwrap_or(spans.len()));
        let held = held.len();
        // Where there is a spool it is no error that for the moment there is no room.
        let is_wait = held > 0 && !hold.is_closed && self.spool != SpoolKind::None;
        if outcome.error.is_some() && !is_wait {
            self.count.last_error = outcome.error;
        }
        let mut lost: Vec<usize> = hold.lost.iter().map(|span| span.start).collect();
        lost.sort_unstable();
        let mut sent: u64 = 0;
        for (at, span) in handled.iter().enumerate() {
            let is_lost = lost.binary_search(&span.start).is_ok();
            let count = &mut self.count;
            let place = match (was_sent(at), is_lost) {
                (false, false) => &mut count.exported,
                (false, true) => &mut count.dropped,
                (true, false) => &mut count.resent,
                (true, true) => &mut count.exported_in_doubt,
            };
            *place = place.saturating_add(1);
            match (is_lost, was_sent(at)) {
                (true, false) => count.lost.add(&[*span]),
                (true, true) => {}
                (false, _) => {
                    sent = sent.saturating_add(1);
                    if !self.resend.is_zero() {
                        let octets = bytes.get(span.start..span.end).unwrap_or_default();
                        self.kept.push(now, HeldCopy::new(span.criteria_id, octets));
                    }
                }
            }
        }
        if sent > 0 {
            self.sent.add(now, sent);
            self.forget_old(now);
            self.bound();
        }
        held
    }
}

impl ExportCount {
    /// Counts a copy that waited and will not be sent: as dropped, or as in doubt where it was sent once.
    fn drop_held(&mut self, copy: &HeldCopy, reason: &str) {
        if copy.was_sent {
            self.exported_in_doubt = self.exported_in_doubt.saturating_add(1);
        } else {
            self.dropped = self.dropped.saturating_add(1);
            let octets = u64::try_from(copy.octets.len()).unwrap_or(u64::MAX);
            self.lost.count(copy.criteria_id, 1, octets);
        }
        if self.last_error.as_deref() != Some(reason) {
            self.last_error = Some(reason.to_owned());
        }
    }
}
