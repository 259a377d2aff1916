//! The broker's side: opens what a request names, and nothing else.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::{receive, send, sys};
use crate::export::take_nothing;
use crate::packet;
use crate::prefilter::{descriptors_in, map_for_another, program_for_another};

/// Longest request: a line, and a program of the kernel's filter behind it.
const REQUEST_OCTETS: usize = 64 << 10;
/// The most that a map of the filter may hold.
const MAP_OCTETS: usize = 256 << 20;

/// The most that all maps together may hold, and how many there may be. Nobody tells when one is no longer used, so this
/// counts from the beginning: who has had so many goes on with a filter that needs no maps.
const MAPS_OCTETS: usize = 2 << 30;
const MAPS: u32 = 4_096;

/// What is left of the maps that may be asked for.
#[derive(Debug)]
struct MapsLeft {
    octets: usize,
    count: u32,
}

impl Default for MapsLeft {
    fn default() -> Self {
        Self {
            octets: MAPS_OCTETS,
            count: MAPS,
        }
    }
}

impl MapsLeft {
    /// Takes one of so many octets; false, and nothing is taken, where there is not as much left.
    fn take(&mut self, octets: usize) -> bool {
        let left = self.octets.checked_sub(octets);
        match left.zip(self.count.checked_sub(1)) {
            Some((octets, count)) => {
                *self = Self { octets, count };
                true
            }
            None => false,
        }
    }
}

/// What may be asked for. It comes from the configuration, never from who asks.
#[derive(Clone, Debug, Default)]
pub struct Permitted {
    /// Interfaces that may be captured from.
    pub interfaces: Vec<String>,
}

impl Permitted {
    fn open(
        &self,
        request: &str,
        octets: &[u8],
        maps: &[OwnedFd],
        maps_left: &mut MapsLeft,
    ) -> Result<OwnedFd, String> {
        let words: Vec<&str> = request.split(' ').collect();
        match *words.as_slice() {
            ["udp", address, port] => {
                let (Ok(address), Ok(port)) = (address.parse(), port.parse()) else {
                    return Err("udp: an address and a port are right".to_owned());
                };
                transparent_udp(SocketAddr::new(address, port))
            }
            ["raw", "4"] => raw(Domain::IPV4),
            ["raw", "6"] => raw(Domain::IPV6),
            ["packet", interface] if self.interfaces.iter().any(|each| each == interface) => {
                packet::open_socket(interface).map_err(|error| error.to_string())
            }
            ["packet", _] => Err("the configuration names no such interface".to_owned()),
            ["map", kind, key_octets, value_octets, entries] => {
                map([kind, key_octets, value_octets, entries], maps_left)
            }
            ["program"] => program(octets, maps),
            _ => Err("no such request; udp, raw, packet, map and program are".to_owned()),
        }
    }
}

fn transparent_udp(source: SocketAddr) -> Result<OwnedFd, String> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(source),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        // Several workers send from one address and port. What others would receive there is not for who asks.
        socket.set_reuse_address(true)?;
        take_nothing(&socket)?;
        if source.is_ipv6() {
            socket.set_ip_transparent_v6(true)?;
            socket.set_only_v6(true)?;
        } else {
            socket.set_ip_transparent_v4(true)?;
        }
        socket.bind(&source.into())?;
        Ok(socket)
    };
    open()
        .map(OwnedFd::from)
        .map_err(|error| format!("a socket with a foreign source address: {error}"))
}

fn raw(domain: Domain) -> Result<OwnedFd, String> {
    Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .map(OwnedFd::from)
        .map_err(|error| format!("a raw socket: {error}"))
}

fn map(numbers: [&str; 4], maps_left: &mut MapsLeft) -> Result<OwnedFd, String> {
    let wrong = |_error| "map: four numbers are right".to_owned();
    let [kind, key_octets, value_octets, entries] = numbers;
    let key_octets: usize = key_octets.parse().map_err(wrong)?;
    let value_octets: usize = value_octets.parse().map_err(wrong)?;
    let entries: u32 = entries.parse().map_err(wrong)?;
    let octets = usize::try_from(entries)
        .ok()
        .and_then(|entries| entries.checked_mul(key_octets.checked_add(value_octets)?));
    let Some(octets) = octets.filter(|&octets| octets <= MAP_OCTETS) else {
        return Err("the filter needs no map that large".to_owned());
    };
    if !maps_left.take(octets) {
        return Err("the filter has had all the maps that it may have".to_owned());
    }
    map_for_another(
        kind.parse().map_err(wrong)?,
        key_octets,
        value_octets,
        entries,
    )
    .map_err(|error| format!("a map: {error}"))
}

