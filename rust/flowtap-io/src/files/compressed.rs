//! Decompression as a stream: gzip with several members, zstd with several frames.
//!
//! The decoders' own readers give back nothing of the piece in which they met damage. A capture must yield all
//! that came before it, so the framing is done here, over the decoders' lower interfaces.

use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::{Crc, Decompress, FlushDecompress, Status};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::input::InputError;

/// Compressed octets read at once.
const PIECE_OCTETS: usize = 128 << 10;
/// The largest zstd window accepted, which is memory: what `zstd -d` accepts without being told otherwise.
const MAX_WINDOW_OCTETS: u64 = 128 << 20;
/// The longest name, comment or extra field of a gzip header that is passed over.
const MAX_GZIP_FIELD_OCTETS: usize = 65_536;

type Source = BufReader<Box<dyn Read + Send>>;

const GZIP: &str = "gzip";
const ZSTD: &str = "zstd";

fn damaged(format: &'static str, reason: impl Into<String>) -> InputError {
    InputError::Damaged {
        format,
        reason: reason.into(),
    }
}

/// A read error, where the end of the file means that the compressed data is cut off.
fn read_error(format: &'static str, error: io::Error) -> InputError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        damaged(format, "it is cut off")
    } else {
        InputError::Io(error)
    }
}

/// Octets that are ready; none at the end. Goes on after a signal.
fn ready(source: &mut Source) -> Result<&[u8], InputError> {
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(InputError::Io(error)),
        }
    }
    Ok(source.buffer())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GzipState {
    /// Before a member.
    Between { first: bool },
    /// Inside the compressed part of a member.
    Inside,
    /// Everything has been read.
    Ended,
}

/// A gzip file [RFC 1952].
pub(crate) struct Gzip {
    source: Source,
    inflate: Decompress,
    checksum: Crc,
    state: GzipState,
    /// Found together with good octets, which go out first.
    pending: Option<InputError>,
}

impl Gzip {
    /// A decompressor that has read nothing yet.
    pub(crate) fn new(source: Box<dyn Read + Send>) -> Self {
        Self {
            source: BufReader::with_capacity(PIECE_OCTETS, source),
            inflate: Decompress::new(false),
            checksum: Crc::new(),
            state: GzipState::Between { first: true },
            pending: None,
        }
    }

    fn exact<const N: usize>(&mut self) -> Result<[u8; N], InputError> {
        let mut octets = [0; N];
        self.source
            .read_exact(&mut octets)
            .map_err(|error| read_error(GZIP, error))?;
        Ok(octets)
    }

    /// Passes over a text that ends with a zero octet.
    fn skip_text(&mut self) -> Result<(), InputError> {
        for _ in 0..MAX_GZIP_FIELD_OCTETS {
            if self.exact()? == [0] {
                return Ok(());
            }
        }
        Err(damaged(GZIP, "a name in its header has no end"))
    }

    /// Reads a member's header; false at the end of the file [RFC 1952 §2.3].
    fn begin(&mut self, first: bool) -> Result<bool, InputError> {
        if !first {
            // Tapes and some loggers fill up with zeros, which gzip itself ignores too.
            loop {
                let octets = ready(&mut self.source)?;
                let zeros = octets.iter().take_while(|&&octet| octet == 0).count();
                if octets.is_empty() {
                    return Ok(false);
                }
                if zeros == 0 {
                    break;
                }
                self.source.consume(zeros);
            }
        }
        let [magic0, magic1, method, flags, _, _, _, _, _, _] = self.exact()?;
        if [magic0, magic1] != [0x1f, 0x8b] {
            return Err(damaged(GZIP, "something else follows after its end"));
        }
        if method != 8 || flags & 0xe0 != 0 {
            return Err(damaged(
                GZIP,
                "its header names a method that does not exist",
            ));
        }
        if flags & 0x04 != 0 {
            for _ in 0..u16::from_le_bytes(self.exact()?) {
                let [_] = self.exact()?;
            }
        }
        if flags & 0x08 != 0 {
            self.skip_text()?;
        }
        if flags & 0x10 != 0 {
            self.skip_text()?;
        }
        if flags & 0x02 != 0 {
            let [_, _] = self.exact()?;
        }
        self.inflate.reset(false);
        self.checksum.reset();
        Ok(true)
    }

    /// Compares what a member says at its end about its content.
    fn end(&mut self) -> Result<(), InputError> {
        let checksum = u32::from_le_bytes(self.exact()?);
        let length = u32::from_le_bytes(self.exact()?);
        // The trailer holds the length modulo 2^32.
        if checksum != self.checksum.sum()
            || u64::from(length) != self.inflate.total_out() & 0xffff_ffff
        {
            return Err(damaged(GZIP, "its check sum is wrong"));
        }
        Ok(())
    }

