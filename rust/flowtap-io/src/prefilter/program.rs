//! The filter as an eBPF program.
//!
//! Headers are read with one call into the stack, for a call costs more than all that follows; then the addresses are
//! looked for. A frame is dropped only where the decoder would read an IP packet of which no address is wanted; all else
//! passes, so that what is undecodable is counted as ever.
//!
//! Between two frames the processor forgets the program, so it counts how many cache lines of it a frame takes: the way
//! of a frame without tags that nobody wants is one straight piece at the beginning, and all else stands behind it. The
//! pieces share registers and the stack, so they stand in one file, where each can be read beside the others.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd};

use flowtap_core::frame::LinkType;
use flowtap_core::wire::{ether_type, gtpu, protocol, vxlan};

use super::InnerTunnels;
use super::assembler::Register::{self, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::assembler::{
    Arithmetic, Assembler, AssemblyError, Function, Instruction, Label, Operand, Test, Width,
};
use super::cover::{Address, Role, SPREAD};
use super::maps::{FamilyMaps, Gate, HostMap, PrefixMap};

/// VLAN tags that are followed; the kernel has taken the outermost off before, so mostly there are none.
const TAGS_MAX: usize = 4;
/// MPLS labels that are followed.
const LABELS_MAX: usize = 8;
/// Accepts a frame whole.
const ACCEPT: i32 = -1;
const DROP: i32 = 0;

const ETHERNET_OCTETS: i16 = 14;
const ETHER_TYPE_AT: i16 = 12;
const V4_OCTETS: i16 = 20;
const V6_OCTETS: i16 = 40;
/// PPPoE version, type and code, and the PPP protocols of IP.
const PPPOE_SESSION_DATA: u16 = 0x1100;
const PPPOE_OCTETS: i16 = 8;
const PPP_OCTETS: i16 = 2;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// Octets in front of the address in a trie's key: the prefix length.
const LENGTH_OCTETS: i16 = 4;
/// The bits of IPv4's flags and fragment offset that are the offset.
pub(super) const V4_FRAGMENT_OFFSET: u16 = 0x1fff;
/// Next headers behind which the protocol stands that tells a tunnel (RFC 8200 and successors).
pub(super) const EXTENSION_HEADERS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// Numbers of the bits of a gate's word, and the exponent of its octets.
const WORD_BITS_MASK: i32 = 63;
const WORD_OCTETS_LOG2: i32 = 3;

// The stack, from its end downwards. The IP header lies on a multiple of eight, so every field can be read as it is.
/// Tags, labels and other small things.
const SCRATCH: i16 = -8;
const HEADER: i16 = SCRATCH - V6_OCTETS;
const FRAME: i16 = HEADER - ETHERNET_OCTETS;

/// What one family takes.
#[derive(Debug)]
pub(super) enum FamilyPlan<'a, A> {
    /// Every packet passes.
    Open,
    /// Those pass whose addresses the maps hold.
    Maps(&'a FamilyMaps<A>),
}

/// What a program is made from.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) link_type: LinkType,
    pub(super) inner: InnerTunnels,
    pub(super) v4: FamilyPlan<'a, u32>,
    pub(super) v6: FamilyPlan<'a, u128>,
}

/// Whether frames of a link type can be filtered.
pub(super) const fn knows(link_type: LinkType) -> bool {
    matches!(
        link_type,
        LinkType::Ethernet | LinkType::Raw | LinkType::Ipv4 | LinkType::Ipv6
    )
}

/// Where a family's header has its fields, in the stack.
#[derive(Clone, Copy)]
struct Layout {
    source: i16,
    destination: i16,
}

const V4: Layout = Layout {
    source: HEADER + 12,
    destination: HEADER + 16,
};
const V6: Layout = Layout {
    source: HEADER + 8,
    destination: HEADER + 24,
};

impl Layout {
    const fn address(self, role: Role) -> i16 {
        match role {
            Role::Source => self.source,
            Role::Destination => self.destination,
        }
    }
}

