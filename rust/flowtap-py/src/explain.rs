//! What was decoded of every frame of a capture, and what every criterion said to it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use flowtap_core::criteria::Field;
use flowtap_core::decode::{Decoded, decode};
use flowtap_core::frame::{Direction, Frame};
use flowtap_core::packet::Transport;
use flowtap_core::table::{FilterTable as CoreTable, Passage, Way};
use flowtap_io::files::{CaptureReader, Interface};
use pyo3::prelude::*;

use crate::errors;
use crate::table::FilterTable;

/// What was decoded of one frame, and what every criterion said to it.
#[pyclass(frozen, get_all, module = "flowtap")]
pub(crate) struct Explanation {
    frame: u64,
    layers: Vec<&'static str>,
    source: Option<String>,
    destination: Option<String>,
    protocol: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    fragment: Option<(u32, bool)>,
    vlan: Vec<u16>,
    mpls: Vec<u32>,
    stop: Option<(&'static str, &'static str)>,
    matched: Vec<u64>,
    rejected: Vec<(u64, &'static str)>,
    timestamp_ns: u64,
    octets: usize,
}

/// How a frame passed, as far as its capture tells.
fn passage(frame: &Frame<'_>, interfaces: &[Interface], table: &CoreTable) -> Passage {
    let name = usize::try_from(frame.interface)
        .ok()
        .and_then(|at| interfaces.get(at)?.name.as_deref());
    Passage {
        way: match frame.direction {
            Direction::Unknown | Direction::Inbound => Way::In,
            Direction::Outbound => Way::Made,
        },
        is_any_way: false,
        interface: name.and_then(|name| table.interface(name)),
    }
}

fn explanation(
    number: u64,
    timestamp_ns: u64,
    octets: usize,
    decoded: Decoded<'_>,
    asked: Option<(&CoreTable, Passage)>,
) -> Explanation {
    let key = decoded.ip.map(|ip| ip.key);
    let (mut matched, mut rejected) = (Vec::new(), Vec::new());
    if let Some((table, passage)) = asked {
        for slot in table.slots() {
            let rejecting = match key {
                _ if !slot.admits(passage) => Some("interface"),
                _ if slot.is_circuit() => None,
                Some(key) => slot.criteria().first_rejecting_field(&key).map(Field::name),
                // Without an IP packet there is nothing that a filter could reject.
                None => continue,
            };
            match rejecting {
                None => matched.push(slot.id()),
                Some(field) => rejected.push((slot.id(), field)),
            }
        }
    }
    let ports = key.and_then(|key| match key.transport {
        Transport::Ports {
            source,
            destination,
        } => Some((source, destination)),
        _ => None,
    });
    let icmp = key.and_then(|key| match key.transport {
        Transport::Icmp { kind, code } => Some((kind, code)),
        _ => None,
    });
    let fragment = decoded.ip.and_then(|ip| ip.fragment);
    Explanation {
        frame: number,
        layers: decoded
            .layers
            .iter()
            .map(|layer| layer.kind.name())
            .collect(),
        source: key.map(|key| IpAddr::from(key.source).to_string()),
        destination: key.map(|key| IpAddr::from(key.destination).to_string()),
        protocol: key.and_then(|key| key.protocol),
        source_port: ports.map(|ports| ports.0),
        destination_port: ports.map(|ports| ports.1),
        icmp_type: icmp.map(|icmp| icmp.0),
        icmp_code: icmp.map(|icmp| icmp.1),
        fragment: fragment.map(|fragment| (fragment.offset_octets, fragment.more)),
        vlan: decoded.vlan_ids,
        mpls: decoded.mpls_labels,
        stop: decoded
            .stop
            .map(|stop| (stop.layer.name(), stop.reason.name())),
        matched,
        rejected,
        timestamp_ns,
        octets,
    }
}

/// Explains frame by frame.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct ExplanationIterator {
    state: Mutex<(CaptureReader, u64)>,
    table: Option<Arc<CoreTable>>,
}

#[pymethods]
impl ExplanationIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Explanation>> {
        // With a large table one frame takes a while: every criterion is asked.
        py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (reader, number) = &mut *state;
            let next = reader
                .next_with_interfaces()
                .map_err(|error| errors::from_capture(&error))?;
            Ok(next.map(|(frame, interfaces)| {
                *number += 1;
                let table = self.table.as_deref();
                let asked = table.map(|table| (table, passage(&frame, interfaces, table)));
                explanation(
                    *number,
                    frame.timestamp_ns,
                    frame.data.len(),
                    decode(&frame),
                    asked,
                )
            }))
        })
    }
}

/// Explains a capture; `-` is standard input.
#[pyfunction]
#[pyo3(signature = (path, table=None))]
pub(crate) fn explain(
    py: Python<'_>,
    path: &str,
    table: Option<&FilterTable>,
) -> PyResult<ExplanationIterator> {
    let table = table.map(|table| Arc::clone(&table.0));
    let reader = py
        .detach(|| CaptureReader::open(path))
        .map_err(|error| errors::from_capture(&error))?;
    Ok(ExplanationIterator {
        state: Mutex::new((reader, 0)),
        table,
    })
}
