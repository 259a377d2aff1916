//! Classic BPF: the frame filter that tcpdump's words are compiled to (McCanne and Jacobson, 1993).
//!
//! A program is verified when it is made, so running it cannot fail, loop or read outside the frame: jumps go forward,
//! every path ends in a return, scratch memory is addressed within its bounds, and no constant divisor is zero. A load
//! outside the frame rejects the frame, as everywhere else.

/// Instructions that one program may have (`BPF_MAXINSNS`).
pub const MAXIMUM_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const SCRATCH_WORDS: usize = 16;

/// One instruction as libpcap and the kernel number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Why a program is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// No instruction at all, or too many.
    #[error("a program of {count} instructions; 1 to {MAXIMUM_INSTRUCTIONS} are right")]
    Length {
        /// How many there are.
        count: usize,
    },
    /// An operation that classic BPF does not have.
    #[error("instruction {at}: unknown operation {code:#06x}")]
    Unknown {
        /// Which instruction.
        at: usize,
        /// Its operation.
        code: u16,
    },
    /// A jump past the end.
    #[error("instruction {at}: jumps past the end of the program")]
    Jump {
        /// Which instruction.
        at: usize,
    },
    /// Scratch memory that does not exist.
    #[error("instruction {at}: scratch word {word}; there are {SCRATCH_WORDS}")]
    Scratch {
        /// Which instruction.
        at: usize,
        /// The word it names.
        word: u32,
    },
    /// A constant divisor of zero.
    #[error("instruction {at}: divides by the constant zero")]
    Division {
        /// Which instruction.
        at: usize,
    },
    /// The last instruction does not return.
    #[error("the program does not end in a return")]
    NoReturn,
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    Constant(u32),
    X,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Word,
    Half,
    Octet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Or,
    And,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    BitsSet,
}

/// One verified operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    LoadAbsolute(Width, u32),
    LoadIndirect(Width, u32),
    LoadConstant(u32),
    LoadLength,
    LoadScratch(usize),
    XConstant(u32),
    XLength,
    XScratch(usize),
    /// Four times the low nibble of an octet: an IPv4 header length.
    XHeaderLength(u32),
    StoreA(usize),
    StoreX(usize),
    Arithmetic(Arithmetic, Operand),
    Negate,
    Jump(usize),
    Branch {
        test: Test,
        operand: Operand,
        holds: usize,
        fails: usize,
    },
    Return(Option<u32>),
    XFromA,
    AFromX,
}

/// A verified program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    operations: Box<[Operation]>,
}

impl Program {
    /// Verifies a program.
    ///
    /// # Errors
    /// Names the first instruction that is wrong.
    pub fn new(instructions: &[Instruction]) -> Result<Self, ProgramError> {
        let count = instructions.len();
        if count == 0 || count > MAXIMUM_INSTRUCTIONS {
            return Err(ProgramError::Length { count });
        }
        let operations: Vec<Operation> = instructions
            .iter()
            .enumerate()
            .map(|(at, instruction)| operation(at, *instruction, count))
            .collect::<Result<_, _>>()?;
        match operations.last() {
            Some(Operation::Return(_)) => Ok(Self {
                operations: operations.into(),
            }),
            _ => Err(ProgramError::NoReturn),
        }
    }

