//! The addresses of this host.

use std::net::IpAddr;

use flowtap_core::local::LocalAddresses;
use nix::ifaddrs::getifaddrs;

/// All addresses that this host has now; none where the system does not say.
pub(super) fn local_addresses() -> LocalAddresses {
    let Ok(interfaces) = getifaddrs() else {
        return LocalAddresses::default();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .map(Into::into)
        .collect()
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
