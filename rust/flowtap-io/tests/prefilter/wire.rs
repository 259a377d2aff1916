//! Two ends of a virtual Ethernet, in a network of their own that the test makes and that goes with it.

use std::io::IoSlice;
use std::process::Command;
use std::thread;
use std::time::Duration;

use flowtap_io::prefilter::{AddressCover, Prefilter, PrefilterKind, PrefilterOptions};
use socket2::Socket;

use crate::sys::{self, Right};

/// Octets of a receive buffer: 60 frames take about 50 KiB.
const BUFFER_OCTETS: i32 = 64 << 20;

/// An Ethernet whose near end sends and whose far end is listened to.
pub(crate) struct Wire {
    /// The name of the far end.
    pub(crate) far: String,
    sender: Socket,
    /// Sends from the far end, so that a listener there sees frames leave.
    outwards: Socket,
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

impl Wire {
    /// A further wire of this network.
    pub(crate) fn new(number: usize) -> Self {
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        ip(&format!("link add {near} type veth peer name {far}"));
        ip(&format!("link set {near} up"));
        ip(&format!("link set {far} up"));
        let sender = |interface: &str| {
            let socket = sys::packet_socket().unwrap();
            sys::bind(&socket, sys::interface_index(interface).unwrap(), false).unwrap();
            socket
        };
        let near = sender(&near);
        sys::set_packet_option(&near, libc::PACKET_QDISC_BYPASS, 1).unwrap();
        Self {
            sender: near,
            outwards: sender(&far),
            far,
        }
    }

    /// Sends frames to the far end, in their order.
    pub(crate) fn send<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) {
        send(&self.sender, frames);
    }

    /// Sends frames from the far end, in their order.
    pub(crate) fn send_outwards<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) {
        send(&self.outwards, frames);
    }

    /// A socket at the far end, with a filter where one is given.
    pub(crate) fn listen(&self, prefilter: Option<&Prefilter>) -> Listener {
        listen_on(&self.far, prefilter)
    }
}

/// A socket on any interface of this network, with a filter where one is given.
pub(crate) fn listen_on(interface: &str, prefilter: Option<&Prefilter>) -> Listener {
    let socket = sys::packet_socket().unwrap();
    sys::force_receive_buffer(&socket, BUFFER_OCTETS).unwrap();
    sys::set_packet_option(&socket, libc::PACKET_AUXDATA, 1).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    if let Some(prefilter) = prefilter {
        prefilter.attach(&socket).unwrap();
    }
    sys::bind(&socket, sys::interface_index(interface).unwrap(), true).unwrap();
    Listener { socket }
}

fn send<'a>(socket: &Socket, frames: impl IntoIterator<Item = &'a [u8]>) {
    let frames: Vec<IoSlice<'_>> = frames.into_iter().map(IoSlice::new).collect();
    let mut rest = frames.as_slice();
    while !rest.is_empty() {
        let sent = sys::send_many(socket, &rest[..rest.len().min(64)]).unwrap();
        rest = &rest[sent..];
    }
}

/// A socket that hears every frame of its interface, or those that its filter lets through.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
}

impl Listener {
    /// The next frame; None where none comes in time.
    pub(crate) fn next(&self) -> Option<Received> {
        let (frame, tag) = sys::receive(&self.socket, 0).unwrap()?;
        Some(Received { frame, tag })
    }

    /// The next frame, if there is one.
    pub(crate) fn next_at_once(&self) -> Option<Received> {
        let (frame, tag) = sys::receive(&self.socket, libc::MSG_DONTWAIT).unwrap()?;
        Some(Received { frame, tag })
    }

    /// Frames that the kernel dropped for want of room.
    pub(crate) fn dropped(&self) -> u32 {
        sys::packet_statistics(&self.socket).unwrap().1
    }
}

/// A frame as a packet socket shows it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) frame: Vec<u8>,
    /// The VLAN tag that the kernel took off.
    pub(crate) tag: Option<u16>,
}

/// Runs a test with a network of its own; without the right to make one it says so and does not run.
pub(crate) fn with_wire(test: impl FnOnce(&Wire) + Send) {
    if !is_root() {
        eprintln!("not run: network namespaces and packet sockets need root");
        return;
    }
    on_a_thread(|| {
        sys::unshare_network().unwrap();
        // What hosts say of themselves would come between the test's frames.
        for interface in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            std::fs::write(path, "1").unwrap();
        }
        ip("link set lo up");
        test(&Wire::new(0));
    });
}

/// Runs a test without some rights. Only who may load eBPF has rights to give up; without them it is not run.
pub(crate) fn without(rights: &[Right], test: impl FnOnce() + Send) {
    if !has_ebpf() {
        return;
    }
    on_a_thread(|| {
        sys::give_up(rights).unwrap();
        test();
    });
}

/// Networks and rights are those of a thread.
fn on_a_thread(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut users = status.lines().filter_map(|line| line.strip_prefix("Uid:"));
    users.next().unwrap().split_whitespace().nth(1) == Some("0")
}

/// Whether this kernel takes eBPF from us. Root has the right, so there a refusal is a failure.
pub(crate) fn has_ebpf() -> bool {
    let kind = Prefilter::new(&AddressCover::default(), PrefilterOptions::default()).kind();
    let found = matches!(kind, PrefilterKind::Ebpf { .. });
    assert!(found || !is_root(), "{kind}");
    if !found {
        eprintln!("not run: {kind}");
    }
    found
}
