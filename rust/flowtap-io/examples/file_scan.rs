//! Walks the records of classic pcap files and looks both IPv4 addresses of each frame up in a hash table: the least
//! that a program can do which finds one host in a capture, and so the limit of every program that does.
//!
//!     file_scan HOST FILE... [PIECE_KIB]
//!
//! It reads in pieces (256 KiB) into memory that stays in the cache; files are mapped by nobody, because page faults
//! cost more than copies. Little-endian files of Ethernet frames without tags are all it knows.
#![expect(
    clippy::print_stdout,
    reason = "a program whose result is what it prints"
)]

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Read;
use std::net::Ipv4Addr;
use std::time::Instant;

const FILE_HEADER_OCTETS: usize = 24;
const RECORD_HEADER_OCTETS: usize = 16;
const MAGIC: [u8; 4] = 0xa1b2_c3d4_u32.to_le_bytes();
const ETHER_TYPE_AT: usize = 12;
const SOURCE_AT: usize = 26;
const DESTINATION_AT: usize = 30;

/// One multiplication: addresses in a benchmark have no enemies.
#[derive(Default)]
struct Multiply(u64);

impl Hasher for Multiply {
    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.write_u32(u32::from(*octet));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

type Hosts = HashSet<u32, BuildHasherDefault<Multiply>>;

fn number<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

#[derive(Default)]
struct Count {
    frames: u64,
    octets: u64,
    matched: u64,
}

impl Count {
    fn frame(&mut self, data: &[u8], hosts: &Hosts) {
        self.frames += 1;
        self.octets += u64::try_from(data.len()).unwrap_or(0);
        if number(data, ETHER_TYPE_AT) != Some([8, 0]) {
            return;
        }
        let knows = |at| {
            number(data, at).is_some_and(|address| hosts.contains(&u32::from_be_bytes(address)))
        };
        if knows(SOURCE_AT) || knows(DESTINATION_AT) {
            self.matched += 1;
        }
    }

    /// Takes the whole records of a piece; returns where the first one begins that is cut.
    fn records(&mut self, piece: &[u8], hosts: &Hosts) -> Result<usize, Box<dyn Error>> {
        let mut at = 0;
        while let Some(captured) = number(piece, at + 8) {
            let captured = usize::try_from(u32::from_le_bytes(captured))?;
            let start = at + RECORD_HEADER_OCTETS;
            let Some(data) = piece.get(start..start + captured) else {
                break;
            };
            self.frame(data, hosts);
            at = start + captured;
        }
        Ok(at)
    }

    fn file(&mut self, path: &str, buffer: &mut [u8], hosts: &Hosts) -> Result<(), Box<dyn Error>> {
        let mut file = File::open(path)?;
        let mut header = [0; FILE_HEADER_OCTETS];
        file.read_exact(&mut header)?;
        if !header.starts_with(&MAGIC) {
            return Err(format!("{path}: no little-endian pcap file with microseconds").into());
        }
        let mut kept = 0;
        loop {
            let read = file.read(buffer.get_mut(kept..).unwrap_or_default())?;
            if read == 0 {
                return match kept {
                    0 => Ok(()),
                    _ => Err(format!(
                        "{path}: ends inside a record, or has one longer than a piece"
                    )
                    .into()),
                };
            }
            let filled = kept + read;
            let used = self.records(buffer.get(..filled).unwrap_or_default(), hosts)?;
            buffer.copy_within(used..filled, 0);
            kept = filled - used;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let piece_kib = match words.last().and_then(|word| word.parse().ok()) {
        Some(kib) => {
            words.pop();
            kib
        }
        None => 256_usize,
    };
    let [host, files @ ..] = words.as_slice() else {
        return Err("usage: file_scan HOST FILE... [PIECE_KIB]".into());
    };
    let host: Ipv4Addr = host.parse()?;
    let hosts: Hosts = [host.to_bits()].into_iter().collect();
    let mut buffer = vec![0; piece_kib.saturating_mul(1024)];
    let mut count = Count::default();
    let began = Instant::now();
    for file in files {
        count.file(file, &mut buffer, &hosts)?;
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let Count {
        frames,
        octets,
        matched,
    } = count;
    println!(
        r#"{{"frames": {frames}, "octets": {octets}, "matched": {matched}, "elapsed_s": {elapsed_s:.6}}}"#
    );
    Ok(())
}
