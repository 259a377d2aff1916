//! The addresses of this host.

use std::io;
use std::net::IpAddr;

use flowtap_core::local::LocalAddresses;
use nix::ifaddrs::getifaddrs;

/// All addresses of this host's interfaces, in this network namespace and in the kernel's order.
///
/// # Errors
/// What the system says where it does not list them.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let of = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        address
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(getifaddrs()?.filter_map(of).collect())
}

/// The same for the matcher; none where the system does not say.
pub(crate) fn local_addresses() -> LocalAddresses {
    let addresses = host_addresses().unwrap_or_default();
    addresses.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_addresses_are_local() {
        let local = local_addresses();
        assert!(local.contains(IpAddr::from([127, 0, 0, 1]).into()));
        assert!(!local.contains(IpAddr::from([192, 0, 2, 1]).into()));
    }
}
