//! What happens to interfaces while they are captured.
//!
//! The kernel tells it (rtnetlink, group RTMGRP_LINK, and those of addresses where they are asked for) rather than being asked again and again: so a link that was down
//! for a moment is not missed, a new name is seen as what it is, and an idle tap stays idle. Where the kernel had to drop
//! messages it says so, and all interfaces are asked for once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::c_int;

use super::error::PacketError;
use super::interface::Interface;
use super::links::{ANSWER_OCTETS, Message, messages};
use super::sys;
use super::wake::Waker;

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is switched on and its link is there (again): a capture goes on by itself.
    Up,
    /// It was switched off, or its link is gone: nothing is captured.
    Down,
    /// It has another name; a capture goes on.
    Renamed {
        /// The name before.
        from: String,
        /// The name now.
        to: String,
    },
    /// It is gone: a capture ends, and must be opened again when it appears.
    Removed,
    /// There is one of the watched name (again). It may be down.
    Appeared,
}

/// Something that happened to a watched interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceEvent {
    /// The name by which it is watched.
    pub interface: String,
    /// The kernel's number.
    pub index: u32,
    /// What happened.
    pub change: Change,
}

/// What is known of one watched name.
#[derive(Debug)]
struct Watched {
    name: String,
    /// The interface that has, or had, this name; it is followed under other names too.
    current: Option<Interface>,
}

/// The watched interfaces and what has happened to them.
#[derive(Debug, Default)]
struct Tracker {
    watched: Vec<Watched>,
    events: VecDeque<InterfaceEvent>,
}

impl Tracker {
    fn new(names: &[String], present: &[Interface]) -> Self {
        let watched = names
            .iter()
            .map(|name| Watched {
                name: name.clone(),
                current: present.iter().find(|now| now.name == *name).cloned(),
            })
            .collect();
        Self {
            watched,
            events: VecDeque::new(),
        }
    }

    /// An interface is there, or it has changed.
    fn present(&mut self, now: &Interface) {
        for watched in &mut self.watched {
            let mut tell = |change| {
                self.events.push_back(InterfaceEvent {
                    interface: watched.name.clone(),
                    index: now.index,
                    change,
                });
            };
            match &watched.current {
                Some(before) if before.index == now.index => {
                    if before.name != now.name {
                        tell(Change::Renamed {
                            from: before.name.clone(),
                            to: now.name.clone(),
                        });
                    }
                    match (before.is_up, now.is_up) {
                        (false, true) => tell(Change::Up),
                        (true, false) => tell(Change::Down),
                        _ => {}
                    }
                }
                None if watched.name == now.name => {
                    tell(Change::Appeared);
                    if now.is_up {
                        tell(Change::Up);
                    }
                }
                _ => continue,
            }
            watched.current = Some(now.clone());
        }
    }

    /// An interface is gone. Returns whether it was watched, so that another may have its name already.
    fn gone(&mut self, index: u32) -> bool {
        let mut was_watched = false;
        for watched in &mut self.watched {
            if watched
                .current
                .as_ref()
                .is_some_and(|now| now.index == index)
            {
                was_watched = true;
                watched.current = None;
                self.events.push_back(InterfaceEvent {
                    interface: watched.name.clone(),
                    index,
                    change: Change::Removed,
                });
            }
        }
        was_watched
    }

    /// These interfaces are there, and no others.
    fn reconcile(&mut self, present: &[Interface]) {
        let gone: Vec<u32> = self
            .watched
            .iter()
            .filter_map(|watched| watched.current.as_ref())
            .map(|before| before.index)
            .filter(|&index| present.iter().all(|now| now.index != index))
            .collect();
        for index in gone {
            // Who has its name now is among those that are there.
            let _was_watched = self.gone(index);
        }
        for now in present {
            self.present(now);
        }
    }
}

/// Watches interfaces by name. It sees what happens from its opening on; opened before the captures, it misses nothing.
#[derive(Debug)]
pub struct InterfaceWatch {
    socket: File,
    wake: Waker,
    tracker: Tracker,
    answer: Vec<u8>,
    /// An address has come or gone since this was asked for last.
    has_other_addresses: bool,
    tells_addresses: bool,
}