    /// Reads some decompressed octets, 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InputError> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        loop {
            match self.state {
                GzipState::Ended => return Ok(0),
                GzipState::Between { first } => {
                    self.state = if self.begin(first)? {
                        GzipState::Inside
                    } else {
                        GzipState::Ended
                    };
                }
                GzipState::Inside => {
                    let octets = ready(&mut self.source)?;
                    if octets.is_empty() {
                        return Err(damaged(GZIP, "it is cut off"));
                    }
                    let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
                    let status = self
                        .inflate
                        .decompress(octets, buffer, FlushDecompress::None);
                    let consumed = self.inflate.total_in().saturating_sub(read);
                    let produced = self.inflate.total_out().saturating_sub(written);
                    let produced = usize::try_from(produced)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    self.source
                        .consume(usize::try_from(consumed).unwrap_or(usize::MAX));
                    self.checksum
                        .update(buffer.get(..produced).unwrap_or_default());
                    let problem = match status {
                        Ok(Status::StreamEnd) => {
                            self.state = GzipState::Between { first: false };
                            self.end().err()
                        }
                        Ok(_) if consumed == 0 && produced == 0 => {
                            Some(damaged(GZIP, "it does not go on"))
                        }
                        Ok(_) => None,
                        Err(error) => Some(damaged(GZIP, error.to_string())),
                    };
                    if produced > 0 {
                        self.pending = problem;
                        return Ok(produced);
                    }
                    if let Some(error) = problem {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A zstd file [RFC 8878].
pub(crate) struct Zstd {
    source: Source,
    decoder: FrameDecoder,
    state: ZstdState,
    pending: Option<InputError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ZstdState {
    /// Before a frame.
    Between,
    /// Inside a frame whose check sum is still to be compared.
    Inside,
    /// Everything that can be read has been decoded; it may still have to go out.
    Ended,
}

/// Calls the zstd decoder, in which damaged input must not bring the program down.
///
/// Its authors fuzz it, but it asserts what it believes of its input in some places, and a caller who writes a
/// file for us to read must not be able to end a tap.
fn guarded<T>(call: impl FnOnce() -> Result<T, FrameDecoderError>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Reported(error)),
        Err(_) => Err(Failure::Panicked),
    }
}

enum Failure {
    Reported(FrameDecoderError),
    Panicked,
}

impl Zstd {
    /// A decompressor that has read nothing yet.
    pub(crate) fn new(source: Box<dyn Read + Send>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_OCTETS);
        Self {
            source: BufReader::with_capacity(PIECE_OCTETS, source),
            decoder,
            state: ZstdState::Between,
            pending: None,
        }
    }

    /// Reads a frame's header, past skippable frames; false at the end of the file.
    fn begin(&mut self) -> Result<bool, InputError> {
        loop {
            if ready(&mut self.source)?.is_empty() {
                return Ok(false);
            }
            match guarded(|| self.decoder.reset(&mut self.source)) {
                Ok(()) => return Ok(true),
                Err(Failure::Reported(FrameDecoderError::ReadFrameHeaderError(
                    ReadFrameHeaderError::SkipFrame { length, .. },
                ))) => {
                    let length = u64::from(length);
                    let mut content = self.source.by_ref().take(length);
                    let skipped =
                        io::copy(&mut content, &mut io::sink()).map_err(InputError::Io)?;
                    if skipped < length {
                        return Err(damaged(ZSTD, "it is cut off"));
                    }
                }
                Err(failure) => return Err(describe(failure)),
            }
        }
    }

    /// After damage: the decoder keeps a window back that the frame could still refer to. An empty last block
    /// [RFC 8878 §3.1.1.2] ends the frame, so that everything decoded so far comes out.
    fn release(&mut self) {
        let end: &[u8] = &[0x01, 0x00, 0x00, 0, 0, 0, 0];
        if guarded(|| {
            self.decoder
                .decode_blocks(end, BlockDecodingStrategy::UptoBlocks(1))
        })
        .is_err()
        {
            self.decoder = FrameDecoder::new();
        }
    }

    /// Reads some decompressed octets, 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InputError> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer).map_err(InputError::Io);
            }
            match self.state {
                ZstdState::Ended => return self.pending.take().map_or(Ok(0), Err),
                ZstdState::Between => {
                    self.state = if self.begin()? {
                        ZstdState::Inside
                    } else {
                        ZstdState::Ended
                    };
                }
                ZstdState::Inside if self.decoder.is_finished() => {
                    let announced = self.decoder.get_checksum_from_data();
                    if announced.is_some() && announced != self.decoder.get_calculated_checksum() {
                        self.state = ZstdState::Ended;
                        self.pending = Some(damaged(ZSTD, "its check sum is wrong"));
                    } else {
                        self.state = ZstdState::Between;
                    }
                }
                ZstdState::Inside => {
                    let source = &mut self.source;
                    let decoder = &mut self.decoder;
                    if let Err(failure) = guarded(|| {
                        decoder.decode_blocks(source, BlockDecodingStrategy::UptoBlocks(1))
                    }) {
                        let panicked = matches!(failure, Failure::Panicked);
                        self.pending = Some(describe(failure));
                        self.state = ZstdState::Ended;
                        if panicked {
                            self.decoder = FrameDecoder::new();
                        } else {
                            self.release();
                        }
                    }
                }
            }
        }
    }
}

fn describe(failure: Failure) -> InputError {
    match failure {
        Failure::Reported(error) => {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(current) = cause {
                if let Some(read) = current.downcast_ref::<io::Error>() {
                    return if read.kind() == io::ErrorKind::UnexpectedEof {
                        damaged(ZSTD, "it is cut off")
                    } else {
                        InputError::Io(io::Error::new(read.kind(), read.to_string()))
                    };
                }
                cause = current.source();
            }
            damaged(ZSTD, error.to_string())
        }
        Failure::Panicked => damaged(ZSTD, "the decoder cannot make sense of it"),
    }
}
