//! Asks the broker for descriptors that need a right which this process does not have.
//!
//! The broker is a process without any network input, at the other end of a pair of local sockets (`SOCK_SEQPACKET`).
//! Every request is one message: a line of text with a number and what is wanted, behind it the octets of a program and
//! with it the maps of that. The answer is the number and `ok` with a descriptor, or the number and `no` with a reason. By
//! the number an answer that came too late is known, so that its descriptor is not taken for the next request's.

mod serve;
mod sys;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};

pub use serve::{Permitted, serve, serve_number};

use crate::prefilter::descriptors_in;

/// How long the broker may take; it does nothing but open sockets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer: a word and a reason.
const ANSWER_OCTETS: usize = 512;
/// The most descriptors of one request: the maps of a program.
const DESCRIPTORS_MAX: usize = 16;

/// The way to the broker, shared by all workers.
#[derive(Debug)]
pub struct Broker {
    connection: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The number of the last request.
    asked: u64,
}

impl Broker {
    /// Takes over this process's end of the pair.
    ///
    /// # Errors
    /// It is no socket.
    pub fn new(connection: OwnedFd) -> io::Result<Self> {
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&connection, direction, Some(ANSWER_TIMEOUT))?;
        }
        Ok(Self {
            connection: Mutex::new(Connection {
                socket: connection,
                asked: 0,
            }),
        })
    }

    /// Uses a descriptor that stays its owner's.
    ///
    /// # Errors
    /// It is no socket.
    pub fn from_number(descriptor: RawFd) -> io::Result<Self> {
        Self::new(sys::duplicate(descriptor)?)
    }

    /// A UDP socket with a source address that need not be one of this host's, bound.
    ///
    /// # Errors
    /// Why there is none, in words without addresses.
    pub(crate) fn transparent_udp(&self, source: SocketAddr) -> Result<OwnedFd, String> {
        self.ask(&format!("udp {} {}", source.ip(), source.port()))
    }

    /// A raw IP socket for complete datagrams.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn raw(&self, v6: bool) -> Result<OwnedFd, String> {
        self.ask(if v6 { "raw 6" } else { "raw 4" })
    }

    /// A packet socket for an interface, not bound yet.
    ///
    /// # Errors
    /// Why there is none.
    pub fn packet(&self, interface: &str) -> Result<OwnedFd, String> {
        self.ask(&format!("packet {interface}"))
    }

    /// A map for the kernel's filter; its kind by the kernel's number.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn map(
        &self,
        kind: u32,
        key_octets: usize,
        value_octets: usize,
        entries: u32,
    ) -> Result<OwnedFd, String> {
        self.ask(&format!("map {kind} {key_octets} {value_octets} {entries}"))
    }

    /// A program for the kernel's filter.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn program(&self, octets: &[u8]) -> Result<OwnedFd, String> {
        let named = descriptors_in(octets).into_iter();
        let mut maps: Vec<i32> = named.map(|(_, number)| number).collect();
        maps.sort_unstable();
        maps.dedup();
        let copies = maps
            .iter()
            .map(|&number| sys::duplicate(number).map_err(|error| error.to_string()))
            .collect::<Result<Vec<OwnedFd>, String>>()?;
        // In the order of their numbers: so the other side knows which is which.
        self.ask_with("program", octets, &copies)
    }

    fn ask(&self, request: &str) -> Result<OwnedFd, String> {
        self.ask_with(request, &[], &[])
    }

    fn ask_with(
        &self,
        request: &str,
        octets: &[u8],
        descriptors: &[OwnedFd],
    ) -> Result<OwnedFd, String> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let gone = |error: &dyn std::fmt::Display| format!("the broker does not answer: {error}");
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        connection.asked = connection.asked.wrapping_add(1);
        let number = connection.asked;
        let socket = connection.socket.as_fd();
        let line = format!("{number} {request}\n");
        send(socket, &line, octets, &borrowed).map_err(|error| gone(&error))?;
        let asked = Instant::now();
        loop {
            let mut answer = [0; ANSWER_OCTETS];
            let (length, mut received) = match receive(socket, &mut answer) {
                Ok(received) => received,
                Err(error)
                    if error.kind() == io::ErrorKind::Interrupted
                        && asked.elapsed() < ANSWER_TIMEOUT =>
                {
                    continue;
                }
                Err(error) => return Err(gone(&error)),
            };
            let text = String::from_utf8_lossy(answer.get(..length).unwrap_or_default());
            let (answered, text) = text.trim_end().split_once(' ').unwrap_or_default();
            match answered.parse::<u64>() {
                Ok(answered) if answered == number => {
                    return match (received.pop(), text.split_once(' ')) {
                        (Some(descriptor), None) if text == "ok" => Ok(descriptor),
                        (_, Some(("no", reason))) => Err(reason.to_owned()),
                        _ => Err(gone(&"its answer is none")),
                    };
                }
                // An answer to a request that nobody waits for any more; what came with it is closed.
                Ok(answered) if answered < number && asked.elapsed() < ANSWER_TIMEOUT => {}
                _ => return Err(gone(&"its answer is none")),
            }
        }
    }
}