impl InterfaceWatch {
    /// Begins to watch the interfaces of these names, which need not be there yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(names: &[String]) -> Result<Self, PacketError> {
        Self::open_for(names, libc::RTMGRP_LINK)
    }

    /// The same, and it also tells that addresses of this host have come or gone, of whichever interface.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_with_addresses(names: &[String]) -> Result<Self, PacketError> {
        let addresses = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        Self::open_for(names, libc::RTMGRP_LINK | addresses)
    }

    fn open_for(names: &[String], groups: c_int) -> Result<Self, PacketError> {
        let tells_addresses = groups != libc::RTMGRP_LINK;
        let groups = u32::try_from(groups).unwrap_or(0);
        let failed = |error| PacketError::system("interfaces", "watching them", error);
        // First the socket, then the question: what changes between is told twice rather than not at all.
        let socket = sys::link_socket(groups).map_err(failed)?;
        Ok(Self {
            socket: File::from(socket),
            wake: Waker::new().map_err(failed)?,
            tracker: Tracker::new(names, &Interface::all()?),
            answer: vec![0; ANSWER_OCTETS],
            has_other_addresses: false,
            tells_addresses,
        })
    }

    /// The interface that a watched name stands for at present; None where there is none.
    pub fn current(&self, name: &str) -> Option<&Interface> {
        self.tracker
            .watched
            .iter()
            .find(|watched| watched.name == name)
            .and_then(|watched| watched.current.as_ref())
    }

    /// What ends a wait of another thread in [`InterfaceWatch::next_event`].
    pub fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// Whether an address of this host has come or gone since this was asked for last.
    pub fn take_addresses_changed(&mut self) -> bool {
        mem::take(&mut self.has_other_addresses)
    }

    /// The next thing that happened, waiting for it at most so long; None in time, after a wake or a signal, and where
    /// addresses have changed.
    ///
    /// # Errors
    /// What the system says.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<InterfaceEvent>, PacketError> {
        let failed = |error| PacketError::system("interfaces", "watching them", error);
        let until = Instant::now().checked_add(timeout);
        loop {
            if let Some(event) = self.tracker.events.pop_front() {
                return Ok(Some(event));
            }
            if self.has_other_addresses {
                return Ok(None);
            }
            let left = until.map_or(timeout, |until| {
                until.saturating_duration_since(Instant::now())
            });
            let readiness =
                sys::wait(self.socket.as_fd(), self.wake.as_fd(), left).map_err(failed)?;
            if readiness.readable || readiness.failed {
                self.hear()?;
            } else {
                if readiness.woken {
                    self.wake.clear();
                }
                return Ok(None);
            }
        }
    }

    /// Takes what the kernel says.
    fn hear(&mut self) -> Result<(), PacketError> {
        let length = match self.socket.read(&mut self.answer) {
            Ok(length) => length,
            // Messages were dropped: what is true now counts.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.has_other_addresses = self.tells_addresses;
                self.tracker.reconcile(&Interface::all()?);
                return Ok(());
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(PacketError::system("interfaces", "watching them", error)),
        };
        let mut was_watched = false;
        for message in messages(self.answer.get(..length).unwrap_or_default()) {
            match message {
                Message::Present(link) => self.tracker.present(&Interface::from(link)),
                Message::Gone { index } => was_watched |= self.tracker.gone(index),
                Message::Addresses => self.has_other_addresses = true,
                Message::Done | Message::Interrupted | Message::Refused(_) => {}
            }
        }
        if was_watched {
            // While the one that is gone had another name, its own may have been given away; nobody says so again.
            for now in Interface::all()? {
                self.tracker.present(&now);
            }
        }
        Ok(())
    }
}

impl AsFd for InterfaceWatch {
    /// Readable when something happened, for callers that wait for several things at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, is_up: bool) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            hardware: 1,
            is_up,
            is_enabled: is_up,
            mtu_octets: 1500,
        }
    }

    fn changes(tracker: &mut Tracker) -> Vec<(u32, Change)> {
        tracker
            .events
            .drain(..)
            .map(|event| (event.index, event.change))
            .collect()
    }

    #[test]
    fn a_life_is_told_in_order() {
        let mut tracker = Tracker::new(&["a".to_owned()], &[interface(3, "a", true)]);
        tracker.present(&interface(3, "a", true));
        tracker.present(&interface(4, "b", false));
        tracker.present(&interface(3, "a", false));
        tracker.present(&interface(3, "c", true));
        assert!(!tracker.gone(4));
        assert!(tracker.gone(3));
        assert!(!tracker.gone(3));
        tracker.present(&interface(9, "c", true));
        tracker.present(&interface(9, "a", false));
        tracker.present(&interface(9, "a", true));
        let renamed = Change::Renamed {
            from: "a".to_owned(),
            to: "c".to_owned(),
        };
        assert_eq!(
            changes(&mut tracker),
            [
                (3, Change::Down),
                (3, renamed),
                (3, Change::Up),
                (3, Change::Removed),
                (9, Change::Appeared),
                (9, Change::Up),
            ]
        );
    }

    #[test]
    fn what_was_missed_is_made_up_for() {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut tracker = Tracker::new(&names, &[interface(3, "a", true)]);
        tracker.reconcile(&[interface(5, "a", true), interface(6, "b", false)]);
        assert_eq!(
            changes(&mut tracker),
            [
                (3, Change::Removed),
                (5, Change::Appeared),
                (5, Change::Up),
                (6, Change::Appeared),
            ]
        );
        tracker.reconcile(&[interface(5, "a", true), interface(6, "b", false)]);
        assert_eq!(changes(&mut tracker), []);
    }
}
