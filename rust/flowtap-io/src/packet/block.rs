//! From the octets of a block to its frames.
//!
//! A block is walked as a kernel writes it (`tpacket_rcv` in net/packet/af_packet.c), but nothing in it is trusted: every
//! offset and length is checked against the octets that are there, so any octets are walked to an end.

use flowtap_core::frame::{Direction, Frame, LinkType};
use flowtap_core::offload::UnfinishedChecksum;
use flowtap_core::segment::{LeftWhole, SegmentKind, Segmentation, SuperFrame};
use libc::{sockaddr_ll, tpacket_hdr_v1, tpacket3_hdr};
use std::mem::{self, offset_of};

use super::sys::{DESCRIPTOR_OCTETS, Lent};

/// Octets in front of every frame: the frame's header and the address that follows it.
const SLOT_OCTETS: usize = size_of::<tpacket3_hdr>() + size_of::<sockaddr_ll>();
/// Where the address is; the header's length is a multiple of TPACKET_ALIGNMENT.
const ADDRESS: usize = size_of::<tpacket3_hdr>();
const _: () = assert!(ADDRESS == 48 && ADDRESS.is_multiple_of(libc::TPACKET_ALIGNMENT));
const _: () = assert!(SLOT_OCTETS == libc::TPACKET3_HDRLEN);
const _: () = assert!(offset_of!(tpacket3_hdr, tp_status) == 20);
const _: () = assert!(offset_of!(tpacket3_hdr, hv1) == 28);

/// Octets of the offload header in front of the frame (`struct virtio_net_hdr`, virtio 1.2 §5.1.6), numbers in the
/// host's byte order.
const OFFLOAD_OCTETS: usize = 10;
const OFFLOAD_NEEDS_CHECKSUM: u8 = 1;
const OFFLOAD_NONE: u8 = 0;
const OFFLOAD_TCP_V4: u8 = 1;
const OFFLOAD_TCP_V6: u8 = 4;
const OFFLOAD_UDP: u8 = 5;
/// Segments after the first carry no CWR flag.
const OFFLOAD_ECN: u8 = 0x80;
/// All segments carry the CWR flag.
const OFFLOAD_ACCURATE_ECN: u8 = 0x10;
/// The frame stands for several TCP packets; not in the `libc` crate yet.
const STATUS_TCP_SEGMENTATION: u32 = 1 << 8;

/// Octets of a VLAN tag, and of the addresses in front of it.
const TAG_OCTETS: usize = 4;
const ADDRESSES_OCTETS: usize = 12;
const CUSTOMER_TAG: u16 = 0x8100;
/// Octets of a "cooked" header, version 2 (LINKTYPE_LINUX_SLL2).
const COOKED_OCTETS: usize = 20;

/// Octets that the kernel is asked to leave free in front of every frame: a VLAN tag that it took out is put back there,
/// and a cooked header with it. With the offload header of 10 octets the IP header then lies at a multiple of 8, as
/// slots do.
pub(super) const RESERVED_OCTETS: usize = 6;
// The kernel puts a frame without link header 80 + 16 octets behind the start of its slot (SOCK_DGRAM in `tpacket_rcv`).
const _: () = assert!(SLOT_OCTETS + COOKED_OCTETS + TAG_OCTETS <= 96 + RESERVED_OCTETS);

/// What the frames of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How a frame begins. [`LinkType::LinuxCooked2`] says that the kernel gives no link header and one is made.
    pub link_type: LinkType,
    /// Whether the kernel puts an offload header in front of each frame.
    pub has_offload_header: bool,
    /// What [`Frame::interface`] is to say.
    pub interface: u32,
}

/// Whom a frame was for (`sll_pkttype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// This host.
    Host,
    /// All hosts on the link.
    Broadcast,
    /// A group of hosts.
    Multicast,
    /// Another host; seen in promiscuous mode or on a mirror port.
    OtherHost,
    /// This host sent it.
    Outgoing,
    /// Something else.
    Other(u8),
}

