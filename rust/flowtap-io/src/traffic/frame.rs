//! One frame of a flow: Ethernet, IP, the transport's header, zeros; every checksum right.

use std::net::IpAddr;

use flowtap_core::wire::checksum::{Sum, internet};
use flowtap_core::wire::{ether_type, protocol};

use super::Flow;

/// Destination and source, locally administered; nobody has the destination.
const MAC: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const ETHERNET_OCTETS: usize = 14;
const IPV4_OCTETS: usize = 20;
const IPV6_OCTETS: usize = 40;
const HOP_LIMIT: u8 = 64;
/// Don't fragment (RFC 791 §3.1).
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// Data offset of five words, acknowledgment (RFC 9293 §3.1).
const TCP_ACK: [u8; 2] = [0x50, 0x10];
const ICMP_ECHO: [u8; 2] = [8, 0];
const ICMPV6_ECHO: [u8; 2] = [128, 0];

/// The header behind IP, with room for the longest.
#[derive(Default)]
struct Transport {
    octets: [u8; 20],
    length: usize,
    /// Where its checksum stands.
    checksum: Option<usize>,
    /// Whether the checksum covers a pseudo-header.
    pseudo: bool,
}

impl Transport {
    /// The header for a flow; `segment` is its length together with what follows.
    fn of(flow: &Flow, segment: impl FnOnce(usize) -> u16) -> Self {
        let [s0, s1] = flow.source_port.to_be_bytes();
        let [d0, d1] = flow.destination_port.to_be_bytes();
        match flow.protocol {
            protocol::TCP => {
                let [offset, flags] = TCP_ACK;
                let octets = [
                    s0, s1, d0, d1, 0, 0, 0, 1, 0, 0, 0, 1, offset, flags, 0xff, 0xff, 0, 0, 0, 0,
                ];
                Self {
                    octets,
                    length: 20,
                    checksum: Some(16),
                    pseudo: true,
                }
            }
            protocol::UDP => {
                let [l0, l1] = segment(8).to_be_bytes();
                Self::short([s0, s1, d0, d1, l0, l1, 0, 0], 6, true)
            }
            protocol::ICMP => {
                let [kind, code] = ICMP_ECHO;
                Self::short([kind, code, 0, 0, 0, 1, 0, 1], 2, false)
            }
            protocol::ICMPV6 => {
                let [kind, code] = ICMPV6_ECHO;
                Self::short([kind, code, 0, 0, 0, 1, 0, 1], 2, true)
            }
            _ => Self::default(),
        }
    }

    fn short(header: [u8; 8], checksum: usize, pseudo: bool) -> Self {
        let mut octets = [0; 20];
        for (place, octet) in octets.iter_mut().zip(header) {
            *place = octet;
        }
        Self {
            octets,
            length: header.len(),
            checksum: Some(checksum),
            pseudo,
        }
    }

    fn header(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }

    /// Completes the checksum; the octets that follow are zeros and add nothing.
    fn complete(&mut self, flow: &Flow, segment_octets: u16) {
        let Some(at) = self.checksum else {
            return;
        };
        let mut sum = Sum::new().octets(self.header());
        if self.pseudo {
            sum = match (flow.source, flow.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    sum.octets(&source.octets()).octets(&destination.octets())
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    sum.octets(&source.octets()).octets(&destination.octets())
                }
                // Refused when the traffic was made.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => sum,
            };
            sum = sum.word(u16::from(flow.protocol)).word(segment_octets);
        }
        let checksum = match (sum.finish(), flow.protocol) {
            // Zero would mean that there is none (RFC 768).
            (0, protocol::UDP) => 0xffff,
            (checksum, _) => checksum,
        };
        put(&mut self.octets, at, checksum);
    }
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    if let Some(place) = octets.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

fn short(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

/// Makes a frame of `wanted` octets, or of as many as its headers need.
pub(super) fn build(flow: &Flow, identification: u16, wanted: usize, frame: &mut Vec<u8>) {
    let ip_octets = if flow.source.is_ipv4() {
        IPV4_OCTETS
    } else {
        IPV6_OCTETS
    };
    let link_and_ip = ETHERNET_OCTETS + ip_octets;
    let room = wanted.saturating_sub(link_and_ip);
    let mut transport = Transport::of(flow, |least| short(room.max(least)));
    let segment = room.max(transport.length);
    transport.complete(flow, short(segment));
    frame.clear();
    frame.extend_from_slice(&MAC);
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend_from_slice(&ether_type::IPV4.to_be_bytes());
            let mut header = [0; IPV4_OCTETS];
            let [l0, l1] = short(ip_octets + segment).to_be_bytes();
            let [i0, i1] = identification.to_be_bytes();
            let [f0, f1] = DONT_FRAGMENT;
            let fields = [
                0x45,
                0,
                l0,
                l1,
                i0,
                i1,
                f0,
                f1,
                HOP_LIMIT,
                flow.protocol,
                0,
                0,
            ]
            .into_iter()
            .chain(source.octets())
            .chain(destination.octets());
            for (place, octet) in header.iter_mut().zip(fields) {
                *place = octet;
            }
            let checksum = internet(&header);
            put(&mut header, 10, checksum);
            frame.extend_from_slice(&header);
        }
        (source, destination) => {
            frame.extend_from_slice(&ether_type::IPV6.to_be_bytes());
            let [l0, l1] = short(segment).to_be_bytes();
            frame.extend_from_slice(&[0x60, 0, 0, 0, l0, l1, flow.protocol, HOP_LIMIT]);
            for address in [source, destination] {
                if let IpAddr::V6(address) = address {
                    frame.extend_from_slice(&address.octets());
                }
            }
        }
    }
    frame.extend_from_slice(transport.header());
    frame.resize(link_and_ip + segment, 0);
}
