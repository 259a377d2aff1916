//! Instructions of the kernel's eBPF machine, and a program put together from them.
//!
//! Numbers are those of the instruction set's standard (RFC 9669). Only what the filter needs is here.

use std::os::fd::{AsFd, AsRawFd};

/// One instruction as the kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination and source, four bits each.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// Where the immediate number stands in the octets.
    pub(super) const IMMEDIATE_OFFSET: usize = 4;

    /// As the kernel reads it.
    pub(super) fn octets(self) -> [u8; 8] {
        let offset = self.offset.to_ne_bytes();
        let immediate = self.immediate.to_ne_bytes();
        let mut octets = [self.code, self.registers, 0, 0, 0, 0, 0, 0];
        for (place, octet) in octets
            .iter_mut()
            .skip(2)
            .zip(offset.into_iter().chain(immediate))
        {
            *place = octet;
        }
        octets
    }

    /// From what the kernel reads.
    pub(super) fn of_octets(octets: [u8; 8]) -> Self {
        let [code, registers, offset @ .., _, _, _, _] = octets;
        let [.., fourth, fifth, sixth, last] = octets;
        Self {
            code,
            registers,
            offset: i16::from_ne_bytes(offset),
            immediate: i32::from_ne_bytes([fourth, fifth, sixth, last]),
        }
    }

    /// The descriptor of the map that it loads; None for any other instruction.
    pub(super) const fn map_descriptor(self) -> Option<i32> {
        match self.registers >> 4 {
            PSEUDO_MAP | PSEUDO_MAP_VALUE if self.code == LOAD_WIDE => Some(self.immediate),
            _ => None,
        }
    }
}

/// The registers: R0 holds results, R1 to R5 arguments and are lost in a call, R6 to R9 survive one, R10 is the end of
/// the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
}

/// How many octets a load or a store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Octet,
    Half,
    Word,
    Double,
}

impl Width {
    const fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Octet => 0x10,
            Self::Double => 0x18,
        }
    }
}

/// The second operand of a calculation or a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Register(Register),
    /// Extended by its sign where 64 bits are calculated.
    Immediate(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(immediate: i32) -> Self {
        Self::Immediate(immediate)
    }
}

impl From<u8> for Operand {
    fn from(immediate: u8) -> Self {
        Self::Immediate(immediate.into())
    }
}

/// What is calculated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Multiply,
    And,
    Xor,
    ShiftLeft,
    ShiftRight,
    Move,
}

impl Arithmetic {
    const fn code(self) -> u8 {
        match self {
            Self::Add => 0x00,
            Self::Multiply => 0x20,
            Self::And => 0x50,
            Self::ShiftLeft => 0x60,
            Self::ShiftRight => 0x70,
            Self::Xor => 0xa0,
            Self::Move => 0xb0,
        }
    }
}

/// What is tested, without sign, in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Greater,
    Less,
    /// Some bit is set in both.
    Common,
}

impl Test {
    const fn code(self) -> u8 {
        match self {
            Self::Equal => 0x10,
            Self::Greater => 0x20,
            Self::Common => 0x40,
            Self::NotEqual => 0x50,
            Self::Less => 0xa0,
        }
    }
}

/// Functions of the kernel, numbered as in `linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Function {
    MapLookup = 1,
    LoadOctets = 26,
}

const LOAD_WIDE: u8 = 0x18;
const CLASS_LOAD: u8 = 0x61;
const CLASS_STORE_IMMEDIATE: u8 = 0x62;
const CLASS_JUMP: u8 = 0x05;
const CLASS_ARITHMETIC_64: u8 = 0x07;
const FROM_REGISTER: u8 = 0x08;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// In the source register's place: the wide immediate is the descriptor of a map, or of one whose only value is meant.
const PSEUDO_MAP: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// A place in the program, known before it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Why no program came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AssemblyError {
    /// A jump to a label that was placed nowhere.
    #[error("instruction {at} jumps to a label that is not placed")]
    Unplaced {
        /// Which instruction.
        at: usize,
    },
    /// A jump of more than 32,767 instructions.
    #[error("instruction {at} jumps too far")]
    Far {
        /// Which instruction.
        at: usize,
    },
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label stands.
    places: Vec<Option<usize>>,
    /// Which instruction jumps to which label.
    jumps: Vec<(usize, Label)>,
}

