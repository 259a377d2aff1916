//! Capture files: pcap and pcapng, plain or compressed, read at memory speed and written with care.
//!
//! Read: classic pcap in both byte orders with microseconds or nanoseconds; pcapng with any number of
//! sections and interfaces, enhanced, simple and obsolete packet blocks; gzip (several members) and zstd
//! (several frames) around either. Written: classic pcap and pcapng, both with nanoseconds.
//!
//! Not read: the "modified" pcap of some 1990s kernels, other tools' own formats, the frames' own options
//! (comments, flags) and the name resolution, decryption secrets and statistics blocks of pcapng, which
//! are skipped. Timestamps are nanoseconds since 1970 in 64 bits and stop at both ends of that range.

mod buffer;
mod chunks;
mod compressed;
mod error;
mod input;
mod pcap;
mod pcapng;
mod reader;
mod writer;

pub(crate) use chunks::{Chunk, ChunkedFile, Walked};
pub use error::{CaptureError, CaptureErrorKind};
pub use reader::{CaptureReader, Interface, names};
pub use writer::{CaptureWriter, Format, WriterOptions};

/// The most octets of one frame that are read or written: libpcap's own bound, and above any frame of the
/// link types that flowtap decodes.
pub const MAX_RECORD_OCTETS: usize = 262_144;
/// The longest pcapng block that is taken into memory; longer ones are passed over, unless they had to be
/// understood.
pub const MAX_BLOCK_OCTETS: usize = 16 << 20;
/// The most interfaces that one file may describe, over all its sections.
pub const MAX_INTERFACES: usize = 65_536;

/// What a path of `-` is called in messages when it is read.
const STANDARD_INPUT: &str = "standard input";
/// What a path of `-` is called in messages when it is written.
const STANDARD_OUTPUT: &str = "standard output";
