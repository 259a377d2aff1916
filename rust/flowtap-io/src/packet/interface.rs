//! Interfaces by name, and how their frames begin.

use flowtap_core::frame::LinkType;
use libc::c_int;

use super::error::PacketError;
use super::links::{self, Link};

/// `ARPHRD_RAWIP` and the tunnels whose frames are bare IP packets (include/uapi/linux/if_arp.h).
const RAW_IP: [u16; 6] = [
    libc::ARPHRD_NONE,
    519,
    libc::ARPHRD_PPP,
    libc::ARPHRD_TUNNEL,
    libc::ARPHRD_TUNNEL6,
    libc::ARPHRD_SIT,
];

/// One network interface, as it was when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number, which stays when the name changes.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is (`ARPHRD_*`).
    pub hardware: u16,
    /// Whether it is switched on and its link is there.
    pub is_up: bool,
    /// Whether it is switched on.
    pub is_enabled: bool,
    /// Octets of the longest packet that it sends.
    pub mtu_octets: u32,
}

impl Interface {
    /// Finds an interface of this network namespace.
    ///
    /// # Errors
    /// [`PacketError::NoInterface`] names those that there are.
    pub fn find(name: &str) -> Result<Self, PacketError> {
        let links = Self::all()?;
        if let Some(found) = links.iter().find(|interface| interface.name == name) {
            return Ok(found.clone());
        }
        Err(PacketError::NoInterface {
            name: name.to_owned(),
            available: links.into_iter().map(|interface| interface.name).collect(),
        })
    }

    /// All interfaces of this network namespace.
    ///
    /// # Errors
    /// What the system says.
    pub fn all() -> Result<Vec<Self>, PacketError> {
        match links::all() {
            Ok(links) => Ok(links.into_iter().map(Self::from).collect()),
            Err(error) => Err(PacketError::system("interfaces", "listing them", error)),
        }
    }

    /// Whether every packet that leaves it comes in again at once.
    pub const fn is_loopback(&self) -> bool {
        self.hardware == libc::ARPHRD_LOOPBACK
    }

    /// How its frames begin as they are captured.
    ///
    /// Ethernet and loopback interfaces have Ethernet headers. Tunnels and dial-up lines that carry IP and nothing else
    /// (`tun`, PPP, IP in IP, SIT, raw IP modems) give bare packets. For everything else the kernel leaves out the link
    /// header, and each frame gets a "cooked" one of version 2: so no interface is refused, and IP in it is decoded, but
    /// the hardware's own header is not seen, and a super-frame of such an interface cannot be cut.
    pub fn link_type(&self) -> LinkType {
        match self.hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::Ethernet,
            hardware if RAW_IP.contains(&hardware) => LinkType::Raw,
            _ => LinkType::LinuxCooked2,
        }
    }

    /// The type of packet socket that captures it.
    pub(super) fn socket_type(&self) -> c_int {
        if self.link_type() == LinkType::LinuxCooked2 {
            libc::SOCK_DGRAM
        } else {
            libc::SOCK_RAW
        }
    }

    /// The number as the system's calls take it.
    pub(super) fn number(&self) -> c_int {
        c_int::try_from(self.index).unwrap_or(0)
    }
}

impl From<Link> for Interface {
    fn from(link: Link) -> Self {
        let has = |flag: c_int| link.flags & flag.cast_unsigned() != 0;
        Self {
            index: link.index,
            hardware: link.hardware,
            // Not IFF_RUNNING, which the kernel brings up to date some time later.
            is_up: has(libc::IFF_UP) && has(libc::IFF_LOWER_UP),
            is_enabled: has(libc::IFF_UP),
            mtu_octets: link.mtu_octets,
            name: link.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_says_which_there_are() {
        let error = Interface::find("no such").unwrap_err().to_string();
        assert!(
            error.starts_with("no interface \"no such\"; there are: lo"),
            "{error}"
        );
    }

    #[test]
    fn every_kind_of_interface_has_a_link_type() {
        for (hardware, link_type) in [
            (1, LinkType::Ethernet),
            (772, LinkType::Ethernet),
            (0xfffe, LinkType::Raw),
            (512, LinkType::Raw),
            (768, LinkType::Raw),
            (776, LinkType::Raw),
            (778, LinkType::LinuxCooked2),
            (801, LinkType::LinuxCooked2),
        ] {
            let interface = Interface {
                index: 1,
                name: "x".to_owned(),
                hardware,
                is_up: true,
                is_enabled: true,
                mtu_octets: 1500,
            };
            assert_eq!(interface.link_type(), link_type, "{hardware}");
        }
    }
}
