//! What a segment of a spool on disk looks like: octets to copies and back, without files.
//!
//! A segment is a preamble, which says what it is, has its place among others and its random number, and blocks. Each
//! block is encrypted and authenticated by AES-256-GCM, together with the preamble; its nonce is the segment's number and
//! the block's place, so that no nonce comes twice and a block elsewhere than where it was written is no block. The first
//! block says where the copies are to go, the last one that there are no more.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use flowtap_core::table::{Destination, Protection, SpoolKind};
use zeroize::Zeroizing;

use super::HeldCopy;

/// Octets of a key.
pub const KEY_OCTETS: usize = 32;
/// Octets of a preamble: what it is, the segment's place among others, and its number.
pub(super) const PREAMBLE_OCTETS: usize = MAGIC.len() + 2 * size_of::<u64>();
/// Octets in front of a block: kind, length, copies, and how many of them were sent before.
pub(super) const HEADER_OCTETS: usize = 13;
/// The longest block, so that nobody makes us ask for more memory: copies are added while there are fewer octets than
/// in a quarter of it, and one more is below 64 KiB.
pub(super) const BLOCK_OCTETS_MAX: u32 = 256 << 10;
/// What GCM adds for authentication.
pub(super) const TAG_OCTETS: u32 = 16;
/// Octets in front of a copy: criterion, whether it was sent before, length.
pub(super) const COPY_HEADER_OCTETS: u32 = 13;

const MAGIC: &[u8] = b"flowtap spool 1\n";

/// The key of a spool on disk. It shows itself to nobody, and its memory is overwritten in the end.
pub(super) struct SpoolKey(Aes256Gcm);

impl fmt::Debug for SpoolKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SpoolKey")
    }
}

impl SpoolKey {
    pub(super) fn new(key: &[u8; KEY_OCTETS]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the copies go.
    Destination = 1,
    /// Copies.
    Copies = 2,
    /// Nothing: the segment is whole.
    End = 3,
}

/// What stands in front of a block, readable and authenticated with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Octets of what follows.
    pub(super) length: u32,
    pub(super) copies: u32,
    /// Of these, how many were sent before.
    pub(super) again: u32,
}

impl Header {
    fn octets(&self) -> [u8; HEADER_OCTETS] {
        let kind: u8 = match self.kind {
            Kind::Destination => 1,
            Kind::Copies => 2,
            Kind::End => 3,
        };
        let mut octets = [0; HEADER_OCTETS];
        let fields = [self.length, self.copies, self.again];
        let fields = fields.iter().flat_map(|field| field.to_le_bytes());
        for (place, octet) in octets.iter_mut().zip([kind].into_iter().chain(fields)) {
            *place = octet;
        }
        octets
    }

    /// Reads a header; None where it cannot be one.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        let kind = match reader.u8()? {
            1 => Kind::Destination,
            2 => Kind::Copies,
            3 => Kind::End,
            _ => return None,
        };
        let header = Self {
            kind,
            length: reader.u32()?,
            copies: reader.u32()?,
            again: reader.u32()?,
        };
        let content = header.length.checked_sub(TAG_OCTETS)?;
        let is_possible = header.length <= BLOCK_OCTETS_MAX
            && header.copies.checked_mul(COPY_HEADER_OCTETS)? <= content
            && header.again <= header.copies;
        is_possible.then_some(header)
    }
}

/// Reads numbers and octets from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (octets, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(octets)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u16()?;
        std::str::from_utf8(self.take(length.into())?).ok()
    }
}

/// The beginning of a segment with a place among others and a number.
pub(super) fn preamble(sequence: u64, number: u64) -> [u8; PREAMBLE_OCTETS] {
    let mut octets = [0; PREAMBLE_OCTETS];
    let numbers = [sequence, number].into_iter().flat_map(u64::to_le_bytes);
    let all = MAGIC.iter().copied().chain(numbers);
    for (place, octet) in octets.iter_mut().zip(all) {
        *place = octet;
    }
    octets
}

/// The place of a segment among others and its number; None where the octets are not the beginning of one.
pub(super) fn read_preamble(preamble: &[u8]) -> Option<(u64, u64)> {
    let mut reader = Reader(preamble.strip_prefix(MAGIC)?);
    Some((reader.u64()?, reader.u64()?))
}

fn nonce(number: u64, place: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    let all = number.to_le_bytes().into_iter().chain(place.to_le_bytes());
    for (octet, value) in nonce.iter_mut().zip(all) {
        *octet = value;
    }
    nonce
}

/// What is authenticated beside the block.
fn associated((sequence, number): (u64, u64), header: &Header) -> Vec<u8> {
    let mut octets = preamble(sequence, number).to_vec();
    octets.extend(header.octets());
    octets
}

