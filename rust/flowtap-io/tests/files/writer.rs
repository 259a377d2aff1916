//! Files written.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use flowtap_core::frame::{Direction, LinkType};
use flowtap_io::files::{
    CaptureErrorKind, CaptureReader, CaptureWriter, Format, MAX_RECORD_OCTETS, WriterOptions,
};
use pcap_parser::pcapng::{Block, OptionCode};
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{PcapBlockOwned, PcapError, PcapNGReader};

use crate::build::{Octets, Owned, frames, open};

/// A sink whose content can still be seen when the writer has it.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn octets(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer(format: Format, options: WriterOptions) -> (CaptureWriter, Shared) {
    let sink = Shared::default();
    (
        CaptureWriter::from_write(Box::new(sink.clone()), format, options).unwrap(),
        sink,
    )
}

/// The file that `input` gives.
pub(crate) fn written(input: &[Owned], format: Format, options: WriterOptions) -> Vec<u8> {
    let (mut writer, sink) = writer(format, options);
    for frame in input {
        writer.write_frame(&frame.frame()).unwrap();
    }
    writer.finish().unwrap();
    sink.octets()
}

/// What pcap-parser finds, in words that are easy to compare.
fn blocks(file: &[u8]) -> Vec<String> {
    let mut reader = PcapNGReader::new(1 << 24, io::Cursor::new(file.to_vec())).unwrap();
    let mut found = Vec::new();
    loop {
        let consumed = match reader.next() {
            Ok((consumed, PcapBlockOwned::NG(block))) => {
                let options = |options: &[pcap_parser::PcapNGOption<'_>]| {
                    let words = options
                        .iter()
                        .filter(|option| option.code != OptionCode::EndOfOpt)
                        .map(|option| {
                            let value = &option.value[..usize::from(option.len)];
                            let text =
                                String::from_utf8_lossy(&value[..value.len().min(20)]).into_owned();
                            if value.iter().all(|octet| (32..127).contains(octet)) {
                                format!("{}={text}", option.code.0)
                            } else {
                                format!("{}={value:?}", option.code.0)
                            }
                        });
                    words.collect::<Vec<_>>().join(" ")
                };
                found.push(match &block {
                    Block::SectionHeader(block) => format!("section {}", options(&block.options)),
                    Block::InterfaceDescription(block) => {
                        format!("interface {} {}", block.linktype.0, options(&block.options))
                    }
                    Block::EnhancedPacket(block) => {
                        format!("packet {} {}", block.if_id, options(&block.options))
                    }
                    Block::InterfaceStatistics(block) => {
                        format!(
                            "statistics {} {} {}",
                            block.if_id,
                            block.ts_low,
                            options(&block.options)
                        )
                    }
                    _ => "other".to_owned(),
                });
                consumed
            }
            Ok(_) => panic!("not pcapng"),
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

fn program() -> String {
    format!("4=flowtap {}", env!("CARGO_PKG_VERSION"))
}

#[test]
fn pcap_octet_by_octet() {
    let frame = Owned {
        original_length_octets: 1514,
        ..Owned::new(b"abcde", 1_700_000_000_123_456_789)
    };
    let expected = Octets::new(false).pcap_header(0xa1b2_3c4d, 1).record(
        1_700_000_000,
        123_456_789,
        1514,
        b"abcde",
    );
    assert_eq!(
        written(
            std::slice::from_ref(&frame),
            Format::Pcap,
            WriterOptions::default()
        ),
        expected.octets
    );
    let expected = Octets::new(false).pcap_header(0xa1b2_c3d4, 1).record(
        1_700_000_000,
        123_456,
        1514,
        b"abcde",
    );
    let options = WriterOptions {
        nanosecond: false,
        ..WriterOptions::default()
    };
    assert_eq!(written(&[frame], Format::Pcap, options), expected.octets);
}

#[test]
fn odd_frames_are_set_right() {
    // A time after 2106, and a wire length that cannot be.
    let frame = Owned {
        original_length_octets: 1,
        ..Owned::new(b"abcde", u64::MAX)
    };
    let found = frames(&written(
        std::slice::from_ref(&frame),
        Format::Pcap,
        WriterOptions::default(),
    ));
    assert_eq!(found[0].original_length_octets, 5);
    assert_eq!(found[0].timestamp_ns / 1_000_000_000, u64::from(u32::MAX));
    let found = frames(&written(&[frame], Format::Pcapng, WriterOptions::default()));
    assert_eq!(found, [Owned::new(b"abcde", u64::MAX)]);
}

#[test]
fn pcap_takes_one_link_type() {
    let (mut writer, sink) = writer(Format::Pcap, WriterOptions::default());
    let raw = Owned {
        link_type: LinkType::Raw,
        ..Owned::new(b"raw", 0)
    };
    writer.write_frame(&raw.frame()).unwrap();
    let error = writer
        .write_frame(&Owned::new(b"ethernet", 0).frame())
        .unwrap_err();
    assert!(matches!(
        error.kind,
        CaptureErrorKind::LinkType {
            file: 101,
            frame: 1
        }
    ));
    assert!(error.to_string().contains(".pcapng"), "{error}");
    // The file is in order all the same.
    writer.write_frame(&raw.frame()).unwrap();
    writer.finish().unwrap();
    assert_eq!(frames(&sink.octets()), [raw.clone(), raw]);
}

#[test]
fn files_without_frames_are_files() {
    let options = WriterOptions {
        link_type: LinkType::Raw,
        ..WriterOptions::default()
    };
    for format in [Format::Pcap, Format::Pcapng] {
        let file = written(&[], format, options.clone());
        let mut reader = open(&file).unwrap();
        assert!(reader.next_frame().unwrap().is_none());
        assert_eq!(reader.interfaces().len(), 1);
        assert_eq!(reader.interfaces()[0].link_type, LinkType::Raw);
    }
}

#[test]
fn interfaces_appear_with_their_first_frame() {
    let options = WriterOptions {
        interface_name: Some("tap".to_owned()),
        ..WriterOptions::default()
    };
    let (mut writer, sink) = writer(Format::Pcapng, options);
    writer.name_interface(7, "eth7").unwrap();
    let input = [
        Owned::new(b"a", 1),
        Owned {
            interface: 7,
            ..Owned::new(b"b", 2)
        },
        Owned {
            link_type: LinkType::Raw,
            ..Owned::new(b"c", 3)
        },
        Owned {
            interface: 7,
            ..Owned::new(b"d", 4)
        },
        Owned::new(b"e", 5),
        Owned {
            direction: Direction::Inbound,
            ..Owned::new(b"in", 6)
        },
        Owned {
            direction: Direction::Outbound,
            ..Owned::new(b"out", 9)
        },
    ];
    for frame in &input {
        writer.write_frame(&frame.frame()).unwrap();
    }
    writer.statistics(7, 1_000, 3);
    writer.statistics(0, 5, 0);
    writer.statistics(99, 5, 0);
    writer.finish().unwrap();
    writer.finish().unwrap();
    let count = |value: u8| format!("{:?}", [value, 0, 0, 0, 0, 0, 0, 0]);
    let thousand = format!("{:?}", 1_000_u64.to_le_bytes());
    let expected = [
        format!("section {}", program()),
        "interface 1 2=tap 9=[9]".to_owned(),
        "packet 0 ".to_owned(),
        "interface 1 2=eth7 9=[9]".to_owned(),
        "packet 1 ".to_owned(),
        "interface 101 2=tap 9=[9]".to_owned(),
        "packet 2 ".to_owned(),
        "packet 1 ".to_owned(),
        "packet 0 ".to_owned(),
        "packet 0 2=[1, 0, 0, 0]".to_owned(),
        "packet 0 2=[2, 0, 0, 0]".to_owned(),
        format!("statistics 0 9 4={} 5={}", count(5), count(0)),
        format!("statistics 1 9 4={thousand} 5={}", count(3)),
    ];
    assert_eq!(blocks(&sink.octets()), expected);
    let found = frames(&sink.octets());
    assert_eq!(found.len(), 7);
    assert_eq!(found[5..], input[5..]);
}

#[test]
fn statistics_without_frames() {
    let (mut writer, sink) = writer(Format::Pcapng, WriterOptions::default());
    writer.statistics(4, 10, 2);
    writer.finish().unwrap();
    assert_eq!(blocks(&sink.octets()).len(), 3);
    assert!(blocks(&sink.octets())[2].starts_with("statistics 0 "));
}

#[test]
fn comments_of_any_length() {
    let long = "é".repeat(50_000);
    for (comment, options) in [("short", 1), ("", 0), (long.as_str(), 2)] {
        let options_expected = options;
        let options = WriterOptions {
            comment: Some(comment.to_owned()),
            ..WriterOptions::default()
        };
        let file = written(&[Owned::new(b"a", 0)], Format::Pcapng, options);
        assert_eq!(frames(&file), [Owned::new(b"a", 0)]);
        let section = blocks(&file).swap_remove(0);
        assert_eq!(
            section.matches(" 1=").count(),
            options_expected,
            "{comment:.20}"
        );
        assert_eq!(
            file.windows(2)
                .filter(|pair| pair == &"é".as_bytes())
                .count(),
            comment.matches('é').count()
        );
    }
    let too_long = WriterOptions {
        comment: Some("x".repeat(9 << 20)),
        ..WriterOptions::default()
    };
    let error = CaptureWriter::from_write(Box::new(Shared::default()), Format::Pcapng, too_long)
        .unwrap_err();
    assert!(matches!(
        error.kind,
        CaptureErrorKind::TextTooLong {
            what: "the comment",
            ..
        }
    ));
    let too_long = WriterOptions {
        interface_name: Some("x".repeat(70_000)),
        ..WriterOptions::default()
    };
    let error = CaptureWriter::from_write(Box::new(Shared::default()), Format::Pcapng, too_long)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the interface name has 70000 octets"),
        "{error}"
    );
}

#[test]
fn frames_as_long_as_they_may_be() {
    for format in [Format::Pcap, Format::Pcapng] {
        let longest = Owned::new(&vec![0x5a; MAX_RECORD_OCTETS], 0);
        assert!(
            frames(&written(
                &[longest.clone(), longest.clone()],
                format,
                WriterOptions::default()
            )) == [longest.clone(), longest]
        );
        let (mut writer, _) = writer(format, WriterOptions::default());
        let error = writer
            .write_frame(&Owned::new(&vec![0; MAX_RECORD_OCTETS + 1], 0).frame())
            .unwrap_err();
        assert!(
            matches!(
                error.kind,
                CaptureErrorKind::RecordTooLong { length: 262_145 }
            ),
            "{error}"
        );
    }
}

/// Takes some octets, then is full.
struct Full {
    room: usize,
}

impl Write for Full {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        let taken = octets.len().min(self.room);
        self.room -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_reported_every_time() {
    let mut writer = CaptureWriter::from_write(
        Box::new(Full { room: 300_000 }),
        Format::Pcapng,
        WriterOptions::default(),
    )
    .unwrap();
    let frame = Owned::new(&[1; 1_000], 0);
    assert_eq!(writer.frames_written(), 0);
    let error = (0..1_000)
        .find_map(|_| writer.write_frame(&frame.frame()).err())
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("capture: cannot write: No space left on device"),
        "{error}"
    );
    assert_eq!(error.io_error().unwrap().raw_os_error(), Some(28));
    for error in [
        writer.write_frame(&frame.frame()),
        writer.flush(),
        writer.finish(),
    ] {
        assert_eq!(
            error.unwrap_err().io_error().unwrap().raw_os_error(),
            Some(28)
        );
    }
    // A frame is as long as 1,032 octets in the file, and the system is given some 256 KiB at a time.
    assert!((254..=290).contains(&writer.frames_written()));
}

#[test]
fn flush_and_drop_bring_everything_to_the_file() {
    let directory = std::env::temp_dir().join(format!("flowtap-writer-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let frame = Owned::new(b"hello", 5);
    for (name, format) in [
        ("out.pcap", Format::Pcap),
        ("out.pcapng", Format::Pcapng),
        ("out.PCAPNG", Format::Pcapng),
    ] {
        let path = directory.join(name);
        assert_eq!(Format::from_path(&path), format);
        let read = || {
            let mut reader = CaptureReader::open(path.to_str().unwrap()).unwrap();
            let mut found = Vec::new();
            while let Some(frame) = reader.next_frame().unwrap() {
                found.push(Owned::from(frame));
            }
            found
        };
        let mut writer = CaptureWriter::create(&path, format, WriterOptions::default()).unwrap();
        writer.write_frame(&frame.frame()).unwrap();
        assert_eq!(writer.frames_written(), 0);
        writer.flush().unwrap();
        assert_eq!(writer.frames_written(), 1);
        assert_eq!(read(), std::slice::from_ref(&frame));
        writer.write_frame(&frame.frame()).unwrap();
        drop(writer);
        assert_eq!(read(), [frame.clone(), frame.clone()]);
    }
    // Content is nobody else's; a file that was there already stays as its owner wanted it.
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let path = directory.join("out.pcap");
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    drop(CaptureWriter::create(&path, Format::Pcap, WriterOptions::default()).unwrap());
    assert_eq!(mode(&path), 0o640);
    std::fs::remove_dir_all(&directory).unwrap();
    let error = CaptureWriter::create(
        &directory.join("out.pcap"),
        Format::Pcap,
        WriterOptions::default(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("out.pcap: cannot create: No such file or directory (os error 2)"),
        "{error}"
    );
}

#[test]
fn a_completed_file_takes_no_more() {
    let (mut writer, sink) = writer(Format::Pcap, WriterOptions::default());
    writer.finish().unwrap();
    let error = writer
        .write_frame(&Owned::new(b"a", 0).frame())
        .unwrap_err();
    assert!(error.to_string().contains("completed"), "{error}");
    drop(writer);
    assert_eq!(sink.octets().len(), 24);
}
