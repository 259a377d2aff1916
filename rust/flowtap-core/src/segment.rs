//! Cuts a super-frame into the packets that are on the wire.
//!
//! A host that sends much data hands its network card one long TCP or UDP packet with the length of the pieces (TSO,
//! USO, in Linux "generic segmentation offload", GSO); one that receives much may join packets before it looks at them
//! (GRO). A tap between host and card sees the long one. What is on the wire follows from it: the same rules apply as
//! in the kernel's own segmentation (`inet_gso_segment`, `tcp_gso_segment`, `__udp_gso_segment`).
//!
//! The work is done in place: the headers of each packet are written in front of its data, over data of the packet
//! before, which its user has seen by then. So nothing is copied but headers, and no memory is needed.

use crate::decode::{MAXIMUM_TAGS, Outer};
use crate::frame::{Direction, Frame, LinkType};
use crate::offload::{UnfinishedChecksum, transport_of, write_word};
use crate::packet::Address;
use crate::wire::checksum::{Sum, internet};
use crate::wire::ethernet::{self, Ethernet, Tag};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::transport::UDP_HEADER_OCTETS;
use crate::wire::{cooked, ether_type, protocol, u16_at, u32_at};

/// Octets of all headers of a super-frame, the link's included, up to its data.
pub const MAXIMUM_HEADER_OCTETS: usize = 256;

const IPV4_LENGTH: usize = 2;
const IPV4_IDENTIFICATION: usize = 4;
const IPV4_FLAGS: usize = 6;
const IPV4_CHECKSUM: usize = 10;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const IPV6_LENGTH: usize = 4;
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_HOP_BY_HOP: u8 = 0;
/// A hop-by-hop header with nothing but a jumbo payload option (RFC 2675), behind its next header field: Linux puts it
/// in front of a TCP header that stands for more than 65,535 octets. It is never on the wire.
const JUMBO_OPTION: [u8; 3] = [0, 0xc2, 4];
const JUMBO_LENGTH: usize = 4;
const JUMBO_HEADER_OCTETS: usize = 8;
const TCP_MINIMUM_OCTETS: usize = 20;
const TCP_SEQUENCE: usize = 4;
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;
const PPPOE_LENGTH: usize = 4;
/// Octets of a PPPoE header that its length field does not count.
const PPPOE_FIXED_OCTETS: usize = 6;

/// What a super-frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of one flow.
    Udp,
    /// The source says that there are several packets, not how they are cut.
    Unknown,
}

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What it carries.
    pub kind: SegmentKind,
    /// Octets of data in each packet; the last may have fewer.
    pub segment_octets: u16,
    /// TCP: only the first packet carries the CWR flag (RFC 3168). With accurate ECN (RFC 9768) all do.
    pub cwr_on_first_only: bool,
}

/// Why a super-frame is left whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftWhole {
    /// How it is cut is not known.
    Kind,
    /// Not all of it was captured.
    Truncated,
    /// The link's header or the IP header cannot be read, or has a length of its own that would change.
    Link,
    /// The outermost IP packet is not the one that is cut: a tunnel.
    Tunnel,
    /// The packet is a fragment.
    Fragment,
    /// Lengths contradict each other.
    Length,
}

impl LeftWhole {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Truncated => "truncated",
            Self::Link => "link",
            Self::Tunnel => "tunnel",
            Self::Fragment => "fragment",
            Self::Length => "length",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp { has_checksum: bool },
}

impl Transport {
    const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp { .. } => TCP_CHECKSUM,
            Self::Udp { .. } => UDP_CHECKSUM,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Internet {
    V4 {
        header_octets: usize,
        identification: u16,
        /// The identification is the same in all packets.
        is_fixed: bool,
    },
    V6,
}

/// A super-frame that can be cut.
#[derive(Debug)]
pub struct SuperFrame<'a> {
    octets: &'a mut [u8],
    /// The headers in front of each packet's data, as they were captured.
    headers: [u8; MAXIMUM_HEADER_OCTETS],
    header_octets: usize,
    /// Where the length of a PPPoE session's payload is.
    session: Option<usize>,
    ip: usize,
    internet: Internet,
    upper: usize,
    transport: Transport,
    cwr_on_first_only: bool,
    /// The sum of the pseudo-header without the length.
    pseudo: Sum,
    segment_octets: usize,
    /// Where the data of the next packet begins.
    next: usize,
    /// How many packets were given out.
    given: u32,
}