/// Encrypts a block for a place in a segment, which has a place among others and a number; None where it is too long to be one.
pub(super) fn seal(
    key: &SpoolKey,
    segment: (u64, u64),
    place: u32,
    kind: Kind,
    counts: (u32, u32),
    mut content: Vec<u8>,
) -> Option<Vec<u8>> {
    let length = u32::try_from(content.len()).ok()?.checked_add(TAG_OCTETS)?;
    if length > BLOCK_OCTETS_MAX {
        return None;
    }
    let header = Header {
        kind,
        length,
        copies: counts.0,
        again: counts.1,
    };
    let nonce = Nonce::from(nonce(segment.1, place));
    let associated = associated(segment, &header);
    key.0
        .encrypt_in_place(&nonce, &associated, &mut content)
        .ok()?;
    let mut block = header.octets().to_vec();
    block.append(&mut content);
    Some(block)
}

/// Decrypts what follows a header in a place of a segment; None where it is not what was written there.
pub(super) fn unseal(
    key: &SpoolKey,
    segment: (u64, u64),
    place: u32,
    header: &Header,
    mut content: Vec<u8>,
) -> Option<Vec<u8>> {
    let nonce = Nonce::from(nonce(segment.1, place));
    let associated = associated(segment, header);
    key.0
        .decrypt_in_place(&nonce, &associated, &mut content)
        .ok()?;
    Some(content)
}

/// Copies as they stand in a block, with the counts for its header.
pub(super) fn write_copies<'a>(
    copies: impl Iterator<Item = &'a HeldCopy>,
) -> (Vec<u8>, (u32, u32)) {
    let mut content = Vec::new();
    let (mut count, mut again): (u32, u32) = (0, 0);
    for copy in copies {
        content.extend(copy.criteria_id.to_le_bytes());
        content.push(u8::from(copy.was_sent));
        let length = u32::try_from(copy.octets.len()).unwrap_or(u32::MAX);
        content.extend(length.to_le_bytes());
        content.extend_from_slice(&copy.octets);
        count = count.saturating_add(1);
        again = again.saturating_add(u32::from(copy.was_sent));
    }
    (content, (count, again))
}

/// The copies of a block; None where its octets are no copies.
pub(super) fn read_copies(content: &[u8]) -> Option<Vec<HeldCopy>> {
    let mut reader = Reader(content);
    let mut copies = Vec::new();
    while !reader.0.is_empty() {
        let criteria_id = reader.u64()?;
        let was_sent = reader.u8()? != 0;
        let length = usize::try_from(reader.u32()?).ok()?;
        let mut copy = HeldCopy::new(criteria_id, reader.take(length)?);
        copy.was_sent = was_sent;
        copies.push(copy);
    }
    Some(copies)
}

/// A destination as it stands in the first block; None where a name is too long.
pub(super) fn write_destination(destination: &Destination) -> Option<Vec<u8>> {
    let protection = destination.protection.as_ref()?;
    let mut content = Vec::new();
    for text in [
        &destination.id,
        &protection.tunnel,
        &destination.address.to_string(),
        &destination.source_address.to_string(),
    ] {
        content.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
        content.extend_from_slice(text.as_bytes());
    }
    content.extend(destination.port.to_le_bytes());
    content.extend(destination.source_port.to_le_bytes());
    content.push(destination.ttl);
    content.push(u8::from(destination.refuse_oversize));
    Some(content)
}

/// The destination of a first block; None where its octets are none.
pub(super) fn read_destination(content: &[u8]) -> Option<Destination> {
    let mut reader = Reader(content);
    let id = reader.text()?.to_owned();
    let tunnel = reader.text()?.to_owned();
    let address: IpAddr = reader.text()?.parse().ok()?;
    let source_address: IpAddr = reader.text()?.parse().ok()?;
    Some(Destination {
        id,
        address,
        source_address,
        port: reader.u16()?,
        source_port: reader.u16()?,
        ttl: reader.u8()?,
        refuse_oversize: reader.u8()? != 0,
        export: true,
        protection: Some(Arc::new(Protection {
            tunnel,
            spool: SpoolKind::Disk,
            spool_octets: 0,
            resend: Duration::ZERO,
        })),
    })
}

/// A key that nobody else has.
///
/// # Errors
/// What the system says.
pub(super) fn random_key() -> rustix::io::Result<Zeroizing<[u8; KEY_OCTETS]>> {
    let mut key = Zeroizing::new([0; KEY_OCTETS]);
    fill(&mut key[..])?;
    Ok(key)
}

/// A number that no other segment has.
///
/// # Errors
/// What the system says.
pub(super) fn random_number() -> rustix::io::Result<u64> {
    let mut octets = [0; 8];
    fill(&mut octets)?;
    Ok(u64::from_le_bytes(octets))
}

fn fill(mut octets: &mut [u8]) -> rustix::io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !octets.is_empty() {
        let count = getrandom(&mut *octets, GetRandomFlags::empty())?;
        octets = octets.get_mut(count..).unwrap_or_default();
    }
    Ok(())
}
