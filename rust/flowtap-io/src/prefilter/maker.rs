//! Makes maps and programs, itself or through the broker.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::assembler::Instruction;
use super::sys::{Map, MapKind, Program, Refused, SharedWords};
use crate::broker::Broker;

/// Whoever has the right to: this process, or its broker.
#[derive(Clone, Debug, Default)]
pub(super) struct Maker(Option<Arc<Broker>>);

impl Maker {
    pub(super) const fn new(broker: Option<Arc<Broker>>) -> Self {
        Self(broker)
    }

    /// The broker, where this process was not permitted to do it itself.
    fn broker(&self, error: &io::Error) -> Option<&Broker> {
        self.0
            .as_deref()
            .filter(|_| error.raw_os_error() == Some(libc::EPERM))
    }

    /// A map.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn map(
        &self,
        kind: MapKind,
        key_octets: usize,
        value_octets: usize,
        entries: u32,
    ) -> io::Result<Map> {
        Map::create(kind, key_octets, value_octets, entries).or_else(|error| {
            let Some(broker) = self.broker(&error) else {
                return Err(error);
            };
            let descriptor = broker
                .map(kind as u32, key_octets, value_octets, entries)
                .map_err(io::Error::other)?;
            Ok(Map::adopt(descriptor, key_octets, value_octets))
        })
    }

    /// Words that the program and we have in memory.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn words(&self, words: usize) -> io::Result<SharedWords> {
        let octets = words
            .checked_mul(size_of::<u64>())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let map = self.map(MapKind::Array, size_of::<u32>(), octets, 1)?;
        SharedWords::over(map, words)
    }

    /// A program.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn program(&self, instructions: &[Instruction]) -> Result<Program, Refused> {
        Program::load(instructions).or_else(|refused| {
            let Some(broker) = self.broker(&refused.source) else {
                return Err(refused);
            };
            let octets: Vec<u8> = instructions.iter().flat_map(|each| each.octets()).collect();
            broker
                .program(&octets)
                .map(|descriptor| Program::adopt(descriptor, instructions.len()))
                .map_err(|reason| Refused {
                    source: io::Error::other(reason),
                    log: String::new(),
                })
        })
    }
}

/// Makes a map for another process; its kind by the kernel's number.
///
/// # Errors
/// The kind is none that the filter uses, or what the system says.
pub(crate) fn map_for_another(
    kind: u32,
    key_octets: usize,
    value_octets: usize,
    entries: u32,
) -> io::Result<OwnedFd> {
    let kind = MapKind::of_number(kind).ok_or(io::ErrorKind::InvalidInput)?;
    Map::create(kind, key_octets, value_octets, entries).map(Map::into_descriptor)
}

/// Loads a program for another process. The maps that it names are those of this process.
///
/// # Errors
/// What the system says, and the verifier.
pub(crate) fn program_for_another(octets: &[u8]) -> Result<OwnedFd, String> {
    let (instructions, rest) = octets.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("a program has 8 octets an instruction".to_owned());
    }
    let instructions: Vec<Instruction> = instructions
        .iter()
        .map(|&octets| Instruction::of_octets(octets))
        .collect();
    Program::load(&instructions)
        .map(Program::into_descriptor)
        .map_err(|refused| {
            let last = refused.log.lines().last().unwrap_or_default().trim();
            format!(
                "the kernel refuses the program: {} ({last})",
                refused.source
            )
        })
}

/// Where in the octets of a program the descriptors of maps stand, and the descriptors.
pub(crate) fn descriptors_in(octets: &[u8]) -> Vec<(usize, i32)> {
    let (instructions, _) = octets.as_chunks::<8>();
    instructions
        .iter()
        .enumerate()
        .filter_map(|(at, &octets)| {
            let number = Instruction::of_octets(octets).map_descriptor()?;
            Some((at * 8 + Instruction::IMMEDIATE_OFFSET, number))
        })
        .collect()
}
