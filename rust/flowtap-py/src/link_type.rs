//! Link types.

use flowtap_core::frame::LinkType as CoreLinkType;
use flowtap_io::files::CaptureReader;
use pyo3::prelude::*;

use crate::errors;

/// A link type by its registry number.
#[pyclass(frozen, eq, hash, from_py_object, module = "flowtap")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkType(pub(crate) CoreLinkType);

#[pymethods]
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "methods of a Python class get a reference"
)]
impl LinkType {
    #[classattr]
    const NULL: Self = Self(CoreLinkType::Null);
    #[classattr]
    const ETHERNET: Self = Self(CoreLinkType::Ethernet);
    #[classattr]
    const RAW: Self = Self(CoreLinkType::Raw);
    #[classattr]
    const LOOP: Self = Self(CoreLinkType::Loop);
    #[classattr]
    const LINUX_COOKED: Self = Self(CoreLinkType::LinuxCooked);
    #[classattr]
    const LINUX_COOKED2: Self = Self(CoreLinkType::LinuxCooked2);
    #[classattr]
    const IPV4: Self = Self(CoreLinkType::Ipv4);
    #[classattr]
    const IPV6: Self = Self(CoreLinkType::Ipv6);

    #[new]
    fn new(number: u16) -> Self {
        Self(CoreLinkType::from_number(number))
    }

    /// The number in the registry of link types.
    #[getter]
    fn number(&self) -> u16 {
        self.0.number()
    }

    fn __repr__(&self) -> String {
        format!("LinkType({})", self.0.number())
    }
}

/// How the frames of a capture start, by its first interface; None for one that describes none before its first frame.
#[pyfunction]
pub(crate) fn capture_link_type(py: Python<'_>, path: &str) -> PyResult<Option<LinkType>> {
    py.detach(|| {
        let failed = |error| errors::from_capture(&error);
        let mut reader = CaptureReader::open(path).map_err(failed)?;
        if reader.interfaces().is_empty() {
            // A pcapng file describes its interfaces in front of their frames.
            reader.next_frame().map_err(failed)?;
        }
        Ok(reader
            .interfaces()
            .first()
            .map(|interface| LinkType(interface.link_type)))
    })
}
