//! Networks for the tests, made of namespaces that nobody else sees and that are gone with the test.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use flowtap_io::packet::{
    Capture, CaptureOptions, FRAMES_PER_CALL, FrameSender, RingFrame, RingOptions, SenderOptions,
};

use crate::sys;

/// How long a test waits for something that happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a test waits for something that should not happen.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);
/// The type of the frames that tests send by themselves: IEEE 802's for experiments.
pub(crate) const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// What tunnels that carry IP and nothing else say to be.
pub(crate) const ARPHRD_NONE: u16 = 0xfffe;

/// Whether the test can run; says so if not.
pub(crate) fn is_root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// A network namespace.
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// An empty one, with its loopback interface up and no IPv6 of its own accord.
    pub(crate) fn new() -> Self {
        let file = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::leave_namespace();
                for which in ["all", "default"] {
                    let setting = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                    fs::write(setting, "1").unwrap();
                }
                File::open("/proc/thread-self/ns/net").unwrap()
            });
            thread.join().unwrap()
        });
        let namespace = Self { file };
        namespace.ip("link set lo up");
        namespace
    }

    /// Where other programs find it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Does something inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::enter_namespace(&self.file);
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside and returns what it prints.
    pub(crate) fn command(&self, program: &str, words: &str) -> String {
        let output = self.run(|| {
            Command::new(program)
                .args(words.split_whitespace())
                .output()
                .unwrap()
        });
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {words}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.command("ip", words)
    }

    /// A pair of interfaces, one end here and one there, both up.
    pub(crate) fn connect(&self, here: &str, other: &Self, there: &str) {
        self.ip(&format!(
            "link add {here} type veth peer name {there} netns {}",
            other.path()
        ));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
    }

    /// A tunnel interface named `t0`, and the end of it that is in the program's hands.
    pub(crate) fn tunnel(&self, hardware: u16, offload_header: bool) -> File {
        let device = self.run(|| {
            let device = File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .unwrap();
            sys::make_tunnel(&device, "t0", hardware, offload_header);
            device
        });
        self.ip("link set t0 up");
        device
    }

    /// What `ethtool -K INTERFACE ...` sets: the names are `tso`, `gso`, `gro` and `tx`.
    pub(crate) fn offload(&self, interface: &str, name: &str, on: bool) {
        let command = match name {
            "tx" => 0x17,
            "tso" => 0x1f,
            "gso" => 0x24,
            "gro" => 0x2c,
            _ => panic!("{name}"),
        };
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            sys::set_offload(socket.as_fd(), interface, command, on);
        });
    }

    /// Opens a capture that lets everything through.
    pub(crate) fn capture(&self, interface: &str) -> Capture {
        let capture = self.capture_with(options(interface));
        capture.admit_all().unwrap();
        capture
    }

    pub(crate) fn capture_with(&self, options: CaptureOptions) -> Capture {
        self.run(|| Capture::open(options).unwrap())
    }

    pub(crate) fn sender(&self, interface: &str) -> Sender {
        let sender = self.run(|| FrameSender::open(interface, SenderOptions::default()).unwrap());
        Sender(sender)
    }
}

/// Options with a small ring, for tests that open many.
pub(crate) fn options(interface: &str) -> CaptureOptions {
    let mut options = CaptureOptions::new(interface);
    options.ring = RingOptions {
        block_octets: 256 << 10,
        blocks: 32,
        retire_ms: 5,
    };
    options
}

/// Two namespaces and a wire between them: `va` here and `vb` there.
pub(crate) fn wire() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    a.connect("va", &b, "vb");
    (a, b)
}

/// Sends frames and waits where there is no room.
pub(crate) struct Sender(pub(crate) FrameSender);

