//! pcapng.

use flowtap_core::frame::{Direction, LinkType};
use flowtap_io::files::{CaptureErrorKind, MAX_INTERFACES, MAX_RECORD_OCTETS};
use proptest::prelude::*;

use crate::build::{Octets, Owned, frames, open, read, read_in_pieces};

fn resolution(big_endian: bool, value: u8) -> Vec<u8> {
    Octets::new(big_endian)
        .option(9, &[value])
        .option(0, &[])
        .octets
}

#[test]
fn sections_of_both_byte_orders_with_several_interfaces() {
    let mut file = Vec::new();
    for big_endian in [true, false, true] {
        let name = Octets::new(big_endian)
            .option(2, b"eth0")
            .option(9, &[9])
            .option(0, &[])
            .octets;
        let section = Octets::new(big_endian)
            .section()
            .interface(1, 0, &name)
            .enhanced(0, 5, 6, b"first")
            .interface(276, 96, &[])
            .enhanced(1, 1_700_000_000_123_456, 60, b"second!")
            .enhanced(0, 7, 1, b"x");
        file.extend_from_slice(&section.octets);
    }
    let mut expected = Vec::new();
    for base in [0, 2, 4] {
        expected.push(Owned {
            original_length_octets: 6,
            interface: base,
            ..Owned::new(b"first", 5)
        });
        expected.push(Owned {
            link_type: LinkType::LinuxCooked2,
            original_length_octets: 60,
            interface: base + 1,
            ..Owned::new(b"second!", 1_700_000_000_123_456_000)
        });
        expected.push(Owned {
            interface: base,
            ..Owned::new(b"x", 7)
        });
    }
    assert_eq!(frames(&file), expected);
    let mut reader = open(&file).unwrap();
    assert!(reader.interfaces().is_empty());
    while reader.next_frame().unwrap().is_some() {}
    assert_eq!(reader.interfaces().len(), 6);
    assert_eq!(reader.interfaces()[4].name.as_deref(), Some("eth0"));
    assert_eq!(reader.interfaces()[5].name, None);
    assert_eq!(reader.interfaces()[5].link_type, LinkType::LinuxCooked2);
    assert_eq!(reader.interfaces()[5].snapshot_octets, 96);
    assert_eq!(reader.offset_octets(), u64::try_from(file.len()).unwrap());
}

#[test]
fn resolutions() {
    let hour = 3_600_000_000_000;
    for (value, ticks, expected) in [
        (0, 3_600, hour),
        (3, 3_600_000, hour),
        (6, 3_600_000_000, hour),
        (9, hour, hour),
        (12, 1_234_567, 1_234),
        (19, 10_000_000_000 * 7, 7),
        (28, u64::MAX, 1),
        (29, u64::MAX, 0),
        (127, u64::MAX, 0),
        (0x80, 3_600, hour),
        (0x8a, 512, 500_000_000),
        (0xa0, 1 << 31, 500_000_000),
        (0xbf, u64::MAX, 1_999_999_999),
        (0xff, u64::MAX, 0),
        // Beyond what nanoseconds in 64 bits can say.
        (0, u64::MAX, u64::MAX),
        (6, u64::MAX, u64::MAX),
        (0x81, u64::MAX, u64::MAX),
    ] {
        for big_endian in [false, true] {
            let file = Octets::new(big_endian)
                .section()
                .interface(1, 0, &resolution(big_endian, value))
                .enhanced(0, ticks, 1, b"a")
                .octets;
            assert_eq!(
                frames(&file)[0].timestamp_ns,
                expected,
                "resolution {value:#x}, {ticks} ticks"
            );
        }
    }
}

