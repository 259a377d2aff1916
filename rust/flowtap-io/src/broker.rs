//! Asks the broker for descriptors that need a right which this process does not have.
//!
//! The broker is a process without any network input, at the other end of a pair of local sockets. Every request is
//! one line of text that names what is wanted; the answer is `ok` with a descriptor, or `no` with a reason.

mod serve;
mod sys;

use std::io::{self, IoSliceMut, Write};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub use serve::{Permitted, serve, serve_number};

/// How long the broker may take; it does nothing but open sockets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer: a word and a reason.
const ANSWER_OCTETS: usize = 512;

/// The way to the broker, shared by all workers.
#[derive(Debug)]
pub struct Broker {
    connection: Mutex<UnixStream>,
}

impl Broker {
    /// Takes over this process's end of the pair.
    ///
    /// # Errors
    /// It is no socket.
    pub fn new(connection: OwnedFd) -> io::Result<Self> {
        let connection = UnixStream::from(connection);
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            connection: Mutex::new(connection),
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

    fn ask(&self, request: &str) -> Result<OwnedFd, String> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let gone = |error: &dyn std::fmt::Display| format!("the broker does not answer: {error}");
        connection
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|error| gone(&error))?;
        let mut answer = [0; ANSWER_OCTETS];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &*connection,
            &mut [IoSliceMut::new(&mut answer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|error| gone(&error))?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let text = answer.get(..received.bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        match (descriptor, text.trim_end().split_once(' ')) {
            (Some(descriptor), None) => Ok(descriptor),
            (_, Some(("no", reason))) => Err(reason.to_owned()),
            _ => Err(gone(&"its answer is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker that answers once with these octets and nothing else.
    fn answered(octets: &[u8]) -> Result<OwnedFd, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let broker = Broker::from_number(std::os::fd::AsRawFd::as_raw_fd(&ours)).unwrap();
        theirs.write_all(octets).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        broker.raw(false)
    }

    #[test]
    fn answers_without_a_descriptor() {
        assert_eq!(answered(b"no it may not\n").unwrap_err(), "it may not");
        for octets in [&b""[..], b"ok\n", b"yes and no\n", &[0xff; 600]] {
            let error = answered(octets).unwrap_err();
            assert!(error.starts_with("the broker does not answer"), "{error}");
        }
    }
}