    /// Octets of the frame that the program accepts, 0 where it rejects the frame.
    pub fn run(&self, frame: &[u8], wire_length_octets: u32) -> u32 {
        let mut a = 0_u32;
        let mut x = 0_u32;
        let mut scratch = [0_u32; SCRATCH_WORDS];
        let mut at = 0;
        loop {
            // Verified: every path reaches a return before the end.
            let Some(&operation) = self.operations.get(at) else {
                return 0;
            };
            at += 1;
            match operation {
                Operation::LoadAbsolute(width, k) => match load(frame, width, k, 0) {
                    Some(value) => a = value,
                    None => return 0,
                },
                Operation::LoadIndirect(width, k) => match load(frame, width, k, x) {
                    Some(value) => a = value,
                    None => return 0,
                },
                Operation::LoadConstant(k) => a = k,
                Operation::LoadLength => a = wire_length_octets,
                Operation::LoadScratch(word) => a = scratch.get(word).copied().unwrap_or(0),
                Operation::XConstant(k) => x = k,
                Operation::XLength => x = wire_length_octets,
                Operation::XScratch(word) => x = scratch.get(word).copied().unwrap_or(0),
                Operation::XHeaderLength(k) => match load(frame, Width::Octet, k, 0) {
                    Some(octet) => x = (octet & 0x0f) * 4,
                    None => return 0,
                },
                Operation::StoreA(word) => {
                    if let Some(word) = scratch.get_mut(word) {
                        *word = a;
                    }
                }
                Operation::StoreX(word) => {
                    if let Some(word) = scratch.get_mut(word) {
                        *word = x;
                    }
                }
                Operation::Arithmetic(arithmetic, operand) => {
                    match calculate(arithmetic, a, value(operand, x)) {
                        Some(result) => a = result,
                        None => return 0,
                    }
                }
                Operation::Negate => a = a.wrapping_neg(),
                Operation::Jump(to) => at = to,
                Operation::Branch {
                    test,
                    operand,
                    holds,
                    fails,
                } => {
                    let operand = value(operand, x);
                    let is_so = match test {
                        Test::Equal => a == operand,
                        Test::Greater => a > operand,
                        Test::GreaterOrEqual => a >= operand,
                        Test::BitsSet => a & operand != 0,
                    };
                    at = if is_so { holds } else { fails };
                }
                Operation::Return(constant) => return constant.unwrap_or(a),
                Operation::XFromA => x = a,
                Operation::AFromX => a = x,
            }
        }
    }
}

const fn value(operand: Operand, x: u32) -> u32 {
    match operand {
        Operand::Constant(k) => k,
        Operand::X => x,
    }
}

fn load(frame: &[u8], width: Width, k: u32, x: u32) -> Option<u32> {
    let start = usize::try_from(k.checked_add(x)?).ok()?;
    let rest = frame.get(start..)?;
    match width {
        Width::Word => rest.first_chunk().map(|octets| u32::from_be_bytes(*octets)),
        Width::Half => rest
            .first_chunk()
            .map(|octets| u32::from(u16::from_be_bytes(*octets))),
        Width::Octet => rest.first().copied().map(u32::from),
    }
}

/// The result, None for a division by zero, which rejects the frame.
fn calculate(arithmetic: Arithmetic, a: u32, operand: u32) -> Option<u32> {
    Some(match arithmetic {
        Arithmetic::Add => a.wrapping_add(operand),
        Arithmetic::Subtract => a.wrapping_sub(operand),
        Arithmetic::Multiply => a.wrapping_mul(operand),
        Arithmetic::Divide => return a.checked_div(operand),
        Arithmetic::Modulo => return a.checked_rem(operand),
        Arithmetic::Or => a | operand,
        Arithmetic::And => a & operand,
        Arithmetic::Xor => a ^ operand,
        Arithmetic::ShiftLeft => a.checked_shl(operand).unwrap_or(0),
        Arithmetic::ShiftRight => a.checked_shr(operand).unwrap_or(0),
    })
}