/// A 16-bit field as a load leaves it that reads the packet's octets in the machine's order.
fn field(value: u16) -> i32 {
    value.to_be().into()
}

/// The program for a plan.
///
/// # Errors
/// A jump that leads nowhere or too far.
pub(super) fn build(plan: &Plan<'_>) -> Result<Vec<Instruction>, AssemblyError> {
    let mut builder = Builder::new(plan.inner);
    let Labels { pass, walk, .. } = builder.labels;
    builder.code.set(R6, R1);
    if plan.link_type == LinkType::Ethernet {
        builder.ethernet();
        builder.v4(&plan.v4);
        builder.not_v4();
        builder.v6(&plan.v6);
        builder.deferred();
        builder.code.place(walk);
        builder.tags();
        builder.types();
        builder.ip();
    } else {
        builder.bare(match plan.link_type {
            LinkType::Ipv4 => ether_type::IPV4,
            LinkType::Ipv6 => ether_type::IPV6,
            _ => 0,
        });
        builder.ip();
        builder.v4(&plan.v4);
        builder.v6(&plan.v6);
        builder.deferred();
    }
    builder.code.place(pass);
    builder.code.exit_with(ACCEPT);
    builder.code.finish()
}

#[derive(Clone, Copy)]
struct Labels {
    pass: Label,
    /// Some of an Ethernet frame is in the stack; R8 is its EtherType.
    walk: Label,
    /// An IP header is at the offset in R7; R8 is its EtherType, or 0 where only its version tells.
    ip: Label,
    /// The IPv4 header is in the stack.
    v4: Label,
    /// R8 is not the EtherType of IPv4, and as many octets are in the stack as IPv6 takes.
    not_v4: Label,
    /// The IPv6 header is in the stack, and its version is right.
    v6: Label,
}

/// A piece that few frames take, to stand behind the others.
struct Deferred<'a> {
    begin: Label,
    /// Where it goes on.
    back: Label,
    piece: Piece<'a>,
}

enum Piece<'a> {
    /// The frame is too short to be read with an IPv6 header.
    Short,
    /// The first octet of an IPv4 header, in R1, is not the common one.
    Options,
    /// The gate lets a host through whose address is here.
    Host {
        map: BorrowedFd<'a>,
        at: i16,
        role: Role,
    },
    /// The gate lets a prefix through of an address that is here.
    Prefix {
        trie: BorrowedFd<'a>,
        at: i16,
        bits: u8,
    },
}

/// R6 holds the frame, R7 an offset in it, R8 an EtherType as it lies in the frame; behind the headers R8 is free, and
/// R9 holds the gates' multiplier.
struct Builder<'a> {
    code: Assembler,
    labels: Labels,
    inner: InnerTunnels,
    deferred: Vec<Deferred<'a>>,
}

impl<'a> Builder<'a> {
    fn new(inner: InnerTunnels) -> Self {
        let mut code = Assembler::default();
        let labels = Labels {
            pass: code.label(),
            walk: code.label(),
            ip: code.label(),
            v4: code.label(),
            not_v4: code.label(),
            v6: code.label(),
        };
        Self {
            code,
            labels,
            inner,
            deferred: Vec::new(),
        }
    }

    /// A label that a piece begins with that is to come later.
    fn defer(&mut self, piece: Piece<'a>, back: Label) -> Label {
        let begin = self.code.label();
        self.deferred.push(Deferred { begin, back, piece });
        begin
    }

    /// Reads octets of the frame into the stack; a frame that has not so many passes.
    fn read(&mut self, from: impl Into<Operand>, to: i16, octets: i16) {
        self.code.set(R1, R6);
        self.code.set(R2, from);
        self.address_in(R3, to);
        self.code.set(R4, i32::from(octets));
        self.code.call(Function::LoadOctets);
        self.code.jump_if(Test::NotEqual, R0, 0, self.labels.pass);
    }

