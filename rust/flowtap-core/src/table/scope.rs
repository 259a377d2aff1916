//! Where frames must pass for a criterion to be asked about them.

/// The interfaces that a criterion is about, by name. An empty one admits every packet where it enters, and where it
/// leaves if this host made it: so every packet once, however often it passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Frames that come in on one of these.
    pub inputs: Vec<String>,
    /// Frames that go out on one of these, whoever made them.
    pub outputs: Vec<String>,
    /// Whole frames, whatever they carry; the filter is not asked.
    pub circuit: bool,
}

impl Scope {
    /// Whether it leaves everything as it is.
    pub const fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty() && !self.circuit
    }
}

/// How a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It comes in, or nobody knows.
    In,
    /// It goes out, and this host made it.
    Made,
    /// It goes out, and has come in before.
    Forwarded,
}

/// How a frame passes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The way.
    pub way: Way,
    /// Whether criteria without interfaces are asked about every frame, whichever way it goes.
    pub is_any_way: bool,
    /// The table's number of the interface; None for one that no criterion names.
    pub interface: Option<u32>,
}

/// A scope with the table's numbers in place of names.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    inputs: Box<[u32]>,
    outputs: Box<[u32]>,
    pub(super) circuit: bool,
}

impl Compiled {
    pub(super) fn admits(&self, passage: Passage) -> bool {
        let named = |interfaces: &[u32]| {
            passage
                .interface
                .is_some_and(|number| interfaces.contains(&number))
        };
        if passage.is_any_way && self.outputs.is_empty() && self.inputs.is_empty() {
            return true;
        }
        match passage.way {
            Way::In if self.outputs.is_empty() && self.inputs.is_empty() => true,
            Way::In => named(&self.inputs),
            // A frame that this host made never comes in, and a frame is not asked who made it.
            Way::Made if self.outputs.is_empty() && self.inputs.is_empty() => !self.circuit,
            Way::Made | Way::Forwarded => named(&self.outputs),
        }
    }

    /// Whether it names interfaces.
    pub(super) fn is_named(&self) -> bool {
        !self.inputs.is_empty() || !self.outputs.is_empty()
    }

    pub(super) fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    pub(super) fn heap_octets(&self) -> usize {
        size_of_val::<[_]>(&self.inputs) + size_of_val::<[_]>(&self.outputs)
    }
}

/// The interfaces that criteria name, numbered. They are few, and never forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Interfaces(Vec<Box<str>>);

impl Interfaces {
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let at = self.0.iter().position(|known| **known == *name)?;
        u32::try_from(at).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn compile(&mut self, scope: &Scope) -> Option<Compiled> {
        if scope.is_empty() {
            return None;
        }
        let mut numbers = |names: &[String]| -> Box<[u32]> {
            names.iter().filter_map(|name| self.known(name)).collect()
        };
        Some(Compiled {
            inputs: numbers(&scope.inputs),
            outputs: numbers(&scope.outputs),
            circuit: scope.circuit,
        })
    }

    fn known(&mut self, name: &str) -> Option<u32> {
        self.number(name).or_else(|| {
            self.0.push(name.into());
            u32::try_from(self.0.len() - 1).ok()
        })
    }

    pub(super) fn heap_octets(&self) -> usize {
        let names: usize = self.0.iter().map(|name| name.len()).sum();
        names + self.0.capacity() * size_of::<Box<str>>()
    }
}