#[test]
fn time_offsets() {
    for (offset, ticks, expected) in [
        (1_700_000_000_i64, 1_000_000, 1_700_000_001_000_000_000),
        (-1, 1_500_000, 500_000_000),
        (-2, 1_500_000, 0),
        (i64::MAX, 0, u64::MAX),
        (i64::MIN, u64::MAX, 0),
    ] {
        for big_endian in [false, true] {
            let value = if big_endian {
                offset.to_be_bytes()
            } else {
                offset.to_le_bytes()
            };
            let options = Octets::new(big_endian).option(14, &value).octets;
            let file = Octets::new(big_endian)
                .section()
                .interface(1, 0, &options)
                .enhanced(0, ticks, 1, b"a")
                .octets;
            assert_eq!(frames(&file)[0].timestamp_ns, expected, "offset {offset}");
        }
    }
}

#[test]
fn simple_and_obsolete_packets() {
    for big_endian in [false, true] {
        let octets = || Octets::new(big_endian);
        let obsolete = octets()
            .u16(1)
            .u16(9)
            .u32(0)
            .u32(77)
            .u32(3)
            .u32(1000)
            .raw(b"old")
            .octets;
        let file = octets()
            .section()
            .interface(1, 4, &[])
            .interface(101, 0, &resolution(big_endian, 9))
            // 10 octets on the wire, of which the interface keeps 4.
            .block(3, &octets().u32(10).raw(b"abcd").octets)
            .block(3, &octets().u32(3).raw(b"xyz").octets)
            .block(2, &obsolete)
            .octets;
        let expected = [
            Owned {
                original_length_octets: 10,
                ..Owned::new(b"abcd", 0)
            },
            Owned::new(b"xyz", 0),
            Owned {
                link_type: LinkType::Raw,
                original_length_octets: 1000,
                interface: 1,
                ..Owned::new(b"old", 77)
            },
        ];
        assert_eq!(frames(&file), expected);
    }
}

#[test]
fn other_blocks_are_passed_over() {
    let octets = || Octets::new(false);
    let mut file = octets().section().block(4, &[1; 16]).interface(1, 0, &[]);
    for kind in [4, 5, 10, 0xbad, 0x4000_0bad, 0x8000_0001] {
        file = file.block(kind, &[0xaa; 20]).enhanced(0, 1, 2, b"ok");
    }
    // Longer than what is taken into memory, and with the shortest block after it.
    let file = file
        .block(0x0bad, &vec![0x55; 40 << 20])
        .block(0x0bad, &[])
        .enhanced(0, 1, 2, b"ok")
        .octets;
    assert_eq!(frames(&file), vec![Owned::new(b"ok", 1000); 7]);
}

#[test]
fn options_after_the_packet_tell_its_direction_and_are_no_part_of_it() {
    let octets = || Octets::new(false);
    let content = octets()
        .u32(0)
        .u32(0)
        .u32(9)
        .u32(5)
        .u32(5)
        .raw(b"hello\0\0\0")
        .option(2, &1_u32.to_le_bytes())
        .octets;
    let file = octets()
        .section()
        .interface(1, 0, &[])
        .block(6, &content)
        .octets;
    let expected = Owned {
        direction: Direction::Inbound,
        ..Owned::new(b"hello", 9_000)
    };
    assert_eq!(frames(&file), [expected]);
}

#[test]
fn a_captured_length_above_the_original() {
    let file = Octets::new(false)
        .section()
        .interface(1, 0, &[])
        .enhanced(0, 0, 2, b"abcd")
        .octets;
    assert_eq!(frames(&file), [Owned::new(b"abcd", 0)]);
}

#[test]
fn a_file_without_packets() {
    assert!(frames(&Octets::new(true).section().octets).is_empty());
    assert!(frames(&Octets::new(true).section().interface(1, 0, &[]).octets).is_empty());
}

/// Damage behind one good packet: its kind, and that the offset is that of the bad block.
fn damage(bad: &[u8]) -> CaptureErrorKind {
    let good = Octets::new(false)
        .section()
        .interface(1, 0, &[])
        .enhanced(0, 0, 4, b"good")
        .octets;
    let (found, error) = read(&[&good, bad].concat());
    let error = error.expect("damage must be reported");
    assert_eq!(found, [Owned::new(b"good", 0)]);
    assert_eq!(
        error.offset_octets,
        u64::try_from(good.len()).unwrap(),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("offset {}", good.len())),
        "{error}"
    );
    error.kind
}

