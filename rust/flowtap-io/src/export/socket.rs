//! UDP sockets with a tasked source address and port: opened here, by the broker, or by the caller.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use flowtap_core::own::OwnSource;
use libc::c_int;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockaddrIn, SockaddrStorage};
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

use super::sys;

/// Why there is no socket.
pub(super) enum Refusal {
    /// Address and port belong to another program.
    InUse,
    /// The source address is foreign, and using it needs a right that this process does not have.
    RightMissing,
    /// Anything else, in words.
    Failed(String),
}

/// A UDP socket with a tasked source address and port.
pub(super) struct Udp {
    pub(super) socket: Socket,
    pub(super) transparent: bool,
    ttl: Option<u8>,
}

/// What a socket is to be like.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) source: SocketAddr,
    /// Larger datagrams than the path takes are errors instead of fragments.
    pub(super) refuse_oversize: bool,
    /// The source address need not be one of this host's.
    pub(super) transparent: bool,
    pub(super) send_buffer_octets: usize,
}

/// Settings that sockets of both kinds share.
pub(super) fn prepare(socket: &Socket, v6: bool, send_buffer_octets: usize) -> io::Result<()> {
    // Beyond the system's limit where we have the right, up to it otherwise.
    let octets = c_int::try_from(send_buffer_octets).unwrap_or(c_int::MAX);
    if sys::set_option(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        octets,
    )
    .is_err()
    {
        socket.set_send_buffer_size(send_buffer_octets)?;
    }
    // Without it the kernel hides that the queue of the device was full, and the copies would count as exported.
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    sys::set_option(socket.as_fd(), level, name, 1)
}

fn create(wish: &Wish) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(wish.source),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // Several workers may send from one address and port. Not SO_REUSEPORT, which would divide what arrives.
    socket.set_reuse_address(true)?;
    take_nothing(&socket)?;
    configure(&socket, wish)?;
    Ok(socket)
}

/// Nobody reads what comes to a socket for copies: whatever arrives is dropped at once, and that cannot be changed.
pub(crate) fn take_nothing(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    lock_filter(socket.as_fd())
}

/// Keeps a socket's filter as it is, for ever.
pub(crate) fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

fn configure(socket: &Socket, wish: &Wish) -> io::Result<()> {
    let v6 = wish.source.is_ipv6();
    prepare(socket, v6, wish.send_buffer_octets)?;
    // DF clear and fragments, or DF set so that the kernel knows the path and refuses.
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    let discovery = if wish.refuse_oversize {
        libc::IP_PMTUDISC_DO
    } else {
        libc::IP_PMTUDISC_DONT
    };
    sys::set_option(socket.as_fd(), level, name, discovery)?;
    if v6 {
        socket.set_only_v6(true)?;
    } else {
        socket.set_tos_v4(0)?;
    }
    Ok(())
}

/// Whether a socket is what was wished for: of UDP, of the family, and bound to the source.
fn is_as_wished(socket: &Socket, wish: &Wish) -> io::Result<bool> {
    let is_udp = socket.r#type()? == Type::DGRAM
        && socket.protocol()? == Some(Protocol::UDP)
        && socket.domain()? == Domain::for_address(wish.source);
    if !is_udp {
        return Ok(false);
    }
    let bound = socket.local_addr()?.as_socket();
    Ok(bound.is_some_and(|bound| {
        // Port 0 leaves the choice to the kernel.
        let is_port = [0, bound.port()].contains(&wish.source.port());
        bound.ip() == wish.source.ip() && is_port
    }))
}

/// Whether this is the address of everybody on one of this host's networks, in whose place the kernel would put another.
fn is_broadcast(source: IpAddr) -> bool {
    let IpAddr::V4(source) = source else {
        return false;
    };
    getifaddrs().is_ok_and(|mut interfaces| {
        interfaces.any(|interface| {
            let is_shared = interface.flags.contains(InterfaceFlags::IFF_BROADCAST);
            let v4 = |address: Option<SockaddrStorage>| {
                address.and_then(|address| address.as_sockaddr_in().map(SockaddrIn::ip))
            };
            let given = v4(interface.broadcast).filter(|_| is_shared);
            let own = v4(interface.address);
            // The kernel has that of the network as well, unless the network is a line between two.
            let last = own.zip(v4(interface.netmask)).and_then(|(own, mask)| {
                let hosts = !u32::from(mask);
                (hosts > 1).then(|| Ipv4Addr::from(u32::from(own) | hosts))
            });
            // An address that was given without one of everybody stands in its place.
            own != Some(source) && [given, last].contains(&Some(source))
        })
    })
}

/// What copies have for a source that leave through a socket of the caller's.
///
/// # Errors
/// What the system says.
pub(crate) fn source_of(given: &OwnedFd) -> io::Result<OwnSource> {
    let socket = SockRef::from(given);
    if socket.local_addr()?.as_socket().map(|bound| bound.port()) == Some(0) {
        // The first copy would get some port from the kernel; it gets it now, so that it is known.
        let anywhere: IpAddr = if socket.domain()? == Domain::IPV6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        socket.bind(&SocketAddr::new(anywhere, 0).into())?;
    }
    let bound = socket.local_addr()?.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a UDP socket over IP is right")
    })?;
    // A socket of IPv6 may send over IPv4, and then has such an address.
    let address = bound.ip().to_canonical();
    Ok(OwnSource {
        address: (!address.is_unspecified()).then(|| address.into()),
        port: bound.port(),
    })
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Refusal {
    move |error| Refusal::Failed(format!("{what}: {error}"))
}

