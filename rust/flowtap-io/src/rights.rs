//! What this process may do beyond its user's rights, and giving it up.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// The capabilities that flowtap knows to use, by name.
const KNOWN: [(&str, CapabilitySet); 4] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW),
];

/// The number above the last one that a kernel could know.
const CAPABILITIES_END: u32 = 64;

/// Those of the capabilities that flowtap uses which this thread may use now, by name.
///
/// # Errors
/// The system does not say.
pub fn held() -> io::Result<Vec<&'static str>> {
    let effective = capabilities(None)?.effective;
    Ok(KNOWN
        .iter()
        .filter(|(_, set)| effective.contains(*set))
        .map(|(name, _)| *name)
        .collect())
}

/// Gives up every capability but those named, for ever: no program that this process starts can have more either.
///
/// Capabilities belong to a thread, so this must happen before there are others (capabilities(7)). A name that is not
/// held is no error; a name that flowtap does not know keeps nothing.
///
/// # Errors
/// The system refuses.
pub fn keep_only(names: &[&str]) -> io::Result<()> {
    let keep = KNOWN
        .iter()
        .filter(|(name, _)| names.contains(name))
        .fold(CapabilitySet::empty(), |all, (_, set)| all.union(*set));
    let now = capabilities(None)?;
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..CAPABILITIES_END {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if !keep.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)?;
            }
        }
    }
    let sets = CapabilitySets {
        effective: now.effective.intersection(keep),
        permitted: now.permitted.intersection(keep),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread's capabilities are its own, so the others keep theirs.
    #[test]
    fn what_is_given_up_is_gone_in_this_thread() {
        std::thread::spawn(|| {
            let before = held().unwrap();
            keep_only(&["CAP_NET_RAW", "CAP_NO_SUCH"]).unwrap();
            let after = held().unwrap();
            assert!(after.iter().all(|name| *name == "CAP_NET_RAW"));
            assert_eq!(
                after.contains(&"CAP_NET_RAW"),
                before.contains(&"CAP_NET_RAW")
            );
            keep_only(&[]).unwrap();
            assert!(held().unwrap().is_empty());
            assert!(capabilities(None).unwrap().permitted.is_empty());
            // It cannot be taken back.
            let wish = CapabilitySets {
                effective: CapabilitySet::NET_RAW,
                permitted: CapabilitySet::NET_RAW,
                inheritable: CapabilitySet::empty(),
            };
            assert!(set_capabilities(None, wish).is_err());
        })
        .join()
        .unwrap();
    }
}
