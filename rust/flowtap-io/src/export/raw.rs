//! Sending through raw IP sockets, where the source port belongs to another program: the core writes the outer
//! headers, and fragments are made here, because the kernel does not cut what it did not write.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flowtap_core::encap::flowtap::{fragment, outer};
use flowtap_core::table::Destination;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::socket::prepare;
use super::sys::{self, MESSAGES, Message};
use super::udp::{Outcome, PAYLOAD_OCTETS, Patience, Span, Verdict, is_closed};
use crate::broker::Broker;

/// How long the length that a path takes is believed.
const PATH_AGE: Duration = Duration::from_secs(1);
/// Paths that are remembered.
const PATHS: usize = 1_024;
/// Outer octets that are written before they are sent.
const ARENA_OCTETS: usize = 256 << 10;

/// What every IPv4 path takes [RFC 791 §3.2], for when the system does not know.
const LEAST_MTU_OCTETS: usize = 68;

const NO_ROOM: &str =
    "no room to send, and the destination is congested, so that nothing waits for it";

/// The identification of the next outer datagram, of whatever socket: receivers tell fragments apart by addresses and this.
fn next_identification() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The kernel replaces an IPv4 identification of 0, for each fragment by another one.
        if number & 0xffff != 0 {
            return number;
        }
    }
}

/// Where one outer datagram, or a fragment of it, lies.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
}

/// A raw IP socket of one family.
pub(super) struct Raw {
    socket: Socket,
    paths: HashMap<IpAddr, (Instant, usize)>,
}

