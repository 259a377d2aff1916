//! A file read from front to back is the oracle for chunks, however many threads there are.

mod captures;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use flowtap_core::bpf::Instruction;
use flowtap_core::criteria::{Criteria, CriteriaText};
use flowtap_core::table::{Destination, Entry, Lifetime, Rate};
use proptest::prelude::*;

use self::captures::{Content, Packet, Shape, damages, file, packets, shapes};
use super::*;

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowtap-replay-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// What criteria of a table have beside their filters.
#[derive(Clone, Copy, Debug)]
enum Special {
    Nothing,
    Packets,
    Idle,
    Total,
    Rate,
}

fn entry(id: u64, text: &CriteriaText<'_>, special: Special) -> Entry {
    let lifetime = match special {
        Special::Nothing | Special::Rate => Lifetime::default(),
        Special::Packets => Lifetime {
            packets: Some(3),
            ..Lifetime::default()
        },
        Special::Idle => Lifetime {
            idle_ns: Some(1_000_000_000),
            ..Lifetime::default()
        },
        Special::Total => Lifetime {
            total_ns: Some(3_000_000_000),
            ..Lifetime::default()
        },
    };
    Entry {
        destinations: if id.is_multiple_of(2) {
            vec![0]
        } else {
            Vec::new()
        },
        lifetime,
        rate: matches!(special, Special::Rate).then(|| Arc::new(Rate::new(2, 0))),
        ..Entry::new(id, Criteria::parse(text).unwrap())
    }
}

/// A new table every time: what its limits have used is its own.
fn table(specials: &[Special], port: u16) -> Arc<FilterTable> {
    let nothing = CriteriaText::default();
    let filters = [
        CriteriaText {
            source: Some("192.0.2.1"),
            ..nothing
        },
        CriteriaText {
            source: Some("192.0.2.2"),
            destination_port: Some("1"),
            ..nothing
        },
        CriteriaText {
            destination: Some("192.0.2.2/31"),
            protocol: Some("17"),
            ..nothing
        },
        CriteriaText {
            destination_port: Some("2-3"),
            ..nothing
        },
    ];
    let entries = (1..).zip(filters).zip(specials);
    let entries = entries.map(|((id, text), &special)| entry(id, &text, special));
    let destination = Destination {
        id: "cd1".to_owned(),
        address: "127.0.0.1".parse().unwrap(),
        port,
        source_address: "127.0.0.1".parse().unwrap(),
        source_port: 0,
        ttl: 64,
        refuse_oversize: false,
        export: true,
        protection: None,
    };
    Arc::new(FilterTable::compile(entries.collect(), vec![destination]).unwrap())
}

/// Frames of at most 60 octets.
fn short_frames() -> Arc<Program> {
    let instruction = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let instructions = [
        instruction(0x80, 0, 0, 0),
        instruction(0x25, 1, 0, 60),
        instruction(0x06, 0, 0, 1),
        instruction(0x06, 0, 0, 0),
    ];
    Arc::new(Program::new(&instructions).unwrap())
}

/// All that can be seen of a pass.
#[derive(Debug, PartialEq)]
struct Outcome {
    stats: Stats,
    written: u64,
    filtered_out: u64,
    error: Option<(String, u64)>,
    /// As a progress bar shows it.
    read_frames: u64,
    /// None where the output has ended the pass: how far a file has been read by then is nobody's business.
    read_octets: Option<u64>,
    output: Vec<u8>,
}

/// Of files in chunks of so many octets; of files read from front to back where there is no such number.
fn outcome(
    table: Arc<FilterTable>,
    options: &ReplayOptions,
    threads: usize,
    chunk_octets: Option<usize>,
) -> Outcome {
    let control = ReplayControl::default();
    let options = ReplayOptions {
        threads: NonZero::new(threads),
        ..options.clone()
    };
    let division = Division {
        chunk_octets: chunk_octets.unwrap_or(1),
        least_octets: if chunk_octets.is_some() { 0 } else { u64::MAX },
    };
    let report = pass(table, &options, &control, division).unwrap();
    report.stats.check().unwrap();
    assert!(!report.interrupted);
    assert_eq!(report.threads, threads);
    // What is not found by reading ends a pass somewhere in a chunk.
    let is_elsewhere = report.error.as_ref().is_some_and(|error| {
        Some(&error.path) == options.write.as_ref()
            || matches!(error.kind, CaptureErrorKind::FilterLinkType { .. })
    });
    let mut stats = report.stats;
    stats
        .refused_copies
        .sort_by_key(|refused| refused.criteria_id);
    Outcome {
        stats,
        written: report.written,
        filtered_out: report.filtered_out,
        error: report
            .error
            .map(|error| (error.to_string(), error.offset_octets)),
        read_frames: control.frames(),
        read_octets: (!is_elsewhere).then(|| control.read_octets()),
        output: match options.write.as_deref().map(Path::new) {
            Some(path) if path.is_file() => fs::read(path).unwrap(),
            _ => Vec::new(),
        },
    }
}

