//! Super-frames are cut into the packets they stand for: packets are built and checked by an independent library, joined
//! as a kernel joins them, cut, and compared octet by octet.
#![cfg(test)]

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::offload::UnfinishedChecksum;
use flowtap_core::segment::{LeftWhole, SegmentKind, Segmentation, SuperFrame};
use proptest::prelude::*;

const MAC: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [198, 51, 100, 2];
const A6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// What stands in front of the IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Ethernet,
    Tagged,
    DoubleTagged,
    Labels,
    Session,
    TaggedSession,
    Raw,
    Cooked,
}

/// Which packets.
#[derive(Clone, Debug)]
struct Flow {
    link: Link,
    is_ipv6: bool,
    is_tcp: bool,
    /// IPv4 options, or an IPv6 destination options header.
    has_options: bool,
    dont_fragment: bool,
    identification: u16,
    sequence: u32,
    tcp_options: usize,
    push: bool,
    fin: bool,
    cwr: bool,
    accurate_ecn: bool,
    has_checksum: bool,
    segment_octets: usize,
    data: Vec<u8>,
}

impl Flow {
    fn tcp(data: Vec<u8>) -> Self {
        Self {
            link: Link::Ethernet,
            is_ipv6: false,
            is_tcp: true,
            has_options: false,
            dont_fragment: true,
            identification: 0xfffe,
            sequence: 0xffff_ff00,
            tcp_options: 12,
            push: true,
            fin: false,
            cwr: false,
            accurate_ecn: false,
            has_checksum: true,
            segment_octets: 1448,
            data,
        }
    }

    fn link_type(&self) -> LinkType {
        match self.link {
            Link::Raw => LinkType::Raw,
            Link::Cooked => LinkType::LinuxCooked2,
            _ => LinkType::Ethernet,
        }
    }

    fn kind(&self) -> SegmentKind {
        match (self.is_tcp, self.is_ipv6) {
            (false, _) => SegmentKind::Udp,
            (true, false) => SegmentKind::TcpV4,
            (true, true) => SegmentKind::TcpV6,
        }
    }

    fn segmentation(&self) -> Segmentation {
        Segmentation {
            kind: self.kind(),
            segment_octets: u16::try_from(self.segment_octets).unwrap(),
            cwr_on_first_only: self.cwr && !self.accurate_ecn,
        }
    }

