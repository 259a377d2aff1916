//! Sending through UDP sockets: the kernel writes the outer headers and fragments.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use socket2::{SockAddr, Socket};

use super::LostCopies;
use super::socket::Udp;
use super::sys::{self, MESSAGES, Message};

/// The most datagrams that the kernel cuts from one message (its `UDP_MAX_SEGMENTS` of old).
const SEGMENTS: usize = 64;
/// Pieces that the messages of one call are made of, at most. They stand on the stack: sending asks for no memory.
const SLICES: usize = 1024;
/// The largest UDP payload over IPv4, which bounds a message before it is cut.
pub(super) const PAYLOAD_OCTETS: usize = 65_507;
/// How long to wait where waiting for the socket does not help, because it is the device's queue that is full.
const PAUSE: Duration = Duration::from_millis(1);

/// Where one copy lies in the batch, and what it was made for.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) criteria_id: u64,
}

impl Span {
    pub(super) fn length(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// What became of the copies handed to a channel.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) exported: u64,
    pub(super) dropped: u64,
    pub(super) lost: LostCopies,
    /// The last thing that went wrong.
    pub(super) error: Option<String>,
    /// There where copies that cannot leave now are to wait.
    pub(super) hold: Option<Hold>,
}

/// Copies that were not handed to the network, for who knows more to do for them than to count them.
#[derive(Default)]
pub(super) struct Hold {
    /// Those that did not leave and may another time, in order: from one on all that follow but for those that are lost.
    pub(super) held: Vec<Span>,
    /// Those that never can, in no order.
    pub(super) lost: Vec<Span>,
    /// Whether the way is closed; otherwise there was no room.
    pub(super) is_closed: bool,
}

impl Outcome {
    /// For copies that are to wait where they cannot leave.
    pub(super) fn holding() -> Self {
        Self {
            hold: Some(Hold::default()),
            ..Self::default()
        }
    }

    /// Whether copies are held, so that none of those that follow may leave.
    pub(super) fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| !hold.held.is_empty())
    }

    /// No way for these, nor for what follows: they are held, or lost where nothing waits.
    pub(super) fn give_up(&mut self, spans: &[Span], error: String, is_closed: bool) {
        match &mut self.hold {
            Some(hold) => {
                hold.held.extend_from_slice(spans);
                hold.is_closed |= is_closed;
                self.error = Some(error);
            }
            None => self.lose(spans, error),
        }
    }

    pub(super) fn lose(&mut self, spans: &[Span], error: String) {
        if let Some(hold) = &mut self.hold {
            hold.lost.extend_from_slice(spans);
        }
        self.dropped = self
            .dropped
            .saturating_add(u64::try_from(spans.len()).unwrap_or(u64::MAX));
        self.lost.add(spans);
        self.error = Some(error);
    }

    pub(super) fn win(&mut self, count: usize) {
        self.exported = self
            .exported
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Whether an error is about the way, as a firewall rule, a route or an address that is not there is, and not about the
/// one copy.
pub(super) fn is_closed(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP)
    )
}

/// What a failed call means for its first message.
pub(super) enum Verdict {
    /// The same once more.
    Again,
    /// The kernel will not cut it apart.
    Split,
    /// It is lost.
    Lost,
    /// There is no room for it, nor for what follows, and no time to wait for any.
    Full,
}

/// How patient we are with one destination in one batch, and what has been tried for the present message.
pub(super) struct Patience {
    /// What is left of the batch's time.
    left: Duration,
    /// How long nothing may leave, and what is left of that.
    stall: Duration,
    stall_left: Duration,
    waited: Duration,
    /// There was no room, and no time to wait for it.
    is_spent: bool,
    repeated: bool,
}

impl Patience {
    pub(super) fn new(left: Duration, stall: Duration) -> Self {
        Self {
            left,
            stall,
            stall_left: stall,
            waited: Duration::ZERO,
            is_spent: false,
            repeated: false,
        }
    }

    /// How long the batch may still wait.
    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// Whether something found no room in time.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Whether something found no room although it was waited for. Who came when others had used up the batch's time may
    /// have room in the next.
    pub(super) fn is_congested(&self) -> bool {
        self.is_spent && !self.waited.is_zero()
    }

    /// The next message has its own errors.
    pub(super) fn next(&mut self) {
        self.repeated = false;
    }