impl<'a> SuperFrame<'a> {
    /// Checks that a frame can be cut; `octets` is all that was captured of it.
    ///
    /// # Errors
    /// Why it is left whole; the frame is as it was then.
    pub fn new(
        octets: &'a mut [u8],
        link_type: LinkType,
        original_length_octets: u32,
        segmentation: Segmentation,
        unfinished: Option<UnfinishedChecksum>,
    ) -> Result<Self, LeftWhole> {
        let segment_octets = usize::from(segmentation.segment_octets);
        if segmentation.kind == SegmentKind::Unknown || segment_octets == 0 {
            return Err(LeftWhole::Kind);
        }
        if usize::try_from(original_length_octets).is_ok_and(|length| length > octets.len()) {
            return Err(LeftWhole::Truncated);
        }
        let frame = Frame {
            data: octets,
            link_type,
            timestamp_ns: 0,
            original_length_octets,
            interface: 0,
            direction: Direction::Unknown,
        };
        let outer = Outer::of(&frame).ok_or(LeftWhole::Link)?;
        let (source, destination) = (outer.source, outer.destination);
        let ip = outer.offset;
        let packet_octets = octets.len().saturating_sub(ip);
        if outer.octets.len() != packet_octets
            || usize::try_from(outer.total_length_octets).ok() != Some(packet_octets)
        {
            return Err(LeftWhole::Length);
        }
        let (upper, protocol) = transport_of(&outer).ok_or(LeftWhole::Fragment)?;
        let session = session_of(&frame)?;
        let is_ipv6 = matches!(source, Address::V6(_));
        let fits = match segmentation.kind {
            SegmentKind::TcpV4 => protocol == protocol::TCP && !is_ipv6,
            SegmentKind::TcpV6 => protocol == protocol::TCP && is_ipv6,
            SegmentKind::Udp => protocol == protocol::UDP,
            SegmentKind::Unknown => false,
        };
        let upper = ip + upper;
        let (transport, transport_octets) = match protocol {
            protocol::TCP => tcp_of(octets, upper)?,
            _ => (udp_of(octets, upper)?, UDP_HEADER_OCTETS),
        };
        let is_elsewhere = unfinished.is_some_and(|unfinished| {
            unfinished.start != upper || unfinished.offset != transport.checksum_offset()
        });
        if !fits || is_elsewhere {
            return Err(LeftWhole::Tunnel);
        }
        let data = upper + transport_octets;
        if data >= octets.len() {
            return Err(LeftWhole::Length);
        }
        let (internet, removed) = if is_ipv6 {
            (Internet::V6, jumbo_octets(octets, ip)?)
        } else {
            (ipv4_of(octets, ip, transport)?, 0)
        };
        let header_octets = data.saturating_sub(removed);
        // The longest packet must fit its own length field.
        if header_octets > MAXIMUM_HEADER_OCTETS
            || header_octets.saturating_sub(ip) + segment_octets > usize::from(u16::MAX)
        {
            return Err(LeftWhole::Length);
        }
        let pseudo = if unfinished.is_some() {
            // The field holds the sum of the pseudo-header of the whole; its length is taken out again.
            let field = u16_at(octets, upper + transport.checksum_offset()).unwrap_or_default();
            Sum::new()
                .word(field)
                .word(negative(octets.len().saturating_sub(upper)))
        } else {
            address_sum(source, destination).word(u16::from(protocol))
        };
        Ok(Self {
            headers: headers_of(octets, ip, data, removed),
            header_octets,
            session,
            ip,
            internet,
            upper: upper.saturating_sub(removed),
            transport,
            cwr_on_first_only: segmentation.cwr_on_first_only,
            pseudo,
            segment_octets,
            next: data,
            given: 0,
            octets,
        })
    }

    /// How many packets are still to come.
    pub const fn remaining(&self) -> usize {
        self.octets
            .len()
            .saturating_sub(self.next)
            .div_ceil(self.segment_octets)
    }

