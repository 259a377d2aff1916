//! Counts matches and makes copies.

use std::sync::Arc;

use super::{Engine, Framing};
use crate::batch::{CopyBatch, CopyRecord, NO_DESTINATION};
use crate::encap::flowtap;
use crate::frame::Frame;
use crate::table::{Passage, Slot};

/// What is copied of a frame, and how it passed.
#[derive(Clone, Copy)]
pub(super) struct Copied<'a> {
    /// Criteria without interfaces have had it.
    pub(super) is_duplicate: bool,
    pub(super) octets: &'a [u8],
    /// As counted: the length that the IP header tells, or that of the frame on the wire.
    pub(super) length_octets: u32,
    pub(super) passage: Passage,
}

/// What the criteria of some slots said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Own,
    Duplicate,
    Match,
}

impl Engine {
    /// Counts the matches of one frame and makes its copies, in the order of the criteria's ids.
    pub(super) fn deliver(
        &mut self,
        frame: &Frame<'_>,
        copied: Copied<'_>,
        slots: &mut [u32],
        now_ns: u64,
        batch: &mut CopyBatch,
    ) -> Said {
        if slots.is_empty() {
            return Said::Nothing;
        }
        let table = Arc::clone(&self.table);
        if table.has_own()
            && slots
                .iter()
                .any(|&slot| table.slot(slot).is_some_and(Slot::is_own))
        {
            return Said::Own;
        }
        if self.options.framing != Framing::Count && slots.len() > 1 {
            table.sort_by_id(slots);
        }
        let mut matched = false;
        let mut duplicate = false;
        for &number in &*slots {
            let state = usize::try_from(number)
                .ok()
                .and_then(|number| self.criteria.get_mut(number));
            let Some((slot, state)) = table.slot(number).zip(state) else {
                continue;
            };
            if !slot.admits(copied.passage) {
                continue;
            }
            if copied.is_duplicate && !slot.names_interfaces() {
                duplicate = true;
                continue;
            }
            if let Some((lifetime, used)) = slot.limits()
                && (state.has_ended(lifetime, used, now_ns)
                    || !used.take(lifetime, copied.length_octets.into(), now_ns))
            {
                continue;
            }
            matched = true;
            state.packets += 1;
            state.octets += u64::from(copied.length_octets);
            state.last_match_ns = Some(state.last_match_ns.map_or(now_ns, |last| last.max(now_ns)));
            self.totals.wanted += slot.wanted();
            let is_admitted = slot
                .rate()
                .is_none_or(|rate| rate.admit(copied.length_octets.into(), now_ns));
            let record = CopyRecord {
                start: 0,
                end: 0,
                header_octets: 0,
                criteria_id: slot.id(),
                destination: NO_DESTINATION,
                timestamp_ns: frame.timestamp_ns,
                original_length_octets: copied.length_octets,
            };
            if !slot.is_delivered() && !is_admitted {
                self.totals.refused += 1;
            } else if !slot.is_delivered() {
                if self.options.framing != Framing::Count {
                    batch.push(record, |bytes| bytes.extend_from_slice(copied.octets));
                }
                state.copies += 1;
                self.totals.copied += 1;
            }
            for (index, destination) in table.destinations_of(slot) {
                let account = usize::try_from(index)
                    .ok()
                    .and_then(|index| self.destinations.get_mut(index));
                let Some(account) = account else {
                    continue;
                };
                account.wanted += 1;
                let record = CopyRecord {
                    destination: index,
                    ..record
                };
                let framing = self.options.framing;
                let outer_octets = flowtap::header_octets(destination) + copied.octets.len();
                let too_long = copied.octets.len() > flowtap::maximum_payload_octets(destination)
                    || match framing {
                        Framing::Datagram { mtu_octets } => {
                            destination.refuse_oversize
                                && u32::try_from(outer_octets)
                                    .map_or(true, |octets| octets > mtu_octets)
                        }
                        Framing::Payload | Framing::Count => false,
                    };
                if too_long || !is_admitted {
                    account.refused += 1;
                    self.totals.refused += 1;
                    let refused = self.refused.entry((slot.id(), index)).or_default();
                    refused.0 += 1;
                    refused.1 += u64::from(copied.length_octets);
                    continue;
                }
                match framing {
                    Framing::Count => {}
                    Framing::Payload => {
                        batch.push(record, |bytes| bytes.extend_from_slice(copied.octets));
                    }
                    Framing::Datagram { mtu_octets } => {
                        account.identification = account.identification.wrapping_add(1);
                        let identification = account.identification;
                        let header_octets =
                            u32::try_from(flowtap::header_octets(destination)).unwrap_or(0);
                        let record = CopyRecord {
                            header_octets,
                            ..record
                        };
                        if u32::try_from(outer_octets).is_ok_and(|octets| octets <= mtu_octets) {
                            batch.push(record, |bytes| {
                                flowtap::outer(destination, copied.octets, identification, bytes);
                            });
                        } else {
                            self.datagram.clear();
                            flowtap::outer(
                                destination,
                                copied.octets,
                                identification,
                                &mut self.datagram,
                            );
                            let mut is_first = true;
                            flowtap::fragment(
                                &self.datagram,
                                mtu_octets,
                                identification,
                                |headers, data| {
                                    let ip_octets = u32::try_from(headers.len()).unwrap_or(0);
                                    // The UDP header travels in the first fragment.
                                    let header_octets =
                                        if is_first { ip_octets + 8 } else { ip_octets };
                                    is_first = false;
                                    batch.push(
                                        CopyRecord {
                                            header_octets,
                                            ..record
                                        },
                                        |bytes| {
                                            bytes.extend_from_slice(headers);
                                            bytes.extend_from_slice(data);
                                        },
                                    );
                                },
                            );
                        }
                    }
                }
                account.copied += 1;
                state.copies += 1;
                self.totals.copied += 1;
            }
        }
        if matched {
            Said::Match
        } else if duplicate {
            Said::Duplicate
        } else {
            Said::Nothing
        }
    }
}