    fn address_in(&mut self, register: Register, at: i16) {
        self.code.set(register, R10);
        self.code
            .calculate(Arithmetic::Add, register, i32::from(at));
    }

    /// The frame begins with its IP header.
    fn bare(&mut self, ether_type: u16) {
        self.code.set(R7, 0);
        self.code.set(R8, field(ether_type));
    }

    /// Reads the Ethernet header together with the IP header behind it, and goes on to IPv4.
    fn ethernet(&mut self) {
        let Labels { walk, not_v4, .. } = self.labels;
        let short = self.defer(Piece::Short, walk);
        self.code.set(R7, i32::from(ETHERNET_OCTETS));
        // The first field of what the program is called with is the frame's length.
        self.code.load(Width::Word, R1, R6, 0);
        let both = ETHERNET_OCTETS + V6_OCTETS;
        self.code.jump_if(Test::Less, R1, i32::from(both), short);
        self.read(0, FRAME, both);
        self.code.load(Width::Half, R8, R10, FRAME + ETHER_TYPE_AT);
        self.code
            .jump_if(Test::NotEqual, R8, field(ether_type::IPV4), not_v4);
    }

    /// Goes on to IPv6.
    fn not_v4(&mut self) {
        let Labels {
            pass, walk, not_v4, ..
        } = self.labels;
        self.code.place(not_v4);
        self.code
            .jump_if(Test::NotEqual, R8, field(ether_type::IPV6), walk);
        self.code.load(Width::Octet, R1, R10, HEADER);
        self.code.calculate(Arithmetic::ShiftRight, R1, 4);
        self.code.jump_if(Test::NotEqual, R1, 6, pass);
    }

    fn tags(&mut self) {
        let untagged = self.code.label();
        for _ in 0..TAGS_MAX {
            let tag = self.code.label();
            for ether_type in [
                ether_type::VLAN,
                ether_type::SERVICE_VLAN,
                ether_type::OLD_SERVICE_VLAN,
                ether_type::OLD_SERVICE_VLAN_2,
            ] {
                self.code.jump_if(Test::Equal, R8, field(ether_type), tag);
            }
            self.code.jump(untagged);
            self.code.place(tag);
            self.read(R7, SCRATCH, 4);
            self.code.calculate(Arithmetic::Add, R7, 4);
            self.code.load(Width::Half, R8, R10, SCRATCH + 2);
        }
        self.code.place(untagged);
    }

    /// Goes on by the EtherType behind all tags.
    fn types(&mut self) {
        let Labels { pass, ip, .. } = self.labels;
        let (labels, session) = (self.code.label(), self.code.label());
        for (ether_type, to) in [
            (ether_type::IPV4, ip),
            (ether_type::IPV6, ip),
            (ether_type::MPLS, labels),
            (ether_type::MPLS_UPSTREAM, labels),
            (ether_type::PPPOE_SESSION, session),
        ] {
            self.code.jump_if(Test::Equal, R8, field(ether_type), to);
        }
        self.code.jump(pass);

        self.code.place(session);
        self.read(R7, SCRATCH, PPPOE_OCTETS);
        self.code
            .calculate(Arithmetic::Add, R7, i32::from(PPPOE_OCTETS));
        self.code.load(Width::Half, R1, R10, SCRATCH);
        self.code
            .jump_if(Test::NotEqual, R1, field(PPPOE_SESSION_DATA), pass);
        self.code.load(Width::Half, R1, R10, SCRATCH + 6);
        self.code.load(Width::Half, R2, R10, SCRATCH + 4);
        self.code.swap_16(R2);
        for (ppp, ether_type, header_octets) in [
            (PPP_IPV4, ether_type::IPV4, V4_OCTETS),
            (PPP_IPV6, ether_type::IPV6, V6_OCTETS),
        ] {
            let other = self.code.label();
            self.code.jump_if(Test::NotEqual, R1, field(ppp), other);
            // A session that says it is shorter than the header has none.
            let octets = i32::from(PPP_OCTETS + header_octets);
            self.code.jump_if(Test::Less, R2, octets, pass);
            self.code.set(R8, field(ether_type));
            self.code.jump(ip);
            self.code.place(other);
        }
        self.code.jump(pass);

        self.code.place(labels);
        let bottom = self.code.label();
        for _ in 0..LABELS_MAX {
            self.read(R7, SCRATCH, 4);
            self.code.calculate(Arithmetic::Add, R7, 4);
            self.code.load(Width::Octet, R1, R10, SCRATCH + 2);
            self.code.jump_if(Test::Common, R1, 1, bottom);
        }
        self.code.jump(pass);
        self.code.place(bottom);
        self.code.set(R8, 0);
    }