/// Sends one message.
fn send(
    connection: BorrowedFd<'_>,
    text: &str,
    octets: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let parts = [IoSlice::new(text.as_bytes()), IoSlice::new(octets)];
    sendmsg(connection, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message: its length, and the descriptors that came with it.
fn receive(connection: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        connection,
        &mut [IoSliceMut::new(into)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes, descriptors))
}

/// A pair of local sockets, one for each side.
///
/// # Errors
/// What the system says.
#[cfg(test)]
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// A descriptor of our own for a UDP socket that stays its owner's.
///
/// # Errors
/// It is something else.
pub fn udp_socket(descriptor: RawFd) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::from(sys::duplicate(descriptor)?);
    if socket.r#type()? == socket2::Type::DGRAM
        && socket.protocol()? == Some(socket2::Protocol::UDP)
    {
        Ok(socket.into())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a UDP socket is right",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that answers once with these octets and nothing else.
    fn answered(octets: &[u8]) -> Result<OwnedFd, String> {
        let (ours, theirs) = pair().unwrap();
        let broker = Broker::new(ours).unwrap();
        if !octets.is_empty() {
            send(theirs.as_fd(), "", octets, &[]).unwrap();
        }
        rustix::net::shutdown(&theirs, rustix::net::Shutdown::Write).unwrap();
        broker.raw(false)
    }

    #[test]
    fn answers_without_a_descriptor() {
        assert_eq!(answered(b"1 no it may not\n").unwrap_err(), "it may not");
        let wrong = [
            &b""[..],
            b"1 ok\n",
            b"1 yes and no\n",
            b"no it may not\n",
            b"2 no it may not\n",
            &[0xff; 600],
        ];
        for octets in wrong {
            let error = answered(octets).unwrap_err();
            assert!(error.starts_with("the broker does not answer"), "{error}");
        }
    }

    /// A bound UDP socket, as a broker opens it.
    fn bound(source: SocketAddr) -> OwnedFd {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(source),
            socket2::Type::DGRAM,
            Some(socket2::Protocol::UDP),
        )
        .unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.into()
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_the_next_one() {
        let (ours, theirs) = pair().unwrap();
        let sources: [SocketAddr; 3] = ["127.0.0.1:41001", "127.0.0.1:41002", "127.0.0.1:41003"]
            .map(|text| text.parse().unwrap());
        let side = std::thread::spawn(move || {
            for turn in 0..3 {
                let mut request = [0; 256];
                let (length, _) = receive(theirs.as_fd(), &mut request).unwrap();
                let line = String::from_utf8_lossy(&request[..length]).into_owned();
                let words: Vec<&str> = line.trim_end().rsplit(' ').collect();
                let source = format!("{}:{}", words[1], words[0]).parse().unwrap();
                if turn == 0 {
                    // Slow once.
                    std::thread::sleep(ANSWER_TIMEOUT + Duration::from_millis(300));
                }
                let number = line.split(' ').next().unwrap().parse::<u64>();
                let answer = number.map_or("ok\n".to_owned(), |number| format!("{number} ok\n"));
                let descriptor = bound(source);
                send(theirs.as_fd(), &answer, &[], &[descriptor.as_fd()]).unwrap();
            }
        });
        let broker = Broker::new(ours).unwrap();
        let given = sources.map(|source| {
            let socket = socket2::Socket::from(broker.transparent_udp(source).ok()?);
            socket.local_addr().unwrap().as_socket()
        });
        assert_eq!(given, [None, Some(sources[1]), Some(sources[2])]);
        side.join().unwrap();
    }
}
