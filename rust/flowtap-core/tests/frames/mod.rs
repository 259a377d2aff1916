//! Frames for the tests, written octet by octet.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "every test binary uses some of them"
)]

use flowtap_core::frame::{Direction, Frame, LinkType};

pub(crate) const MAC: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// An Ethernet frame with these tags or types in front of the payload.
pub(crate) fn ethernet(headers: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    for header in headers {
        frame.extend_from_slice(header);
    }
    frame.extend_from_slice(payload);
    frame
}

/// An IPv4 packet.
pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(source, destination, protocol, payload, 0, false, 0)
}

/// A fragment of an IPv4 datagram.
pub(crate) fn ipv4_fragment(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    payload: &[u8],
    offset_octets: u16,
    more: bool,
    identification: u16,
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&identification.to_be_bytes());
    packet.extend_from_slice(&((offset_octets / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
    packet.extend_from_slice(&[64, protocol, 0, 0]);
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 packet between 2001:db8::`source` and 2001:db8::`destination`.
pub(crate) fn ipv6(source: u8, destination: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(&[next_header, 64]);
    for last in [source, destination] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        address[15] = last;
        packet.extend_from_slice(&address);
    }
    packet.extend_from_slice(payload);
    packet
}

/// A UDP datagram without checksum.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for word in [
        source,
        destination,
        u16::try_from(8 + payload.len()).unwrap(),
        0,
    ] {
        datagram.extend_from_slice(&word.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    datagram
}

/// A captured frame.
pub(crate) fn frame(data: &[u8], link_type: LinkType) -> Frame<'_> {
    Frame {
        data,
        link_type,
        timestamp_ns: 0,
        original_length_octets: u32::try_from(data.len()).unwrap(),
        interface: 0,
        direction: Direction::Unknown,
    }
}