    /// Reads an IP header that was not read with the Ethernet header.
    fn ip(&mut self) {
        let Labels {
            pass, ip, v4, v6, ..
        } = self.labels;
        let (is_v4, is_v6) = (self.code.label(), self.code.label());
        self.code.place(ip);
        self.read(R7, HEADER, V4_OCTETS);
        self.code.load(Width::Octet, R1, R10, HEADER);
        self.code.calculate(Arithmetic::ShiftRight, R1, 4);
        self.code.jump_if(Test::Equal, R1, 4, is_v4);
        self.code.jump_if(Test::Equal, R1, 6, is_v6);
        self.code.jump(pass);
        self.code.place(is_v6);
        self.code
            .jump_if(Test::Equal, R8, field(ether_type::IPV4), pass);
        self.code.set(R8, R7);
        self.code
            .calculate(Arithmetic::Add, R8, i32::from(V4_OCTETS));
        self.read(R8, HEADER + V4_OCTETS, V6_OCTETS - V4_OCTETS);
        self.code.jump(v6);
        self.code.place(is_v4);
        self.code
            .jump_if(Test::Equal, R8, field(ether_type::IPV6), pass);
        self.code.jump(v4);
    }

    fn v4(&mut self, plan: &FamilyPlan<'a, u32>) {
        self.code.place(self.labels.v4);
        match plan {
            FamilyPlan::Open => self.code.exit_with(ACCEPT),
            FamilyPlan::Maps(maps) => {
                self.check_v4();
                self.tunnels_in_v4();
                self.addresses(maps, V4);
            }
        }
    }

    fn v6(&mut self, plan: &FamilyPlan<'a, u128>) {
        self.code.place(self.labels.v6);
        match plan {
            FamilyPlan::Open => self.code.exit_with(ACCEPT),
            FamilyPlan::Maps(maps) => {
                self.tunnels_in_v6();
                self.addresses(maps, V6);
            }
        }
    }

    /// A header that contradicts itself passes: version, header length, total length.
    fn check_v4(&mut self) {
        let Labels { pass, .. } = self.labels;
        let checked = self.code.label();
        let options = self.defer(Piece::Options, checked);
        self.code.load(Width::Octet, R1, R10, HEADER);
        self.code.jump_if(Test::NotEqual, R1, 0x45, options);
        self.code.load(Width::Half, R2, R10, HEADER + 2);
        self.code.swap_16(R2);
        // Zero, where the writer left the length to the hardware, becomes the highest number.
        self.code.calculate(Arithmetic::Add, R2, -1);
        self.code
            .jump_if(Test::Less, R2, i32::from(V4_OCTETS - 1), pass);
        self.code.place(checked);
    }

    /// The same for headers with options, and for what is none.
    fn options(&mut self) {
        let Labels { pass, .. } = self.labels;
        let checked = self.code.label();
        self.code.jump_if(Test::Less, R1, 0x45, pass);
        self.code.jump_if(Test::Greater, R1, 0x4f, pass);
        self.code.load(Width::Half, R2, R10, HEADER + 2);
        self.code.jump_if(Test::Equal, R2, 0, checked);
        self.code.swap_16(R2);
        self.code.calculate(Arithmetic::And, R1, 0x0f);
        self.code.calculate(Arithmetic::ShiftLeft, R1, 2);
        self.code.jump_if(Test::Less, R2, R1, pass);
        self.code.place(checked);
    }

