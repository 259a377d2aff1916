//! Files that end too early: everything before the end, then an error that says where.

use flowtap_io::files::CaptureErrorKind;

use crate::build::{Octets, Owned, read, read_in_pieces};

/// Where each part of a file ends, and how many frames are whole by then.
fn pcap(big_endian: bool) -> (Vec<u8>, Vec<(usize, usize)>) {
    let mut file = Octets::new(big_endian).pcap_header(0xa1b2_3c4d, 1);
    let mut ends = vec![(file.octets.len(), 0)];
    for (number, data) in [&b"first frame"[..], b"", b"third"].into_iter().enumerate() {
        file = file.record(0, 0, 60, data);
        ends.push((file.octets.len(), number + 1));
    }
    (file.octets, ends)
}

fn pcapng(big_endian: bool) -> (Vec<u8>, Vec<(usize, usize)>) {
    let octets = || Octets::new(big_endian);
    let resolution = octets().option(9, &[9]).octets;
    let parts = [
        (octets().section(), 0),
        (octets().interface(1, 0, &resolution), 0),
        (octets().enhanced(0, 0, 60, b"first frame"), 1),
        (octets().block(0xbad, b"what is this"), 0),
        (octets().block(3, &octets().u32(6).raw(b"simple").octets), 1),
        (octets().section(), 0),
        (octets().interface(1, 0, &resolution), 0),
        (octets().enhanced(0, 0, 60, b""), 1),
    ];
    let (mut file, mut ends, mut frames) = (Vec::new(), Vec::new(), 0);
    for (part, more) in parts {
        file.extend_from_slice(&part.octets);
        frames += more;
        ends.push((file.len(), frames));
    }
    (file, ends)
}

fn check(
    file: &[u8],
    ends: &[(usize, usize)],
    read: impl Fn(&[u8]) -> (Vec<Owned>, Option<flowtap_io::files::CaptureError>),
) {
    let (all, error) = read(file);
    assert!(error.is_none() && all.len() == ends.last().unwrap().1);
    for cut in 0..file.len() {
        let (found, error) = read(&file[..cut]);
        let (whole, frames) = ends
            .iter()
            .rev()
            .find(|(end, _)| *end <= cut)
            .copied()
            .unwrap_or((0, 0));
        assert_eq!(found, all[..frames], "cut at {cut}");
        if whole == cut && cut > 0 {
            assert!(error.is_none(), "cut at {cut} is a proper end");
            continue;
        }
        let error = error.unwrap_or_else(|| panic!("cut at {cut} must be an error"));
        assert_eq!(
            error.offset_octets,
            u64::try_from(whole).unwrap(),
            "cut at {cut}: {error}"
        );
        let there = u64::try_from(cut - whole).unwrap();
        match error.kind {
            CaptureErrorKind::Empty => assert_eq!(cut, 0),
            CaptureErrorKind::NotACapture { .. } => assert!(cut < 4, "cut at {cut}"),
            CaptureErrorKind::TruncatedHeader { needed, available } => {
                assert!(
                    whole == 0 && available == there && needed > available,
                    "cut at {cut}"
                );
            }
            CaptureErrorKind::TruncatedRecordHeader { needed, available } => {
                assert!(
                    whole > 0 && available == there && needed > available,
                    "cut at {cut}"
                );
            }
            CaptureErrorKind::TruncatedRecord { needed, available } => {
                // The record's header does not count in pcap; all of the block does in pcapng.
                assert!(
                    whole > 0
                        && (available == there || available + 16 == there)
                        && needed > available,
                    "cut at {cut}"
                );
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn every_cut_of_a_pcap_file() {
    for big_endian in [false, true] {
        let (file, ends) = pcap(big_endian);
        check(&file, &ends, read);
        check(&file, &ends, |file| read_in_pieces(file, 1));
    }
}

#[test]
fn every_cut_of_a_pcapng_file() {
    for big_endian in [false, true] {
        let (file, ends) = pcapng(big_endian);
        check(&file, &ends, read);
        check(&file, &ends, |file| read_in_pieces(file, 1));
    }
}

#[test]
fn the_message_says_what_is_missing() {
    let file = Octets::new(false)
        .pcap_header(0xa1b2_c3d4, 1)
        .record(0, 0, 60, &[0; 60])
        .octets;
    let message = |cut: usize| read(&file[..cut]).1.unwrap().to_string();
    assert_eq!(
        message(24 + 16 + 12),
        "in.pcap: record at offset 24 is cut off: 60 octets announced, 12 left in the file"
    );
    assert_eq!(
        message(24 + 5),
        "in.pcap: record at offset 24 is cut off in its header: 16 octets expected, 5 left in the file"
    );
    assert_eq!(
        message(20),
        "in.pcap: file header is cut off: it has 24 octets, 20 are there"
    );
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let io = || std::io::Error::other("reason");
    let kinds = [
        CaptureErrorKind::Empty,
        CaptureErrorKind::NotACapture {
            beginning: vec![1, 2],
        },
        CaptureErrorKind::ModifiedPcap,
        CaptureErrorKind::UnsupportedVersion { major: 9, minor: 1 },
        CaptureErrorKind::TruncatedHeader {
            needed: 24,
            available: 3,
        },
        CaptureErrorKind::TruncatedRecordHeader {
            needed: 16,
            available: 3,
        },
        CaptureErrorKind::TruncatedRecord {
            needed: 60,
            available: 3,
        },
        CaptureErrorKind::RecordTooLong { length: 1 << 30 },
        CaptureErrorKind::BlockTooLong { length: 1 << 30 },
        CaptureErrorKind::BlockLength { length: 13 },
        CaptureErrorKind::BlockLengthMismatch { start: 32, end: 36 },
        CaptureErrorKind::ByteOrder { found: 0x0102_0304 },
        CaptureErrorKind::BlockContent {
            what: "its packet",
            announced: 60,
            available: 3,
        },
        CaptureErrorKind::UnknownInterface {
            interface: 3,
            described: 1,
        },
        CaptureErrorKind::TooManyInterfaces,
        CaptureErrorKind::Compression {
            format: "gzip",
            reason: "it is cut off".to_owned(),
        },
        CaptureErrorKind::LinkType {
            file: 1,
            frame: 101,
        },
        CaptureErrorKind::TextTooLong {
            what: "the comment",
            length: 9,
            maximum: 8,
        },
        CaptureErrorKind::Io {
            action: "read",
            source: io(),
        },
    ];
    let names: std::collections::BTreeSet<_> = kinds.iter().map(CaptureErrorKind::id).collect();
    assert_eq!(names.len(), kinds.len());
}