fn specials() -> impl Strategy<Value = Vec<Special>> {
    let special = prop_oneof![
        3 => Just(Special::Nothing),
        1 => Just(Special::Packets),
        1 => Just(Special::Idle),
        1 => Just(Special::Total),
        1 => Just(Special::Rate),
    ];
    prop::collection::vec(special, 0..5)
}

proptest! {
    #[test]
    fn any_number_of_threads_does_what_one_does(
        files in prop::collection::vec((shapes(), packets(), damages()), 1..3),
        specials in specials(),
        chunk_octets in prop_oneof![1_usize..300, 300_usize..5000],
        threads in 1_usize..5,
        (is_filtered, looks_inside, is_pcapng) in any::<(bool, bool, bool)>(),
    ) {
        let folder = Folder::new();
        let mut options = ReplayOptions {
            write: Some(folder.path(if is_pcapng { "out.pcapng" } else { "out.pcap" })),
            program: is_filtered.then(short_frames),
            inner: if looks_inside { InnerTunnels::ALL } else { InnerTunnels::default() },
            ..ReplayOptions::default()
        };
        for (number, (shape, packets, damage)) in files.iter().enumerate() {
            let mut octets = file(*shape, packets);
            damage.apply(&mut octets);
            let path = folder.path(&format!("{number}.pcap"));
            fs::write(&path, octets).unwrap();
            options.files.push(path);
        }
        let of = |threads, octets| outcome(table(&specials, 9), &options, threads, octets);
        prop_assert_eq!(of(threads, Some(chunk_octets)), of(1, None));
    }
}

fn many(count: u32, octets: usize) -> Vec<Packet> {
    let packet = |number: u32| Packet {
        source: u8::try_from(1 + number % 3).unwrap(),
        destination: 4,
        port: 1,
        later_ms: 1,
        content: Content::Datagram { octets },
    };
    (0..count).map(packet).collect()
}

const PLAIN: Shape = Shape {
    big_endian: false,
    nanoseconds: false,
    swapped: false,
    is_ethernet: true,
};

#[test]
fn an_output_that_is_full_ends_every_pass_at_the_same_frame() {
    let folder = Folder::new();
    let path = folder.path("in.pcap");
    fs::write(&path, file(PLAIN, &many(3000, 1000))).unwrap();
    let options = ReplayOptions {
        files: vec![path],
        write: Some("/dev/full".to_owned()),
        ..ReplayOptions::default()
    };
    let specials = [Special::Nothing; 2];
    let one = outcome(table(&specials, 9), &options, 1, None);
    assert!(one.error.is_some() && one.stats.frames < 3000, "{one:?}");
    assert_eq!(outcome(table(&specials, 9), &options, 3, Some(4096)), one);
}

#[test]
fn an_output_that_takes_no_more_ends_every_pass_at_the_same_frame_even_one_that_matches_nothing() {
    let folder = Folder::new();
    let packet = |source, later_ms, content| Packet {
        source,
        destination: 2,
        port: 3,
        later_ms,
        content,
    };
    let later = Content::Fragment {
        identification: 1,
        is_first: false,
    };
    let datagram = || Content::Datagram { octets: 8 };
    let miss = || Content::Noise(vec![0; 40]);
    // A fragment of one link type, which matches, waits for its first, on which a further criterion depends, while frames
    // of another link type are written. Its time is up among frames that match nothing.
    let first = [packet(2, 0, later)];
    let mut second = vec![packet(2, 100, datagram())];
    second.extend((0..30).map(|_| packet(1, 3000, miss())));
    second.push(packet(2, 0, datagram()));
    let is_raw = Shape {
        is_ethernet: false,
        ..PLAIN
    };
    let paths = [folder.path("first.pcap"), folder.path("second.pcap")];
    fs::write(&paths[0], file(is_raw, &first)).unwrap();
    fs::write(&paths[1], file(PLAIN, &second)).unwrap();
    let options = ReplayOptions {
        files: paths.to_vec(),
        write: Some(folder.path("out.pcap")),
        ..ReplayOptions::default()
    };
    let specials = [Special::Nothing; 3];
    let one = outcome(table(&specials, 9), &options, 1, None);
    let (message, _) = one.error.as_ref().unwrap();
    assert!(message.contains("link type 101"), "{message}");
    assert!((3..33).contains(&one.stats.frames), "{one:?}");
    for chunk_octets in [100, 1000, 100_000] {
        // Which chunks are sifted is a matter of chance.
        for _ in 0..20 {
            let many = outcome(table(&specials, 9), &options, 3, Some(chunk_octets));
            assert_eq!(many, one, "{chunk_octets}");
        }
    }
}

