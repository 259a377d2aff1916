//! The filter in classic BPF, for few addresses: there are no maps, so every address stands in the program.
//!
//! The sorted addresses are a binary search, so a miss costs one test for each halving. Frames with tags, labels or
//! sessions in their data pass; the outermost VLAN tag is not there any more when the filter runs.

use std::io;
use std::os::fd::BorrowedFd;

use flowtap_core::bpf::{Instruction, Program};
use flowtap_core::frame::LinkType;
use flowtap_core::wire::{ether_type, gtpu, protocol, vxlan};

use super::cover::{Address, Counts, FamilyCounts, Role};
use super::program::{EXTENSION_HEADERS, V4_FRAGMENT_OFFSET};
use super::{InnerTunnels, PrefilterOptions, sys};

/// Instructions that a program may have. The kernel takes 4,096, but what it makes of them, and of the program before,
/// must fit into `net.core.optmem_max`, which was 20,480 octets for long.
const INSTRUCTIONS_MAX: usize = 1_024;
/// Accepts a frame whole.
const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;

const ETHERNET_OCTETS: u32 = 14;
const ETHER_TYPE_AT: u32 = 12;
const V4_OCTETS: u32 = 20;
const V6_OCTETS: u32 = 40;

// Operations, numbered as in `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_OCTET: u16 = 0x30;
const LOAD_HALF_BEHIND_X: u16 = 0x48;
const LOAD_LENGTH: u16 = 0x80;
/// X becomes the length of the IPv4 header that begins at the operand.
const X_HEADER_LENGTH: u16 = 0xb1;
const LOAD_X: u16 = 0x01;
const X_FROM_A: u16 = 0x07;
const A_FROM_X: u16 = 0x87;
const ADD: u16 = 0x04;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const IF_NOT_LESS_THAN_X: u16 = 0x3d;
const IF_COMMON: u16 = 0x45;
const RETURN: u16 = 0x06;

/// A program that the kernel takes, and that runs here too.
#[derive(Debug)]
pub(super) struct Classic {
    instructions: Vec<libc::sock_filter>,
    program: Program,
}

impl Classic {
    /// The program for what is counted; None where that is too much.
    pub(super) fn build(options: &PrefilterOptions, counts: &Counts) -> Option<Self> {
        // Every address takes an instruction, at least.
        if counts.v4.entries() + counts.v6.entries() > INSTRUCTIONS_MAX {
            return None;
        }
        let instructions = Builder::new(options).build(counts)?;
        Some(Self {
            // What our own interpreter takes, the kernel does; anything else would be a defect, and then none is better.
            program: Program::new(&instructions).ok()?,
            instructions: instructions
                .iter()
                .map(|instruction| libc::sock_filter {
                    code: instruction.code,
                    jt: instruction.jt,
                    jf: instruction.jf,
                    k: instruction.k,
                })
                .collect(),
        })
    }

    pub(super) fn instructions(&self) -> usize {
        self.instructions.len()
    }

    /// Whether a frame passes.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.program.run(frame, length) != 0
    }

    /// Makes this the filter of a socket.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn attach(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::attach_classic(socket, &self.instructions)
    }
}

/// A place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label(usize);

/// Where a test leads: on to the next statement, or to a label.
type Way = Option<Label>;

#[derive(Clone, Copy, Debug)]
enum Statement {
    Plain { code: u16, k: u32 },
    Jump(Label),
    Branch { code: u16, k: u32, ways: [Way; 2] },
}

/// Instructions that a statement takes. A test reaches 255 instructions; a way that leads further goes over a jump.
fn length(far: [bool; 2]) -> usize {
    1 + far.into_iter().filter(|&far| far).count()
}

/// Statements whose labels are not resolved.
#[derive(Debug, Default)]
struct Draft {
    statements: Vec<Statement>,
    /// In front of which statement each label stands.
    places: Vec<Option<usize>>,
}

