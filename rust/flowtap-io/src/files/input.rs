//! Where a capture's octets come from: a file, standard input or any reader, decompressed on the way.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;

use super::compressed::{Gzip, Zstd};

/// Octets by which the format of a file is told.
const MAGIC_OCTETS: usize = 4;

/// Why no more octets come.
#[derive(Debug)]
pub(crate) enum InputError {
    /// The system refused.
    Io(io::Error),
    /// The compressed data is damaged or cut off.
    Damaged {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// The decompressed octets of a file.
pub(crate) enum Input {
    Plain(Box<dyn Read + Send>),
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
}

/// Standard input without the standard library's small buffer in between.
///
/// # Errors
/// What the system says where there is no standard input.
pub(crate) fn standard_input() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Reads until `buffer` is full or the source ends; a signal does not count as either.
pub(crate) fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Input {
    /// Looks at the first octets and puts the decompressor in front that they ask for.
    ///
    /// # Errors
    /// What the first read says.
    pub(crate) fn new(mut source: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut magic = [0; MAGIC_OCTETS];
        let filled = read_full(source.as_mut(), &mut magic)?;
        let beginning = magic.get(..filled).unwrap_or_default().to_vec();
        let whole = Box::new(Cursor::new(beginning).chain(source));
        Ok(match magic {
            [0x1f, 0x8b, _, _] if filled >= 2 => Self::Gzip(Box::new(Gzip::new(whole))),
            // A frame, or a skippable frame before the first frame [RFC 8878 §3.1.1, §3.1.2].
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                Self::Zstd(Box::new(Zstd::new(whole)))
            }
            _ => Self::Plain(whole),
        })
    }

    /// Reads some octets, 0 at the end; goes on after a signal.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InputError> {
        match self {
            Self::Plain(source) => loop {
                match source.read(buffer) {
                    Ok(count) => return Ok(count.min(buffer.len())),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(InputError::Io(error)),
                }
            },
            Self::Gzip(gzip) => gzip.read(buffer),
            Self::Zstd(zstd) => zstd.read(buffer),
        }
    }
}
