//! The same files through pcap-parser, which shares no line with this reader.

use std::io::Cursor;

use flowtap_core::frame::{Direction, LinkType};
use flowtap_io::files::{Format, WriterOptions};
use pcap_parser::pcapng::{Block, OptionCode};
use pcap_parser::{PcapBlockOwned, PcapError, create_reader};
use proptest::prelude::*;

use crate::build::{Octets, Owned, frames};
use crate::writer::written;

/// All frames as pcap-parser reads them.
fn parsed(file: &[u8]) -> Vec<Owned> {
    let mut reader = create_reader(1 << 20, Cursor::new(file.to_vec())).unwrap();
    let (mut found, mut interfaces, mut first) = (Vec::new(), Vec::new(), 0);
    let (mut link_type, mut unit) = (LinkType::Ethernet, 1_000);
    loop {
        let consumed = match reader.next() {
            Ok((consumed, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        link_type = LinkType::from_number(u16::try_from(header.network.0).unwrap());
                        unit = if header.is_nanosecond_precision() {
                            1
                        } else {
                            1_000
                        };
                    }
                    PcapBlockOwned::Legacy(record) => found.push(Owned {
                        link_type,
                        original_length_octets: record.origlen,
                        ..Owned::new(
                            record.data,
                            u64::from(record.ts_sec) * 1_000_000_000
                                + u64::from(record.ts_usec) * unit,
                        )
                    }),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => first = interfaces.len(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(described)) => {
                        let link_type =
                            LinkType::from_number(u16::try_from(described.linktype.0).unwrap());
                        interfaces.push((link_type, described.ts_resolution().unwrap()));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        let number = first + usize::try_from(packet.if_id).unwrap();
                        let (link_type, resolution) = interfaces[number];
                        let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                        // Two bits of a number whose byte order is the section's.
                        let flags = packet
                            .options
                            .iter()
                            .find(|option| option.code == OptionCode(2))
                            .map_or(0, |option| (option.value[0] | option.value[3]) & 3);
                        found.push(Owned {
                            direction: [
                                Direction::Unknown,
                                Direction::Inbound,
                                Direction::Outbound,
                            ][usize::from(flags)],
                            link_type,
                            timestamp_ns: ticks * (1_000_000_000 / resolution),
                            original_length_octets: packet.origlen,
                            interface: u32::try_from(number).unwrap(),
                            data: packet.data[..usize::try_from(packet.caplen).unwrap()].to_vec(),
                        });
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                consumed
            }
            Err(PcapError::Eof) => return found,
            Err(PcapError::Incomplete(_)) => {
                reader.refill().unwrap();
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        reader.consume(consumed);
    }
}

fn records() -> impl Strategy<Value = Vec<(u64, u32, Vec<u8>)>> {
    prop::collection::vec(
        (
            0..2_000_000_000_000_000_000_u64,
            0..2_000_u32,
            prop::collection::vec(any::<u8>(), 0..300),
        ),
        0..30,
    )
}

proptest! {
    #[test]
    fn both_readers_see_the_same_frames(records in records(), big_endian: bool, nanoseconds: bool, link_type: u8) {
        let link_type = u16::from(link_type);
        let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let resolution = Octets::new(big_endian).option(9, &[if nanoseconds { 9 } else { 6 }]).octets;
        let unit = if nanoseconds { 1 } else { 1_000 };
        let mut pcap = Octets::new(big_endian).pcap_header(magic, u32::from(link_type));
        let mut pcapng = Octets::new(big_endian).section().interface(link_type, 0, &resolution);
        for (time, beyond, data) in &records {
            let original = u32::try_from(data.len()).unwrap() + beyond;
            let seconds = u32::try_from(time / 1_000_000_000).unwrap();
            let fraction = u32::try_from(time % 1_000_000_000 / unit).unwrap();
            pcap = pcap.record(seconds, fraction, original, data);
            pcapng = pcapng.enhanced(0, time / unit, original, data);
        }
        prop_assert_eq!(frames(&pcap.octets), parsed(&pcap.octets));
        prop_assert_eq!(frames(&pcapng.octets), parsed(&pcapng.octets));
        prop_assert_eq!(frames(&pcap.octets), frames(&pcapng.octets));
    }

    #[test]
    fn the_other_reader_reads_what_is_written(records in records(), link_type: u8, several: bool) {
        let input: Vec<Owned> = records
            .iter()
            .enumerate()
            .map(|(number, (time, beyond, data))| Owned {
                // One link type a pcap file; in pcapng the interfaces are numbered in order of appearance.
                link_type: LinkType::from_number(u16::from(link_type)),
                original_length_octets: u32::try_from(data.len()).unwrap() + beyond,
                interface: if several { u32::try_from(number % 3).unwrap() } else { 0 },
                ..Owned::new(data, *time)
            })
            .collect();
        let file = written(&input, Format::Pcapng, WriterOptions::default());
        prop_assert_eq!(&parsed(&file), &input);
        prop_assert_eq!(&frames(&file), &input);
        let file = written(&input, Format::Pcap, WriterOptions::default());
        let flat: Vec<Owned> = input.into_iter().map(|frame| Owned { interface: 0, ..frame }).collect();
        prop_assert_eq!(&parsed(&file), &flat);
        prop_assert_eq!(&frames(&file), &flat);
    }
}
