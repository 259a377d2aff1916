//! Filters and content destinations.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtap_core::criteria::{
    AddressSpace as CoreSpace, Criteria as CoreCriteria, CriteriaText, IpFamily,
};
use flowtap_core::table::{Lifetime, Rate, Scope, SpoolKind, UsedPlace};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors;
use crate::usage::UsageRecord;

const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// A list of numbers as DTCP writes it, or one number.
#[derive(FromPyObject)]
pub(crate) enum NumberOrText {
    #[pyo3(transparent)]
    Number(i64),
    #[pyo3(transparent)]
    Text(String),
}

impl NumberOrText {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// The fields of a filter as they were given.
struct GivenText {
    source: Option<String>,
    destination: Option<String>,
    protocol: Option<String>,
    source_port: Option<String>,
    destination_port: Option<String>,
    icmp_type: Option<String>,
    icmp_code: Option<String>,
}

/// One packet filter.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct Criteria {
    #[pyo3(get)]
    id: u64,
    given: GivenText,
    deliver_to: Vec<String>,
    pub(crate) filter: CoreCriteria,
    pub(crate) lifetime: Lifetime,
    pub(crate) own: bool,
    pub(crate) scope: Scope,
    pub(crate) used: Option<Arc<dyn UsedPlace>>,
    pub(crate) rate: Option<Arc<Rate>>,
}

/// The most that may be copied a second, shared by all criteria that have it.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct RateLimit(Arc<Rate>);

#[pymethods]
impl RateLimit {
    /// Packets and bits a second; 0 for any number.
    #[new]
    #[pyo3(signature = (packets_per_s=0, bits_per_s=0))]
    fn new(packets_per_s: u64, bits_per_s: u64) -> Self {
        Self(Arc::new(Rate::new(packets_per_s, bits_per_s)))
    }

    /// Changes it from now on.
    fn set(&self, packets_per_s: u64, bits_per_s: u64) {
        self.0.set(packets_per_s, bits_per_s);
    }
}

impl Criteria {
    pub(crate) fn number(&self) -> u64 {
        self.id
    }

    pub(crate) fn destination_ids(&self) -> &[String] {
        &self.deliver_to
    }
}

