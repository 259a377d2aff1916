//! What can be wrong with a live capture.

use std::io;

/// A capture that cannot be opened or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The process may not do this.
    #[error("{operation} needs the right {right}, which this process does not have")]
    PermissionMissing {
        /// The right.
        right: &'static str,
        /// What it is needed for.
        operation: &'static str,
    },
    /// There is no interface of this name.
    #[error("no interface {name:?}; there are: {}", available.join(", "))]
    NoInterface {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// Several workers can only begin to share an interface that is up.
    #[error("interface {name:?} is down; several workers can share it when it is up")]
    InterfaceDown {
        /// Its name.
        name: String,
    },
    /// An option that is not possible.
    #[error("{option} = {value}: {rule}")]
    Option {
        /// Which one.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        rule: &'static str,
    },
    /// The system has no memory for a ring, not even for a small one.
    #[error("no memory for a ring of {octets} octets")]
    RingMemory {
        /// Octets of the smallest ring that was asked for.
        octets: usize,
    },
    /// The descriptor that was handed over cannot be used.
    #[error("the descriptor for {interface:?} is no packet socket of the type {expected}")]
    WrongDescriptor {
        /// The interface that it was for.
        interface: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The system refuses.
    #[error("{interface}: {operation}: {source}")]
    System {
        /// The interface, or what else it is about.
        interface: String,
        /// What was tried.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The right that packet sockets need.
const RIGHT: &str = "CAP_NET_RAW";

impl PacketError {
    /// What the system said when `operation` was tried, with the missing right by its name.
    pub(super) fn system(interface: &str, operation: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::PermissionMissing {
                right: RIGHT,
                operation,
            };
        }
        Self::System {
            interface: interface.to_owned(),
            operation,
            source,
        }
    }
}
