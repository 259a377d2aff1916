//! Classic pcap.

use flowtap_core::frame::LinkType;
use flowtap_io::files::{CaptureErrorKind, MAX_RECORD_OCTETS};
use proptest::prelude::*;

use crate::build::{Octets, Owned, frames, open, read, read_in_pieces};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

#[test]
fn both_byte_orders_and_resolutions() {
    for big_endian in [false, true] {
        for (magic, fraction, expected) in [
            (MICROSECONDS, 123_456, 123_456_000),
            (NANOSECONDS, 123_456_789, 123_456_789),
        ] {
            let file = Octets::new(big_endian)
                .pcap_header(magic, 1)
                .record(1_700_000_000, fraction, 1514, b"abcdef")
                .record(1_700_000_001, 0, 3, b"xyz")
                .octets;
            let expected = Owned {
                original_length_octets: 1514,
                ..Owned::new(b"abcdef", 1_700_000_000_000_000_000 + expected)
            };
            assert_eq!(
                frames(&file),
                [expected, Owned::new(b"xyz", 1_700_000_001_000_000_000)]
            );
        }
    }
}

#[test]
fn timestamps_at_the_ends_of_the_range() {
    let file = Octets::new(false)
        .pcap_header(MICROSECONDS, 1)
        .record(0, 0, 1, b"a")
        .record(u32::MAX, 999_999, 1, b"b")
        .record(u32::MAX, u32::MAX, 1, b"c")
        .octets;
    let times: Vec<u64> = frames(&file)
        .iter()
        .map(|frame| frame.timestamp_ns)
        .collect();
    assert_eq!(
        times,
        [
            0,
            4_294_967_295_999_999_000,
            4_294_967_295_000_000_000 + 4_294_967_295_000
        ]
    );
}

#[test]
fn link_types_without_the_bits_above_them() {
    for big_endian in [false, true] {
        for (field, expected) in [
            (1, LinkType::Ethernet),
            (12, LinkType::Raw),
            (101, LinkType::Raw),
            (276, LinkType::LinuxCooked2),
            (65_535, LinkType::Other(65_535)),
            // A frame check sequence of 4 octets.
            (0x4400_0001, LinkType::Ethernet),
        ] {
            let file = Octets::new(big_endian)
                .pcap_header(MICROSECONDS, field)
                .record(0, 0, 1, b"a")
                .octets;
            assert_eq!(frames(&file)[0].link_type, expected, "{field:#x}");
            assert_eq!(open(&file).unwrap().interfaces()[0].link_type, expected);
        }
    }
}

#[test]
fn a_frame_is_never_shorter_on_the_wire_than_in_the_file() {
    let file = Octets::new(false)
        .pcap_header(MICROSECONDS, 1)
        .record(0, 0, 2, b"abcd")
        .octets;
    assert_eq!(frames(&file), [Owned::new(b"abcd", 0)]);
}

#[test]
fn lengths_in_the_order_of_old_programs() {
    // Version 2.3: the wire length first.
    let file = Octets::new(false)
        .u32(MICROSECONDS)
        .u16(2)
        .u16(3)
        .raw(&[0; 8])
        .u32(65_535)
        .u32(1)
        .raw(&[0; 8])
        .u32(100)
        .u32(4)
        .raw(b"abcd")
        .record(0, 0, 50, b"efg")
        .octets;
    let expected = [
        Owned {
            original_length_octets: 100,
            ..Owned::new(b"abcd", 0)
        },
        Owned {
            original_length_octets: 50,
            ..Owned::new(b"efg", 0)
        },
    ];
    assert_eq!(frames(&file), expected);
}

