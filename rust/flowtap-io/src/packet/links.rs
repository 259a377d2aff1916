//! What the kernel says of its interfaces (rtnetlink, RFC 3549; include/uapi/linux/if_link.h).

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::offset_of;

use libc::{ifinfomsg, nlmsghdr, rtattr};

use super::sys;

/// Octets of one answer of the kernel at most (`NLMSG_GOODSIZE` and what a dump of links is enlarged to).
pub(super) const ANSWER_OCTETS: usize = 64 << 10;
const HEADER_OCTETS: usize = size_of::<nlmsghdr>();
const LINK_OCTETS: usize = size_of::<ifinfomsg>();
const ATTRIBUTE_OCTETS: usize = size_of::<rtattr>();
const _: () = assert!(HEADER_OCTETS == 16);
const _: () = assert!(LINK_OCTETS == 16);
const _: () = assert!(ATTRIBUTE_OCTETS == 4);
/// What messages and attributes are aligned to.
const ALIGNMENT: usize = 4;
/// `NLMSG_ERROR` and `NLMSG_DONE` as they stand in a message.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a question is asked that was not answered in one piece.
const ATTEMPTS: usize = 16;

/// `AF_UNSPEC`, the family of messages about interfaces themselves.
const FAMILY_ANY: u8 = 0;

/// One interface as the kernel described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `ARPHRD_*`.
    pub(super) hardware: u16,
    /// `IFF_*`.
    pub(super) flags: u32,
    pub(super) mtu_octets: u32,
}

/// A message about interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It is there, or it has changed.
    Present(Link),
    /// It is gone.
    Gone { index: u32 },
    /// Some interface has got an address, or lost one.
    Addresses,
    /// The answer to a question ends here.
    Done,
    /// Something changed while the question was answered: it must be asked again.
    Interrupted,
    /// The question was refused with this error number.
    Refused(i32),
}

fn u16_at(octets: &[u8], offset: usize) -> Option<u16> {
    octets
        .get(offset..)?
        .first_chunk()
        .map(|octets| u16::from_ne_bytes(*octets))
}

fn u32_at(octets: &[u8], offset: usize) -> Option<u32> {
    octets
        .get(offset..)?
        .first_chunk()
        .map(|octets| u32::from_ne_bytes(*octets))
}

/// The octets of one piece whose length is known, and what follows it.
fn split(octets: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let piece = octets.get(..length)?;
    let next = octets
        .get(length.next_multiple_of(ALIGNMENT)..)
        .unwrap_or_default();
    Some((piece, next))
}

/// The messages in what was received; what cannot be read ends them.
pub(super) fn messages(mut octets: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(length) = u32_at(octets, offset_of!(nlmsghdr, nlmsg_len))
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length >= HEADER_OCTETS)
        && let Some((message, next)) = split(octets, length)
    {
        octets = next;
        let kind = u16_at(message, offset_of!(nlmsghdr, nlmsg_type));
        let flags = u16_at(message, offset_of!(nlmsghdr, nlmsg_flags)).unwrap_or(0);
        if flags & DUMP_INTERRUPTED != 0 {
            messages.push(Message::Interrupted);
        }
        let body = message.get(HEADER_OCTETS..).unwrap_or_default();
        // A bridge tells in the same words, but for its own family, which interfaces it gains and loses.
        let is_about_links = body.first() == Some(&FAMILY_ANY);
        match kind {
            Some(libc::RTM_NEWLINK | libc::RTM_DELLINK) if !is_about_links => {}
            Some(libc::RTM_NEWLINK) => messages.extend(link_of(body).map(Message::Present)),
            Some(libc::RTM_DELLINK) => {
                let index = u32_at(body, offset_of!(ifinfomsg, ifi_index));
                messages.extend(index.map(|index| Message::Gone { index }));
            }
            Some(libc::RTM_NEWADDR | libc::RTM_DELADDR) => messages.push(Message::Addresses),
            Some(DONE) => messages.push(Message::Done),
            Some(ERROR) => {
                let number = u32_at(body, 0).unwrap_or(0).cast_signed();
                messages.push(Message::Refused(number.saturating_neg()));
            }
            _ => {}
        }
    }
    messages
}