impl PacketType {
    const fn from_number(number: u8) -> Self {
        match number {
            libc::PACKET_HOST => Self::Host,
            libc::PACKET_BROADCAST => Self::Broadcast,
            libc::PACKET_MULTICAST => Self::Multicast,
            libc::PACKET_OTHERHOST => Self::OtherHost,
            libc::PACKET_OUTGOING => Self::Outgoing,
            other => Self::Other(other),
        }
    }
}

/// Who took the time of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampSource {
    /// The network card, on its own clock.
    Hardware,
    /// The kernel, when the frame came into its network stack.
    Software,
    /// The kernel, when it wrote the frame into the ring.
    Ring,
}

/// What is known of the transport checksum of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// It is as it was on the wire.
    AsReceived,
    /// It is as it was on the wire, and the card or the kernel found it right.
    Verified,
    /// It is left to the hardware that sends the frame. None where the kernel does not say which one.
    Unfinished(Option<UnfinishedChecksum>),
}

/// What became of a frame on its way to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWire {
    /// It is the packet that was on the wire.
    One,
    /// It stood for so many packets.
    Cut(usize),
    /// It stands for several packets and is left whole.
    Whole(LeftWhole),
}

/// One frame in a ring. Its octets belong to the caller until the block is returned, so they are changed in place: the
/// tag that the kernel took out is back in them.
#[derive(Debug)]
pub struct RingFrame<'a> {
    octets: &'a mut [u8],
    link_type: LinkType,
    interface: u32,
    /// Capture time in nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// Who took the time.
    pub timestamp_source: TimestampSource,
    /// Length in octets before anything was cut off.
    pub original_length_octets: u32,
    /// Whom it was for.
    pub packet_type: PacketType,
    /// The kernel's number of the interface.
    pub interface_index: u32,
    /// What is known of its transport checksum.
    pub checksum: ChecksumState,
    /// Set where it stands for several packets.
    pub segmentation: Option<Segmentation>,
}

impl RingFrame<'_> {
    /// The octets.
    pub const fn octets(&self) -> &[u8] {
        self.octets
    }

    /// Which way it crossed the interface.
    pub const fn direction(&self) -> Direction {
        match self.packet_type {
            PacketType::Outgoing => Direction::Outbound,
            _ => Direction::Inbound,
        }
    }

    /// The frame as the engine takes it: whole, its checksum finished or not.
    pub const fn frame(&self) -> Frame<'_> {
        Frame {
            data: self.octets,
            link_type: self.link_type,
            timestamp_ns: self.timestamp_ns,
            original_length_octets: self.original_length_octets,
            interface: self.interface,
            direction: self.direction(),
        }
    }

    /// Whether it differs from what is on the wire: its checksum is not finished, or it stands for several packets.
    pub const fn needs_work(&self) -> bool {
        self.segmentation.is_some() || matches!(self.checksum, ChecksumState::Unfinished(_))
    }

    /// Completes an unfinished checksum in place. False where that cannot be done: the frame was cut short, or the
    /// field was not found.
    ///
    /// The octets are changed rather than copied: they are ours, nobody else will read them, and a copy would cost more
    /// than the sum.
    pub fn complete_checksum(&mut self) -> bool {
        let ChecksumState::Unfinished(said) = self.checksum else {
            return true;
        };
        let is_short = usize::try_from(self.original_length_octets)
            .is_ok_and(|length| length > self.octets.len());
        let Some(field) = said
            .or_else(|| UnfinishedChecksum::locate(&self.frame()))
            .filter(|_| !is_short)
        else {
            return false;
        };
        let completed = field.complete(self.octets);
        if completed {
            self.checksum = ChecksumState::AsReceived;
        }
        completed
    }

    /// Hands out the packets that are on the wire for this frame, one after the other: itself with its checksum
    /// completed, or those that it stands for. A frame that cannot be cut is handed out whole. The frame is used up, for
    /// the headers of a packet are written over the data of the one before.
    pub fn for_each_packet(mut self, mut visit: impl FnMut(&Frame<'_>)) -> OnWire {
        let Some(segmentation) = self.segmentation else {
            self.complete_checksum();
            visit(&self.frame());
            return OnWire::One;
        };
        let unfinished = match self.checksum {
            ChecksumState::Unfinished(field) => field,
            _ => None,
        };
        let frame = Frame {
            data: &[],
            link_type: self.link_type,
            timestamp_ns: self.timestamp_ns,
            original_length_octets: 0,
            interface: self.interface,
            direction: self.direction(),
        };
        let cut = SuperFrame::new(
            self.octets,
            self.link_type,
            self.original_length_octets,
            segmentation,
            unfinished,
        );
        match cut {
            Ok(mut packets) => {
                let count = packets.remaining();
                while let Some(packet) = packets.next_packet() {
                    visit(&Frame {
                        data: packet,
                        original_length_octets: u32::try_from(packet.len()).unwrap_or(u32::MAX),
                        ..frame
                    });
                }
                OnWire::Cut(count)
            }
            Err(reason) => {
                self.complete_checksum();
                visit(&self.frame());
                OnWire::Whole(reason)
            }
        }
    }
}

