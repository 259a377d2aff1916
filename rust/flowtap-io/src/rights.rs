//! What this process may do beyond its user's rights, and giving it up.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
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
    keep(names, false)
}

/// The same, and programs that this process starts have what is kept, whoever's it is (ambient capabilities,
/// capabilities(7)).
///
/// # Errors
/// The system refuses.
pub fn keep_for_programs(names: &[&str]) -> io::Result<()> {
    keep(names, true)
}

fn keep(names: &[&str], for_programs: bool) -> io::Result<()> {
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
    let kept = now.permitted.intersection(keep);
    let sets = CapabilitySets {
        effective: now.effective.intersection(keep),
        permitted: kept,
        inheritable: if for_programs {
            kept
        } else {
            CapabilitySet::empty()
        },
    };
    set_capabilities(None, sets)?;
    if for_programs {
        for (_, one) in KNOWN.iter().filter(|(_, one)| kept.contains(*one)) {
            configure_capability_in_ambient_set(*one, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The capabilities of a program that this thread starts, as the kernel prints them.
    fn of_a_program() -> Vec<u64> {
        let output = std::process::Command::new("/bin/cat")
            .arg("/proc/self/status")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        ["CapPrm:", "CapEff:", "CapAmb:"]
            .map(|name| {
                let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
                u64::from_str_radix(values.next().unwrap().trim(), 16).unwrap()
            })
            .to_vec()
    }

    #[test]
    fn programs_have_what_is_kept_for_them_and_no_more() {
        std::thread::spawn(|| {
            let net_raw = CapabilitySet::NET_RAW.bits();
            if !held().unwrap().contains(&"CAP_NET_RAW") {
                return;
            }
            keep_for_programs(&["CAP_NET_RAW", "CAP_NO_SUCH"]).unwrap();
            assert_eq!(of_a_program(), [net_raw; 3]);
            keep_only(&["CAP_NET_RAW"]).unwrap();
            let [permitted, effective, ambient] = of_a_program().try_into().unwrap();
            assert_eq!((permitted | effective) & !net_raw, 0);
            assert_eq!(ambient, 0);
        })
        .join()
        .unwrap();
    }

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
