//! Sends UDP frames of one length as fast as it can, a given number of them, and says how fast that was.
//!
//!     frame_sender INTERFACE OCTETS FRAMES
//!
//! The frames go between 1,024 pairs of addresses of 198.18.0.0/15 (RFC 2544), to a hardware address that nobody has.
//! Beside a reader on the other end of a veth pair this measures what the reader costs the sender.
#![expect(
    clippy::print_stdout,
    reason = "a program whose result is what it prints"
)]

use std::error::Error;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use flowtap_io::packet::{FRAMES_PER_CALL, FrameSender, SenderOptions};

const PAIRS: u16 = 1024;
/// Octets of the headers.
const LEAST_OCTETS: usize = 14 + 20 + 8;
/// How long to wait where the interface takes nothing.
const PAUSE: Duration = Duration::from_micros(20);
/// An interface that takes nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// A frame of so many octets between the pair of this number. Its IPv4 checksum is right, its UDP has none.
fn frame(pair: u16, octets: usize) -> Vec<u8> {
    let [high, low] = pair.to_be_bytes();
    let [l0, l1] = short(octets.saturating_sub(14)).to_be_bytes();
    let [u0, u1] = short(octets.saturating_sub(34)).to_be_bytes();
    let mut ip = [
        0x45, 0, l0, l1, high, low, 0x40, 0, 64, 17, 0, 0, 198, 18, high, low, 198, 19, high, low,
    ];
    let checksum = flowtap_core::wire::checksum::internet(&ip).to_be_bytes();
    if let Some(field) = ip.get_mut(10..).and_then(<[u8]>::first_chunk_mut) {
        *field = checksum;
    }
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend(ip);
    frame.extend([0xc0, low, 0, 53, u0, u1, 0, 0]);
    frame.resize(octets, 0);
    frame
}

fn short(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [interface, octets, frames] = words.as_slice() else {
        return Err("usage: frame_sender INTERFACE OCTETS FRAMES".into());
    };
    let octets: usize = octets.parse()?;
    let wanted: usize = frames.parse()?;
    if octets < LEAST_OCTETS {
        return Err(format!("{octets} octets; the headers alone have {LEAST_OCTETS}").into());
    }
    let options = SenderOptions {
        bypass_queue: true,
        ..SenderOptions::default()
    };
    let sender = FrameSender::open(interface, options)?;
    let frames: Vec<_> = (0..PAIRS).map(|pair| frame(pair, octets)).collect();
    let slices: Vec<_> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
    let mut calls = slices.chunks(FRAMES_PER_CALL).cycle();
    let began = Instant::now();
    let (mut sent, mut pauses, mut last) = (0, 0_u64, began);
    while sent < wanted {
        let call = calls.next().unwrap_or_default();
        let call = call.get(..wanted - sent).unwrap_or(call);
        match sender.send(call) {
            Ok(count) => {
                sent += count;
                if pauses > 0 {
                    last = Instant::now();
                }
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                if last.elapsed() > PATIENCE {
                    return Err(format!("the interface takes nothing after {sent} frames").into());
                }
                pauses += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(sent)?) / elapsed_s;
    println!(
        r#"{{"sent": {sent}, "octets": {octets}, "elapsed_s": {elapsed_s:.3}, "pps": {rate:.0}, "pauses": {pauses}}}"#
    );
    Ok(())
}