/// What the path to a destination takes, as far as the kernel knows.
fn path_octets(address: IpAddr) -> io::Result<usize> {
    let destination = SocketAddr::new(address, 9);
    let socket = Socket::new(
        Domain::for_address(destination),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // Connecting a UDP socket sends nothing; it only chooses the route.
    socket.connect(&destination.into())?;
    let (level, name) = if address.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    let octets = sys::option(socket.as_fd(), level, name)?;
    Ok(usize::try_from(octets).unwrap_or(LEAST_MTU_OCTETS))
}

/// Appends the fragments of a datagram to `arena` and their places to `pieces`; the datagram itself where it fits.
fn append_fragments(
    datagram: &[u8],
    path: usize,
    identification: u32,
    arena: &mut Vec<u8>,
    pieces: &mut Vec<Piece>,
) {
    let path = u32::try_from(path).unwrap_or(u32::MAX);
    fragment(datagram, path, identification, |headers, data| {
        let start = arena.len();
        arena.extend_from_slice(headers);
        arena.extend_from_slice(data);
        pieces.push(Piece {
            start,
            end: arena.len(),
        });
    });
}

impl Raw {
    /// Opens a socket for complete datagrams; the broker does where this process may not.
    pub(super) fn open(
        v6: bool,
        send_buffer_octets: usize,
        broker: Option<&Broker>,
    ) -> Result<Self, String> {
        let create = || -> io::Result<Socket> {
            let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
            Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        };
        let socket = match (create(), broker) {
            (Err(error), Some(broker)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Socket::from(broker.raw(v6)?))
            }
            (result, _) => result,
        };
        let configured = socket.and_then(|socket| {
            if v6 {
                socket.set_header_included_v6(true)?;
            } else {
                socket.set_header_included_v4(true)?;
            }
            prepare(&socket, v6, send_buffer_octets)?;
            Ok(socket)
        });
        match configured {
            Ok(socket) => Ok(Self { socket, paths: HashMap::new() }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err("the source port belongs to another program, and sending beside it needs the right CAP_NET_RAW"
                    .to_owned())
            }
            Err(error) => Err(format!("the source port belongs to another program, and no raw socket: {error}")),
        }
    }

    /// What the path takes, asked again from time to time.
    fn path(&mut self, address: IpAddr) -> io::Result<usize> {
        let now = Instant::now();
        if let Some(&(since, octets)) = self.paths.get(&address)
            && now.saturating_duration_since(since) < PATH_AGE
        {
            return Ok(octets);
        }
        let octets = path_octets(address)?;
        if self.paths.len() >= PATHS {
            self.paths.clear();
        }
        self.paths.insert(address, (now, octets));
        Ok(octets)
    }

    /// Sends copies in order and counts each in `outcome`: as exported if all its fragments were sent.
    pub(super) fn send(
        &mut self,
        destination: &Destination,
        bytes: &[u8],
        spans: &[Span],
        patience: &mut Patience,
        outcome: &mut Outcome,
    ) {
        let path = match self.path(destination.address) {
            Ok(path) => path,
            Err(error) => return outcome.give_up(spans, patience.describe(&error), true),
        };
        // A raw socket has no port.
        let address = SockAddr::from(SocketAddr::new(destination.address, 0));
        let (mut datagram, mut arena, mut pieces) =
            (Vec::new(), Vec::with_capacity(ARENA_OCTETS), Vec::new());
        // Each copy and how many pieces it has.
        let mut copies: Vec<(Span, usize)> = Vec::new();
        for span in spans {
            if span.length() > PAYLOAD_OCTETS {
                outcome.lose(&[*span], "a copy is longer than UDP allows".to_owned());
                continue;
            }
            datagram.clear();
            let identification = next_identification();
            let payload = bytes.get(span.start..span.end).unwrap_or_default();
            outer(destination, payload, identification, &mut datagram);
            if destination.refuse_oversize && datagram.len() > path {
                outcome.lose(
                    &[*span],
                    "a copy is longer than the path allows, and is not to be fragmented".to_owned(),
                );
                continue;
            }
            let before = pieces.len();
            append_fragments(&datagram, path, identification, &mut arena, &mut pieces);
            copies.push((*span, pieces.len().saturating_sub(before)));
            if arena.len() >= ARENA_OCTETS {
                self.send_pieces(&address, &arena, &pieces, &copies, patience, outcome);
                arena.clear();
                pieces.clear();
                copies.clear();
            }
        }
        self.send_pieces(&address, &arena, &pieces, &copies, patience, outcome);
    }

    fn send_pieces(
        &self,
        address: &SockAddr,
        arena: &[u8],
        pieces: &[Piece],
        copies: &[(Span, usize)],
        patience: &mut Patience,
        outcome: &mut Outcome,
    ) {
        let slices: Vec<[IoSlice<'_>; 1]> = pieces
            .iter()
            .map(|piece| {
                [IoSlice::new(
                    arena.get(piece.start..piece.end).unwrap_or_default(),
                )]
            })
            .collect();
        let messages: Vec<Message<'_>> = slices
            .iter()
            .map(|slice| Message {
                payload: slice,
                segment_octets: 0,
            })
            .collect();
        // Pieces up to here have been sent, or given up with the copy that they belong to.
        let mut done = 0_usize;
        let mut end = 0_usize;
        for &(span, count) in copies {
            end = end.saturating_add(count);
            // After one that found no room, or waits, the others are not tried.
            let mut lost = if outcome.is_held() {
                outcome.error.clone()
            } else {
                patience.is_spent().then(|| NO_ROOM.to_owned())
            };
            // Whether it is about the way for all, and whether that is closed.
            let (mut is_way, mut closed) = (lost.is_some(), false);
            if lost.is_some() {
                done = end;
            }
            while let Some(rest) = messages
                .get(done..)
                .filter(|_| done < end && lost.is_none())
            {
                let rest = rest.get(..MESSAGES.min(rest.len())).unwrap_or_default();
                let error = match sys::send_many(self.socket.as_fd(), address, rest) {
                    Ok(sent) if sent > 0 => {
                        done = done.saturating_add(sent);
                        patience.sent();
                        continue;
                    }
                    Ok(_) => io::ErrorKind::WriteZero.into(),
                    Err(error) => error,
                };
                match patience.judge(&self.socket, &error, false) {
                    Verdict::Again => {}
                    verdict @ (Verdict::Split | Verdict::Lost | Verdict::Full) => {
                        let is_full = matches!(verdict, Verdict::Full);
                        is_way = is_full || is_closed(&error);
                        closed = !is_full;
                        lost = Some(patience.describe(&error));
                        // Fragments without the others are of no use.
                        done = end;
                        patience.next();
                    }
                }
            }
            match lost {
                Some(error) if is_way => outcome.give_up(&[span], error, closed),
                Some(error) => outcome.lose(&[span], error),
                None => outcome.win(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_identification_is_left_to_the_kernel() {
        let numbers: Vec<u32> = (0..70_000).map(|_| next_identification()).collect();
        assert!(numbers.iter().all(|number| number & 0xffff != 0));
        assert!(numbers.is_sorted_by(|one, next| one < next));
    }
}