    /// Something has left.
    pub(super) fn sent(&mut self) {
        self.stall_left = self.stall;
        self.next();
    }

    /// Waits for room; false if there was no time left for that.
    fn wait(&mut self, socket: &Socket, device: bool) -> bool {
        let allowed = self.left.min(self.stall_left);
        if self.is_spent || allowed.is_zero() {
            self.is_spent = true;
            return false;
        }
        let start = Instant::now();
        let writable = !device && sys::wait_writable(socket.as_fd(), allowed).unwrap_or(false);
        if !writable {
            thread::sleep(PAUSE.min(allowed));
        }
        let waited = start.elapsed();
        self.left = self.left.saturating_sub(waited);
        self.stall_left = self.stall_left.saturating_sub(waited);
        self.waited = self.waited.saturating_add(waited);
        true
    }

    /// Judges an error; `segmented` if several datagrams stood in one message.
    pub(super) fn judge(&mut self, socket: &Socket, error: &io::Error, segmented: bool) -> Verdict {
        match error.raw_os_error() {
            Some(libc::EINTR) => Verdict::Again,
            Some(code @ (libc::EAGAIN | libc::ENOBUFS)) => {
                if self.wait(socket, code == libc::ENOBUFS) {
                    Verdict::Again
                } else {
                    Verdict::Full
                }
            }
            // Longer than the path takes; IPsec on the way; a device or kernel that cannot.
            Some(
                libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT,
            ) if segmented => Verdict::Split,
            // The answer to an earlier datagram is reported by the next call, whatever that sends: only an error that
            // comes again is about this one.
            _ if !self.repeated => {
                self.repeated = true;
                Verdict::Again
            }
            _ => Verdict::Lost,
        }
    }

    /// The error in words, without addresses.
    pub(super) fn describe(&self, error: &io::Error) -> String {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) if self.waited.is_zero() => format!(
                "no room to send, and the destination is congested, so that nothing waits for it: {error}"
            ),
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                format!(
                    "no room to send for {} ms: {error}",
                    self.waited.as_millis()
                )
            }
            Some(libc::EPERM) => format!("a firewall rule or IPsec policy forbids it: {error}"),
            Some(libc::EMSGSIZE) => {
                format!("a copy is longer than the path or UDP allows: {error}")
            }
            Some(libc::ECONNREFUSED) => format!("nobody listens at the destination: {error}"),
            _ => error.to_string(),
        }
    }
}

/// A message that is to be: its pieces, and how many copies it is.
struct Planned {
    first: usize,
    pieces: usize,
    copies: usize,
    segment_octets: u16,
}

/// How many copies from the front go into one message: equal lengths, of which the last may be shorter.
fn run(spans: &[Span], limit: usize) -> usize {
    let length = spans.first().map_or(0, |span| span.length());
    if length == 0 || length > limit {
        return spans.len().min(1);
    }
    let mut total = 0_usize;
    let mut count = 0;
    for span in spans.iter().take(SEGMENTS) {
        total = total.saturating_add(span.length());
        if span.length() > length || span.length() == 0 || total > PAYLOAD_OCTETS {
            break;
        }
        count += 1;
        if span.length() < length {
            break;
        }
    }
    count.max(1)
}

/// Plans the next messages over `spans`; pieces that lie side by side in the batch become one.
fn plan<'a>(
    bytes: &'a [u8],
    spans: &[Span],
    limit: usize,
    slices: &mut ArrayVec<IoSlice<'a>, SLICES>,
    planned: &mut ArrayVec<Planned, MESSAGES>,
) {
    slices.clear();
    planned.clear();
    let mut rest = spans;
    while !planned.is_full() && slices.remaining_capacity() >= SEGMENTS && !rest.is_empty() {
        let (message, after) = rest.split_at(run(rest, limit).min(rest.len()));
        rest = after;
        let first = slices.len();
        let mut open: Option<Span> = None;
        for &span in message {
            open = match open {
                Some(before) if before.end == span.start => Some(Span {
                    start: before.start,
                    ..span
                }),
                Some(before) => {
                    slices.push(IoSlice::new(
                        bytes.get(before.start..before.end).unwrap_or_default(),
                    ));
                    Some(span)
                }
                None => Some(span),
            };
        }
        if let Some(last) = open {
            slices.push(IoSlice::new(
                bytes.get(last.start..last.end).unwrap_or_default(),
            ));
        }
        let length = message.first().map_or(0, |span| span.length());
        let segment_octets = if message.len() > 1 {
            u16::try_from(length).unwrap_or(0)
        } else {
            0
        };
        planned.push(Planned {
            first,
            pieces: slices.len().saturating_sub(first),
            copies: message.len(),
            segment_octets,
        });
    }
}