/// Seconds to nanoseconds; negative, not finite or too large is an error that names the field.
fn nanoseconds(field: &'static str, seconds: Option<f64>) -> PyResult<Option<u64>> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    let nanoseconds = seconds * NANOSECONDS_PER_SECOND;
    // 2^63 ns are 292 years: more is a mistake.
    if !(0.0..9.2e18).contains(&nanoseconds) {
        return Err(errors::criteria(
            field,
            &seconds.to_string(),
            &format!("{field}: {seconds} is not a number of seconds from 0 to 9.2e9"),
            false,
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked in the line above"
    )]
    let whole = nanoseconds as u64;
    Ok(Some(whole))
}

#[pymethods]
impl Criteria {
    #[new]
    #[pyo3(signature = (id, *, source=None, destination=None, protocol=None, source_port=None,
        destination_port=None, icmp_type=None, icmp_code=None, deliver_to=Vec::new(),
        timeout_idle_s=None, timeout_total_s=None, timeout_packets=None, timeout_octets=None,
        total_since_ns=None, idle_since_ns=None, own=false, ip_version=None,
        input_interfaces=Vec::new(), output_interfaces=Vec::new(), circuit=false, usage=None, rate=None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "a criterion has that many fields"
    )]
    fn new(
        id: u64,
        source: Option<String>,
        destination: Option<String>,
        protocol: Option<NumberOrText>,
        source_port: Option<NumberOrText>,
        destination_port: Option<NumberOrText>,
        icmp_type: Option<NumberOrText>,
        icmp_code: Option<NumberOrText>,
        deliver_to: Vec<String>,
        timeout_idle_s: Option<f64>,
        timeout_total_s: Option<f64>,
        timeout_packets: Option<u64>,
        timeout_octets: Option<u64>,
        total_since_ns: Option<u64>,
        idle_since_ns: Option<u64>,
        own: bool,
        ip_version: Option<u8>,
        input_interfaces: Vec<String>,
        output_interfaces: Vec<String>,
        circuit: bool,
        usage: Option<&UsageRecord>,
        rate: Option<&RateLimit>,
    ) -> PyResult<Self> {
        let family = match ip_version {
            None => None,
            Some(4) => Some(IpFamily::V4),
            Some(6) => Some(IpFamily::V6),
            Some(_) => return Err(PyValueError::new_err("ip_version: 4, 6 or None is right")),
        };
        let given = GivenText {
            source,
            destination,
            protocol: protocol.map(NumberOrText::into_text),
            source_port: source_port.map(NumberOrText::into_text),
            destination_port: destination_port.map(NumberOrText::into_text),
            icmp_type: icmp_type.map(NumberOrText::into_text),
            icmp_code: icmp_code.map(NumberOrText::into_text),
        };
        let filter = CoreCriteria::parse(&CriteriaText {
            source: given.source.as_deref(),
            destination: given.destination.as_deref(),
            protocol: given.protocol.as_deref(),
            source_port: given.source_port.as_deref(),
            destination_port: given.destination_port.as_deref(),
            icmp_type: given.icmp_type.as_deref(),
            icmp_code: given.icmp_code.as_deref(),
            family,
        })
        .map_err(|error| errors::from_criteria(&error))?;
        let lifetime = Lifetime {
            idle_ns: nanoseconds("timeout_idle_s", timeout_idle_s)?,
            total_ns: nanoseconds("timeout_total_s", timeout_total_s)?,
            packets: timeout_packets,
            octets: timeout_octets,
            total_since_ns,
            idle_since_ns,
        };
        Ok(Self {
            id,
            given,
            deliver_to,
            filter,
            lifetime,
            own,
            scope: Scope {
                inputs: input_interfaces,
                outputs: output_interfaces,
                circuit,
            },
            rate: rate.map(|rate| Arc::clone(&rate.0)),
            used: usage.map(|record| Arc::clone(&record.0) as Arc<dyn UsedPlace>),
        })
    }

    #[getter]
    fn source(&self) -> Option<&str> {
        self.given.source.as_deref()
    }

    #[getter]
    fn destination(&self) -> Option<&str> {
        self.given.destination.as_deref()
    }

    #[getter]
    fn protocol(&self) -> Option<&str> {
        self.given.protocol.as_deref()
    }

    #[getter]
    fn source_port(&self) -> Option<&str> {
        self.given.source_port.as_deref()
    }

    #[getter]
    fn destination_port(&self) -> Option<&str> {
        self.given.destination_port.as_deref()
    }

    #[getter]
    fn icmp_type(&self) -> Option<&str> {
        self.given.icmp_type.as_deref()
    }

    #[getter]
    fn icmp_code(&self) -> Option<&str> {
        self.given.icmp_code.as_deref()
    }

    /// Ids of the content destinations that get a copy.
    #[getter]
    fn deliver_to<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.deliver_to)
    }

    /// The filter in canonical text; two filters that match the same packets field by field share it.
    fn normal_form(&self) -> String {
        self.filter.normal_form().to_string()
    }

    /// Whether some packet could match both.
    fn overlaps(&self, other: &Self) -> bool {
        self.filter.overlaps(&other.filter)
    }

    /// Whether both have the same normal form, whatever their ids and destinations.
    fn same_filter(&self, other: &Self) -> bool {
        self.filter == other.filter
    }

    /// How narrow it is among the packets of a family, 4 or 6, as the length of a prefix; None where it matches none.
    fn narrowness(&self, family: u8) -> PyResult<Option<u32>> {
        match family {
            4 => Ok(self.filter.narrowness_v4()),
            6 => Ok(self.filter.narrowness_v6()),
            other => Err(PyValueError::new_err(format!(
                "family: {other} is neither 4 nor 6"
            ))),
        }
    }

    // No field is shown: addresses of subjects do not belong into logs.
    fn __repr__(&self) -> String {
        format!("<Criteria {}>", self.id)
    }
}

/// Addresses that a policy allows.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct AddressSpace(CoreSpace);

#[pymethods]
impl AddressSpace {
    #[new]
    fn new(addresses: &str) -> PyResult<Self> {
        CoreSpace::parse(addresses)
            .map(Self)
            .map_err(|error| errors::from_criteria(&error))
    }

    /// Whether every packet that the filter can match has its source or its destination in the space.
    fn covers(&self, criteria: &Criteria) -> bool {
        self.0.covers(&criteria.filter)
    }
}

