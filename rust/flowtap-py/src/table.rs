//! The compiled filter table.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_core::table::{Destination, Entry, FilterTable as CoreTable, Protection, TableError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::criteria::{ContentDestination, Criteria};

type Named = HashMap<String, Py<ContentDestination>>;

/// All active criteria, compiled; immutable.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct FilterTable(pub(crate) Arc<CoreTable>);

/// Content destinations in the order of their names.
fn destinations(named: Named) -> Vec<Destination> {
    let mut named: Vec<_> = named.into_iter().collect();
    named.sort_by(|left, right| left.0.cmp(&right.0));
    named
        .into_iter()
        .map(|(id, destination)| {
            let given = destination.get();
            Destination {
                id,
                address: given.address,
                port: given.port,
                source_address: given.source_address,
                source_port: given.source_port,
                ttl: given.ttl,
                refuse_oversize: given.refuse_oversize,
                export: true,
                protection: given.tunnel.as_ref().map(|tunnel| {
                    Arc::new(Protection {
                        tunnel: tunnel.clone(),
                        spool: given.spool,
                        spool_octets: given.spool_octets,
                        resend: given.resend,
                    })
                }),
            }
        })
        .collect()
}

/// Criteria with indexes in place of the names of their destinations.
fn entries(criteria: &Bound<'_, PyAny>, destinations: &[Destination]) -> PyResult<Vec<Entry>> {
    let index_of: HashMap<&str, u32> = (0..)
        .zip(destinations)
        .map(|(index, destination)| (destination.id.as_str(), index))
        .collect();
    let mut entries = Vec::new();
    for item in criteria.try_iter()? {
        let item = item?;
        let given = item.cast::<Criteria>()?.get();
        let destinations = given
            .destination_ids()
            .iter()
            .map(|id| {
                index_of.get(id.as_str()).copied().ok_or_else(|| {
                    PyValueError::new_err(format!(
                        "criteria {}: deliver_to names {id:?}, which is not among the destinations",
                        given.number()
                    ))
                })
            })
            .collect::<PyResult<Vec<u32>>>()?;
        entries.push(Entry {
            id: given.number(),
            criteria: given.filter.clone(),
            destinations,
            lifetime: given.lifetime,
            used: given.used.clone(),
            rate: given.rate.clone(),
            own: given.own,
            scope: given.scope.clone(),
        });
    }
    Ok(entries)
}

fn failed(error: &TableError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymethods]
impl FilterTable {
    /// Compiles criteria; the work itself runs with the interpreter released.
    #[staticmethod]
    #[pyo3(signature = (criteria, destinations=None))]
    fn compile(
        py: Python<'_>,
        criteria: &Bound<'_, PyAny>,
        destinations: Option<Named>,
    ) -> PyResult<Self> {
        let destinations = self::destinations(destinations.unwrap_or_default());
        let entries = entries(criteria, &destinations)?;
        py.detach(|| CoreTable::compile(entries, destinations))
            .map(|table| Self(Arc::new(table)))
            .map_err(|error| failed(&error))
    }

    /// The table with some criteria taken away and others added; costs about as much as the change.
    #[pyo3(signature = (remove, add, destinations=None))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the binding converts into owned values"
    )]
    fn changed(
        &self,
        py: Python<'_>,
        remove: Vec<u64>,
        add: &Bound<'_, PyAny>,
        destinations: Option<Named>,
    ) -> PyResult<Self> {
        let destinations = destinations.map(self::destinations);
        let known = destinations.as_deref();
        let entries = entries(add, known.unwrap_or_else(|| self.0.destinations()))?;
        py.detach(|| self.0.changed(&remove, entries, destinations))
            .map(|table| Self(Arc::new(table)))
            .map_err(|error| failed(&error))
    }

    fn __len__(&self) -> usize {
        self.0.slots().len()
    }

    /// What the table holds in memory.
    #[getter]
    fn memory_octets(&self) -> usize {
        self.0.memory_octets()
    }

    fn __repr__(&self) -> String {
        format!("<FilterTable of {} criteria>", self.0.slots().len())
    }
}
