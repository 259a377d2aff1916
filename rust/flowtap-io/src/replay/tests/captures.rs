//! Captures of every shape, and what can be wrong with them.

use proptest::prelude::*;
use proptest::sample::Index;

/// How a file is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) big_endian: bool,
    pub(super) nanoseconds: bool,
    /// Programs before version 2.4 wrote the two lengths in either order.
    pub(super) swapped: bool,
    pub(super) is_ethernet: bool,
}

impl Shape {
    fn u32(self, value: u32) -> [u8; 4] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn u16(self, value: u16) -> [u8; 2] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn header(self) -> Vec<u8> {
        let magic = if self.nanoseconds {
            0xa1b2_3c4d
        } else {
            0xa1b2_c3d4
        };
        let mut header = self.u32(magic).to_vec();
        header.extend(self.u16(2));
        header.extend(self.u16(if self.swapped { 3 } else { 4 }));
        header.extend([0; 8]);
        header.extend(self.u32(262_144));
        header.extend(self.u32(if self.is_ethernet { 1 } else { 101 }));
        header
    }

    fn record(self, at_ms: u32, frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).unwrap();
        let lengths = if self.swapped {
            [length + 4, length]
        } else {
            [length, length]
        };
        let mut record = self.u32(1_600_000_000 + at_ms / 1000).to_vec();
        record.extend(self.u32(at_ms % 1000 * 1000));
        record.extend(self.u32(lengths[0]));
        record.extend(self.u32(lengths[1]));
        record.extend(frame);
        record
    }
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Datagram {
        octets: usize,
    },
    /// The first fragment of a datagram, or a later one.
    Fragment {
        identification: u8,
        is_first: bool,
    },
    /// A datagram in IP or GRE.
    Tunnel {
        is_gre: bool,
    },
    /// A fragment in IP.
    FragmentInTunnel {
        identification: u8,
        is_first: bool,
    },
    /// Records that are none.
    Records,
    Noise(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) source: u8,
    pub(super) destination: u8,
    pub(super) port: u8,
    pub(super) later_ms: u32,
    pub(super) content: Content,
}

pub(super) fn ipv4(
    source: u8,
    destination: u8,
    protocol: u8,
    fragment: (u8, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, fragment.0]);
    packet.extend(fragment.1.to_be_bytes());
    packet.extend([
        64,
        protocol,
        0,
        0,
        192,
        0,
        2,
        source,
        192,
        0,
        2,
        destination,
    ]);
    packet.extend(payload);
    packet
}

pub(super) fn udp(port: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = vec![4, 0, 0, port];
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

impl Packet {
    fn fragment(&self, identification: u8, is_first: bool) -> Vec<u8> {
        let (place, payload) = if is_first {
            (0x2000, udp(self.port, &[7; 16]))
        } else {
            (3, vec![9; 16])
        };
        ipv4(
            self.source,
            self.destination,
            17,
            (identification, place),
            &payload,
        )
    }

    pub(super) fn frame(&self, shape: Shape) -> Vec<u8> {
        let whole = |protocol, payload: &[u8]| {
            ipv4(self.source, self.destination, protocol, (0, 0), payload)
        };
        let packet = match &self.content {
            Content::Datagram { octets } => whole(17, &udp(self.port, &vec![0; *octets])),
            Content::Fragment {
                identification,
                is_first,
            } => self.fragment(*identification, *is_first),
            Content::Tunnel { is_gre } => {
                let inner = ipv4(self.destination, 1, 17, (0, 0), &udp(self.port, &[1; 4]));
                if *is_gre {
                    whole(47, &[&[0, 0, 8, 0], &inner[..]].concat())
                } else {
                    whole(4, &inner)
                }
            }
            Content::FragmentInTunnel {
                identification,
                is_first,
            } => ipv4(9, 9, 4, (0, 0), &self.fragment(*identification, *is_first)),
            Content::Records => {
                let inside = whole(17, &udp(self.port, &[3; 10]));
                let record = shape.record(0, &inside);
                whole(17, &udp(self.port, &record.repeat(4)))
            }
            Content::Noise(octets) => return octets.clone(),
        };
        if shape.is_ethernet {
            [&[2; 12][..], &[8, 0], &packet].concat()
        } else {
            packet
        }
    }
}

pub(super) fn contents() -> impl Strategy<Value = Content> {
    let datagram = |identification, is_first| Content::Fragment {
        identification,
        is_first,
    };
    prop_oneof![
        4 => (0_usize..60).prop_map(|octets| Content::Datagram { octets }),
        1 => (1000_usize..6000).prop_map(|octets| Content::Datagram { octets }),
        4 => (0_u8..3, any::<bool>()).prop_map(move |(id, first)| datagram(id, first)),
        1 => any::<bool>().prop_map(|is_gre| Content::Tunnel { is_gre }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(identification, is_first)| {
            Content::FragmentInTunnel { identification, is_first }
        }),
        2 => Just(Content::Records),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Content::Noise),
    ]
}

pub(super) fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let later_ms = prop_oneof![8 => 0_u32..400, 1 => 0_u32..40_000];
    let packet = (1_u8..5, 1_u8..5, 1_u8..4, later_ms, contents());
    let packet = packet.prop_map(|(source, destination, port, later_ms, content)| Packet {
        source,
        destination,
        port,
        later_ms,
        content,
    });
    prop::collection::vec(packet, 0..80)
}

pub(super) fn shapes() -> impl Strategy<Value = Shape> {
    any::<(bool, bool, bool, bool)>().prop_map(|(big_endian, nanoseconds, swapped, is_ethernet)| {
        Shape {
            big_endian,
            nanoseconds,
            swapped,
            is_ethernet,
        }
    })
}

pub(super) fn file(shape: Shape, packets: &[Packet]) -> Vec<u8> {
    let mut octets = shape.header();
    let mut at_ms = 0;
    for packet in packets {
        at_ms += packet.later_ms;
        octets.extend(shape.record(at_ms, &packet.frame(shape)));
    }
    octets
}

/// What happened to a file since.
#[derive(Clone, Debug)]
pub(super) enum Damage {
    None,
    Cut(Index),
    Overwritten(Index, Vec<u8>),
}

impl Damage {
    /// The header stays: a file without one is read by one thread anyway.
    pub(super) fn apply(&self, octets: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Cut(at) => octets.truncate(24 + at.index(octets.len() - 23)),
            Self::Overwritten(at, with) => {
                let at = 24 + at.index(octets.len() - 23);
                for (place, octet) in octets[at..].iter_mut().zip(with) {
                    *place = *octet;
                }
            }
        }
    }
}

pub(super) fn damages() -> impl Strategy<Value = Damage> {
    let with = prop::collection::vec(any::<u8>(), 1..20);
    prop_oneof![
        2 => Just(Damage::None),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), with).prop_map(|(at, with)| Damage::Overwritten(at, with)),
    ]
}
