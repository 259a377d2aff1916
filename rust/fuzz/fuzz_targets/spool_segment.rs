//! Any octets as a segment of a spool on disk, and as the blocks of an authentic one: no panic, and every copy that is
//! counted comes out or is counted as lost.
#![no_main]

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

use flowtap_io::export::read_segment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&first, octets)) = input.split_first() else {
        return;
    };
    let directory = std::env::temp_dir().join(format!("flowtap-fuzz-{}", std::process::id()));
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .unwrap();
    read_segment(&directory, octets, first & 1 == 1);
});
