//! Python bindings: convert, detach, map errors; decide nothing.
//!
//! Batches cross the boundary, never single packets on the hot path. Anything longer than a table
//! look-up runs with the interpreter released, and no worker thread ever attaches to it.
#![deny(unsafe_code)]

mod buffer;
mod criteria;
mod engine;
mod errors;
mod explain;
mod gate;
mod inner;
mod input;
mod interfaces;
mod link_type;
mod receiver;
mod replay;
mod rights;
mod stats;
mod table;
mod tap;
mod traffic;
mod tunnels;
mod usage;

use pyo3::prelude::*;

/// The compiled part of flowtap; its names are re-exported by the package.
#[pymodule]
mod _flowtap {
    #[pymodule_export]
    use crate::{
        buffer::{Copy, CopyBatch},
        criteria::{AddressSpace, ContentDestination, Criteria, RateLimit},
        engine::{BpfProgram, Engine},
        explain::{Explanation, explain},
        gate::Gate,
        interfaces::{host_addresses, interface_link_type, interfaces},
        link_type::{LinkType, capture_link_type},
        receiver::Receiver,
        replay::{Replay, ReplayReport},
        rights::{keep_rights, rights_held, serve_broker},
        stats::{CaptureStats, CriterionStats, DestinationStats, Stats},
        table::FilterTable,
        tap::Tap,
        traffic::Traffic,
        usage::{UsageFile, UsageRecord},
    };
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
