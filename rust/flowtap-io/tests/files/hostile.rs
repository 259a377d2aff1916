//! Files made to harm: any octets give frames or an error, never a panic, and memory only for what is there.

use flowtap_io::files::MAX_RECORD_OCTETS;
use proptest::prelude::*;

use crate::build::{Octets, read, read_in_pieces};

fn whole(big_endian: bool) -> [Vec<u8>; 2] {
    let options = Octets::new(big_endian)
        .option(2, b"eth0")
        .option(9, &[6])
        .option(14, &[0; 8])
        .option(0, &[])
        .octets;
    let pcap = Octets::new(big_endian)
        .pcap_header(0xa1b2_c3d4, 1)
        .record(1, 2, 60, &[7; 33])
        .record(1, 2, 60, &[7; 60])
        .octets;
    let pcapng = Octets::new(big_endian)
        .section()
        .interface(1, 0, &options)
        .enhanced(0, 5, 60, &[7; 33])
        .block(3, &[0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        .block(0xbad, &[7; 20])
        .enhanced(0, 5, 60, &[7; 60])
        .octets;
    [pcap, pcapng]
}

/// Frames add up to no more than the file.
fn check(file: &[u8]) {
    let (found, error) = read(file);
    let octets: usize = found.iter().map(|frame| frame.data.len() + 16).sum();
    assert!(octets <= file.len());
    assert!(
        found
            .iter()
            .all(|frame| frame.data.len() <= MAX_RECORD_OCTETS)
    );
    if let Some(error) = error {
        assert!(
            error.offset_octets <= u64::try_from(file.len()).unwrap(),
            "{error}"
        );
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn every_field_may_hold_anything() {
    for big_endian in [false, true] {
        for file in whole(big_endian) {
            for at in 0..file.len() - 3 {
                for value in [
                    0_u32,
                    1,
                    3,
                    0x7fff_ffff,
                    0x8000_0000,
                    0xffff_fff0,
                    0xffff_fffc,
                    0xffff_ffff,
                ] {
                    let mut bad = file.clone();
                    bad[at..at + 4].copy_from_slice(&value.to_be_bytes());
                    check(&bad);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&octets);
    }

    #[test]
    fn any_octets_behind_a_header(big_endian: bool, octets in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&Octets::new(big_endian).pcap_header(0xa1b2_c3d4, 1).raw(&octets).octets);
        check(&Octets::new(big_endian).section().interface(1, 0, &[]).raw(&octets).octets);
    }

    #[test]
    fn any_blocks(big_endian: bool, blocks in prop::collection::vec((0..8_u32, prop::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let mut file = Octets::new(big_endian).section();
        for (kind, content) in &blocks {
            file = file.block(*kind, content);
        }
        check(&file.octets);
    }

    #[test]
    fn pieces_make_no_difference(big_endian: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), piece in 1..100_usize) {
        for mut file in whole(big_endian) {
            for (index, value) in &changes {
                let at = index.index(file.len());
                file[at] = *value;
            }
            let (one, error) = read(&file);
            let (other, other_error) = read_in_pieces(&file, piece);
            prop_assert_eq!(one, other);
            prop_assert_eq!(error.map(|error| error.to_string()), other_error.map(|error| error.to_string()));
        }
    }
}
