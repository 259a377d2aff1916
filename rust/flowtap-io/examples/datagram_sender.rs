//! Sends datagrams of given lengths in turn through the socket that is its standard input, as fast as the kernel takes
//! them: the limit of every exporter.
//!
//!     datagram_sender many|one DATAGRAMS OCTETS...
//!
//! `many` hands 64 messages over in one `sendmmsg`, one datagram each. `one` hands over one message in each `send`, made
//! of as many datagrams as fit into 64,000 octets; that is for a socket with the option UDP_SEGMENT set to the one length
//! given, so that the kernel cuts them apart. Whoever starts this program makes, binds and connects the socket: an
//! option that no safe interface has is then none of its business.
#![expect(
    clippy::print_stdout,
    reason = "a program whose result is what it prints"
)]

use std::error::Error;
use std::io::IoSlice;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, send, sendmmsg};

const MESSAGES: usize = 64;
/// Octets of one message for the kernel to cut, and its most pieces (UDP_MAX_SEGMENTS).
const LARGE_OCTETS: usize = 64_000;
const LARGE_PIECES: usize = 64;

/// One call; returns how many datagrams were sent.
fn send_many(payloads: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let mut ancillary: Vec<_> = payloads
        .iter()
        .map(|_| SendAncillaryBuffer::default())
        .collect();
    let mut messages: Vec<_> = payloads
        .iter()
        .zip(&mut ancillary)
        .map(|(payload, ancillary)| MMsgHdr::new(std::slice::from_ref(payload), ancillary))
        .collect();
    sendmmsg(std::io::stdin(), &mut messages, SendFlags::empty())
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, datagrams, lengths @ ..] = words.as_slice() else {
        return Err("usage: datagram_sender many|one DATAGRAMS OCTETS...".into());
    };
    let wanted: usize = datagrams.parse()?;
    let lengths: Vec<usize> = lengths
        .iter()
        .map(|word| word.parse())
        .collect::<Result<_, _>>()?;
    let longest = lengths.iter().copied().max().ok_or("no length is given")?;
    let octets = vec![0; longest.max(LARGE_OCTETS)];
    let payload = |length: usize| octets.get(..length).unwrap_or_default();
    // Long enough that every call can begin anywhere in the turn.
    let turn: Vec<_> = lengths
        .iter()
        .map(|&length| IoSlice::new(payload(length)))
        .collect();
    let turn: Vec<_> = turn
        .iter()
        .cycle()
        .take(turn.len() + MESSAGES)
        .copied()
        .collect();
    let pieces = (LARGE_OCTETS / longest.max(1)).clamp(1, LARGE_PIECES);
    let (mut sent, mut calls, mut refused) = (0, 0_u64, 0_u64);
    let began = Instant::now();
    while sent < wanted {
        let left = wanted - sent;
        let result = match mode.as_str() {
            "many" => {
                let call = turn.get(sent % lengths.len()..).unwrap_or_default();
                send_many(call.get(..left.min(MESSAGES)).unwrap_or_default())
            }
            "one" => {
                let pieces = pieces.min(left);
                send(
                    std::io::stdin(),
                    payload(pieces * longest),
                    SendFlags::empty(),
                )
                .map(|_octets| pieces)
            }
            _ => return Err(format!("{mode:?}: many or one is right").into()),
        };
        calls += 1;
        match result {
            Ok(count) => sent += count,
            // The kernel counts such a call as tried; the receiver says what arrived.
            Err(Errno::NOBUFS | Errno::CONNREFUSED | Errno::INTR) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    println!(
        r#"{{"sent": {sent}, "calls": {calls}, "refused": {refused}, "elapsed_s": {elapsed_s:.6}}}"#
    );
    Ok(())
}
