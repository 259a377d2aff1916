//! Seeded traffic, for measuring.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flowtap_io::files::CaptureError;
use flowtap_io::packet::PacketError;
use flowtap_io::traffic::{
    Flow, Lengths, Traffic as IoTraffic, TrafficOptions, TrafficSender, create_capture,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;

/// Source, destination, protocol, source port, destination port.
type FlowRow = (String, String, u8, u16, u16);

/// Frames between two looks at signals and progress.
const FRAMES_PER_LOOK: u64 = 65_536;

/// Frames drawn from flows; the same for the same seed.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Traffic(TrafficOptions);

fn flows(which: &str, rows: Vec<FlowRow>) -> PyResult<Vec<Flow>> {
    let address = |index: usize, text: &str| -> PyResult<IpAddr> {
        text.parse().map_err(|_error| {
            PyValueError::new_err(format!(
                "{which}[{index}]: {text:?} is not an IPv4 or IPv6 address"
            ))
        })
    };
    rows.into_iter()
        .enumerate()
        .map(
            |(index, (source, destination, protocol, source_port, destination_port))| {
                Ok(Flow {
                    source: address(index, &source)?,
                    destination: address(index, &destination)?,
                    protocol,
                    source_port,
                    destination_port,
                })
            },
        )
        .collect()
}

fn from_packet(error: &PacketError) -> PyErr {
    match error {
        PacketError::PermissionMissing { right, .. } => {
            errors::permission_missing(right, &error.to_string())
        }
        _ => errors::data_plane(&error.to_string()),
    }
}

impl Traffic {
    /// The series from its start; the options have been checked.
    fn begin(&self) -> PyResult<IoTraffic> {
        IoTraffic::new(self.0.clone()).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

/// The next frames, and records of seconds, microseconds, offset and length.
fn batch(traffic: &mut IoTraffic, frames: usize) -> PyResult<(Vec<u8>, Vec<u8>)> {
    let (mut packets, mut records) = (Vec::new(), Vec::new());
    for _ in 0..frames {
        let offset = packets.len();
        packets.extend_from_slice(traffic.next_frame());
        let captured = packets.len() - offset;
        let timestamp = Duration::from_nanos(traffic.timestamp_ns());
        for field in [
            u32::try_from(timestamp.as_secs()),
            Ok(timestamp.subsec_micros()),
            u32::try_from(offset),
            u32::try_from(captured),
        ] {
            let field = field.map_err(|_error| {
                PyValueError::new_err(format!("frames = {frames}: a batch holds at most 4 GiB"))
            })?;
            records.extend_from_slice(&field.to_ne_bytes());
        }
    }
    Ok((packets, records))
}

/// Does `frames` frames in steps with the interpreter released, and looks at signals in between.
fn in_steps<E: Send>(
    py: Python<'_>,
    frames: u64,
    progress: Option<&Bound<'_, PyAny>>,
    mut step: impl FnMut(u64) -> Result<(), E> + Send,
    error: impl Fn(&E) -> PyErr,
) -> PyResult<()> {
    let mut done = 0;
    while done < frames {
        let next = FRAMES_PER_LOOK.min(frames - done);
        py.detach(|| step(next))
            .map_err(|failure| error(&failure))?;
        done += next;
        py.check_signals()?;
        if let Some(progress) = progress {
            progress.call1((done,))?;
        }
    }
    Ok(())
}

#[pymethods]
impl Traffic {
    #[new]
    #[pyo3(signature = (flows, *, subjects, subject_share_ppm, length_octets, seed))]
    fn new(
        flows: Vec<FlowRow>,
        subjects: Vec<FlowRow>,
        subject_share_ppm: u32,
        length_octets: Option<u16>,
        seed: u64,
    ) -> PyResult<Self> {
        let traffic = Self(TrafficOptions {
            flows: self::flows("flows", flows)?,
            subjects: self::flows("subjects", subjects)?,
            subject_share_ppm,
            lengths: length_octets.map_or(Lengths::Imix, Lengths::Octets),
            seed,
        });
        traffic.begin()?;
        Ok(traffic)
    }

    /// Writes a capture of the first `frames` frames.
    #[pyo3(signature = (path, frames, *, progress=None))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an argument from Python is an owned value"
    )]
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        frames: u64,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mut traffic = self.begin()?;
        let failed = |error: &CaptureError| errors::from_capture(error);
        let mut writer = create_capture(&path).map_err(|error| failed(&error))?;
        in_steps(
            py,
            frames,
            progress,
            |next| traffic.write(&mut writer, next),
            failed,
        )?;
        py.detach(|| writer.finish())
            .map_err(|error| failed(&error))
    }

    /// The first frames in batches as pcapy-ng makes them: packets one behind the other, and records for them.
    fn batches<'py>(
        &self,
        py: Python<'py>,
        batches: usize,
        frames: usize,
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let mut traffic = self.begin()?;
        let mut made = Vec::with_capacity(batches);
        for _ in 0..batches {
            let (packets, records) = py.detach(|| batch(&mut traffic, frames))?;
            made.push((PyBytes::new(py, &packets), PyBytes::new(py, &records)));
            py.check_signals()?;
        }
        Ok(made)
    }

    /// Sends `frames` frames on an interface; returns frames, octets, pauses and seconds.
    fn send(&self, py: Python<'_>, interface: &str, frames: u64) -> PyResult<(u64, u64, u64, f64)> {
        let traffic = self.begin()?;
        let mut sender = py
            .detach(|| TrafficSender::open(interface, traffic))
            .map_err(|error| from_packet(&error))?;
        let began = Instant::now();
        in_steps(
            py,
            frames,
            None,
            |next| sender.send(next),
            |error| errors::data_plane(&format!("{interface}: sending: {error}")),
        )?;
        let elapsed_s = began.elapsed().as_secs_f64();
        let sent = sender.sent();
        Ok((sent.frames, sent.octets, sent.pauses, elapsed_s))
    }
}