/// Loads a program; the numbers of maps in it are those of the other side, in whose order the maps came.
fn program(octets: &[u8], maps: &[OwnedFd]) -> Result<OwnedFd, String> {
    let places = descriptors_in(octets);
    let mut theirs: Vec<i32> = places.iter().map(|&(_, number)| number).collect();
    theirs.sort_unstable();
    theirs.dedup();
    if theirs.len() != maps.len() {
        return Err("program: every map that it names is right, and no other".to_owned());
    }
    let mut octets = octets.to_vec();
    for (at, number) in places {
        let ours = theirs
            .binary_search(&number)
            .ok()
            .and_then(|at| maps.get(at));
        let place = octets.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
        if let (Some(ours), Some(place)) = (ours, place) {
            *place = ours.as_raw_fd().to_ne_bytes();
        }
    }
    program_for_another(&octets)
}

/// Answers requests until the other side closes the connection.
///
/// # Errors
/// The descriptor is no socket, a request is no line of text, or an answer could not be given.
pub fn serve(connection: BorrowedFd<'_>, permitted: &Permitted) -> io::Result<()> {
    let mut request = vec![0; REQUEST_OCTETS];
    let mut maps_left = MapsLeft::default();
    loop {
        let (length, maps) = receive(connection, &mut request)?;
        let message = request.get(..length).unwrap_or_default();
        if message.is_empty() {
            return Ok(());
        }
        let end = message.iter().position(|&octet| octet == b'\n');
        let parts = end.and_then(|end| message.split_at_checked(end + 1));
        let line = parts.and_then(|(line, _)| str::from_utf8(line).ok());
        let (Some(line), Some((_, octets))) = (line, parts) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a request begins with one line of text",
            ));
        };
        let numbered = line.trim_end().split_once(' ');
        let Some((number, wanted)) =
            numbered.and_then(|(number, wanted)| Some((number.parse::<u64>().ok()?, wanted)))
        else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a request has a number and says what is wanted",
            ));
        };
        match permitted.open(wanted, octets, &maps, &mut maps_left) {
            Ok(descriptor) => send(
                connection,
                &format!("{number} ok\n"),
                &[],
                &[descriptor.as_fd()],
            )?,
            Err(reason) => send(connection, &format!("{number} no {reason}\n"), &[], &[])?,
        }
    }
}