/// Reads one instruction: the low three bits are its class, the others depend on it.
fn operation(at: usize, instruction: Instruction, count: usize) -> Result<Operation, ProgramError> {
    let Instruction { code, jt, jf, k } = instruction;
    let unknown = Err(ProgramError::Unknown { at, code });
    let scratch = |word: u32| {
        usize::try_from(word)
            .ok()
            .filter(|&word| word < SCRATCH_WORDS)
            .ok_or(ProgramError::Scratch { at, word })
    };
    let target = |skip: u32| {
        usize::try_from(skip)
            .ok()
            .and_then(|skip| (at + 1).checked_add(skip))
            .filter(|&target| target < count)
            .ok_or(ProgramError::Jump { at })
    };
    let operand = if code & 0x08 == 0 {
        Operand::Constant(k)
    } else {
        Operand::X
    };
    Ok(match code {
        0x20 => Operation::LoadAbsolute(Width::Word, k),
        0x28 => Operation::LoadAbsolute(Width::Half, k),
        0x30 => Operation::LoadAbsolute(Width::Octet, k),
        0x40 => Operation::LoadIndirect(Width::Word, k),
        0x48 => Operation::LoadIndirect(Width::Half, k),
        0x50 => Operation::LoadIndirect(Width::Octet, k),
        0x00 => Operation::LoadConstant(k),
        0x80 => Operation::LoadLength,
        0x60 => Operation::LoadScratch(scratch(k)?),
        0x01 => Operation::XConstant(k),
        0x81 => Operation::XLength,
        0x61 => Operation::XScratch(scratch(k)?),
        0xb1 => Operation::XHeaderLength(k),
        0x02 => Operation::StoreA(scratch(k)?),
        0x03 => Operation::StoreX(scratch(k)?),
        0x84 => Operation::Negate,
        0x05 => Operation::Jump(target(k)?),
        0x06 => Operation::Return(Some(k)),
        0x16 => Operation::Return(None),
        0x07 => Operation::XFromA,
        0x87 => Operation::AFromX,
        _ if code & 0x07 == 0x04 && code <= 0xff => {
            let arithmetic = match code >> 4 {
                0x0 => Arithmetic::Add,
                0x1 => Arithmetic::Subtract,
                0x2 => Arithmetic::Multiply,
                0x3 => Arithmetic::Divide,
                0x4 => Arithmetic::Or,
                0x5 => Arithmetic::And,
                0x6 => Arithmetic::ShiftLeft,
                0x7 => Arithmetic::ShiftRight,
                0x9 => Arithmetic::Modulo,
                0xa => Arithmetic::Xor,
                _ => return unknown,
            };
            let divides = matches!(arithmetic, Arithmetic::Divide | Arithmetic::Modulo);
            if divides && operand == Operand::Constant(0) {
                return Err(ProgramError::Division { at });
            }
            Operation::Arithmetic(arithmetic, operand)
        }
        _ if code & 0x07 == 0x05 && code <= 0xff => {
            let test = match code >> 4 {
                0x1 => Test::Equal,
                0x2 => Test::Greater,
                0x3 => Test::GreaterOrEqual,
                0x4 => Test::BitsSet,
                _ => return unknown,
            };
            let (holds, fails) = (target(jt.into())?, target(jf.into())?);
            Operation::Branch {
                test,
                operand,
                holds,
                fails,
            }
        }
        _ => return unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Result<Program, ProgramError> {
        let instructions: Vec<_> = instructions
            .iter()
            .map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k })
            .collect();
        Program::new(&instructions)
    }

    #[test]
    fn what_tcpdump_makes_of_ip_host() {
        // tcpdump -d 'ip src host 192.0.2.1'
        let program = program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 3, 0x0800),
            (0x20, 0, 0, 26),
            (0x15, 0, 1, 0xc000_0201),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ])
        .unwrap();
        let mut frame = vec![0_u8; 34];
        frame[12] = 8;
        frame[26..30].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(program.run(&frame, 34), 262_144);
        frame[29] = 2;
        assert_eq!(program.run(&frame, 34), 0);
        assert_eq!(program.run(&frame[..20], 34), 0);
    }

    #[test]
    fn refusals_name_the_instruction() {
        assert_eq!(program(&[]), Err(ProgramError::Length { count: 0 }));
        assert_eq!(
            program(&[(0x05, 0, 0, 0)]),
            Err(ProgramError::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x05, 0, 0, u32::MAX), (6, 0, 0, 0)]),
            Err(ProgramError::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x15, 0, 1, 0), (6, 0, 0, 0)]),
            Err(ProgramError::Jump { at: 0 })
        );
        assert_eq!(
            program(&[(0x02, 0, 0, 16), (6, 0, 0, 0)]),
            Err(ProgramError::Scratch { at: 0, word: 16 })
        );
        assert_eq!(
            program(&[(0x34, 0, 0, 0), (6, 0, 0, 0)]),
            Err(ProgramError::Division { at: 0 })
        );
        assert_eq!(
            program(&[(0xffff, 0, 0, 0), (6, 0, 0, 0)]),
            Err(ProgramError::Unknown {
                at: 0,
                code: 0xffff
            })
        );
        assert_eq!(program(&[(0x07, 0, 0, 0)]), Err(ProgramError::NoReturn));
    }

    #[test]
    fn division_by_a_zero_register_rejects() {
        let program = program(&[(0x00, 0, 0, 7), (0x3c, 0, 0, 0), (0x16, 0, 0, 0)]).unwrap();
        assert_eq!(program.run(&[], 0), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_program_that_is_accepted_ends(
            codes: Vec<(u16, u8, u8, u32)>, frame: Vec<u8>, wire: u32,
        ) {
            let codes: Vec<_> = codes.into_iter().map(|(code, jt, jf, k)| (code & 0xff, jt & 3, jf & 3, k)).collect();
            if let Ok(program) = program(&codes) {
                program.run(&frame, wire);
            }
        }
    }
}