/// Where copies go, and the outer header they get.
#[pyclass(frozen, eq, hash, module = "flowtap")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct ContentDestination {
    pub(crate) address: IpAddr,
    #[pyo3(get)]
    pub(crate) port: u16,
    pub(crate) source_address: IpAddr,
    #[pyo3(get)]
    pub(crate) source_port: u16,
    #[pyo3(get)]
    pub(crate) ttl: u8,
    pub(crate) refuse_oversize: bool,
    #[pyo3(get)]
    pub(crate) tunnel: Option<String>,
    pub(crate) spool: SpoolKind,
    #[pyo3(get)]
    pub(crate) spool_octets: u64,
    pub(crate) resend: Duration,
}

fn spool_kind(text: &str) -> PyResult<SpoolKind> {
    match text {
        "none" => Ok(SpoolKind::None),
        "memory" => Ok(SpoolKind::Memory),
        "disk" => Ok(SpoolKind::Disk),
        other => Err(PyValueError::new_err(format!(
            "spool: {other:?} is neither \"none\" nor \"memory\" nor \"disk\""
        ))),
    }
}

fn ip_address(field: &str, text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_error| {
        PyValueError::new_err(format!("{field}: {text:?} is not an IPv4 or IPv6 address"))
    })
}

#[pymethods]
impl ContentDestination {
    #[new]
    #[pyo3(signature = (address, port, source_address, source_port=65534, ttl=255, oversize="fragment", *,
        tunnel=None, spool="none", spool_octets=64 << 20, resend_s=0.0))]
    #[expect(
        clippy::too_many_arguments,
        reason = "each is an argument of its own in Python"
    )]
    fn new(
        address: &str,
        port: u16,
        source_address: &str,
        source_port: u16,
        ttl: u8,
        oversize: &str,
        tunnel: Option<String>,
        spool: &str,
        spool_octets: u64,
        resend_s: f64,
    ) -> PyResult<Self> {
        let spool = spool_kind(spool)?;
        let resend = Duration::try_from_secs_f64(resend_s).map_err(|_error| {
            PyValueError::new_err("resend_s: a number of seconds from 0 is right")
        })?;
        if tunnel.is_none() && spool != SpoolKind::None {
            return Err(PyValueError::new_err(
                "spool: only copies that must leave through a tunnel wait; name it, or leave the spool \"none\"",
            ));
        }
        if spool == SpoolKind::None && !resend.is_zero() {
            return Err(PyValueError::new_err(
                "resend_s: needs a spool to keep copies in, \"memory\" or \"disk\"",
            ));
        }
        let refuse_oversize = match oversize {
            "fragment" => false,
            "refuse" => true,
            other => {
                return Err(PyValueError::new_err(format!(
                    "oversize: {other:?} is neither \"fragment\" nor \"refuse\""
                )));
            }
        };
        let destination = Self {
            address: ip_address("address", address)?,
            port,
            source_address: ip_address("source_address", source_address)?,
            source_port,
            ttl,
            refuse_oversize,
            tunnel,
            spool,
            spool_octets,
            resend,
        };
        if destination.address.is_ipv4() != destination.source_address.is_ipv4() {
            return Err(PyValueError::new_err(
                "address and source_address must be of one family, IPv4 or IPv6",
            ));
        }
        Ok(destination)
    }

    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }

    #[getter]
    fn source_address(&self) -> String {
        self.source_address.to_string()
    }

    #[getter]
    fn oversize(&self) -> &'static str {
        if self.refuse_oversize {
            "refuse"
        } else {
            "fragment"
        }
    }

    #[getter]
    fn spool(&self) -> &'static str {
        match self.spool {
            SpoolKind::None => "none",
            SpoolKind::Memory => "memory",
            SpoolKind::Disk => "disk",
        }
    }

    #[getter]
    fn resend_s(&self) -> f64 {
        self.resend.as_secs_f64()
    }

    fn __repr__(&self) -> String {
        let header = format!(
            "address={:?}, port={}, source_address={:?}, source_port={}, ttl={}, oversize={:?}",
            self.address.to_string(),
            self.port,
            self.source_address.to_string(),
            self.source_port,
            self.ttl,
            self.oversize()
        );
        let protection = self.tunnel.as_ref().map_or_else(String::new, |tunnel| {
            format!(
                ", tunnel={tunnel:?}, spool={:?}, spool_octets={}, resend_s={:?}",
                self.spool(),
                self.spool_octets,
                self.resend_s()
            )
        });
        format!("ContentDestination({header}{protection})")
    }
}
