//! The compiled filter table.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_core::table::{Destination, Entry, FilterTable as CoreTable};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::criteria::{ContentDestination, Criteria};

/// All active criteria, compiled; immutable.
#[pyclass(frozen, module = "flowtap")]
pub(crate) struct FilterTable(pub(crate) Arc<CoreTable>);

#[pymethods]
impl FilterTable {
    /// Compiles criteria; the work itself runs with the interpreter released.
    #[staticmethod]
    #[pyo3(signature = (criteria, destinations=None))]
    fn compile(
        py: Python<'_>,
        criteria: &Bound<'_, PyAny>,
        destinations: Option<HashMap<String, Py<ContentDestination>>>,
    ) -> PyResult<Self> {
        let mut named: Vec<_> = destinations.unwrap_or_default().into_iter().collect();
        named.sort_by(|left, right| left.0.cmp(&right.0));
        let mut compiled = Vec::with_capacity(named.len());
        let mut index_of = HashMap::with_capacity(named.len());
        for (id, destination) in named {
            let given = destination.get();
            index_of.insert(id.clone(), u32::try_from(compiled.len())?);
            compiled.push(Destination {
                id,
                address: given.address,
                port: given.port,
                source_address: given.source_address,
                source_port: given.source_port,
                ttl: given.ttl,
                refuse_oversize: given.refuse_oversize,
                export: true,
            });
        }
        let mut entries = Vec::new();
        for item in criteria.try_iter()? {
            let item = item?;
            let given = item.cast::<Criteria>()?.get();
            let destinations = given
                .destination_ids()
                .iter()
                .map(|id| {
                    index_of.get(id).copied().ok_or_else(|| {
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
                own: given.own,
            });
        }
        let table = py
            .detach(|| CoreTable::compile(entries, compiled))
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(table)))
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
