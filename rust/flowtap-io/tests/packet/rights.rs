//! Which rights capturing needs, and what is said where they are missing.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use flowtap_io::packet::{Capture, CaptureOptions, PacketError, open_socket};

use crate::net::{is_root, numbered, options, read_numbered, wire};

/// Set for the process without rights, to the interface that it is to capture.
const INTERFACE: &str = "FLOWTAP_TEST_INTERFACE";

/// What the process without rights does; nothing where nobody asks for it.
#[test]
fn without_rights() {
    let Ok(interface) = std::env::var(INTERFACE) else {
        return;
    };
    let error = Capture::open(CaptureOptions::new(interface.as_str())).unwrap_err();
    assert!(matches!(
        error,
        PacketError::PermissionMissing {
            right: "CAP_NET_RAW",
            ..
        }
    ));
    assert_eq!(
        error.to_string(),
        "opening a packet socket needs the right CAP_NET_RAW, which this process does not have"
    );
    // Its standard input is a packet socket.
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut options = options(&interface);
    options.promiscuous = true;
    let mut capture = Capture::from_socket(socket, options).unwrap();
    capture.admit_all().unwrap();
    println!("ready");
    read_numbered(&mut capture, 3);
    println!("done");
}

#[test]
fn one_right_is_enough_and_none_with_a_socket_from_outside() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let program = std::env::current_exe().unwrap();
    // Root without the right, though it has all others.
    let mut child = b.run(|| {
        Command::new("setpriv")
            .args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"])
            .arg(&program)
            .args(["--exact", "rights::without_rights", "--nocapture"])
            .env(INTERFACE, "vb")
            .stdin(Stdio::from(open_socket("vb").unwrap()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        let length = std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_ne!(length, 0, "the other process ended: {:?}", child.wait());
    }
    let frames: Vec<_> = (0..3).map(|number| numbered(number, 60)).collect();
    a.sender("va").send(&frames);
    assert!(child.wait().unwrap().success());

    // Nobody at all, with this one right.
    let output = b.run(|| {
        Command::new("setpriv")
            .args(["--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw"])
            .arg(&program)
            .args(["--exact", "rights::with_one_right", "--nocapture"])
            .env(INTERFACE, "vb")
            .output()
            .unwrap()
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
}

/// What the process with one right does; nothing where nobody asks for it.
#[test]
fn with_one_right() {
    let Ok(interface) = std::env::var(INTERFACE) else {
        return;
    };
    let mut options = options(&interface);
    options.promiscuous = true;
    let mut capture = Capture::open(options).unwrap();
    capture.admit_all().unwrap();
    assert!(capture.next_block(Duration::from_millis(20)).is_ok());
}

#[test]
fn a_descriptor_of_another_kind_is_refused() {
    if !is_root() {
        return;
    }
    let (_a, b) = wire();
    let error = b.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        Capture::from_socket(socket.into(), options("vb")).unwrap_err()
    });
    assert_eq!(
        error.to_string(),
        "the descriptor for \"vb\" is no packet socket of the type SOCK_RAW"
    );
}