    fn tunnels_in_v4(&mut self) {
        if self.inner == InnerTunnels::default() {
            return;
        }
        let Labels { pass, .. } = self.labels;
        let over = self.code.label();
        self.code.load(Width::Octet, R1, R10, HEADER + 9);
        self.protocols();
        if self.inner.vxlan || self.inner.gtpu {
            self.code
                .jump_if(Test::NotEqual, R1, i32::from(protocol::UDP), over);
            // The ports of a later fragment are those of its first, which nobody remembers here.
            self.code.load(Width::Half, R1, R10, HEADER + 6);
            self.code
                .jump_if(Test::Common, R1, field(V4_FRAGMENT_OFFSET), pass);
            self.code.load(Width::Octet, R8, R10, HEADER);
            self.code.calculate(Arithmetic::And, R8, 0x0f);
            self.code.calculate(Arithmetic::ShiftLeft, R8, 2);
            self.code.calculate(Arithmetic::Add, R8, R7);
            self.ports();
        }
        self.code.place(over);
    }

    fn tunnels_in_v6(&mut self) {
        if self.inner == InnerTunnels::default() {
            return;
        }
        let Labels { pass, .. } = self.labels;
        let over = self.code.label();
        self.code.load(Width::Octet, R1, R10, HEADER + 6);
        for header in EXTENSION_HEADERS {
            self.code.jump_if(Test::Equal, R1, header, pass);
        }
        self.protocols();
        if self.inner.vxlan || self.inner.gtpu {
            self.code
                .jump_if(Test::NotEqual, R1, i32::from(protocol::UDP), over);
            self.code.set(R8, R7);
            self.code
                .calculate(Arithmetic::Add, R8, i32::from(V6_OCTETS));
            self.ports();
        }
        self.code.place(over);
    }

    /// Tunnels that the protocol in R1 tells pass.
    fn protocols(&mut self) {
        let tunnels = [
            (self.inner.gre, protocol::GRE),
            (self.inner.ipip, protocol::IPV4),
            (self.inner.ipip, protocol::IPV6),
        ];
        for (_, protocol) in tunnels.into_iter().filter(|(wanted, _)| *wanted) {
            self.code
                .jump_if(Test::Equal, R1, i32::from(protocol), self.labels.pass);
        }
    }

    /// Tunnels pass that the ports at the offset in R8 tell.
    fn ports(&mut self) {
        let Labels { pass, .. } = self.labels;
        self.read(R8, SCRATCH, 4);
        self.code.load(Width::Half, R1, R10, SCRATCH);
        self.code.load(Width::Half, R2, R10, SCRATCH + 2);
        if self.inner.vxlan {
            self.code.jump_if(Test::Equal, R2, field(vxlan::PORT), pass);
        }
        if self.inner.gtpu {
            for register in [R1, R2] {
                self.code
                    .jump_if(Test::Equal, register, field(gtpu::PORT), pass);
            }
        }
    }

    /// Looks for both addresses, hosts first, and drops what nobody wants. The key of a trie has the prefix length in
    /// front of the address and overwrites what is there, so the source comes first and nothing else is needed any more.
    fn addresses<A: Address>(&mut self, maps: &'a FamilyMaps<A>, layout: Layout) {
        if maps.descriptors().next().is_some() {
            self.code.set_wide(R9, SPREAD);
        }
        for role in Role::BOTH {
            if let Some(hosts) = &maps.hosts {
                self.host(hosts, layout.address(role), role);
            }
        }
        for role in Role::BOTH {
            if let Some(prefixes) = maps.prefixes.of(role) {
                self.prefix(prefixes, layout.address(role));
            }
        }
        self.code.exit_with(DROP);
    }