#[test]
fn damaged_blocks() {
    let octets = || Octets::new(false);
    let unknown = damage(&octets().enhanced(1, 0, 4, b"what").octets);
    assert!(matches!(
        unknown,
        CaptureErrorKind::UnknownInterface {
            interface: 1,
            described: 1
        }
    ));
    let new_section = octets().section().octets;
    let good = octets().section().interface(1, 0, &[]).octets;
    let (_, error) = read(
        &[
            &*good,
            &*new_section,
            &*octets().enhanced(0, 0, 4, b"what").octets,
        ]
        .concat(),
    );
    let error = error.unwrap();
    assert!(
        matches!(
            error.kind,
            CaptureErrorKind::UnknownInterface {
                interface: 0,
                described: 0
            }
        ),
        "{error}"
    );

    for length in [0, 1, 8, 11, 13, 31, 0xffff_fffd] {
        let bad = damage(&octets().u32(6).u32(length).raw(&[0; 64]).octets);
        assert!(
            matches!(bad, CaptureErrorKind::BlockLength { .. }),
            "{length}"
        );
    }
    for (kind, least) in [(0x0a0d_0d0a, 28), (1, 20), (2, 32), (3, 16), (6, 32)] {
        let bad = damage(
            &octets()
                .u32(kind)
                .u32(least - 4)
                .u32(0x1a2b_3c4d)
                .raw(&[0; 64])
                .octets,
        );
        assert!(
            matches!(bad, CaptureErrorKind::BlockLength { .. }),
            "{kind}"
        );
    }

    let mut bad = octets().enhanced(0, 0, 4, b"what").octets;
    let last = bad.len() - 4;
    bad[last] = 0x28;
    assert!(matches!(
        damage(&bad),
        CaptureErrorKind::BlockLengthMismatch { start: 36, end: 40 }
    ));
    let mut bad = octets().block(0xbad, &[0; 20]).octets;
    let last = bad.len() - 4;
    bad[last] = 0x28;
    assert!(matches!(
        damage(&bad),
        CaptureErrorKind::BlockLengthMismatch { start: 32, end: 40 }
    ));

    let content = octets().u32(0).u64(0).u32(5).u32(5).raw(b"what").octets;
    let bad = damage(&octets().block(6, &content).octets);
    assert!(matches!(
        bad,
        CaptureErrorKind::BlockContent {
            announced: 5,
            available: 4,
            ..
        }
    ));
    let content = octets().u32(9).raw(b"what").octets;
    let bad = damage(&octets().block(3, &content).octets);
    assert!(matches!(
        bad,
        CaptureErrorKind::BlockContent {
            announced: 9,
            available: 4,
            ..
        }
    ));
    let size = MAX_RECORD_OCTETS + 4;
    let bad = damage(&octets().enhanced(0, 0, 0, &vec![0; size]).octets);
    assert!(
        matches!(bad, CaptureErrorKind::RecordTooLong { length } if length == u64::try_from(size).unwrap())
    );

    let bad = damage(&octets().u32(6).u32(0x7fff_fffc).raw(&[0; 64]).octets);
    assert!(matches!(
        bad,
        CaptureErrorKind::BlockTooLong {
            length: 0x7fff_fffc
        }
    ));
    // A block that is passed over may be as long as it likes, but must be there.
    let bad = damage(&octets().u32(0xbad).u32(0x7fff_fffc).raw(&[0; 56]).octets);
    assert!(matches!(
        bad,
        CaptureErrorKind::TruncatedRecord {
            needed: 0x7fff_fffc,
            available: 64
        }
    ));

    let bad = damage(
        &octets()
            .block(
                0x0a0d_0d0a,
                &octets().u32(0x0102_0304).u16(1).u16(0).u64(0).octets,
            )
            .octets,
    );
    assert!(matches!(
        bad,
        CaptureErrorKind::ByteOrder { found: 0x0102_0304 }
    ));
    let bad = damage(
        &octets()
            .block(
                0x0a0d_0d0a,
                &octets().u32(0x1a2b_3c4d).u16(2).u16(0).u64(0).octets,
            )
            .octets,
    );
    assert!(matches!(
        bad,
        CaptureErrorKind::UnsupportedVersion { major: 2, minor: 0 }
    ));

    for (options, what) in [
        (octets().u16(2).u16(9).raw(b"eth0").octets, "an option"),
        (octets().option(9, &[6, 6]).octets, "if_tsresol"),
        (octets().option(14, &[0; 4]).octets, "if_tsoffset"),
    ] {
        let bad = damage(&octets().interface(1, 0, &options).octets);
        assert!(
            matches!(bad, CaptureErrorKind::BlockContent { what: found, .. } if found.starts_with(what))
        );
    }
}

