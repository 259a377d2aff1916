//! The sockets of a mediation device.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flowtap_io::receive::{ReceiveError, Receiver as IoReceiver};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;

/// A stream: source address, source port, destination port, packets, octets.
type StreamRow = (String, u16, u16, u64, u64);

/// Sockets of a mediation device: receives copies and writes one pcapng a stream.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Receiver {
    io: Mutex<IoReceiver>,
    addresses: Vec<SocketAddr>,
}

fn failure(error: &ReceiveError) -> PyErr {
    errors::data_plane(&error.to_string())
}

#[pymethods]
impl Receiver {
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an argument from Python is an owned value"
    )]
    fn new(listen: Vec<(String, u16)>, directory: PathBuf) -> PyResult<Self> {
        let listen = listen
            .into_iter()
            .map(|(address, port)| {
                let address: IpAddr = address.parse().map_err(|_error| {
                    PyValueError::new_err(format!(
                        "listen: {address:?} is not an IPv4 or IPv6 address"
                    ))
                })?;
                Ok(SocketAddr::new(address, port))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let io = IoReceiver::start(&listen, &directory).map_err(|error| failure(&error))?;
        let addresses = io.addresses().to_vec();
        Ok(Self {
            io: Mutex::new(io),
            addresses,
        })
    }

    /// Where it listens, with the real ports.
    #[getter]
    fn addresses(&self) -> Vec<(String, u16)> {
        self.addresses
            .iter()
            .map(|address| (address.ip().to_string(), address.port()))
            .collect()
    }

    /// Waits until something arrives or the time is over; returns how many packets have arrived so far.
    fn poll(&self, py: Python<'_>, timeout_s: f64) -> PyResult<u64> {
        let timeout = Duration::try_from_secs_f64(timeout_s).map_err(|_error| {
            PyValueError::new_err("timeout_s: a number of seconds from 0 is right")
        })?;
        py.detach(|| {
            let io = self.io.lock().unwrap_or_else(PoisonError::into_inner);
            io.wait(io.packets(), timeout)
                .map_err(|error| failure(&error))
        })
    }

    #[getter]
    fn packets(&self, py: Python<'_>) -> u64 {
        py.detach(|| {
            self.io
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .packets()
        })
    }

    #[getter]
    fn undecodable(&self, py: Python<'_>) -> u64 {
        py.detach(|| {
            self.io
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .undecodable()
        })
    }

    /// Every stream: source address, source port, destination port, packets, octets.
    #[getter]
    fn streams(&self, py: Python<'_>) -> Vec<StreamRow> {
        let streams = py.detach(|| {
            self.io
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .streams()
        });
        streams
            .into_iter()
            .map(|(id, count)| {
                let source = id.source.to_string();
                (
                    source,
                    id.source_port,
                    id.destination_port,
                    count.packets,
                    count.octets,
                )
            })
            .collect()
    }

    /// Stops and completes the files; the counts stay.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut io = self.io.lock().unwrap_or_else(PoisonError::into_inner);
            io.close().map_err(|error| failure(&error))
        })
    }
}
