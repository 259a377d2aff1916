//! gzip and zstd around a capture.

use std::io::Write;

use flate2::{Compression, GzBuilder, write::GzEncoder};
use flowtap_core::frame::LinkType;
use flowtap_io::files::{CaptureError, CaptureErrorKind};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::build::{Octets, Owned, frames, read, read_in_pieces};

/// Made with `zstd -19 --check` of a raw-IP nanosecond pcap file with three frames.
const BY_ZSTD: [u8; 66] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x24, 0xa8, 0xad, 0x01, 0x00, 0x54, 0x02, 0x4d, 0x3c, 0xb2, 0xa1, 0x02,
    0x00, 0x04, 0x00, 0x04, 0x00, 0x65, 0x00, 0x00, 0x00, 0x00, 0xf1, 0x53, 0x65, 0x00, 0x00, 0x00,
    0x00, 0x20, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x00, 0xf1, 0x53, 0x65, 0x01, 0x02,
    0x05, 0x00, 0x00, 0x53, 0x30, 0x55, 0xa4, 0x5f, 0xc0, 0xb9, 0xae, 0xc2, 0x20, 0x0e, 0x30, 0xfd,
    0x4e, 0x06,
];

/// Made with `gzip -n -9` of the same file.
const BY_GZIP: [u8; 59] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xf3, 0xb5, 0xd9, 0xb4, 0x90, 0x89,
    0x81, 0x85, 0x01, 0x01, 0x58, 0x18, 0x52, 0x41, 0xd4, 0xc7, 0x60, 0x30, 0xa5, 0x00, 0xc5, 0x89,
    0x49, 0xc9, 0x29, 0xa9, 0x69, 0xe9, 0x19, 0xb8, 0x68, 0x90, 0x7a, 0x46, 0x12, 0xd5, 0x33, 0x91,
    0xa0, 0x1e, 0x00, 0x39, 0xc2, 0xa2, 0xb8, 0xa8, 0x00, 0x00, 0x00,
];

/// A capture of `count` frames that neither compresses to nothing nor stays as it is.
fn capture(count: u32) -> Vec<u8> {
    let mut file = Octets::new(false).pcap_header(0xa1b2_3c4d, 1);
    let mut state = 1_u32;
    for number in 0..count {
        let data: Vec<u8> = (0..100 + number % 1_400)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                u8::try_from(state >> 28).unwrap()
            })
            .collect();
        file = file.record(number, 0, u32::try_from(data.len()).unwrap(), &data);
    }
    file.octets
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

fn zstd(octets: &[u8]) -> Vec<u8> {
    compress_to_vec(octets, CompressionLevel::Fastest)
}

fn reason(error: &CaptureError) -> &str {
    match &error.kind {
        CaptureErrorKind::Compression { reason, .. } => reason,
        _ => panic!("{error}"),
    }
}

#[test]
fn what_the_programs_wrote() {
    let expected: Vec<Owned> = (0..3)
        .map(|number| Owned {
            link_type: LinkType::Raw,
            ..Owned::new(&b"abcdefgh".repeat(4), 1_700_000_000_000_000_000 + number)
        })
        .collect();
    assert_eq!(frames(&BY_ZSTD), expected);
    assert_eq!(frames(&BY_GZIP), expected);
}

#[test]
fn large_files() {
    let plain = capture(3_000);
    let expected = frames(&plain);
    for compressed in [gzip(&plain), zstd(&plain)] {
        assert!(frames(&compressed) == expected);
        let (found, error) = read_in_pieces(&compressed, 777);
        assert!(error.is_none() && found == expected);
    }
}

#[test]
fn members_and_frames_cut_through_records() {
    let plain = capture(200);
    let expected = frames(&plain);
    let (first, rest) = plain.split_at(1_000);
    let (second, third) = rest.split_at(10_001);
    let members = [gzip(first), gzip(b""), gzip(second), gzip(third)].concat();
    assert!(frames(&members) == expected);
    let skippable = |length: u8| {
        [
            &[0x50 | length, 0x2a, 0x4d, 0x18, length, 0, 0, 0],
            &vec![0xee; length.into()][..],
        ]
        .concat()
    };
    let pieces = [
        skippable(0),
        zstd(first),
        skippable(9),
        zstd(second),
        zstd(third),
        skippable(15),
    ]
    .concat();
    assert!(frames(&pieces) == expected);
}

#[test]
fn gzip_headers_with_everything_in_them() {
    let plain = capture(5);
    let mut encoder = GzBuilder::new()
        .filename("in.pcap")
        .comment("a comment")
        .extra(vec![7; 300])
        .mtime(5)
        .write(Vec::new(), Compression::best());
    encoder.write_all(&plain).unwrap();
    let mut file = encoder.finish().unwrap();
    assert!(frames(&file) == frames(&plain));
    // The same with a check sum of the header, which is not compared.
    file[3] |= 0x02;
    let end = 10 + 2 + 300 + 8 + 10;
    file.splice(end..end, [0xab, 0xcd]);
    assert!(frames(&file) == frames(&plain));
    file[3] |= 0x80;
    assert!(reason(&read(&file).1.unwrap()).contains("method"));
}