/// Both registers in one octet; the kernel declares them as bit fields, whose order follows that of the octets.
const fn registers(destination: Register, source: u8) -> u8 {
    if cfg!(target_endian = "little") {
        destination as u8 | source << 4
    } else {
        source | (destination as u8) << 4
    }
}

impl Assembler {
    fn push(&mut self, code: u8, registers: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers,
            offset,
            immediate,
        });
    }

    /// The one instruction that takes the place of two.
    fn push_wide(&mut self, registers: u8, number: u64) {
        let half = |shift: u32| {
            let half = u32::try_from(number >> shift & u64::from(u32::MAX)).unwrap_or(0);
            half.cast_signed()
        };
        self.push(LOAD_WIDE, registers, 0, half(0));
        self.push(0, 0, 0, half(32));
    }

    fn with_operand(&mut self, code: u8, destination: Register, operand: Operand, offset: i16) {
        match operand {
            Operand::Register(source) => self.push(
                code | FROM_REGISTER,
                registers(destination, source as u8),
                offset,
                0,
            ),
            Operand::Immediate(immediate) => {
                self.push(code, registers(destination, 0), offset, immediate);
            }
        }
    }

    /// A label to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Places a label in front of the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        let here = self.instructions.len();
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// Calculates in 64 bits.
    pub(super) fn calculate(
        &mut self,
        arithmetic: Arithmetic,
        destination: Register,
        operand: impl Into<Operand>,
    ) {
        let code = CLASS_ARITHMETIC_64 | arithmetic.code();
        self.with_operand(code, destination, operand.into(), 0);
    }

    /// Copies a register or a number.
    pub(super) fn set(&mut self, destination: Register, operand: impl Into<Operand>) {
        self.calculate(Arithmetic::Move, destination, operand);
    }

    /// Loads a number of 64 bits.
    pub(super) fn set_wide(&mut self, destination: Register, number: u64) {
        self.push_wide(registers(destination, 0), number);
    }

    /// Turns 16 bits, as they were loaded from a packet, into the number that the network wrote.
    pub(super) fn swap_16(&mut self, destination: Register) {
        self.push(TO_BIG_ENDIAN, registers(destination, 0), 0, 16);
    }

    /// Reads memory; what is missing to 64 bits is zero.
    pub(super) fn load(
        &mut self,
        width: Width,
        destination: Register,
        base: Register,
        offset: i16,
    ) {
        let code = CLASS_LOAD | width.code();
        self.push(code, registers(destination, base as u8), offset, 0);
    }

    /// Writes a number to memory.
    pub(super) fn store_number(
        &mut self,
        width: Width,
        base: Register,
        offset: i16,
        immediate: i32,
    ) {
        let code = CLASS_STORE_IMMEDIATE | width.code();
        self.push(code, registers(base, 0), offset, immediate);
    }

    /// Loads a map by its descriptor, which the kernel turns into a pointer when it loads the program.
    pub(super) fn load_map(&mut self, destination: Register, map: &impl AsFd) {
        let descriptor = map.as_fd().as_raw_fd().cast_unsigned();
        self.push_wide(registers(destination, PSEUDO_MAP), descriptor.into());
    }

    /// Loads the address of the only value of a map, in the same way (since Linux 5.2).
    pub(super) fn load_map_value(&mut self, destination: Register, map: &impl AsFd) {
        let descriptor = map.as_fd().as_raw_fd().cast_unsigned();
        self.push_wide(registers(destination, PSEUDO_MAP_VALUE), descriptor.into());
    }

    /// Goes on at a label.
    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(CLASS_JUMP, 0, 0, 0);
    }

    /// Goes on at a label if a test holds.
    pub(super) fn jump_if(
        &mut self,
        test: Test,
        register: Register,
        operand: impl Into<Operand>,
        to: Label,
    ) {
        self.jumps.push((self.instructions.len(), to));
        self.with_operand(CLASS_JUMP | test.code(), register, operand.into(), 0);
    }

    /// Calls a function with R1 to R5; its result is in R0.
    pub(super) fn call(&mut self, function: Function) {
        self.push(CALL, 0, 0, function as i32);
    }

    /// Ends the program with this result.
    pub(super) fn exit_with(&mut self, result: i32) {
        self.set(Register::R0, result);
        self.push(EXIT, 0, 0, 0);
    }

    /// The program, with every jump resolved.
    ///
    /// # Errors
    /// Names the jump that leads nowhere or too far.
    pub(super) fn finish(mut self) -> Result<Vec<Instruction>, AssemblyError> {
        for (at, label) in self.jumps {
            let to = self
                .places
                .get(label.0)
                .copied()
                .flatten()
                .ok_or(AssemblyError::Unplaced { at })?;
            // Counted from the instruction behind the jump.
            let offset = i16::try_from(to.wrapping_sub(at + 1).cast_signed())
                .map_err(|_outside| AssemblyError::Far { at })?;
            if let Some(jump) = self.instructions.get_mut(at) {
                jump.offset = offset;
            }
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{R0, R1, R10};
    use super::*;

    fn codes(assembler: Assembler) -> Vec<(u8, u8, i16, i32)> {
        let instructions = assembler.finish().unwrap();
        instructions
            .iter()
            .map(|one| (one.code, one.registers, one.offset, one.immediate))
            .collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn numbers_are_those_of_the_standard() {
        let mut code = Assembler::default();
        let end = code.label();
        code.set(R1, R10);
        code.calculate(Arithmetic::Add, R1, -8);
        code.load(Width::Half, R0, R1, 2);
        code.store_number(Width::Word, R10, -8, 7);
        code.swap_16(R0);
        code.set_wide(R0, 0x1122_3344_5566_7788);
        code.jump_if(Test::Common, R0, 1, end);
        code.jump_if(Test::Less, R0, R1, end);
        code.call(Function::LoadOctets);
        code.place(end);
        code.exit_with(-1);
        assert_eq!(
            codes(code),
            [
                (0xbf, 0xa1, 0, 0),
                (0x07, 0x01, 0, -8),
                (0x69, 0x10, 2, 0),
                (0x62, 0x0a, -8, 7),
                (0xdc, 0x00, 0, 16),
                (0x18, 0x00, 0, 0x5566_7788),
                (0x00, 0x00, 0, 0x1122_3344),
                (0x45, 0x00, 2, 1),
                (0xad, 0x10, 1, 0),
                (0x85, 0x00, 0, 26),
                (0xb7, 0x00, 0, -1),
                (0x95, 0x00, 0, 0),
            ]
        );
    }

    #[test]
    fn jumps_go_both_ways_and_as_far_as_they_reach() {
        let far = |between: usize| {
            let mut code = Assembler::default();
            let (begin, end) = (code.label(), code.label());
            code.place(begin);
            code.jump(end);
            for _ in 0..between {
                code.set(R0, 0);
            }
            code.place(end);
            code.jump_if(Test::Equal, R0, 0, begin);
            code.finish()
        };
        let program = far(32_766).unwrap();
        assert_eq!(program[0].offset, 32_766);
        assert_eq!(program[32_767].offset, i16::MIN);
        // One more, and the way back is the one that is too far.
        assert_eq!(far(32_767), Err(AssemblyError::Far { at: 32_768 }));
        assert_eq!(far(32_768), Err(AssemblyError::Far { at: 0 }));
    }

    #[test]
    fn a_jump_needs_a_place() {
        let mut code = Assembler::default();
        let nowhere = code.label();
        code.exit_with(0);
        code.jump(nowhere);
        assert_eq!(code.finish(), Err(AssemblyError::Unplaced { at: 2 }));
    }
}