/// The frames of a block, each handed out once. They may be kept as long as the block is.
#[derive(Debug)]
pub struct Frames<'a> {
    /// From the header of the next frame on.
    rest: &'a mut [u8],
    left: u32,
    layout: Layout,
    damaged: u32,
}

impl<'a> Frames<'a> {
    /// Walks the octets behind a block's descriptor; the first frame begins at `first`, counted from the block's start.
    pub fn over(octets: &'a mut [u8], first: u32, frames: u32, layout: Layout) -> Self {
        let start = usize::try_from(first)
            .ok()
            .and_then(|first| first.checked_sub(DESCRIPTOR_OCTETS));
        Self {
            rest: start
                .and_then(|start| octets.get_mut(start..))
                .unwrap_or_default(),
            left: frames,
            layout,
            damaged: 0,
        }
    }

    /// Frames that were announced and could not be read. No kernel has written such a block yet.
    pub const fn damaged(&self) -> u32 {
        self.damaged
    }

    /// Gives up the rest of the block.
    fn damage(&mut self) -> Option<RingFrame<'a>> {
        self.damaged = self.damaged.saturating_add(self.left).saturating_add(1);
        self.left = 0;
        None
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = RingFrame<'a>;

    #[inline]
    fn next(&mut self) -> Option<RingFrame<'a>> {
        self.left = self.left.checked_sub(1)?;
        let rest = mem::take(&mut self.rest);
        let slot = if self.left == 0 {
            rest
        } else {
            let split = usize::try_from(u32_at(rest, offset_of!(tpacket3_hdr, tp_next_offset)))
                .ok()
                // A frame that does not lead on would be walked for ever.
                .filter(|&next| next >= SLOT_OCTETS)
                .and_then(|next| rest.split_at_mut_checked(next));
            let Some((slot, rest)) = split else {
                return self.damage();
            };
            self.rest = rest;
            slot
        };
        match frame_of(slot, self.layout) {
            Some(frame) => Some(frame),
            None => self.damage(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left).ok())
    }
}

/// The number at `offset` in the host's byte order; 0 where the octets end before it, which their length was checked for.
#[inline]
fn u16_at(octets: &[u8], offset: usize) -> u16 {
    octets
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |octets| u16::from_ne_bytes(*octets))
}

/// Like [`u16_at`] for 32 bits.
#[inline]
fn u32_at(octets: &[u8], offset: usize) -> u32 {
    octets
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |octets| u32::from_ne_bytes(*octets))
}

