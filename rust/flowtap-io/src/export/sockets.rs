//! The sockets of an exporter: one for each tasked source address and port, within a bound.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::table::Destination;
use socket2::SockAddr;

use super::ExportOptions;
use super::raw::Raw;
use super::socket::{Refusal, Udp, Wish};
use super::udp::{End, Outcome, Patience, Span};
use crate::broker::Broker;

/// How long a socket that could not be opened is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const RIGHT_MISSING: &str =
    "the source address is not one of this host's, and using it needs the right CAP_NET_RAW";

/// A socket as wished; the broker binds it where this process may not.
fn open_udp(wish: &Wish, broker: Option<&Broker>, given: Option<&OwnedFd>) -> Result<Udp, Refusal> {
    if let Some(given) = given {
        return Udp::over(given);
    }
    match (Udp::open(wish), broker) {
        (Err(Refusal::RightMissing), Some(broker)) => {
            let descriptor = broker
                .transparent_udp(wish.source)
                .map_err(Refusal::Failed)?;
            Udp::adopt(descriptor, wish)
        }
        (result, _) => result,
    }
}

/// Destinations with the same key share a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    port: u16,
    refuse_oversize: bool,
    /// What a socket becomes for copies in clear, whose source address has vanished, is nothing for the others; nor are
    /// the answers of the network to those.
    is_protected: bool,
}

enum Channel {
    Udp(Udp),
    /// The port belongs to another program: the raw socket of the family.
    Raw,
    /// It could not be opened, for this reason.
    Closed {
        until: Instant,
        reason: String,
    },
}

struct Entry {
    channel: Channel,
    /// When it was used last, counted in uses.
    used: u64,
}

/// How one destination is reached.
pub(super) struct Route {
    key: Key,
    address: SockAddr,
    /// The longest datagram that the kernel is asked to cut from a longer message.
    segment_limit: usize,
}

impl Route {
    /// The way to a destination, before anything has been tried.
    pub(super) fn new(destination: &Destination, segmentation: bool) -> Self {
        Self {
            key: Key {
                source: destination.source_address,
                port: destination.source_port,
                refuse_oversize: destination.refuse_oversize,
                is_protected: destination.protection.is_some(),
            },
            address: SocketAddr::new(destination.address, destination.port).into(),
            segment_limit: if segmentation { usize::MAX } else { 0 },
        }
    }
}

/// All sockets of an exporter.
pub(super) struct Sockets {
    capacity: usize,
    send_buffer_octets: usize,
    broker: Option<Arc<Broker>>,
    given: Option<Arc<OwnedFd>>,
    entries: HashMap<Key, Entry>,
    raw_v4: Option<Raw>,
    raw_v6: Option<Raw>,
    uses: u64,
}

impl Sockets {
    /// No socket yet.
    pub(super) fn new(options: &ExportOptions) -> Self {
        Self {
            capacity: options.sockets_max.max(1),
            send_buffer_octets: options.send_buffer_octets,
            broker: options.broker.clone(),
            given: options.socket.clone(),
            entries: HashMap::new(),
            raw_v4: None,
            raw_v6: None,
            uses: 0,
        }
    }

    /// How many UDP sockets are open.
    pub(super) fn open_count(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| matches!(entry.channel, Channel::Udp(_)))
            .count()
    }

    /// Forgets what could not be opened, so that it is tried again.
    pub(super) fn forget_failures(&mut self) {
        self.entries
            .retain(|_, entry| matches!(entry.channel, Channel::Udp(_)));
    }

    /// Sends copies in order and counts every one of them in `outcome`, or holds it there.
    pub(super) fn send(
        &mut self,
        destination: &Destination,
        route: &mut Route,
        bytes: &[u8],
        spans: &[Span],
        patience: &mut Patience,
        outcome: &mut Outcome,
    ) {
        let mut rest = spans;
        let mut transparent = false;
        loop {
            match self.channel(route.key, transparent) {
                Channel::Raw => return self.send_raw(destination, bytes, rest, patience, outcome),
                Channel::Closed { reason, .. } => {
                    return outcome.give_up(rest, reason.clone(), true);
                }
                Channel::Udp(udp) => {
                    if let Err(error) =
                        udp.set_ttl(destination.ttl, destination.source_address.is_ipv6())
                    {
                        let error = format!("the time to live cannot be set: {error}");
                        return outcome.give_up(rest, error, true);
                    }
                    match udp.send(
                        &route.address,
                        bytes,
                        rest,
                        &mut route.segment_limit,
                        patience,
                        outcome,
                    ) {
                        End::All => return,
                        End::SourceGone(counted) => {
                            rest = rest.get(counted..).unwrap_or_default();
                            transparent = true;
                            self.entries.remove(&route.key);
                        }
                    }
                }
            }
        }
    }

    /// The channel for a key, opened if it is not there.
    fn channel(&mut self, key: Key, transparent: bool) -> &mut Channel {
        self.uses = self.uses.saturating_add(1);
        let known = self
            .entries
            .get(&key)
            .is_some_and(|entry| match &entry.channel {
                Channel::Closed { until, .. } => Instant::now() < *until,
                Channel::Udp(_) | Channel::Raw => true,
            });
        if !known && !self.entries.contains_key(&key) {
            self.make_room();
        }
        let wish = Wish {
            source: SocketAddr::new(key.source, key.port),
            refuse_oversize: key.refuse_oversize,
            transparent,
            send_buffer_octets: self.send_buffer_octets,
        };
        let broker = self.broker.as_deref();
        let given = self.given.as_deref();
        let open = || match open_udp(&wish, broker, given) {
            Ok(udp) => Channel::Udp(udp),
            Err(Refusal::InUse) => Channel::Raw,
            Err(refusal) => {
                let until = Instant::now()
                    .checked_add(RETRY_AFTER)
                    .unwrap_or_else(Instant::now);
                let reason = match refusal {
                    Refusal::Failed(reason) => reason,
                    Refusal::InUse | Refusal::RightMissing => RIGHT_MISSING.to_owned(),
                };
                Channel::Closed { until, reason }
            }
        };
        let used = self.uses;
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            channel: open(),
            used,
        });
        entry.used = used;
        if let Channel::Closed { until, .. } = &entry.channel
            && Instant::now() >= *until
        {
            entry.channel = open();
        }
        &mut entry.channel
    }

    /// Closes the socket that was idle longest where there is no room for another.
    fn make_room(&mut self) {
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self
                .entries
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| *key)
            else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }

    fn send_raw(
        &mut self,
        destination: &Destination,
        bytes: &[u8],
        spans: &[Span],
        patience: &mut Patience,
        outcome: &mut Outcome,
    ) {
        let v6 = destination.address.is_ipv6();
        let place = if v6 {
            &mut self.raw_v6
        } else {
            &mut self.raw_v4
        };
        let raw = match place {
            Some(raw) => raw,
            None => match Raw::open(v6, self.send_buffer_octets, self.broker.as_deref()) {
                Ok(raw) => place.insert(raw),
                Err(reason) => return outcome.give_up(spans, reason, true),
            },
        };
        raw.send(destination, bytes, spans, patience, outcome);
    }
}