    /// The next packet with the headers of its link, as it is on the wire; None after the last.
    pub fn next_packet(&mut self) -> Option<&[u8]> {
        let left = self.octets.len().saturating_sub(self.next);
        let data_octets = left.min(self.segment_octets);
        if data_octets == 0 {
            return None;
        }
        let start = self.next.checked_sub(self.header_octets)?;
        let end = self.next + data_octets;
        let number = self.given;
        self.next = end;
        self.given += 1;
        let packet = self.octets.get_mut(start..end)?;
        packet
            .get_mut(..self.header_octets)?
            .copy_from_slice(self.headers.get(..self.header_octets)?);
        if let Some(session) = self.session {
            let length = packet.len().saturating_sub(session + PPPOE_FIXED_OCTETS);
            write_word(packet, session + PPPOE_LENGTH, short(length));
        }
        let ip_octets = packet.len().saturating_sub(self.ip);
        match self.internet {
            Internet::V4 {
                header_octets,
                identification,
                is_fixed,
            } => {
                let header = packet.get_mut(self.ip..)?.get_mut(..header_octets)?;
                write_word(header, IPV4_LENGTH, short(ip_octets));
                if !is_fixed {
                    // The field counts modulo its size.
                    let identification = u32::from(identification).wrapping_add(number) & 0xffff;
                    let identification = u16::try_from(identification).unwrap_or_default();
                    write_word(header, IPV4_IDENTIFICATION, identification);
                }
                write_word(header, IPV4_CHECKSUM, 0);
                let checksum = internet(header);
                write_word(header, IPV4_CHECKSUM, checksum);
            }
            Internet::V6 => {
                let length = ip_octets.saturating_sub(ipv6::HEADER_OCTETS);
                write_word(packet.get_mut(self.ip..)?, IPV6_LENGTH, short(length));
            }
        }
        let segment = packet.get_mut(self.upper..)?;
        let has_checksum = match self.transport {
            Transport::Tcp { sequence, flags } => {
                // One packet more is one segment further.
                let offset = number.wrapping_mul(u32::try_from(self.segment_octets).unwrap_or(0));
                let sequence = sequence.wrapping_add(offset).to_be_bytes();
                *segment.get_mut(TCP_SEQUENCE..)?.first_chunk_mut()? = sequence;
                let not_last = if data_octets < left { FIN_AND_PSH } else { 0 };
                let not_first = if self.cwr_on_first_only && number > 0 {
                    CWR
                } else {
                    0
                };
                *segment.get_mut(TCP_FLAGS)? = flags & !not_last & !not_first;
                true
            }
            Transport::Udp { has_checksum } => {
                let length = short(segment.len());
                write_word(segment, UDP_LENGTH, length);
                has_checksum
            }
        };
        if has_checksum {
            let offset = self.transport.checksum_offset();
            write_word(segment, offset, 0);
            let checksum = self
                .pseudo
                .word(short(segment.len()))
                .octets(segment)
                .finish();
            let is_zero = checksum == 0 && matches!(self.transport, Transport::Udp { .. });
            write_word(segment, offset, if is_zero { 0xffff } else { checksum });
        }
        Some(packet)
    }
}

/// A length that is known to fit.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// What takes a length out of a one's complement sum again.
fn negative(length: usize) -> u16 {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    Sum::new().octets(&length).finish()
}

/// The sum of both addresses.
fn address_sum(source: Address, destination: Address) -> Sum {
    let add = |sum: Sum, address| match address {
        Address::V4(bits) => sum.octets(&bits.to_be_bytes()),
        Address::V6(bits) => sum.octets(&bits.to_be_bytes()),
    };
    add(add(Sum::new(), source), destination)
}

/// The headers in front of the data, without the `removed` octets behind the IPv6 header.
fn headers_of(
    octets: &[u8],
    ip: usize,
    data: usize,
    removed: usize,
) -> [u8; MAXIMUM_HEADER_OCTETS] {
    let mut headers = [0; MAXIMUM_HEADER_OCTETS];
    let split = if removed == 0 {
        data
    } else {
        ip + ipv6::HEADER_OCTETS
    };
    let front = octets.get(..split).unwrap_or_default();
    let back = octets.get(split + removed..data).unwrap_or_default();
    for (place, octet) in headers.iter_mut().zip(front.iter().chain(back)) {
        *place = *octet;
    }
    if removed != 0
        && let Some((next, place)) = octets
            .get(split)
            .zip(headers.get_mut(ip + IPV6_NEXT_HEADER))
    {
        *place = *next;
    }
    headers
}

