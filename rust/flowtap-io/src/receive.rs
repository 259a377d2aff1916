//! The mediation device's side: receives copies on UDP sockets and keeps each stream in a file of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flowtap_core::decode::decode_packet;
use flowtap_core::frame::{Direction, Frame, LinkType};
use socket2::SockRef;

use crate::files::{CaptureWriter, Format, WriterOptions};

/// Largest UDP payload there is.
const DATAGRAM_OCTETS: usize = 65_535;
/// What we ask the kernel to buffer while a file is written; it may grant less.
const RECEIVE_BUFFER_OCTETS: usize = 16 << 20;
/// How soon a thread notices that it is to end, and how long received data stays in memory when idle.
const IDLE: Duration = Duration::from_millis(50);
/// Streams a receiver keeps: every stream costs a file, and anybody can invent source ports.
pub const MAX_STREAMS: usize = 4_096;

/// Tells the streams apart: FlowTap copies carry no other mark than their outer addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Outer source address.
    pub source: IpAddr,
    /// Outer source port.
    pub source_port: u16,
    /// Outer destination port.
    pub destination_port: u16,
}

/// What one stream brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCount {
    /// Datagrams.
    pub packets: u64,
    /// Octets of their payload, which is the tapped packet.
    pub octets: u64,
}

/// A receiver that could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// A socket could not be opened.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A datagram could not be received.
    #[error("receiving on UDP {address} failed: {source}")]
    Receive {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

struct Stream {
    writer: CaptureWriter,
    path: PathBuf,
    count: StreamCount,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<StreamId, Stream>,
    packets: u64,
    undecodable: u64,
    refused_streams: u64,
    failure: Option<ReceiveError>,
}

struct Shared {
    directory: PathBuf,
    state: Mutex<State>,
    arrived: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The counts stay usable whatever happened to another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, id: StreamId, payload: &[u8], timestamp_ns: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let frame = Frame {
            data: payload,
            link_type: LinkType::Raw,
            timestamp_ns,
            original_length_octets: length,
            interface: 0,
            direction: Direction::Inbound,
        };
        if !state.streams.contains_key(&id) {
            if state.streams.len() >= MAX_STREAMS {
                state.refused_streams = state.refused_streams.saturating_add(1);
                return;
            }
            match self.open(id) {
                Ok(stream) => {
                    state.streams.insert(id, stream);
                }
                Err(error) => {
                    state.failure.get_or_insert(error);
                    return;
                }
            }
        }
        if let Some(stream) = state.streams.get_mut(&id) {
            if let Err(source) = stream.writer.write_frame(&frame) {
                let path = stream.path.clone();
                state.failure.get_or_insert(ReceiveError::Write {
                    path,
                    source: io::Error::other(source),
                });
                return;
            }
            stream.count.packets = stream.count.packets.saturating_add(1);
            stream.count.octets = stream.count.octets.saturating_add(u64::from(length));
        }
        state.packets = state.packets.saturating_add(1);
        if decode_packet(&frame).is_none() {
            state.undecodable = state.undecodable.saturating_add(1);
        }
        drop(guard);
        self.arrived.notify_all();
    }

    fn open(&self, id: StreamId) -> Result<Stream, ReceiveError> {
        let name = format!(
            "{}_{}_{}.pcapng",
            id.source, id.source_port, id.destination_port
        );
        let path = self.directory.join(name);
        let options = WriterOptions {
            interface_name: Some("copies".to_owned()),
            ..WriterOptions::default()
        };
        match CaptureWriter::create(&path, Format::Pcapng, options) {
            Ok(writer) => Ok(Stream {
                writer,
                path,
                count: StreamCount::default(),
            }),
            Err(source) => Err(ReceiveError::Write {
                path,
                source: io::Error::other(source),
            }),
        }
    }

    fn flush(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for stream in state.streams.values_mut() {
            if let Err(source) = stream.writer.flush() {
                let path = stream.path.clone();
                state.failure.get_or_insert(ReceiveError::Write {
                    path,
                    source: io::Error::other(source),
                });
            }
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Receives on one socket until told to stop.
fn receive(shared: &Shared, socket: &UdpSocket, local: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_OCTETS];
    let mut dirty = false;
    while !shared.stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                let id = StreamId {
                    source: peer.ip().to_canonical(),
                    source_port: peer.port(),
                    destination_port: local.port(),
                };
                if let Some(payload) = buffer.get(..length) {
                    shared.store(id, payload, now_ns());
                    dirty = true;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                // Nothing to do: what has arrived goes to disk now rather than at the end.
                if dirty {
                    shared.flush();
                    dirty = false;
                }
            }
            Err(source) => {
                shared.lock().failure.get_or_insert(ReceiveError::Receive {
                    address: local,
                    source,
                });
                return;
            }
        }
    }
}

/// A running receiver: one thread a socket, one file a stream.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Opens the sockets and starts to receive; files appear in `directory`, which must exist.
    ///
    /// # Errors
    /// [`ReceiveError::Listen`] where an address cannot be bound.
    pub fn start(listen: &[SocketAddr], directory: &Path) -> Result<Self, ReceiveError> {
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            state: Mutex::default(),
            arrived: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut sockets = Vec::new();
        for &address in listen {
            let bind = || -> io::Result<(UdpSocket, SocketAddr)> {
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(IDLE))?;
                // A wish: the system's limit (net.core.rmem_max) decides.
                SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_OCTETS)?;
                let local = socket.local_addr()?;
                Ok((socket, local))
            };
            sockets.push(bind().map_err(|source| ReceiveError::Listen { address, source })?);
        }
        let addresses = sockets.iter().map(|(_, local)| *local).collect();
        let threads = sockets
            .into_iter()
            .map(|(socket, local)| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || receive(&shared, &socket, local))
            })
            .collect();
        Ok(Self {
            shared,
            addresses,
            threads,
        })
    }

    /// Where it listens, with the real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until more than `known` datagrams have arrived or the time is over; returns how many there are.
    ///
    /// # Errors
    /// The first failure of a socket or file, once.
    pub fn wait(&self, known: u64, timeout: Duration) -> Result<u64, ReceiveError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.packets > known || left.is_zero() {
                return Ok(state.packets);
            }
            state = self
                .shared
                .arrived
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Datagrams stored.
    pub fn packets(&self) -> u64 {
        self.shared.lock().packets
    }

    /// Datagrams whose payload is no IP packet; they are stored all the same.
    pub fn undecodable(&self) -> u64 {
        self.shared.lock().undecodable
    }

    /// Datagrams of streams beyond [`MAX_STREAMS`], which were not stored.
    pub fn refused(&self) -> u64 {
        self.shared.lock().refused_streams
    }

    /// Every stream with its count, in order of address and ports.
    pub fn streams(&self) -> Vec<(StreamId, StreamCount)> {
        self.shared
            .lock()
            .streams
            .iter()
            .map(|(id, stream)| (*id, stream.count))
            .collect()
    }

    /// Stops, completes the files, and keeps the counts.
    ///
    /// # Errors
    /// The first failure of a socket or file that nobody has been told.
    pub fn close(&mut self) -> Result<(), ReceiveError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic would be a defect; the counts and files of the others are still completed.
            drop(thread.join());
        }
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        for stream in state.streams.values_mut() {
            if let Err(source) = stream.writer.finish() {
                let path = stream.path.clone();
                state.failure.get_or_insert(ReceiveError::Write {
                    path,
                    source: io::Error::other(source),
                });
            }
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Whoever wants to know calls `close` himself.
        drop(self.close());
    }
}