impl Draft {
    fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    fn place(&mut self, label: Label) {
        let here = self.statements.len();
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(here);
        }
    }

    fn plain(&mut self, code: u16, k: u32) {
        self.statements.push(Statement::Plain { code, k });
    }

    fn jump(&mut self, to: Label) {
        self.statements.push(Statement::Jump(to));
    }

    fn branch(&mut self, code: u16, k: u32, holds: Way, fails: Way) {
        let ways = [holds, fails];
        self.statements.push(Statement::Branch { code, k, ways });
    }

    /// The program; None where it is too long, or leads backwards or nowhere.
    fn finish(self) -> Option<Vec<Instruction>> {
        let mut far = vec![[false; 2]; self.statements.len()];
        loop {
            // Where each statement begins, and the end.
            let mut starts = vec![0];
            let mut end = 0_usize;
            for far in &far {
                end += length(*far);
                starts.push(end);
            }
            if end > INSTRUCTIONS_MAX {
                return None;
            }
            let start = |label: Label| starts.get(self.places.get(label.0).copied()??).copied();
            let mut program = Vec::with_capacity(end);
            let mut grown = false;
            for (statement, far) in self.statements.iter().zip(&mut far) {
                match *statement {
                    Statement::Plain { code, k } => {
                        program.push(Instruction {
                            code,
                            jt: 0,
                            jf: 0,
                            k,
                        });
                    }
                    Statement::Jump(to) => program.push(jump(program.len(), start(to)?)?),
                    Statement::Branch { code, k, ways } => {
                        let at = program.len();
                        let jumps = length(*far) - 1;
                        let mut skips = [0_u8; 2];
                        let mut over = Vec::new();
                        for ((way, far), skip) in ways.iter().zip(far.iter_mut()).zip(&mut skips) {
                            let distance = match *way {
                                _ if *far => over.len(),
                                Some(label) => start(label)?.checked_sub(at + 1)?,
                                None => jumps,
                            };
                            if let (Some(label), true) = (*way, *far) {
                                over.push(jump(at + 1 + over.len(), start(label)?)?);
                            }
                            if let Ok(distance) = u8::try_from(distance) {
                                *skip = distance;
                            } else {
                                *far = true;
                                grown = true;
                            }
                        }
                        let [jt, jf] = skips;
                        program.push(Instruction { code, jt, jf, k });
                        program.append(&mut over);
                    }
                }
            }
            if !grown {
                return Some(program);
            }
        }
    }
}

/// A jump forward from one instruction to another.
fn jump(at: usize, to: usize) -> Option<Instruction> {
    Some(Instruction {
        code: JUMP,
        jt: 0,
        jf: 0,
        k: u32::try_from(to.checked_sub(at + 1)?).ok()?,
    })
}

/// Values of one 32-bit word of an address, and what they say.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    first: u32,
    last: u32,
    /// Ranges of what follows the word; None where it can be anything.
    rest: Option<Vec<(u128, u128)>>,
}