#[test]
fn interfaces_are_bounded_over_all_sections() {
    let mut file = Octets::new(false);
    for _ in 0..=MAX_INTERFACES / 1_000 {
        file = file.section();
        for _ in 0..1_000 {
            file = file.interface(1, 0, &[]);
        }
    }
    let (_, error) = read(&file.octets);
    let error = error.unwrap();
    assert!(
        matches!(error.kind, CaptureErrorKind::TooManyInterfaces),
        "{error}"
    );
    let sections = MAX_INTERFACES / 1_000 + 1;
    assert_eq!(
        error.offset_octets,
        u64::try_from(sections * 28 + MAX_INTERFACES * 20).unwrap()
    );
}

#[test]
fn a_name_is_cut_rather_than_kept_whole() {
    let options = Octets::new(false).option(2, &vec![b'n'; 60_000]).octets;
    let file = Octets::new(false)
        .section()
        .interface(1, 0, &options)
        .enhanced(0, 0, 1, b"a")
        .octets;
    let mut reader = open(&file).unwrap();
    reader.next_frame().unwrap().unwrap();
    assert_eq!(
        reader.interfaces()[0].name.as_deref(),
        Some("n".repeat(256).as_str())
    );
}

proptest! {
    #[test]
    fn whatever_was_put_in_comes_out(
        sections in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((any::<u16>(), 0..=9_u8), 1..5),
             prop::collection::vec((any::<prop::sample::Index>(), 0..1_000_000_000_u64, 0..2_000_u32, prop::collection::vec(any::<u8>(), 0..90), 0..3_u32), 0..12)),
            1..5),
        piece in 1..3_000_usize,
    ) {
        let mut file = Vec::new();
        let mut expected = Vec::new();
        let mut first = 0;
        for (big_endian, interfaces, packets) in &sections {
            let mut section = Octets::new(*big_endian).section();
            for (link_type, value) in interfaces {
                section = section.interface(*link_type, 0, &resolution(*big_endian, *value));
            }
            for (index, ticks, beyond, data, between) in packets {
                let number = index.index(interfaces.len());
                let (link_type, value) = interfaces[number];
                let original = u32::try_from(data.len()).unwrap() + beyond;
                let interface = u32::try_from(number).unwrap();
                for kind in 0..*between {
                    section = section.block(0x100 + kind, data);
                }
                section = section.enhanced(interface, *ticks, original, data);
                expected.push(Owned {
                    link_type: LinkType::from_number(link_type),
                    original_length_octets: original,
                    interface: first + interface,
                    ..Owned::new(data, ticks * 10_u64.pow(u32::from(9 - value)))
                });
            }
            first += u32::try_from(interfaces.len()).unwrap();
            file.extend_from_slice(&section.octets);
        }
        let (found, error) = read_in_pieces(&file, piece);
        prop_assert!(error.is_none());
        prop_assert_eq!(found, expected);
    }
}