/// Lets the socket use any source address.
fn make_transparent(socket: &Socket, v6: bool) -> Result<(), Refusal> {
    let result = if v6 {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    };
    result.map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Refusal::RightMissing
        } else {
            Refusal::Failed(format!(
                "the source address is not one of this host's, and cannot be used: {error}"
            ))
        }
    })
}

impl Udp {
    /// Opens and binds a socket, transparent where the address is not ours.
    pub(super) fn open(wish: &Wish) -> Result<Self, Refusal> {
        if is_broadcast(wish.source.ip()) {
            return Err(Refusal::Failed(
                "the source address is everybody's on one of this host's networks; that of one host is right"
                    .to_owned(),
            ));
        }
        let socket = create(wish).map_err(failed("no UDP socket"))?;
        let v6 = wish.source.is_ipv6();
        let address = SockAddr::from(wish.source);
        let mut transparent = wish.transparent;
        if transparent {
            make_transparent(&socket, v6)?;
        }
        let mut bound = socket.bind(&address);
        if matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
            && !transparent
        {
            make_transparent(&socket, v6)?;
            transparent = true;
            bound = socket.bind(&address);
        }
        match bound {
            Ok(()) => Ok(Self {
                socket,
                transparent,
                ttl: None,
            }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Refusal::InUse),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Refusal::Failed(
                "the source port is below 1024, and using it needs the right CAP_NET_BIND_SERVICE"
                    .to_owned(),
            )),
            Err(error) => Err(failed("the source address and port cannot be used")(error)),
        }
    }

    /// Takes over a socket that somebody with more rights has bound.
    pub(super) fn adopt(descriptor: OwnedFd, wish: &Wish) -> Result<Self, Refusal> {
        let socket = Socket::from(descriptor);
        // Copies of one order never leave under the source of another, whatever the other side has mixed up.
        match is_as_wished(&socket, wish) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Refusal::Failed(
                    "the broker gave another socket than it was asked for".to_owned(),
                ));
            }
            Err(error) => return Err(failed("no UDP socket")(error)),
        }
        configure(&socket, wish).map_err(failed("no UDP socket"))?;
        Ok(Self {
            socket,
            transparent: true,
            ttl: None,
        })
    }

    /// Sends through a socket that is and stays somebody else's, and whose settings are his.
    pub(super) fn over(given: &OwnedFd) -> Result<Self, Refusal> {
        let socket = given
            .try_clone()
            .map_err(failed("the socket for copies cannot be used"))?;
        Ok(Self {
            socket: socket.into(),
            transparent: true,
            ttl: None,
        })
    }

    /// Sets the time to live of what is sent from now on.
    pub(super) fn set_ttl(&mut self, ttl: u8, v6: bool) -> io::Result<()> {
        if self.ttl == Some(ttl) {
            return Ok(());
        }
        let hops = u32::from(ttl);
        if v6 {
            self.socket.set_unicast_hops_v6(hops)?;
            self.socket.set_multicast_hops_v6(hops)?;
        } else {
            self.socket.set_ttl_v4(hops)?;
            self.socket.set_multicast_ttl_v4(hops)?;
        }
        self.ttl = Some(ttl);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(source: SocketAddr, kind: Type) -> OwnedFd {
        let socket = Socket::new(Domain::for_address(source), kind, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.into()
    }

    #[test]
    fn a_given_socket_says_where_copies_come_from() {
        let of = |source: &str| {
            let socket = std::net::UdpSocket::bind(source).unwrap();
            let port = socket.local_addr().unwrap().port();
            let own = source_of(&socket.into()).unwrap();
            assert_eq!(own.port, port);
            own.address
        };
        let loopback = |text: &str| Some(text.parse::<IpAddr>().unwrap().into());
        assert_eq!(of("127.0.0.2:0"), loopback("127.0.0.2"));
        assert_eq!(of("[::ffff:127.0.0.2]:0"), loopback("127.0.0.2"));
        assert_eq!(of("[::1]:0"), loopback("::1"));
        assert_eq!(of("0.0.0.0:0"), None);
        assert_eq!(of("[::]:0"), None);
        for domain in [Domain::IPV4, Domain::IPV6] {
            let unbound = Socket::new(domain, Type::DGRAM, None).unwrap();
            let own = source_of(&unbound.try_clone().unwrap().into()).unwrap();
            let bound = unbound.local_addr().unwrap().as_socket().unwrap();
            assert_eq!((own.address, own.port), (None, bound.port()));
            assert_ne!(own.port, 0);
        }
    }

    #[test]
    fn only_the_socket_that_was_asked_for_is_taken_over() {
        let source: SocketAddr = "127.0.0.1:41011".parse().unwrap();
        let wish = Wish {
            source,
            refuse_oversize: false,
            transparent: true,
            send_buffer_octets: 1 << 16,
        };
        assert!(Udp::adopt(bound(source, Type::DGRAM), &wish).is_ok());
        let others = ["127.0.0.1:41012", "127.0.0.2:41011", "[::1]:41011"];
        for other in others.map(|text| text.parse().unwrap()) {
            assert!(Udp::adopt(bound(other, Type::DGRAM), &wish).is_err());
        }
        assert!(Udp::adopt(bound(source, Type::STREAM), &wish).is_err());
    }
}