/// Where a PPPoE session in front of the IP packet begins.
///
/// # Errors
/// An 802.3 frame has a length of its own instead of a type.
fn session_of(frame: &Frame<'_>) -> Result<Option<usize>, LeftWhole> {
    let (mut ether_type, mut offset) = match frame.link_type {
        LinkType::Ethernet => {
            let header = Ethernet::parse(frame.data).map_err(|_reason| LeftWhole::Link)?;
            if header.header_octets != ethernet::HEADER_OCTETS {
                return Err(LeftWhole::Link);
            }
            (header.ether_type, header.header_octets)
        }
        LinkType::LinuxCooked => (
            u16_at(frame.data, 14).unwrap_or_default(),
            cooked::V1_OCTETS,
        ),
        LinkType::LinuxCooked2 => (u16_at(frame.data, 0).unwrap_or_default(), cooked::V2_OCTETS),
        _ => return Ok(None),
    };
    for _ in 0..=MAXIMUM_TAGS {
        match ether_type {
            ether_type::PPPOE_SESSION => return Ok(Some(offset)),
            ether_type::VLAN
            | ether_type::SERVICE_VLAN
            | ether_type::OLD_SERVICE_VLAN
            | ether_type::OLD_SERVICE_VLAN_2 => {
                let tag = Tag::parse(frame.data.get(offset..).unwrap_or_default())
                    .map_err(|_reason| LeftWhole::Link)?;
                ether_type = tag.ether_type;
                offset += ethernet::TAG_OCTETS;
            }
            _ => break,
        }
    }
    Ok(None)
}

/// The TCP header at `upper` and its length.
fn tcp_of(octets: &[u8], upper: usize) -> Result<(Transport, usize), LeftWhole> {
    let header = octets.get(upper..).unwrap_or_default();
    let (Some(sequence), Some(words), Some(&flags)) = (
        u32_at(header, TCP_SEQUENCE),
        header.get(TCP_DATA_OFFSET),
        header.get(TCP_FLAGS),
    ) else {
        return Err(LeftWhole::Length);
    };
    let length = usize::from(words >> 4) * 4;
    if length < TCP_MINIMUM_OCTETS {
        return Err(LeftWhole::Length);
    }
    Ok((Transport::Tcp { sequence, flags }, length))
}

/// The UDP header at `upper`.
fn udp_of(octets: &[u8], upper: usize) -> Result<Transport, LeftWhole> {
    let header = octets.get(upper..).unwrap_or_default();
    // A sum of addresses is never zero, so a zero here says that there is no checksum, finished or not.
    let checksum = u16_at(header, UDP_CHECKSUM).ok_or(LeftWhole::Length)?;
    Ok(Transport::Udp {
        has_checksum: checksum != 0,
    })
}

/// What changes in the IPv4 header at `ip`.
///
/// An identification of zero in TCP packets that must not be fragmented stays: their sender does not count, for such a
/// packet needs none (RFC 6864), and the kernel joins and cuts them so. It does not tell a capture which way it is, but
/// a sender that counts comes to zero once in 65,536 packets. UDP is always counted when it is cut.
fn ipv4_of(octets: &[u8], ip: usize, transport: Transport) -> Result<Internet, LeftWhole> {
    let packet = octets.get(ip..).unwrap_or_default();
    let header = Ipv4::parse(packet).map_err(|_reason| LeftWhole::Link)?;
    let flags = u16_at(packet, IPV4_FLAGS).unwrap_or_default();
    Ok(Internet::V4 {
        header_octets: header.header_octets,
        identification: header.identification,
        is_fixed: header.identification == 0
            && flags & IPV4_DONT_FRAGMENT != 0
            && matches!(transport, Transport::Tcp { .. }),
    })
}

/// How many octets of a jumbo payload option stand behind the IPv6 header at `ip`.
///
/// # Errors
/// The option says another length than the frame has.
fn jumbo_octets(octets: &[u8], ip: usize) -> Result<usize, LeftWhole> {
    let packet = octets.get(ip..).unwrap_or_default();
    let header = Ipv6::parse(packet).map_err(|_reason| LeftWhole::Link)?;
    let behind = packet.get(ipv6::HEADER_OCTETS..).unwrap_or_default();
    let is_jumbo = header.payload_length_octets == 0
        && header.next_header == IPV6_HOP_BY_HOP
        && behind
            .get(1..)
            .is_some_and(|fields| fields.starts_with(&JUMBO_OPTION));
    if !is_jumbo {
        return Ok(0);
    }
    let said = u32_at(behind, JUMBO_LENGTH).and_then(|length| usize::try_from(length).ok());
    if said == Some(behind.len()) {
        Ok(JUMBO_HEADER_OCTETS)
    } else {
        Err(LeftWhole::Length)
    }
}