#[test]
fn what_cannot_be_read_is_named() {
    let message = |octets: &[u8]| open(octets).unwrap_err().to_string();
    assert_eq!(
        message(b""),
        "in.pcap: the file is empty; a capture without packets still has a header"
    );
    let text = message(b"#!/bin/sh\nexit 0\nexit 0\nexit 0\n");
    assert!(
        text.starts_with("in.pcap: not a capture file: it begins with 23 21 2f 62; pcap or pcapng"),
        "{text}"
    );
    assert!(message(b"#!").contains("begins with 23 21;"));
    for big_endian in [false, true] {
        let modified = Octets::new(big_endian).pcap_header(0xa1b2_cd34, 1).octets;
        assert!(message(&modified).contains("modified (Kuznetzov) pcap, magic a1b2cd34"));
        let archaic = Octets::new(big_endian)
            .u32(MICROSECONDS)
            .u16(1)
            .u16(9)
            .raw(&[0; 16])
            .octets;
        let error = open(&archaic).unwrap_err();
        assert!(
            matches!(
                error.kind,
                CaptureErrorKind::UnsupportedVersion { major: 1, minor: 9 }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_not_there() {
    let error = flowtap_io::files::CaptureReader::open("/nonexistent/in.pcap").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/in.pcap: cannot open: No such file"),
        "{error}"
    );
    let error = flowtap_io::files::CaptureReader::open("/").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/: cannot read: Is a directory"),
        "{error}"
    );
    assert!(error.io_error().is_some());
}

#[test]
fn records_larger_than_the_buffer_at_first() {
    let sizes = [10, MAX_RECORD_OCTETS, 3, MAX_RECORD_OCTETS - 1, 0, 70_000];
    let mut file = Octets::new(false).pcap_header(NANOSECONDS, 1);
    let mut expected = Vec::new();
    for (number, size) in sizes.into_iter().cycle().take(30).enumerate() {
        let data: Vec<u8> = (0..size)
            .map(|at| u8::try_from((at * 7 + number) % 251).unwrap())
            .collect();
        file = file.record(7, 0, u32::try_from(size).unwrap(), &data);
        expected.push(Owned::new(&data, 7_000_000_000));
    }
    assert!(frames(&file.octets) == expected);
    for piece in [1_000, 65_536, 100_001] {
        let (found, error) = read_in_pieces(&file.octets, piece);
        assert!(error.is_none() && found == expected, "pieces of {piece}");
    }
}

#[test]
fn offsets_follow_the_records() {
    let file = Octets::new(false)
        .pcap_header(NANOSECONDS, 1)
        .record(0, 0, 5, b"hello")
        .record(0, 0, 0, b"")
        .octets;
    let mut reader = open(&file).unwrap();
    assert_eq!(reader.offset_octets(), 24);
    reader.next_frame().unwrap().unwrap();
    assert_eq!(reader.offset_octets(), 24 + 21);
    reader.next_frame().unwrap().unwrap();
    assert_eq!(reader.offset_octets(), 24 + 21 + 16);
    assert!(reader.next_frame().unwrap().is_none());
    assert!(reader.next_frame().unwrap().is_none());
    assert_eq!(reader.path(), "in.pcap");
}

#[test]
fn a_record_too_long_ends_the_file() {
    let length = u32::try_from(MAX_RECORD_OCTETS).unwrap() + 1;
    let file = Octets::new(true)
        .pcap_header(MICROSECONDS, 1)
        .record(0, 0, 2, b"ok")
        .u32(0)
        .u32(0)
        .u32(length)
        .u32(length)
        .octets;
    let (found, error) = read(&file);
    let error = error.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(error.offset_octets, 24 + 18);
    assert_eq!(
        error.to_string(),
        "in.pcap: record at offset 42 announces 262145 octets; a frame has at most 262144"
    );
}

proptest! {
    #[test]
    fn whatever_was_put_in_comes_out(
        big_endian: bool,
        nanoseconds: bool,
        link_type: u16,
        records in prop::collection::vec((any::<u32>(), 0..1_000_000_u32, 0..5_000_u32, prop::collection::vec(any::<u8>(), 0..200)), 0..40),
        piece in 1..5_000_usize,
    ) {
        let magic = if nanoseconds { NANOSECONDS } else { MICROSECONDS };
        let mut file = Octets::new(big_endian).pcap_header(magic, u32::from(link_type));
        let mut expected = Vec::new();
        for (seconds, fraction, beyond, data) in &records {
            let original = u32::try_from(data.len()).unwrap() + beyond;
            file = file.record(*seconds, *fraction, original, data);
            let unit = if nanoseconds { 1 } else { 1_000 };
            expected.push(Owned {
                link_type: LinkType::from_number(link_type),
                original_length_octets: original,
                ..Owned::new(data, u64::from(*seconds) * 1_000_000_000 + u64::from(*fraction) * unit)
            });
        }
        let (found, error) = read_in_pieces(&file.octets, piece);
        prop_assert!(error.is_none());
        prop_assert_eq!(found, expected);
    }
}