/// The frame in a slot; None where it does not lie inside.
#[inline]
fn frame_of(slot: &mut [u8], layout: Layout) -> Option<RingFrame<'_>> {
    let header: &[u8; SLOT_OCTETS] = slot.first_chunk()?;
    let status = u32_at(header, offset_of!(tpacket3_hdr, tp_status));
    let seconds = u32_at(header, offset_of!(tpacket3_hdr, tp_sec));
    let nanoseconds = u32_at(header, offset_of!(tpacket3_hdr, tp_nsec));
    let captured = u32_at(header, offset_of!(tpacket3_hdr, tp_snaplen));
    let length = u32_at(header, offset_of!(tpacket3_hdr, tp_len));
    let start = usize::from(u16_at(header, offset_of!(tpacket3_hdr, tp_mac)));
    let index = u32_at(header, ADDRESS + offset_of!(sockaddr_ll, sll_ifindex));
    let packet_type = *header.get(ADDRESS + offset_of!(sockaddr_ll, sll_pkttype))?;
    let end = usize::try_from(captured)
        .ok()
        .and_then(|captured| start.checked_add(captured))
        .filter(|&end| start >= SLOT_OCTETS && end <= slot.len())?;
    let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| tag_of(header, status));
    let offload = if layout.has_offload_header {
        slot.get(..start)
            .and_then(<[u8]>::last_chunk::<OFFLOAD_OCTETS>)
            .map(Offload::of)
    } else {
        None
    }
    .unwrap_or_default();
    let in_front = match (layout.link_type, tag) {
        (LinkType::LinuxCooked2, tag) => cook(slot, start, tag)?,
        (LinkType::Ethernet, Some(tag)) if end - start >= ADDRESSES_OCTETS => {
            restore_tag(slot, start, tag)?
        }
        _ => 0,
    };
    let added = u32::try_from(in_front).unwrap_or(0);
    let unfinished = offload.checksum.map(|field| field.moved(in_front));
    Some(RingFrame {
        octets: slot.get_mut(start - in_front..end)?,
        link_type: layout.link_type,
        interface: layout.interface,
        timestamp_ns: u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds),
        timestamp_source: if status & libc::TP_STATUS_TS_RAW_HARDWARE != 0 {
            TimestampSource::Hardware
        } else if status & libc::TP_STATUS_TS_SOFTWARE != 0 {
            TimestampSource::Software
        } else {
            TimestampSource::Ring
        },
        original_length_octets: length.saturating_add(added),
        packet_type: PacketType::from_number(packet_type),
        interface_index: index,
        checksum: if status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            ChecksumState::Unfinished(unfinished)
        } else if status & libc::TP_STATUS_CSUM_VALID != 0 {
            ChecksumState::Verified
        } else {
            ChecksumState::AsReceived
        },
        segmentation: offload.segmentation.or_else(|| {
            (status & STATUS_TCP_SEGMENTATION != 0).then_some(Segmentation {
                kind: SegmentKind::Unknown,
                segment_octets: 0,
                cwr_on_first_only: false,
            })
        }),
    })
}

/// What the offload header says.
#[derive(Clone, Copy, Default)]
struct Offload {
    checksum: Option<UnfinishedChecksum>,
    segmentation: Option<Segmentation>,
}

impl Offload {
    #[inline]
    fn of(header: &[u8; OFFLOAD_OCTETS]) -> Self {
        let &[flags, kind, _, _, s0, s1, c0, c1, o0, o1] = header;
        let checksum = (flags & OFFLOAD_NEEDS_CHECKSUM != 0).then(|| UnfinishedChecksum {
            start: usize::from(u16::from_ne_bytes([c0, c1])),
            offset: usize::from(u16::from_ne_bytes([o0, o1])),
        });
        let segmentation = (kind != OFFLOAD_NONE).then(|| Segmentation {
            kind: match kind & !(OFFLOAD_ECN | OFFLOAD_ACCURATE_ECN) {
                OFFLOAD_TCP_V4 => SegmentKind::TcpV4,
                OFFLOAD_TCP_V6 => SegmentKind::TcpV6,
                OFFLOAD_UDP => SegmentKind::Udp,
                _ => SegmentKind::Unknown,
            },
            segment_octets: u16::from_ne_bytes([s0, s1]),
            cwr_on_first_only: kind & OFFLOAD_ECN != 0,
        });
        Self {
            checksum,
            segmentation,
        }
    }
}

/// The tag that the kernel took out of a frame, as it is on the wire.
fn tag_of(header: &[u8; SLOT_OCTETS], status: u32) -> [u8; TAG_OCTETS] {
    let fields = offset_of!(tpacket3_hdr, hv1);
    let control = u32_at(
        header,
        fields + offset_of!(libc::tpacket_hdr_variant1, tp_vlan_tci),
    );
    let kind = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
        CUSTOMER_TAG
    } else {
        u16_at(
            header,
            fields + offset_of!(libc::tpacket_hdr_variant1, tp_vlan_tpid),
        )
    };
    let [k0, k1] = kind.to_be_bytes();
    let [_, _, c0, c1] = control.to_be_bytes();
    [k0, k1, c0, c1]
}