fn link_of(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, offset_of!(ifinfomsg, ifi_index))?,
        name: String::new(),
        hardware: u16_at(body, offset_of!(ifinfomsg, ifi_type))?,
        flags: u32_at(body, offset_of!(ifinfomsg, ifi_flags))?,
        mtu_octets: 0,
    };
    let mut attributes = body.get(LINK_OCTETS..)?;
    while let Some(length) = u16_at(attributes, offset_of!(rtattr, rta_len))
        .map(usize::from)
        .filter(|&length| length >= ATTRIBUTE_OCTETS)
        && let Some((attribute, next)) = split(attributes, length)
    {
        attributes = next;
        let value = attribute.get(ATTRIBUTE_OCTETS..).unwrap_or_default();
        match u16_at(attribute, offset_of!(rtattr, rta_type)) {
            Some(libc::IFLA_IFNAME) => {
                let name = value.split(|&octet| octet == 0).next().unwrap_or_default();
                String::from_utf8_lossy(name)
                    .as_ref()
                    .clone_into(&mut link.name);
            }
            Some(libc::IFLA_MTU) => link.mtu_octets = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// All interfaces of this network namespace.
///
/// # Errors
/// What the system says.
pub(super) fn all() -> io::Result<Vec<Link>> {
    for _ in 0..ATTEMPTS {
        if let Some(links) = ask()? {
            return Ok(links);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Asks for all interfaces; None where they changed meanwhile.
fn ask() -> io::Result<Option<Vec<Link>>> {
    let mut socket = File::from(sys::link_socket(0)?);
    socket.write_all(&question())?;
    let mut answer = vec![0; ANSWER_OCTETS];
    let mut links = Vec::new();
    let mut is_whole = true;
    loop {
        let length = socket.read(&mut answer)?;
        for message in messages(answer.get(..length).unwrap_or_default()) {
            match message {
                Message::Present(link) => links.push(link),
                Message::Gone { .. } | Message::Addresses => {}
                Message::Interrupted => is_whole = false,
                Message::Done => return Ok(is_whole.then_some(links)),
                Message::Refused(number) => return Err(io::Error::from_raw_os_error(number)),
            }
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The question for all interfaces.
fn question() -> Vec<u8> {
    let length = u32::try_from(HEADER_OCTETS + LINK_OCTETS).unwrap_or(0);
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(libc::RTM_GETLINK.to_ne_bytes());
    question.extend(flags.to_ne_bytes());
    // No number, no sender, and a description that names nothing.
    question.resize(HEADER_OCTETS + LINK_OCTETS, 0);
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = u16::try_from(4 + value.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn message(kind: u16, index: u32, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(32 + attributes.len()).unwrap();
        let mut octets = length.to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.resize(16, 0);
        octets.extend([0, 0]);
        octets.extend(1_u16.to_ne_bytes());
        octets.extend(index.to_ne_bytes());
        octets.extend(0x1043_u32.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend(attributes);
        octets
    }

    fn named(index: u32, name: &str) -> Vec<u8> {
        let attributes = [
            attribute(1, &[1, 2, 3, 4, 5, 6]),
            attribute(libc::IFLA_IFNAME, format!("{name}\0").as_bytes()),
            attribute(libc::IFLA_MTU, &1500_u32.to_ne_bytes()),
        ];
        message(libc::RTM_NEWLINK, index, &attributes.concat())
    }

    #[test]
    fn what_a_bridge_says_of_its_ports_is_not_about_interfaces() {
        let mut octets = message(libc::RTM_DELLINK, 9, &[]);
        octets[16] = u8::try_from(libc::AF_BRIDGE).unwrap();
        assert_eq!(messages(&octets), []);
    }

    #[test]
    fn changes_of_addresses_are_told() {
        let octets = [
            message(libc::RTM_NEWADDR, 7, &[]),
            message(libc::RTM_DELADDR, 7, &[]),
        ]
        .concat();
        let expected = [Message::Addresses, Message::Addresses];
        assert_eq!(messages(&octets), expected);
    }

    #[test]
    fn messages_are_read_one_after_the_other() {
        let octets = [
            named(7, "eth0"),
            message(libc::RTM_DELLINK, 9, &[]),
            message(DONE, 0, &[]),
        ]
        .concat();
        let link = Link {
            index: 7,
            name: "eth0".to_owned(),
            hardware: 1,
            flags: 0x1043,
            mtu_octets: 1500,
        };
        let expected = [
            Message::Present(link),
            Message::Gone { index: 9 },
            Message::Done,
        ];
        assert_eq!(messages(&octets), expected);
        // A prefix gives a prefix.
        for length in 0..octets.len() {
            let read = messages(&octets[..length]);
            assert_eq!(read, expected[..read.len()]);
        }
    }

    #[test]
    fn an_answer_that_was_overtaken_is_marked() {
        let mut octets = named(7, "eth0");
        octets[6..8].copy_from_slice(&DUMP_INTERRUPTED.to_ne_bytes());
        assert_eq!(messages(&octets)[0], Message::Interrupted);
        assert_eq!(messages(&octets).len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_end(octets: Vec<u8>) {
            messages(&octets);
        }

        #[test]
        fn damage_ends(at in 0_usize..100, octet: u8) {
            let mut octets = [named(7, "eth0"), named(8, "eth1")].concat();
            let at = at % octets.len();
            octets[at] = octet;
            messages(&octets);
        }
    }

    #[test]
    fn this_host_has_a_loopback_interface() {
        let links = all().unwrap();
        assert!(
            links
                .iter()
                .any(|link| link.name == "lo" && link.hardware == 772)
        );
    }
}
