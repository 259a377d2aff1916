//! Reads the frames of an interface as fast as they come and says how many were lost: the limit that a tap can reach.
//!
//!     ring_reader INTERFACE walk|match [BLOCK_KIB BLOCKS]
//!
//! `walk` looks at the header of each frame and nothing else; `match` decodes each frame and asks a table of one host,
//! which none of frame_sender's frames matches. It ends when nothing came for a second after the first frame, or
//! half a minute after its start.
#![expect(
    clippy::print_stdout,
    reason = "a program whose result is what it prints"
)]

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtap_core::batch::CopyBatch;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::engine::{Engine, EngineOptions, Framing};
use flowtap_core::table::{Entry, FilterTable};
use flowtap_io::packet::{Capture, CaptureOptions};

const IDLE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

fn engine() -> Result<Engine, Box<dyn Error>> {
    let criteria = Criteria::parse(&CriteriaText {
        source: Some("192.0.2.1"),
        ..CriteriaText::default()
    })?;
    let entry = Entry::new(1, criteria);
    let table = Arc::new(FilterTable::compile(vec![entry], Vec::new())?);
    let options = EngineOptions {
        framing: Framing::Count,
        ..EngineOptions::default()
    };
    Ok(Engine::new(table, options))
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (interface, work, sizes) = match words.as_slice() {
        [interface, work, sizes @ ..] if matches!(work.as_str(), "walk" | "match") => {
            (interface, work, sizes)
        }
        _ => return Err("usage: ring_reader INTERFACE walk|match [BLOCK_KIB BLOCKS]".into()),
    };
    let mut options = CaptureOptions::new(interface.as_str());
    if let [kib, blocks] = sizes {
        options.ring.block_octets = kib.parse::<usize>()?.saturating_mul(1024);
        options.ring.blocks = blocks.parse()?;
    }
    let mut engine = (work == "match").then(engine).transpose()?;
    let mut batch = CopyBatch::new();
    let mut capture = Capture::open(options)?;
    capture.admit_all()?;
    println!("ready");
    std::io::stdout().flush()?;
    let statistics = capture.statistics();
    let began = Instant::now();
    let (mut frames, mut octets, mut blocks) = (0_u64, 0_u64, 0_u64);
    while began.elapsed() < LONGEST {
        let Some(mut block) = capture.next_block(IDLE)? else {
            if frames > 0 {
                break;
            }
            continue;
        };
        blocks += 1;
        for frame in block.frames() {
            frames += 1;
            octets += u64::from(frame.original_length_octets);
            if let Some(engine) = &mut engine {
                engine.process(&frame.frame(), frame.timestamp_ns, &mut batch, &mut ());
            }
        }
    }
    let counted = statistics.read();
    let matched = engine.map_or(0, |engine| engine.stats().matched);
    println!(
        r#"{{"frames": {frames}, "octets": {octets}, "blocks": {blocks}, "matched": {matched}, "dropped": {}, "freezes": {}}}"#,
        counted.dropped, counted.freezes
    );
    Ok(())
}