#[test]
fn what_follows_a_gzip_file() {
    let plain = capture(5);
    let mut file = gzip(&plain);
    file.extend_from_slice(&[0; 1_000]);
    assert!(frames(&file) == frames(&plain), "zeros are filling");
    file.extend_from_slice(b"not gzip at all");
    let (found, error) = read(&file);
    assert_eq!(found, frames(&plain));
    let error = error.unwrap();
    assert!(reason(&error).contains("something else follows"), "{error}");
    assert_eq!(error.offset_octets, u64::try_from(plain.len()).unwrap());
}

#[test]
fn every_cut_gives_what_came_before_it() {
    let plain = capture(20);
    let all = frames(&plain);
    for compressed in [gzip(&plain), zstd(&plain)] {
        let mut most = 0;
        for cut in 1..compressed.len() {
            let (found, error) = read(&compressed[..cut]);
            let error = error.unwrap_or_else(|| panic!("cut at {cut} must be an error"));
            assert_eq!(found, all[..found.len()], "cut at {cut}");
            if cut < 4 {
                continue;
            }
            assert!(reason(&error).contains("cut off"), "cut at {cut}: {error}");
            let whole: usize = found.iter().map(|frame| frame.data.len() + 16).sum();
            let offset = if found.is_empty() {
                error.offset_octets
            } else {
                u64::try_from(24 + whole).unwrap()
            };
            assert_eq!(error.offset_octets, offset, "cut at {cut}");
            assert!(
                found.len() >= most,
                "cut at {cut}: more of the file cannot give fewer frames"
            );
            most = found.len();
        }
        assert_eq!(most, all.len());
    }
}

#[test]
fn frames_before_damage_in_the_middle_come_out() {
    let plain = capture(1_500);
    let all = frames(&plain);
    // gzip: cut between two members, the second one replaced by nonsense.
    let (first, _) = plain.split_at(plain.len() / 2);
    let whole = frames_within(first.len(), &all);
    let mut file = gzip(first);
    let good = file.len();
    file.extend_from_slice(&gzip(&plain[first.len()..]));
    file[good + 10] = 0xff;
    let (found, error) = read(&file);
    assert!(found == all[..whole]);
    assert!(matches!(
        error.unwrap().kind,
        CaptureErrorKind::Compression { format: "gzip", .. }
    ));
    // zstd: the type of the last block is one that does not exist; the window before it must still come out.
    let mut file = zstd(&plain);
    let mut at = block_offset(&file);
    let mut blocks = Vec::new();
    loop {
        let header = u32::from_le_bytes([file[at], file[at + 1], file[at + 2], 0]);
        blocks.push(at);
        let size = if header >> 1 & 3 == 1 {
            1
        } else {
            usize::try_from(header >> 3).unwrap()
        };
        if header & 1 == 1 {
            break;
        }
        at += 3 + size;
    }
    assert!(blocks.len() > 2, "the test needs several blocks");
    file[*blocks.last().unwrap()] |= 0x06;
    let (found, error) = read(&file);
    assert!(found == all[..found.len()]);
    let decoded: usize = (blocks.len() - 1) * (128 << 10);
    assert_eq!(found.len(), frames_within(decoded, &all));
    assert!(matches!(
        error.unwrap().kind,
        CaptureErrorKind::Compression { format: "zstd", .. }
    ));
}

/// How many frames are whole within the first `octets` of the file.
fn frames_within(octets: usize, all: &[Owned]) -> usize {
    let ends = all.iter().scan(24, |end, frame| {
        *end += frame.data.len() + 16;
        Some(*end)
    });
    ends.take_while(|&end| end <= octets).count()
}

/// Where a zstd frame's first block begins [RFC 8878 §3.1.1.1].
fn block_offset(file: &[u8]) -> usize {
    let descriptor = file[4];
    let single = descriptor >> 5 & 1;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    5 + usize::from(1 - single) + dictionary + size
}

#[test]
fn check_sums_are_compared() {
    let plain = capture(5);
    let mut file = gzip(&plain);
    let at = file.len() - 8;
    file[at] ^= 1;
    let (found, error) = read(&file);
    assert_eq!(found, frames(&plain));
    assert!(reason(&error.unwrap()).contains("check sum"));
    let mut file = BY_ZSTD;
    file[65] ^= 1;
    let (found, error) = read(&file);
    assert_eq!(found.len(), 3);
    assert!(reason(&error.unwrap()).contains("check sum"));
}

#[test]
fn compressed_nonsense_is_named_as_such() {
    for compressed in [
        gzip(b"hello, this is a letter"),
        zstd(b"hello, this is a letter"),
    ] {
        let error = read(&compressed).1.unwrap();
        assert!(
            matches!(error.kind, CaptureErrorKind::NotACapture { .. }),
            "{error}"
        );
    }
    for compressed in [gzip(b""), zstd(b"")] {
        let error = read(&compressed).1.unwrap();
        assert!(matches!(error.kind, CaptureErrorKind::Empty), "{error}");
    }
}

#[test]
fn any_octet_may_be_wrong() {
    let plain = capture(30);
    for compressed in [
        gzip(&plain),
        zstd(&plain),
        BY_ZSTD.to_vec(),
        BY_GZIP.to_vec(),
    ] {
        for at in (0..compressed.len()).step_by(compressed.len() / 300 + 1) {
            for flip in [0x01, 0x80, 0xff] {
                let mut file = compressed.clone();
                file[at] ^= flip;
                // Frames or an error, in finite time; nothing else.
                let (found, _) = read(&file);
                assert!(found.len() <= 10_000);
            }
        }
    }
}
