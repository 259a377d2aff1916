//! The broker's side: opens what a request names, and nothing else.

use std::io::{self, BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys;
use crate::packet;

/// Longest request: a word, an address with a zone and a port.
const REQUEST_OCTETS: u64 = 256;

/// What may be asked for. It comes from the configuration, never from who asks.
#[derive(Clone, Debug, Default)]
pub struct Permitted {
    /// Interfaces that may be captured from.
    pub interfaces: Vec<String>,
}

impl Permitted {
    fn open(&self, request: &str) -> Result<OwnedFd, String> {
        let words: Vec<&str> = request.split(' ').collect();
        match *words.as_slice() {
            ["udp", address, port] => {
                let (Ok(address), Ok(port)) = (address.parse(), port.parse()) else {
                    return Err("udp: an address and a port are right".to_owned());
                };
                transparent_udp(SocketAddr::new(address, port))
            }
            ["raw", "4"] => raw(Domain::IPV4),
            ["raw", "6"] => raw(Domain::IPV6),
            ["packet", interface] if self.interfaces.iter().any(|each| each == interface) => {
                packet::open_socket(interface).map_err(|error| error.to_string())
            }
            ["packet", _] => Err("the configuration names no such interface".to_owned()),
            _ => Err("no such request; udp, raw and packet are".to_owned()),
        }
    }
}

fn transparent_udp(source: SocketAddr) -> Result<OwnedFd, String> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(source),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if source.is_ipv6() {
            socket.set_ip_transparent_v6(true)?;
            socket.set_only_v6(true)?;
        } else {
            socket.set_ip_transparent_v4(true)?;
        }
        socket.bind(&source.into())?;
        Ok(socket)
    };
    open()
        .map(OwnedFd::from)
        .map_err(|error| format!("a socket with a foreign source address: {error}"))
}

fn raw(domain: Domain) -> Result<OwnedFd, String> {
    Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .map(OwnedFd::from)
        .map_err(|error| format!("a raw socket: {error}"))
}

/// Answers requests until the other side closes the connection.
///
/// # Errors
/// The descriptor is no socket, a request is no line of text, or an answer could not be given.
pub fn serve(connection: OwnedFd, permitted: &Permitted) -> io::Result<()> {
    let connection = UnixStream::from(connection);
    let mut requests = BufReader::new(connection.try_clone()?);
    let mut request = String::new();
    loop {
        request.clear();
        (&mut requests)
            .take(REQUEST_OCTETS)
            .read_line(&mut request)?;
        if request.is_empty() {
            return Ok(());
        }
        let Some(line) = request.strip_suffix('\n') else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a request is one line of at most 256 octets",
            ));
        };
        match permitted.open(line) {
            Ok(descriptor) => answer(connection.as_fd(), "ok\n", Some(descriptor.as_fd()))?,
            Err(reason) => answer(connection.as_fd(), &format!("no {reason}\n"), None)?,
        }
    }
}

/// [`serve`] for a descriptor that stays its owner's.
///
/// # Errors
/// As for [`serve`].
pub fn serve_number(descriptor: std::os::fd::RawFd, permitted: &Permitted) -> io::Result<()> {
    serve(sys::duplicate(descriptor)?, permitted)
}

fn answer(
    connection: BorrowedFd<'_>,
    text: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    // The answer is far shorter than what a local socket takes at once.
    let sent = sendmsg(
        connection,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == text.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::super::Broker;
    use super::*;

    fn served(requests: &[u8]) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        (&ours).write_all(requests)?;
        ours.shutdown(std::net::Shutdown::Write)?;
        serve(OwnedFd::from(theirs), &Permitted::default())
    }

    #[test]
    fn a_request_that_is_no_line_ends_it() {
        served(b"").unwrap();
        served(b"nonsense\nudp\nudp nowhere 1\npacket eth0\n\n").unwrap();
        for octets in [&b"raw 4"[..], &[b'x'; 300], b"\xff\n"] {
            assert_eq!(
                served(octets).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }

    #[test]
    fn only_what_the_configuration_names_is_opened() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let permitted = Permitted {
            interfaces: vec!["lo".to_owned()],
        };
        let side = thread::spawn(move || serve(OwnedFd::from(theirs), &permitted));
        let broker = Broker::new(OwnedFd::from(ours)).unwrap();
        let refusal = broker.packet("eth0").unwrap_err();
        assert_eq!(refusal, "the configuration names no such interface");
        let source = "192.0.2.1:40000".parse().unwrap();
        for opened in [
            broker.packet("lo"),
            broker.raw(false),
            broker.raw(true),
            broker.transparent_udp(source),
        ] {
            // Without the right, the reason says so.
            if let Err(reason) = opened {
                let missing = reason.contains("CAP_NET_RAW") || reason.contains("not permitted");
                assert!(missing, "{reason}");
            }
        }
        drop(broker);
        side.join().unwrap().unwrap();
    }
}
