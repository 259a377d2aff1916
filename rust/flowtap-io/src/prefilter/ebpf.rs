//! The program in the kernel with its maps, and how they follow the counts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::PrefilterOptions;
use super::cover::{Address, Changes, Counts, FamilyCounts};
use super::maker::Maker;
use super::maps::FamilyMaps;
use super::program::{FamilyPlan, Plan, build};
use super::sys::{Program, Refused};

/// Lines of what the verifier says that go into a reason: the last ones say it.
const REASON_LINES: usize = 3;

/// A loaded program with its maps.
#[derive(Debug)]
pub(super) struct Ebpf {
    pub(super) program: Program,
    v4: FamilyMaps<u32>,
    v6: FamilyMaps<u128>,
}

/// Why the kernel does not do it, in words.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "eBPF needs CAP_BPF (before Linux 5.11 also room under RLIMIT_MEMLOCK)".to_owned()
        }
        Some(libc::ENOSYS) => "this kernel has no bpf(2)".to_owned(),
        _ => format!("the kernel refuses a map: {error}"),
    }
}

/// Why the kernel does not take a program, in words.
fn refusal(refused: &Refused) -> String {
    if let Some(libc::EPERM | libc::ENOSYS) = refused.source.raw_os_error() {
        return reason(&refused.source);
    }
    let lines: Vec<&str> = refused.log.lines().map(str::trim).collect();
    let last = lines.len().saturating_sub(REASON_LINES);
    let words = lines.get(last..).unwrap_or_default().join("; ");
    format!(
        "the kernel refuses the program: {} ({words})",
        refused.source
    )
}

fn family<'a, A: Address>(counts: &FamilyCounts<A>, maps: &'a FamilyMaps<A>) -> FamilyPlan<'a, A> {
    if counts.is_open() {
        FamilyPlan::Open
    } else {
        FamilyPlan::Maps(maps)
    }
}

fn load(
    options: &PrefilterOptions,
    counts: &Counts,
    v4: &FamilyMaps<u32>,
    v6: &FamilyMaps<u128>,
    maker: &Maker,
) -> Result<Program, String> {
    let instructions = build(&Plan {
        link_type: options.link_type,
        inner: options.inner,
        v4: family(&counts.v4, v4),
        v6: family(&counts.v6, v6),
    })
    .map_err(|error| error.to_string())?;
    maker
        .program(&instructions)
        .map_err(|refused| refusal(&refused))
}

impl Ebpf {
    /// Maps and a program for all that is counted.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn new(
        options: &PrefilterOptions,
        counts: &Counts,
        maker: &Maker,
    ) -> Result<Self, String> {
        let v4 = FamilyMaps::create(&counts.v4, maker).map_err(|error| reason(&error))?;
        let v6 = FamilyMaps::create(&counts.v6, maker).map_err(|error| reason(&error))?;
        Ok(Self {
            program: load(options, counts, &v4, &v6, maker)?,
            v4,
            v6,
        })
    }

    /// Follows a change; true where that took a new program.
    ///
    /// # Errors
    /// Why the kernel did not follow, in words; maps and program then say something of their own.
    pub(super) fn follow(
        &mut self,
        options: &PrefilterOptions,
        changes: &Changes,
        counts: &Counts,
        maker: &Maker,
    ) -> Result<bool, String> {
        let v4 = self.v4.follow(&changes.v4, &counts.v4, maker);
        let v6 = self.v6.follow(&changes.v6, &counts.v6, maker);
        let same = v4.map_err(|error| reason(&error))? & v6.map_err(|error| reason(&error))?;
        if same && !changes.v4.open && !changes.v6.open {
            return Ok(false);
        }
        self.program = load(options, counts, &self.v4, &self.v6, maker)?;
        Ok(true)
    }

    /// Octets that program and maps hold in the kernel, as far as it says.
    pub(super) fn memory_octets(&self) -> u64 {
        let maps = self.v4.descriptors().chain(self.v6.descriptors());
        maps.chain([self.program.as_fd()])
            .map(memory_octets)
            .fold(0, u64::saturating_add)
    }
}

/// What `/proc` says of a descriptor's memory.
fn memory_octets(descriptor: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|octets| octets.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefilter::assembler::{Assembler, Register};

    #[test]
    fn the_reason_is_what_the_verifier_says() {
        let mut code = Assembler::default();
        // No result, no end.
        code.set(Register::R1, 0);
        let refused = Program::load(&code.finish().unwrap()).unwrap_err();
        let words = refusal(&refused);
        if refused.source.raw_os_error() == Some(libc::EPERM) {
            assert!(words.contains("CAP_BPF"), "{words}");
        } else {
            assert!(words.contains("last insn is not an exit"), "{words}");
        }
    }
}