/// [`serve`] for a descriptor that stays its owner's.
///
/// # Errors
/// As for [`serve`].
pub fn serve_number(descriptor: RawFd, permitted: &Permitted) -> io::Result<()> {
    serve(sys::duplicate(descriptor)?.as_fd(), permitted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::thread;

    use flowtap_core::frame::LinkType;

    use super::super::{Broker, pair};
    use super::*;
    use crate::prefilter::{
        AddressCover, FamilyCover, Prefilter, PrefilterKind, PrefilterOptions, Prefix,
    };
    use crate::rights;

    fn served(requests: &[&[u8]]) -> io::Result<()> {
        let (ours, theirs) = pair()?;
        for request in requests {
            send(ours.as_fd(), "", request, &[])?;
        }
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Write)?;
        serve(theirs.as_fd(), &Permitted::default())
    }

    #[test]
    fn a_request_that_is_no_line_ends_it() {
        served(&[]).unwrap();
        let refused: [&[u8]; 9] = [
            b"1 nonsense\n",
            b"2 udp\n",
            b"3 udp nowhere 1\n",
            b"4 packet eth0\n",
            b"5 nothing such\n",
            b"6 map 1 4 x 1\n",
            b"7 map 1 4 4 4000000000\n",
            b"8 map 7 4 4 1\n",
            b"9 program\n1234567",
        ];
        served(&refused).unwrap();
        for octets in [
            &b"1 raw 4"[..],
            &[b'x'; 300],
            b"\xff\n",
            b"raw 4\n",
            b"\n",
            b"x raw 4\n",
        ] {
            assert_eq!(
                served(&[octets]).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }

    #[test]
    fn a_program_comes_with_the_maps_that_it_names() {
        // Loads the map with the descriptor 9, which did not come.
        let program = [0x18, 0x11, 0, 0, 9, 0, 0, 0];
        let answer = Permitted::default().open("program", &program, &[], &mut MapsLeft::default());
        let reason = answer.unwrap_err();
        assert!(reason.contains("every map that it names"), "{reason}");
    }

    #[test]
    fn maps_are_bounded_in_number_and_sum() {
        let mut large = MapsLeft::default();
        assert!((0..8).all(|_| large.take(MAP_OCTETS)));
        assert!(!large.take(1));
        let mut many = MapsLeft::default();
        assert!((0..MAPS).all(|_| many.take(1)));
        assert!(!many.take(0));
        let refused = Permitted::default().open("map 1 4 4 1", &[], &[], &mut large);
        assert!(refused.unwrap_err().contains("all the maps"));
    }

    #[test]
    fn nobody_receives_through_the_broker() {
        let source: SocketAddr = "127.0.0.1:41021".parse().unwrap();
        let socket = match transparent_udp(source) {
            Ok(socket) => Socket::from(socket),
            Err(reason) => {
                assert!(
                    !rights::held().unwrap().contains(&"CAP_NET_RAW"),
                    "{reason}"
                );
                return;
            }
        };
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"for another", source).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut octets = [std::mem::MaybeUninit::uninit(); 16];
        let received = socket.recv(&mut octets);
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(socket.detach_filter().is_err());
        let all = socket2::SockFilter::new(0x06, 0, 0, u32::MAX);
        assert!(socket.attach_filter(&[all]).is_err());
    }

    #[test]
    fn only_what_the_configuration_names_is_opened() {
        let (ours, theirs) = pair().unwrap();
        let permitted = Permitted {
            interfaces: vec!["lo".to_owned()],
        };
        let side = thread::spawn(move || serve(theirs.as_fd(), &permitted));
        let broker = Broker::new(ours).unwrap();
        let refusal = broker.packet("eth0").unwrap_err();
        assert_eq!(refusal, "the configuration names no such interface");
        let source = "192.0.2.1:40000".parse().unwrap();
        let opened = [
            broker.packet("lo"),
            broker.raw(false),
            broker.raw(true),
            // Twice: two workers send from there.
            broker.transparent_udp(source),
            broker.transparent_udp(source),
        ];
        for each in opened {
            // Without the right, the reason says so.
            if let Err(reason) = each {
                let missing = reason.contains("CAP_NET_RAW") || reason.contains("not permitted");
                assert!(missing, "{reason}");
            }
        }
        drop(broker);
        side.join().unwrap().unwrap();
    }

    /// A thread without rights has a filter of maps and a program all the same, and changes it.
    #[test]
    fn the_kernel_s_filter_is_made_for_who_may_not() {
        if !rights::held().unwrap().contains(&"CAP_BPF") {
            let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
            assert!(
                !root,
                "root lacks CAP_BPF, without which this tests nothing"
            );
            println!("not run: it needs CAP_BPF");
            return;
        }
        let (ours, theirs) = pair().unwrap();
        let side = thread::spawn(move || serve(theirs.as_fd(), &Permitted::default()));
        let host = |last: u32| FamilyCover {
            source: vec![Prefix::host(0x0a00_0000 + last)],
            ..FamilyCover::default()
        };
        let cover = move |last: u32| AddressCover {
            v4: host(last),
            ..AddressCover::default()
        };
        let asked = thread::spawn(move || {
            rights::keep_only(&[]).unwrap();
            let options = PrefilterOptions {
                link_type: LinkType::Ipv4,
                ..PrefilterOptions::default()
            };
            let alone = Prefilter::with_broker(&cover(1), options, None);
            let broker = Arc::new(Broker::new(ours).unwrap());
            let mut brokered = Prefilter::with_broker(&cover(1), options, Some(broker));
            let first = brokered.kind();
            // More than the first maps have room for.
            for last in 2..5_000 {
                let _step = brokered.add(&cover(last));
            }
            (alone.kind(), first, brokered.kind())
        });
        let (alone, first, grown) = asked.join().unwrap();
        assert!(!matches!(alone, PrefilterKind::Ebpf { .. }), "{alone}");
        assert!(
            matches!(first, PrefilterKind::Ebpf { entries: 1, .. }),
            "{first}"
        );
        assert!(
            matches!(grown, PrefilterKind::Ebpf { entries: 4_999, .. }),
            "{grown}"
        );
        side.join().unwrap().unwrap();
    }
}