impl Sender {
    pub(crate) fn send(&self, frames: &[Vec<u8>]) {
        let mut slices: Vec<_> = frames
            .iter()
            .map(|frame| std::io::IoSlice::new(frame))
            .collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(FRAMES_PER_CALL);
            match self.0.send(&rest[..count]) {
                Ok(sent) => rest = &mut rest[sent..],
                Err(error) => {
                    let full = [Some(libc::EAGAIN), Some(libc::ENOBUFS)];
                    assert!(full.contains(&error.raw_os_error()), "{error}");
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        }
    }
}

/// A frame of a test: broadcast, of the type for experiments, with a number and so many octets in all.
pub(crate) fn numbered(number: u32, octets: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(EXPERIMENT);
    frame.extend(number.to_be_bytes());
    let from = frame.len();
    frame.resize(octets, 0);
    for (octet, place) in (from..).zip(&mut frame[from..]) {
        *place = octet.to_le_bytes()[0];
    }
    frame
}

/// Whether octets are a frame that a test made, possibly behind tags.
pub(crate) fn is_numbered(octets: &[u8]) -> bool {
    [12, 16, 20]
        .iter()
        .any(|&at| octets.get(at..at + 2) == Some(&EXPERIMENT))
}

/// What a test keeps of a frame.
pub(crate) struct Seen {
    pub(crate) octets: Vec<u8>,
    pub(crate) original_length_octets: u32,
    pub(crate) frame: FrameFacts,
}

/// Everything but the octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameFacts {
    pub(crate) timestamp_ns: u64,
    pub(crate) timestamp_source: flowtap_io::packet::TimestampSource,
    pub(crate) direction: flowtap_core::frame::Direction,
    pub(crate) packet_type: flowtap_io::packet::PacketType,
    pub(crate) interface_index: u32,
    pub(crate) interface: u32,
    pub(crate) needs_work: bool,
    pub(crate) is_super_frame: bool,
}

impl Seen {
    pub(crate) fn of(frame: &RingFrame<'_>) -> Self {
        Self {
            octets: frame.octets().to_vec(),
            original_length_octets: frame.original_length_octets,
            frame: FrameFacts {
                timestamp_ns: frame.timestamp_ns,
                timestamp_source: frame.timestamp_source,
                direction: frame.direction(),
                packet_type: frame.packet_type,
                interface_index: frame.interface_index,
                interface: frame.frame().interface,
                needs_work: frame.needs_work(),
                is_super_frame: frame.segmentation.is_some(),
            },
        }
    }
}

/// Reads until `enough` says so of all that was seen that `wanted` lets through.
pub(crate) fn read_until(
    capture: &mut Capture,
    wanted: impl Fn(&RingFrame<'_>) -> bool,
    enough: impl Fn(&[Seen]) -> bool,
) -> Vec<Seen> {
    let began = std::time::Instant::now();
    let mut seen = Vec::new();
    while !enough(&seen) {
        assert!(
            began.elapsed() < PATIENCE,
            "only {} frames came",
            seen.len()
        );
        let block = capture.next_block(Duration::from_millis(100)).unwrap();
        if let Some(mut block) = block {
            let mut frames = block.frames();
            seen.extend(
                frames
                    .by_ref()
                    .filter(|frame| wanted(frame))
                    .map(|frame| Seen::of(&frame)),
            );
            assert_eq!(frames.damaged(), 0);
        }
    }
    seen
}

/// Reads so many frames that tests made.
pub(crate) fn read_numbered(capture: &mut Capture, count: usize) -> Vec<Seen> {
    read_until(
        capture,
        |frame| is_numbered(frame.octets()),
        |seen| seen.len() >= count,
    )
}

/// Asserts that no frame comes that a test made.
pub(crate) fn assert_silent(capture: &mut Capture) {
    let began = std::time::Instant::now();
    while let Some(left) = SILENCE.checked_sub(began.elapsed()) {
        if let Some(mut block) = capture.next_block(left).unwrap() {
            let count = block
                .frames()
                .filter(|frame| is_numbered(frame.octets()))
                .count();
            assert_eq!(count, 0);
        }
    }
}