#[test]
fn copies_leave_in_the_order_of_the_file() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let port = receiver.local_addr().unwrap().port();
    let folder = Folder::new();
    let path = folder.path("in.pcap");
    let mut packets = many(60, 0);
    for (octets, packet) in packets.iter_mut().enumerate() {
        packet.source = 2;
        packet.content = match octets % 5 {
            0 => Content::Fragment {
                identification: 1,
                is_first: octets == 30,
            },
            _ => Content::Datagram { octets },
        };
    }
    fs::write(&path, file(PLAIN, &packets)).unwrap();
    let options = ReplayOptions {
        files: vec![path],
        export: true,
        ..ReplayOptions::default()
    };
    let received = |threads, octets| {
        let table = table(&[Special::Nothing; 2], port);
        let done = outcome(table, &options, threads, octets);
        let datagrams = (0..done.stats.copied).map(|_| {
            let mut octets = [0; 2048];
            let count = receiver.recv(&mut octets).unwrap();
            octets[..count].to_vec()
        });
        datagrams.collect::<Vec<_>>()
    };
    let one = received(1, None);
    assert_eq!(one.len(), 60);
    assert_eq!(received(3, Some(300)), one);
}

#[test]
fn a_pass_that_is_cancelled_ends_and_counts_what_it_has_written() {
    let folder = Folder::new();
    let path = folder.path("in.pcap");
    fs::write(&path, file(PLAIN, &many(5000, 100))).unwrap();
    let options = ReplayOptions {
        files: vec![path],
        write: Some(folder.path("out.pcap")),
        threads: NonZero::new(3),
        ..ReplayOptions::default()
    };
    let division = Division {
        chunk_octets: 1000,
        least_octets: 0,
    };
    for after_us in [0, 50, 500] {
        let control = ReplayControl::default();
        let report = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_micros(after_us));
                control.cancel();
            });
            pass(table(&[Special::Nothing], 9), &options, &control, division).unwrap()
        });
        assert!(report.error.is_none());
        assert_eq!(report.interrupted, report.stats.frames < 5000);
        assert_eq!(control.frames(), report.stats.frames);
        let mut written = CaptureReader::open(options.write.as_deref().unwrap()).unwrap();
        let mut count = 0;
        while written.next_frame().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(
            (count, report.stats.matched),
            (report.written, report.written)
        );
    }
}

#[test]
fn what_cannot_be_divided_is_read_by_one_thread() {
    let folder = Folder::new();
    let octets = file(PLAIN, &many(100, 100));
    let (pcap, gzip) = (folder.path("in.pcap"), folder.path("in.pcap.gz"));
    fs::write(&pcap, &octets).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &octets).unwrap();
    fs::write(&gzip, encoder.finish().unwrap()).unwrap();
    let threads = |path: &str, least_octets| {
        let options = ReplayOptions {
            files: vec![path.to_owned()],
            threads: NonZero::new(2),
            ..ReplayOptions::default()
        };
        let division = Division {
            chunk_octets: 1000,
            least_octets,
        };
        let control = ReplayControl::default();
        let report = pass(table(&[], 9), &options, &control, division).unwrap();
        assert_eq!(report.stats.frames, 100);
        report.threads
    };
    assert_eq!(threads(&pcap, 0), 2);
    assert_eq!(threads(&pcap, 1 << 20), 1);
    assert_eq!(threads(&gzip, 0), 1);
}