    fn link_header(&self, ip_octets: usize) -> Vec<u8> {
        let ether_type: u16 = if self.is_ipv6 { 0x86dd } else { 0x0800 };
        let kind = ether_type.to_be_bytes();
        let ppp: [u8; 2] = if self.is_ipv6 { [0, 0x57] } else { [0, 0x21] };
        let mut header = MAC.to_vec();
        let session = |header: &mut Vec<u8>| {
            // A super-frame in a session has no room for its length; what the field holds does not matter.
            let length = u16::try_from(ip_octets + 2).unwrap_or(u16::MAX);
            header.extend_from_slice(&[0x88, 0x64, 0x11, 0, 0x2a, 0x01]);
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&ppp);
        };
        match self.link {
            Link::Ethernet => header.extend_from_slice(&kind),
            Link::Tagged => {
                header.extend_from_slice(&[0x81, 0, 0xa0, 30]);
                header.extend_from_slice(&kind);
            }
            Link::DoubleTagged => {
                header.extend_from_slice(&[0x88, 0xa8, 0, 200, 0x81, 0, 0, 30]);
                header.extend_from_slice(&kind);
            }
            Link::Labels => {
                header.extend_from_slice(&[0x88, 0x47, 0x03, 0xe8, 0x10, 64, 0x05, 0xdc, 0x21, 64]);
            }
            Link::Session => session(&mut header),
            Link::TaggedSession => {
                header.extend_from_slice(&[0x81, 0, 0, 40]);
                session(&mut header);
            }
            Link::Raw => header.clear(),
            Link::Cooked => {
                header = kind.to_vec();
                header.extend_from_slice(&[0; 18]);
            }
        }
        header
    }

    /// The TCP header of a packet.
    fn tcp_header(&self, offset: usize, is_first: bool, is_last: bool) -> TcpHeader {
        let sequence = self.sequence.wrapping_add(u32::try_from(offset).unwrap());
        let mut header = TcpHeader::new(50_000, 443, sequence, 512);
        header.acknowledgment_number = 77;
        header.ack = true;
        header.psh = self.push && is_last;
        header.fin = self.fin && is_last;
        header.cwr = self.cwr && (is_first || self.accurate_ecn);
        header.set_options_raw(&vec![1; self.tcp_options]).unwrap();
        header
    }

    /// The IP packet around a transport header and data.
    fn ip_packet(&self, number: u16, transport: &[u8]) -> Vec<u8> {
        let number_of = if self.is_tcp { 6 } else { 17 };
        let mut packet = Vec::new();
        if self.is_ipv6 {
            let extension: &[u8] = if self.has_options {
                &[number_of, 0, 1, 4, 0, 0, 0, 0]
            } else {
                &[]
            };
            let header = Ipv6Header {
                traffic_class: 2,
                payload_length: u16::try_from(extension.len() + transport.len()).unwrap_or(0),
                next_header: IpNumber(if self.has_options { 60 } else { number_of }),
                hop_limit: 61,
                source: A6,
                destination: B6,
                ..Ipv6Header::default()
            };
            header.write(&mut packet).unwrap();
            packet.extend_from_slice(extension);
        } else {
            let mut header = Ipv4Header::new(0, 61, IpNumber(number_of), A, B).unwrap();
            header.dont_fragment = self.dont_fragment;
            let is_fixed = self.is_tcp && self.dont_fragment && self.identification == 0;
            header.identification =
                self.identification
                    .wrapping_add(if is_fixed { 0 } else { number });
            if self.has_options {
                header.options = [1, 1, 1, 0].into();
            }
            header.total_len = u16::try_from(header.header_len() + transport.len()).unwrap_or(0);
            header.header_checksum = header.calc_header_checksum();
            packet = header.to_bytes().to_vec();
        }
        packet.extend_from_slice(transport);
        packet
    }

    /// A whole frame with all its checksums.
    fn frame(
        &self,
        number: u16,
        offset: usize,
        data: &[u8],
        is_first: bool,
        is_last: bool,
    ) -> Vec<u8> {
        let transport = if self.is_tcp {
            let mut header = self.tcp_header(offset, is_first, is_last);
            header.checksum = if self.is_ipv6 {
                header.calc_checksum_ipv6_raw(A6, B6, data).unwrap()
            } else {
                header.calc_checksum_ipv4_raw(A, B, data).unwrap()
            };
            [&header.to_bytes()[..], data].concat()
        } else {
            let mut header = UdpHeader {
                source_port: 443,
                destination_port: 50_000,
                length: u16::try_from(8 + data.len()).unwrap(),
                checksum: 0,
            };
            if self.has_checksum {
                header.checksum = if self.is_ipv6 {
                    header.calc_checksum_ipv6_raw(A6, B6, data).unwrap()
                } else {
                    header.calc_checksum_ipv4_raw(A, B, data).unwrap()
                };
            }
            [&header.to_bytes()[..], data].concat()
        };
        let packet = self.ip_packet(number, &transport);
        [self.link_header(packet.len()), packet].concat()
    }

    /// The packets on the wire.
    fn wire(&self) -> Vec<Vec<u8>> {
        let count = self.data.len().div_ceil(self.segment_octets);
        self.data
            .chunks(self.segment_octets)
            .enumerate()
            .map(|(number, data)| {
                let offset = number * self.segment_octets;
                let is_last = number + 1 == count;
                let number = u16::try_from(number & 0xffff).unwrap();
                self.frame(number, offset, data, offset == 0, is_last)
            })
            .collect()
    }

    /// The super-frame that stands for them, and where its checksum is unfinished.
    fn joined(&self) -> (Vec<u8>, UnfinishedChecksum) {
        let length = self.data.len();
        let (header, field) = if self.is_tcp {
            (self.tcp_header(0, true, true).to_bytes().to_vec(), 16)
        } else {
            let total = u16::try_from(8 + length).unwrap_or(0);
            let header = UdpHeader {
                source_port: 443,
                destination_port: 50_000,
                length: total,
                checksum: 0,
            };
            (header.to_bytes().to_vec(), 6)
        };
        let mut transport = [&header, &*self.data].concat();
        if self.has_checksum {
            let sum = self.pseudo_sum(transport.len());
            transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let packet = self.ip_packet(0, &transport);
        let link = self.link_header(packet.len());
        let start = link.len() + packet.len() - transport.len();
        let unfinished = UnfinishedChecksum {
            start,
            offset: field,
        };
        ([link, packet].concat(), unfinished)
    }

    /// What the kernel leaves in the field: the folded sum of addresses, protocol and length.
    fn pseudo_sum(&self, length: usize) -> u16 {
        let addresses = if self.is_ipv6 {
            [A6, B6].concat()
        } else {
            [A, B].concat()
        };
        let mut sum =
            u64::from(if self.is_tcp { 6_u8 } else { 17 }) + u64::try_from(length).unwrap();
        for pair in addresses.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    /// The super-frame, cut.
    fn cut(&self, unfinished: bool) -> Result<Vec<Vec<u8>>, LeftWhole> {
        let (mut octets, field) = self.joined();
        cut(
            &mut octets,
            self.link_type(),
            self.segmentation(),
            unfinished.then_some(field),
        )
    }
}

fn cut(
    octets: &mut [u8],
    link_type: LinkType,
    segmentation: Segmentation,
    unfinished: Option<UnfinishedChecksum>,
) -> Result<Vec<Vec<u8>>, LeftWhole> {
    let length = u32::try_from(octets.len()).unwrap();
    let mut frame = SuperFrame::new(octets, link_type, length, segmentation, unfinished)?;
    let expected = frame.remaining();
    let mut packets = Vec::new();
    while let Some(packet) = frame.next_packet() {
        packets.push(packet.to_vec());
    }
    assert_eq!(packets.len(), expected);
    Ok(packets)
}

fn flows() -> impl Strategy<Value = Flow> {
    let link = prop_oneof![
        Just(Link::Ethernet),
        Just(Link::Tagged),
        Just(Link::DoubleTagged),
        Just(Link::Labels),
        Just(Link::Session),
        Just(Link::TaggedSession),
        Just(Link::Raw),
        Just(Link::Cooked),
    ];
    (
        (link, any::<[bool; 8]>()),
        (
            prop_oneof![Just(0_u16), any::<u16>()],
            any::<u32>(),
            0_usize..=10,
        ),
        (
            1_usize..1500,
            proptest::collection::vec(any::<u8>(), 1..20_000),
        ),
    )
        .prop_map(
            |((link, flags), (identification, sequence, words), (segment_octets, data))| {
                let [
                    is_ipv6,
                    is_tcp,
                    has_options,
                    dont_fragment,
                    push,
                    fin,
                    cwr,
                    accurate_ecn,
                ] = flags;
                Flow {
                    link,
                    is_ipv6,
                    is_tcp,
                    has_options,
                    dont_fragment,
                    identification,
                    sequence,
                    tcp_options: words * 4,
                    push,
                    fin,
                    cwr,
                    accurate_ecn,
                    has_checksum: is_tcp || is_ipv6 || push,
                    segment_octets,
                    data,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn cutting_undoes_joining(flow in flows(), unfinished: bool) {
        prop_assert_eq!(flow.cut(unfinished).unwrap(), flow.wire());
    }

    #[test]
    fn any_octets_are_cut_or_left_as_they_were(
        octets: Vec<u8>,
        link in 0_u16..300,
        segment_octets: u16,
        start in 0_usize..100,
    ) {
        let before = octets.clone();
        let mut octets = octets;
        let segmentation = Segmentation { kind: SegmentKind::Udp, segment_octets, cwr_on_first_only: true };
        let unfinished = Some(UnfinishedChecksum { start, offset: 6 });
        if cut(&mut octets, LinkType::from_number(link), segmentation, unfinished).is_err() {
            prop_assert_eq!(octets, before);
        }
    }

    #[test]
    fn a_checksum_is_completed_as_an_independent_library_computes_it(flow in flows()) {
        let mut flow = flow;
        flow.has_checksum = true;
        flow.segment_octets = flow.data.len();
        let (mut frame, field) = flow.joined();
        let found = UnfinishedChecksum::locate(&Frame {
            data: &frame,
            link_type: flow.link_type(),
            timestamp_ns: 0,
            original_length_octets: u32::try_from(frame.len()).unwrap(),
            interface: 0,
            direction: Direction::Unknown,
        });
        prop_assert_eq!(found, Some(field));
        prop_assert!(field.complete(&mut frame));
        // Where the sum is zero, TCP has a choice that UDP has not; the kernel makes the same one for both.
        let mut expected = flow.wire().remove(0);
        let at = field.start + field.offset;
        if expected[at..at + 2] == [0, 0] {
            expected[at..at + 2].copy_from_slice(&[0xff, 0xff]);
        }
        prop_assert_eq!(frame, expected);
    }
}

#[test]
fn a_packet_of_more_than_65535_octets_has_no_length_field_that_says_so() {
    let data: Vec<u8> = (0..180_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let flow = Flow::tcp(data.clone());
    assert_eq!(flow.cut(true).unwrap(), flow.wire());

    // IPv6 says it in an option that is taken out again, or not at all.
    let flow = Flow {
        is_ipv6: true,
        ..Flow::tcp(data)
    };
    assert_eq!(flow.cut(true).unwrap(), flow.wire());
    let (mut octets, field) = flow.joined();
    let payload = u32::try_from(octets.len() - 14 - 40 + 8).unwrap();
    let option = [&[6, 0, 0xc2, 4], &payload.to_be_bytes()[..]].concat();
    octets[14 + 6] = 0;
    octets.splice(54..54, option);
    let field = field.moved(8);
    let packets = cut(
        &mut octets,
        LinkType::Ethernet,
        flow.segmentation(),
        Some(field),
    );
    assert_eq!(packets.unwrap(), flow.wire());
}

#[test]
fn what_cannot_be_cut_says_why_and_stays_as_it_was() {
    let flow = Flow::tcp(vec![7; 5_000]);
    let (octets, field) = flow.joined();
    let good = flow.segmentation();
    let mut fragment = octets.clone();
    fragment[14 + 6] = 0x20;
    let mut longer = octets.clone();
    longer.extend_from_slice(&[0; 6]);
    let mut length_field = octets.clone();
    length_field[12..14].copy_from_slice(&[0x02, 0x00]);
    let mut short_header = octets.clone();
    short_header[14 + 20 + 12] = 0x40;
    let inner = UnfinishedChecksum {
        start: field.start + 50,
        ..field
    };
    let other_field = UnfinishedChecksum { offset: 6, ..field };
    let cases: Vec<(&str, &[u8], Segmentation, UnfinishedChecksum)> = vec![
        (
            "kind",
            &octets,
            Segmentation {
                kind: SegmentKind::Unknown,
                ..good
            },
            field,
        ),
        (
            "kind",
            &octets,
            Segmentation {
                segment_octets: 0,
                ..good
            },
            field,
        ),
        ("link", &octets[..30], good, field),
        ("link", &length_field, good, field),
        (
            "tunnel",
            &octets,
            Segmentation {
                kind: SegmentKind::Udp,
                ..good
            },
            field,
        ),
        (
            "tunnel",
            &octets,
            Segmentation {
                kind: SegmentKind::TcpV6,
                ..good
            },
            field,
        ),
        ("tunnel", &octets, good, inner),
        ("tunnel", &octets, good, other_field),
        ("fragment", &fragment, good, field),
        ("length", &longer, good, field),
        ("length", &octets[..500], good, field),
        ("length", &short_header, good, field),
        (
            "length",
            &octets,
            Segmentation {
                segment_octets: 65_535,
                ..good
            },
            field,
        ),
    ];
    for (reason, octets, segmentation, unfinished) in cases {
        let mut copy = octets.to_vec();
        let left = cut(
            &mut copy,
            LinkType::Ethernet,
            segmentation,
            Some(unfinished),
        );
        assert_eq!(left.unwrap_err().name(), reason);
        assert_eq!(copy, octets);
    }
    let mut copy = octets.clone();
    let length = u32::try_from(octets.len() + 1).unwrap();
    let cut = SuperFrame::new(&mut copy, LinkType::Ethernet, length, good, Some(field));
    assert_eq!(cut.unwrap_err(), LeftWhole::Truncated);
}

#[test]
fn the_checksum_of_sctp_is_another_one() {
    // A recorded packet: its checksum is taken away and completed again.
    let capture = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/captures/sctp.pcap"
    ))
    .unwrap();
    let mut at = 24;
    let mut checked = 0;
    while let Some(record) = capture.get(at..at + 16) {
        let captured = u32::from_le_bytes(record[8..12].try_into().unwrap());
        let captured = usize::try_from(captured).unwrap();
        let data = &capture[at + 16..at + 16 + captured];
        at += 16 + captured;
        let frame = Frame {
            data,
            link_type: LinkType::Ethernet,
            timestamp_ns: 0,
            original_length_octets: u32::try_from(captured).unwrap(),
            interface: 0,
            direction: Direction::Unknown,
        };
        let Some(field) = UnfinishedChecksum::locate(&frame).filter(|field| field.offset == 8)
        else {
            continue;
        };
        let mut copy = data.to_vec();
        copy[field.start + 8..field.start + 12].fill(0);
        assert!(field.complete(&mut copy));
        assert_eq!(copy, data);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn a_checksum_outside_the_frame_is_not_completed() {
    let frame = vec![1_u8; 60];
    for (start, offset) in [
        (60, 6),
        (61, 0),
        (50, 16),
        (50, 8),
        (usize::MAX, 2),
        (59, 0),
    ] {
        let mut copy = frame.clone();
        assert!(!UnfinishedChecksum { start, offset }.complete(&mut copy));
        assert_eq!(copy, frame);
    }
    // The last two octets of a frame can hold one.
    let mut copy = frame;
    assert!(
        UnfinishedChecksum {
            start: 56,
            offset: 2
        }
        .complete(&mut copy)
    );
    assert_eq!(copy[58..], (!0x0202_u16).to_be_bytes());
}