    fn host<A: Address>(&mut self, hosts: &'a HostMap<A>, at: i16, role: Role) {
        if A::BITS == 32 {
            self.code.load(Width::Word, R1, R10, at);
        } else {
            self.code.load(Width::Double, R1, R10, at);
            self.code.calculate(Arithmetic::Multiply, R1, R9);
            self.code.load(Width::Double, R2, R10, at + 8);
            self.code.calculate(Arithmetic::Xor, R1, R2);
        }
        let map = hosts.as_fd();
        self.gate(&hosts.gate, Piece::Host { map, at, role });
    }

    fn prefix<A: Address>(&mut self, prefixes: &'a PrefixMap<A>, at: i16) {
        let (width, bits) = match A::BITS {
            32 => (Width::Word, A::BITS),
            _ => (Width::Double, A::BITS),
        };
        self.code.load(width, R1, R10, at);
        self.code.set_wide(R2, prefixes.gate_mask());
        self.code.calculate(Arithmetic::And, R1, R2);
        let trie = prefixes.as_fd();
        self.gate(&prefixes.gate, Piece::Prefix { trie, at, bits });
    }

    /// Goes to a piece where both bits are set that the number in R1 leads to.
    fn gate(&mut self, gate: &Gate, piece: Piece<'a>) {
        let [first, second] = gate.bit_shifts();
        self.code.calculate(Arithmetic::Multiply, R1, R9);
        self.code.set(R2, R1);
        self.code.set(R3, R1);
        self.code
            .calculate(Arithmetic::ShiftRight, R1, gate.word_shift());
        self.code
            .calculate(Arithmetic::ShiftLeft, R1, WORD_OCTETS_LOG2);
        self.code.load_map_value(R4, gate);
        self.code.calculate(Arithmetic::Add, R4, R1);
        self.code.load(Width::Double, R1, R4, 0);
        self.code.set(R4, R1);
        self.code.calculate(Arithmetic::ShiftRight, R2, first);
        self.code.calculate(Arithmetic::And, R2, WORD_BITS_MASK);
        self.code.calculate(Arithmetic::ShiftRight, R1, R2);
        self.code.calculate(Arithmetic::ShiftRight, R3, second);
        self.code.calculate(Arithmetic::And, R3, WORD_BITS_MASK);
        self.code.calculate(Arithmetic::ShiftRight, R4, R3);
        self.code.calculate(Arithmetic::And, R1, R4);
        let back = self.code.label();
        let begin = self.defer(piece, back);
        self.code.jump_if(Test::Common, R1, 1, begin);
        self.code.place(back);
    }

    /// All pieces that were put off.
    fn deferred(&mut self) {
        let Labels { pass, v4, .. } = self.labels;
        for Deferred { begin, back, piece } in mem::take(&mut self.deferred) {
            self.code.place(begin);
            match piece {
                Piece::Short => {
                    self.read(0, FRAME, ETHERNET_OCTETS + V4_OCTETS);
                    self.code.load(Width::Half, R8, R10, FRAME + ETHER_TYPE_AT);
                    self.code
                        .jump_if(Test::Equal, R8, field(ether_type::IPV4), v4);
                }
                Piece::Options => self.options(),
                Piece::Host { map, at, role } => {
                    self.code.load_map(R1, &map);
                    self.address_in(R2, at);
                    self.code.call(Function::MapLookup);
                    self.code.jump_if(Test::Equal, R0, 0, back);
                    self.code.load(Width::Word, R1, R0, 0);
                    self.code.jump_if(Test::Common, R1, role.bit(), pass);
                }
                Piece::Prefix { trie, at, bits } => {
                    let key = at - LENGTH_OCTETS;
                    self.code.store_number(Width::Word, R10, key, bits.into());
                    self.code.load_map(R1, &trie);
                    self.address_in(R2, key);
                    self.code.call(Function::MapLookup);
                    self.code.jump_if(Test::NotEqual, R0, 0, pass);
                }
            }
            self.code.jump(back);
        }
    }
}