/// How a call to [`Udp::send`] ended.
pub(super) enum End {
    /// Every copy has been counted.
    All,
    /// The socket's source address is no longer one of this host's: copies from this one on are not counted yet.
    SourceGone(usize),
}

impl Udp {
    /// Sends copies in order and counts each in `outcome`. `segment_limit` is the longest datagram that the kernel is
    /// asked to cut, and is lowered when it refuses.
    pub(super) fn send(
        &self,
        destination: &SockAddr,
        bytes: &[u8],
        spans: &[Span],
        segment_limit: &mut usize,
        patience: &mut Patience,
        outcome: &mut Outcome,
    ) -> End {
        let mut slices = ArrayVec::new();
        let mut planned = ArrayVec::new();
        let mut counted = 0;
        'planning: while let Some(rest) = spans.get(counted..).filter(|rest| !rest.is_empty()) {
            plan(bytes, rest, *segment_limit, &mut slices, &mut planned);
            let messages: ArrayVec<Message<'_>, MESSAGES> = planned
                .iter()
                .map(|plan| Message {
                    payload: slices
                        .get(plan.first..plan.first.saturating_add(plan.pieces))
                        .unwrap_or_default(),
                    segment_octets: plan.segment_octets,
                })
                .collect();
            let mut sent = 0;
            while let Some((plan, rest)) = planned.get(sent).zip(messages.get(sent..)) {
                let error = match sys::send_many(self.socket.as_fd(), destination, rest) {
                    Ok(count) if count > 0 => {
                        let done = planned
                            .iter()
                            .skip(sent)
                            .take(count)
                            .map(|plan| plan.copies)
                            .sum();
                        outcome.win(done);
                        counted = counted.saturating_add(done);
                        sent = sent.saturating_add(count);
                        patience.sent();
                        continue;
                    }
                    Ok(_) => io::ErrorKind::WriteZero.into(),
                    Err(error) => error,
                };
                match patience.judge(&self.socket, &error, plan.segment_octets != 0) {
                    Verdict::Again => {
                        if !matches!(
                            error.raw_os_error(),
                            Some(libc::EINTR | libc::EAGAIN | libc::ENOBUFS)
                        ) {
                            outcome.error = Some(patience.describe(&error));
                        }
                    }
                    Verdict::Split => {
                        let by_length =
                            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE));
                        *segment_limit = if by_length {
                            usize::from(plan.segment_octets).saturating_sub(1)
                        } else {
                            0
                        };
                        continue 'planning;
                    }
                    Verdict::Full => {
                        let lost = spans.get(counted..).unwrap_or_default();
                        outcome.give_up(lost, patience.describe(&error), false);
                        return End::All;
                    }
                    Verdict::Lost => {
                        let gone = matches!(
                            error.raw_os_error(),
                            Some(libc::EINVAL | libc::EADDRNOTAVAIL)
                        );
                        let gone = gone && !self.transparent;
                        let lost = spans.get(counted..).unwrap_or_default();
                        if outcome.hold.is_some() && (gone || is_closed(&error)) {
                            outcome.give_up(lost, patience.describe(&error), true);
                            return End::All;
                        }
                        if gone {
                            return End::SourceGone(counted);
                        }
                        let lost = lost.get(..plan.copies).unwrap_or(lost);
                        outcome.lose(lost, patience.describe(&error));
                        counted = counted.saturating_add(plan.copies);
                        sent = sent.saturating_add(1);
                        patience.next();
                    }
                }
            }
        }
        End::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_no_time_to_wait_is_not_congested() {
        let socket = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        for (time, expected) in [(Duration::ZERO, false), (Duration::from_millis(2), true)] {
            let mut patience = Patience::new(time, time);
            let no_room = io::Error::from_raw_os_error(libc::ENOBUFS);
            while !matches!(patience.judge(&socket, &no_room, false), Verdict::Full) {}
            assert_eq!(patience.is_congested(), expected, "{time:?}");
        }
    }
}
