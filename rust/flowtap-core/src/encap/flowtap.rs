//! FlowTap: the tapped IP packet behind an IP and a UDP header as tasked.
//!
//! Type of service 0, don't-fragment clear, UDP checksum computed, time to live as tasked. What is longer than the path
//! allows is fragmented as any host would do it (RFC 791 §3.2, RFC 8200 §4.5).

use std::net::IpAddr;

use crate::table::Destination;
use crate::wire::checksum::Sum;
use crate::wire::{ipv4, ipv6, protocol};

/// Octets of the UDP header.
const UDP_OCTETS: usize = 8;
/// Octets of the IPv6 fragment header.
const FRAGMENT_OCTETS: usize = 8;
/// Next header number of the IPv6 fragment header.
const FRAGMENT: u8 = 44;
/// "More fragments" in the IPv4 fragment field.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The smallest MTU that fragments are made for (RFC 791 §3.2).
pub const MINIMUM_MTU_OCTETS: u32 = 68;

/// Octets of the outer headers for a destination.
pub const fn header_octets(destination: &Destination) -> usize {
    UDP_OCTETS
        + match destination.address {
            IpAddr::V4(_) => ipv4::MINIMUM_HEADER_OCTETS,
            IpAddr::V6(_) => ipv6::HEADER_OCTETS,
        }
}

/// The longest packet that fits into one outer datagram.
pub const fn maximum_payload_octets(destination: &Destination) -> usize {
    match destination.address {
        // The IPv4 length counts its header, the IPv6 length does not.
        IpAddr::V4(_) => 65_535 - ipv4::MINIMUM_HEADER_OCTETS - UDP_OCTETS,
        IpAddr::V6(_) => 65_535 - UDP_OCTETS,
    }
}

/// Appends the outer datagram of `payload` and returns the octets of its headers. The payload must not be longer than
/// [`maximum_payload_octets`]; a longer one is cut there.
///
/// `identification` is for IPv4, which uses its low 16 bits; IPv6 has one only in fragments.
pub fn outer(
    destination: &Destination,
    payload: &[u8],
    identification: u32,
    out: &mut Vec<u8>,
) -> usize {
    let payload = payload
        .get(..maximum_payload_octets(destination))
        .unwrap_or(payload);
    let udp_length = UDP_OCTETS + payload.len();
    // Both lengths fit, by the line above.
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let udp_length_octets = short(udp_length).to_be_bytes();
    let source_port = destination.source_port.to_be_bytes();
    let port = destination.port.to_be_bytes();
    out.reserve(header_octets(destination) + payload.len());
    let pseudo = match (destination.source_address, destination.address) {
        (IpAddr::V6(source), IpAddr::V6(address)) => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&udp_length_octets);
            out.extend_from_slice(&[protocol::UDP, destination.ttl]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&address.octets());
            Sum::new()
                .octets(&source.octets())
                .octets(&address.octets())
        }
        (source, address) => {
            // A table never holds destinations of two families; unspecified stands for what cannot be.
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.octets(),
                IpAddr::V6(_) => [0; 4],
            };
            let (source, address) = (octets(source), octets(address));
            let [l0, l1] = short(ipv4::MINIMUM_HEADER_OCTETS + udp_length).to_be_bytes();
            let [_, _, i0, i1] = identification.to_be_bytes();
            let front = [
                0x45,
                0,
                l0,
                l1,
                i0,
                i1,
                0,
                0,
                destination.ttl,
                protocol::UDP,
            ];
            let checksum = Sum::new()
                .octets(front.first_chunk::<8>().map_or(&[], |front| front))
                .word(u16::from_be_bytes([destination.ttl, protocol::UDP]))
                .octets(&source)
                .octets(&address)
                .finish();
            out.extend_from_slice(&front);
            out.extend_from_slice(&checksum.to_be_bytes());
            out.extend_from_slice(&source);
            out.extend_from_slice(&address);
            Sum::new().octets(&source).octets(&address)
        }
    };
    let checksum = pseudo
        .word(u16::from(protocol::UDP))
        .word(short(udp_length))
        .word(destination.source_port)
        .word(destination.port)
        .word(short(udp_length))
        .octets(payload)
        .finish();
    // Zero would say "no checksum" (RFC 768).
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    out.extend_from_slice(&source_port);
    out.extend_from_slice(&port);
    out.extend_from_slice(&udp_length_octets);
    out.extend_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(payload);
    header_octets(destination)
}

/// Cuts an outer datagram into fragments of at most `mtu_octets` and hands each to `emit` as (headers, data); a datagram that fits
/// comes as it is, with all its octets as data.
pub fn fragment(
    datagram: &[u8],
    mtu_octets: u32,
    identification: u32,
    mut emit: impl FnMut(&[u8], &[u8]),
) {
    let mtu = usize::try_from(mtu_octets.max(MINIMUM_MTU_OCTETS)).unwrap_or(usize::MAX);
    if datagram.len() <= mtu {
        emit(&[], datagram);
        return;
    }
    let is_ipv6 = datagram.first().is_some_and(|first| first >> 4 == 6);
    let fixed = if is_ipv6 {
        ipv6::HEADER_OCTETS
    } else {
        ipv4::MINIMUM_HEADER_OCTETS
    };
    let overhead = if is_ipv6 {
        fixed + FRAGMENT_OCTETS
    } else {
        fixed
    };
    let (Some(header), Some(content)) = (datagram.get(..fixed), datagram.get(fixed..)) else {
        return;
    };
    // Every fragment but the last holds a multiple of eight octets.
    let room = (mtu.saturating_sub(overhead) & !7).max(8);
    let count = content.len().div_ceil(room);
    for (number, data) in content.chunks(room).enumerate() {
        let offset_octets = u16::try_from(number * room).unwrap_or(u16::MAX);
        let more = number + 1 < count;
        let mut headers = [0_u8; ipv6::HEADER_OCTETS + FRAGMENT_OCTETS];
        let headers = headers.get_mut(..overhead).unwrap_or_default();
        for (to, from) in headers.iter_mut().zip(header) {
            *to = *from;
        }
        let length = u16::try_from(overhead - if is_ipv6 { fixed } else { 0 } + data.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        if is_ipv6 {
            let next = header.get(6).copied().unwrap_or_default();
            let [o0, o1] = (offset_octets | u16::from(more)).to_be_bytes();
            let [i0, i1, i2, i3] = identification.to_be_bytes();
            put(headers, 4, &length);
            put(headers, 6, &[FRAGMENT]);
            put(headers, fixed, &[next, 0, o0, o1, i0, i1, i2, i3]);
        } else {
            let flags = if more { MORE_FRAGMENTS } else { 0 };
            put(headers, 2, &length);
            put(headers, 6, &((offset_octets / 8) | flags).to_be_bytes());
            put(headers, 10, &[0, 0]);
            let checksum = crate::wire::checksum::internet(headers);
            put(headers, 10, &checksum.to_be_bytes());
        }
        emit(headers, data);
    }
}

/// Writes `octets` at `offset`; a place outside is left alone.
fn put(header: &mut [u8], offset: usize, octets: &[u8]) {
    for (to, from) in header.iter_mut().skip(offset).zip(octets) {
        *to = *from;
    }
}