/// Puts a tag back: both addresses move forward to make room. Returns how many octets the frame has more.
fn restore_tag(slot: &mut [u8], start: usize, tag: [u8; TAG_OCTETS]) -> Option<usize> {
    let to = start
        .checked_sub(TAG_OCTETS)
        .filter(|&to| to >= SLOT_OCTETS)?;
    slot.copy_within(start..start + ADDRESSES_OCTETS, to);
    let place = slot.get_mut(to + ADDRESSES_OCTETS..)?.first_chunk_mut()?;
    *place = tag;
    Some(TAG_OCTETS)
}

/// Writes a cooked header, and the tag behind it, in front of a frame that has no link header. Returns how many octets
/// the frame has more.
fn cook(slot: &mut [u8], start: usize, tag: Option<[u8; TAG_OCTETS]>) -> Option<usize> {
    let in_front = COOKED_OCTETS + if tag.is_some() { TAG_OCTETS } else { 0 };
    let to = start
        .checked_sub(in_front)
        .filter(|&to| to >= SLOT_OCTETS)?;
    let address: [u8; size_of::<sockaddr_ll>()] = *slot.get(ADDRESS..)?.first_chunk()?;
    // The protocol is in network order; the other numbers are in the host's, and in a cooked header the network's.
    let [
        _,
        _,
        p0,
        p1,
        i0,
        i1,
        i2,
        i3,
        h0,
        h1,
        packet_type,
        address_octets,
        hardware @ ..,
    ] = address;
    let [i0, i1, i2, i3] = u32::from_ne_bytes([i0, i1, i2, i3]).to_be_bytes();
    let [h0, h1] = u16::from_ne_bytes([h0, h1]).to_be_bytes();
    let ([t0, t1], behind) = match tag {
        Some([t0, t1, c0, c1]) => ([t0, t1], Some([c0, c1, p0, p1])),
        None => ([p0, p1], None),
    };
    let fixed = [
        t0,
        t1,
        0,
        0,
        i0,
        i1,
        i2,
        i3,
        h0,
        h1,
        packet_type,
        address_octets,
    ];
    let octets = fixed
        .into_iter()
        .chain(hardware)
        .chain(behind.into_iter().flatten());
    for (place, octet) in slot.get_mut(to..start)?.iter_mut().zip(octets) {
        *place = octet;
    }
    Some(in_front)
}

/// A block of frames that the kernel has handed over; it goes back when this is dropped.
#[derive(Debug)]
pub struct Block<'a> {
    lent: Lent<'a>,
    first: u32,
    frames: u32,
    octets: u32,
    layout: Layout,
}

impl<'a> Block<'a> {
    pub(super) fn new(lent: Lent<'a>, layout: Layout) -> Self {
        let descriptor = lent.descriptor();
        let fields = offset_of!(libc::tpacket_block_desc, hdr);
        let field = |offset| u32_at(&descriptor, fields + offset);
        Self {
            first: field(offset_of!(tpacket_hdr_v1, offset_to_first_pkt)),
            frames: field(offset_of!(tpacket_hdr_v1, num_pkts)),
            octets: field(offset_of!(tpacket_hdr_v1, blk_len)),
            lent,
            layout,
        }
    }

    /// How many frames were in it when it came.
    pub const fn len(&self) -> u32 {
        self.frames
    }

    /// Whether it came empty.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Octets of the block that are in use, with the kernel's own headers.
    pub const fn used_octets(&self) -> u32 {
        self.octets
    }

    /// The frames. Walking puts tags back in place, so a second call finds none.
    pub fn frames(&mut self) -> Frames<'_> {
        let first = mem::take(&mut self.first);
        let frames = if first == 0 { 0 } else { self.frames };
        Frames::over(self.lent.octets(), first, frames, self.layout)
    }
}