/// What is wanted, as sorted ranges that do not touch, of addresses in the upper bits.
fn ranges<A: Address>(counts: &FamilyCounts<A>, role: Role) -> Vec<(u128, u128)> {
    let hosts = counts.hosts.iter();
    let hosts = hosts.filter(|(_, roles)| *roles.of(role) != 0);
    let prefixes = counts.prefixes.of(role).keys();
    let mut all: Vec<(u128, u128)> = hosts
        .map(|(address, _)| (address.upper(), A::BITS))
        .chain(prefixes.map(|prefix| (prefix.address().upper(), prefix.length())))
        .map(|(first, length)| {
            let behind = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            (first, first | behind)
        })
        .collect();
    all.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::new();
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Cuts ranges at the first word.
fn segments(ranges: &[(u128, u128)]) -> Vec<Segment> {
    let word = |value: u128| u32::try_from(value >> 96).unwrap_or(u32::MAX);
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |first: u32, last: u32, rest: (u128, u128)| {
        let rest = (rest != (0, u128::MAX)).then_some(rest);
        match (segments.last_mut(), rest) {
            (Some(before), None)
                if before.rest.is_none() && before.last.checked_add(1) == Some(first) =>
            {
                before.last = last;
            }
            (Some(before), Some(rest)) if before.last == first => {
                before.rest.get_or_insert_default().push(rest);
            }
            _ => segments.push(Segment {
                first,
                last,
                rest: rest.map(|rest| vec![rest]),
            }),
        }
    };
    for &(low, high) in ranges {
        let (first, last) = (word(low), word(high));
        let (from, to) = (low << 32, high << 32 | u128::from(u32::MAX));
        if first == last {
            push(first, last, (from, to));
            continue;
        }
        push(first, first, (from, u128::MAX));
        if last - first > 1 {
            push(first + 1, last - 1, (0, u128::MAX));
        }
        push(last, last, (0, to));
    }
    segments
}

struct Builder {
    draft: Draft,
    pass: Label,
    drop: Label,
    /// Where the IP header begins.
    base: u32,
    link_type: LinkType,
    inner: InnerTunnels,
}

impl Builder {
    fn new(options: &PrefilterOptions) -> Self {
        let mut draft = Draft::default();
        let (pass, drop) = (draft.label(), draft.label());
        Self {
            draft,
            pass,
            drop,
            base: match options.link_type {
                LinkType::Ethernet => ETHERNET_OCTETS,
                _ => 0,
            },
            link_type: options.link_type,
            inner: options.inner,
        }
    }

    fn build(mut self, counts: &Counts) -> Option<Vec<Instruction>> {
        let (pass, drop) = (self.pass, self.drop);
        let (v4, v6) = (self.draft.label(), self.draft.label());
        // A load outside the frame would drop it.
        self.at_least(V4_OCTETS);
        let (is_v4, is_v6) = if self.link_type == LinkType::Ethernet {
            self.draft.plain(LOAD_HALF, ETHER_TYPE_AT);
            (ether_type::IPV4.into(), ether_type::IPV6.into())
        } else {
            self.draft.plain(LOAD_OCTET, 0);
            self.draft.plain(SHIFT_RIGHT, 4);
            (4, 6)
        };
        if self.link_type != LinkType::Ipv6 {
            self.draft.branch(IF_EQUAL, is_v4, Some(v4), None);
        }
        if self.link_type != LinkType::Ipv4 {
            self.draft.branch(IF_EQUAL, is_v6, Some(v6), None);
        }
        self.draft.jump(pass);
        if self.link_type != LinkType::Ipv6 {
            self.draft.place(v4);
            self.v4(&counts.v4);
        }
        if self.link_type != LinkType::Ipv4 {
            self.draft.place(v6);
            self.v6(&counts.v6);
        }
        self.draft.place(drop);
        self.draft.plain(RETURN, DROP);
        self.draft.place(pass);
        self.draft.plain(RETURN, ACCEPT);
        self.draft.finish()
    }

    /// A frame passes that is too short for so many octets from the IP header on.
    fn at_least(&mut self, octets: u32) {
        self.draft.plain(LOAD_LENGTH, 0);
        self.draft
            .branch(IF_NOT_LESS, self.base + octets, None, Some(self.pass));
    }

    fn v4(&mut self, counts: &FamilyCounts<u32>) {
        let pass = Some(self.pass);
        if counts.is_open() {
            return self.draft.jump(self.pass);
        }
        // Version, header length, total length: what contradicts itself passes.
        self.draft.plain(LOAD_OCTET, self.base);
        self.draft.branch(IF_NOT_LESS, 0x45, None, pass);
        self.draft.branch(IF_GREATER, 0x4f, pass, None);
        let checked = self.draft.label();
        self.draft.plain(X_HEADER_LENGTH, self.base);
        self.draft.plain(LOAD_HALF, self.base + 2);
        self.draft.branch(IF_EQUAL, 0, Some(checked), None);
        self.draft.branch(IF_NOT_LESS_THAN_X, 0, None, pass);
        self.draft.place(checked);
        if self.inner != InnerTunnels::default() {
            let over = self.draft.label();
            self.draft.plain(LOAD_OCTET, self.base + 9);
            self.protocols(over);
            if self.inner.vxlan || self.inner.gtpu {
                // The ports of a later fragment are those of its first, which nobody remembers here.
                self.draft.plain(LOAD_HALF, self.base + 6);
                self.draft
                    .branch(IF_COMMON, V4_FRAGMENT_OFFSET.into(), pass, None);
                self.draft.plain(A_FROM_X, 0);
                self.draft.plain(ADD, self.base + 4);
                self.draft.plain(X_FROM_A, 0);
                self.draft.plain(LOAD_LENGTH, 0);
                self.draft.branch(IF_NOT_LESS_THAN_X, 0, None, pass);
                self.draft.plain(X_HEADER_LENGTH, self.base);
                self.ports(self.base);
            }
            self.draft.place(over);
        }
        self.addresses(counts, 12, 16);
    }

    fn v6(&mut self, counts: &FamilyCounts<u128>) {
        let pass = Some(self.pass);
        if counts.is_open() {
            return self.draft.jump(self.pass);
        }
        self.at_least(V6_OCTETS);
        self.draft.plain(LOAD_OCTET, self.base);
        self.draft.plain(SHIFT_RIGHT, 4);
        self.draft.branch(IF_EQUAL, 6, None, pass);
        if self.inner != InnerTunnels::default() {
            let over = self.draft.label();
            self.draft.plain(LOAD_OCTET, self.base + 6);
            for header in EXTENSION_HEADERS {
                self.draft.branch(IF_EQUAL, header.into(), pass, None);
            }
            self.protocols(over);
            if self.inner.vxlan || self.inner.gtpu {
                self.at_least(V6_OCTETS + 4);
                self.draft.plain(LOAD_X, 0);
                self.ports(self.base + V6_OCTETS);
            }
            self.draft.place(over);
        }
        self.addresses(counts, 8, 24);
    }

    /// Tunnels pass that the protocol in A tells. It goes on with UDP where ports tell more, and to `over` otherwise.
    fn protocols(&mut self, over: Label) {
        let tunnels = [
            (self.inner.gre, protocol::GRE),
            (self.inner.ipip, protocol::IPV4),
            (self.inner.ipip, protocol::IPV6),
        ];
        for (_, protocol) in tunnels.into_iter().filter(|(wanted, _)| *wanted) {
            self.draft
                .branch(IF_EQUAL, protocol.into(), Some(self.pass), None);
        }
        if self.inner.vxlan || self.inner.gtpu {
            self.draft
                .branch(IF_EQUAL, protocol::UDP.into(), None, Some(over));
        }
    }

    /// Tunnels pass that the ports tell, which lie `at` octets behind X.
    fn ports(&mut self, at: u32) {
        let pass = Some(self.pass);
        if self.inner.gtpu {
            self.draft.plain(LOAD_HALF_BEHIND_X, at);
            self.draft.branch(IF_EQUAL, gtpu::PORT.into(), pass, None);
        }
        self.draft.plain(LOAD_HALF_BEHIND_X, at + 2);
        if self.inner.gtpu {
            self.draft.branch(IF_EQUAL, gtpu::PORT.into(), pass, None);
        }
        if self.inner.vxlan {
            self.draft.branch(IF_EQUAL, vxlan::PORT.into(), pass, None);
        }
    }

    /// Looks for both addresses, which lie so many octets behind the begin of the IP header.
    fn addresses<A: Address>(
        &mut self,
        counts: &FamilyCounts<A>,
        source_at: u32,
        destination_at: u32,
    ) {
        let destination = self.draft.label();
        let sources = ranges(counts, Role::Source);
        self.search(&sources, self.base + source_at, destination);
        self.draft.place(destination);
        let destinations = ranges(counts, Role::Destination);
        self.search(&destinations, self.base + destination_at, self.drop);
    }

    /// Passes where the address at `at` is in one of the ranges, goes to `miss` otherwise.
    fn search(&mut self, ranges: &[(u128, u128)], at: u32, miss: Label) {
        if ranges.is_empty() {
            return self.draft.jump(miss);
        }
        self.draft.plain(LOAD_WORD, at);
        self.decide(&segments(ranges), (0, u32::MAX), at, miss);
    }

    /// The same for the word in A, of which it is known that it lies within `bounds`.
    fn decide(&mut self, segments: &[Segment], bounds: (u32, u32), at: u32, miss: Label) {
        let (left, right) = segments.split_at(segments.len() / 2);
        let Some(segment) = right.first() else {
            return self.draft.jump(miss);
        };
        if !left.is_empty() {
            let upper = self.draft.label();
            self.draft
                .branch(IF_NOT_LESS, segment.first, Some(upper), None);
            self.decide(left, (bounds.0, segment.first - 1), at, miss);
            self.draft.place(upper);
            return self.decide(right, (segment.first, bounds.1), at, miss);
        }
        let hit = match segment.rest {
            None => Some(self.pass),
            Some(_) => None,
        };
        let miss_way = Some(miss);
        match (bounds.0 < segment.first, segment.last < bounds.1) {
            (false, false) => {
                if let Some(pass) = hit {
                    self.draft.jump(pass);
                }
            }
            _ if segment.first == segment.last => {
                self.draft.branch(IF_EQUAL, segment.first, hit, miss_way);
            }
            (true, false) => self.draft.branch(IF_NOT_LESS, segment.first, hit, miss_way),
            (false, true) => self.draft.branch(IF_GREATER, segment.last, miss_way, hit),
            (true, true) => {
                self.draft
                    .branch(IF_NOT_LESS, segment.first, None, miss_way);
                self.draft.branch(IF_GREATER, segment.last, miss_way, hit);
            }
        }
        if let Some(rest) = &segment.rest {
            self.search(rest, at + 4, miss);
        }
    }
}
