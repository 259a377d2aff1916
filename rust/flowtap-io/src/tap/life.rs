//! Watches the interfaces and the addresses of this host while a tap captures.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::live::Live;
use crate::local::local_addresses;
use crate::packet::{Change, InterfaceEvent, InterfaceWatch, PacketError, Waker};

/// How often the addresses of this host are asked for, beside whenever the kernel says that one has changed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(5);
/// Things that happened and that nobody has asked for yet; older ones are forgotten.
const EVENTS_MAX: usize = 1_000;

/// What has happened to interfaces, in words.
#[derive(Debug, Default)]
struct Events(Mutex<VecDeque<String>>);

impl Events {
    fn push(&self, text: String) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(text);
    }
}

/// The thread that watches.
#[derive(Debug)]
pub(super) struct Life {
    stop: Arc<AtomicBool>,
    events: Arc<Events>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Life {
    /// Begins to follow what `watch` tells; `wakers` end the waits of the workers.
    ///
    /// # Errors
    /// The system says no.
    pub(super) fn begin(
        watch: InterfaceWatch,
        live: Arc<Live>,
        wakers: Vec<Waker>,
    ) -> Result<Self, PacketError> {
        let waker = watch.waker();
        let stop = Arc::new(AtomicBool::new(false));
        let events = Arc::new(Events::default());
        let (in_thread, told) = (Arc::clone(&stop), Arc::clone(&events));
        let thread = std::thread::Builder::new()
            .name("flowtap-watch".to_owned())
            .spawn(move || watch_on(watch, &live, &wakers, &told, &in_thread))
            .map_err(|source| PacketError::System {
                interface: "interfaces".to_owned(),
                operation: "watching them",
                source,
            })?;
        Ok(Self {
            stop,
            events,
            waker,
            thread: Some(thread),
        })
    }

    /// What has happened since this was asked for last.
    pub(super) fn events(&self) -> Vec<String> {
        let mut events = self.events.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.drain(..).collect()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn watch_on(
    mut watch: InterfaceWatch,
    live: &Live,
    wakers: &[Waker],
    events: &Events,
    stop: &AtomicBool,
) {
    let mut asked = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let happened = match watch.next_event(ADDRESSES_EVERY) {
            Ok(happened) => happened,
            Err(error) => {
                events.push(error.to_string());
                // Its next answer may be right again; and nobody has to wait for that to stop the tap.
                std::thread::park_timeout(Duration::from_millis(100));
                None
            }
        };
        if let Some(event) = &happened {
            events.push(in_words(event));
            follow(event, live);
        }
        if watch.take_addresses_changed()
            || happened.is_some()
            || asked.elapsed() >= ADDRESSES_EVERY
        {
            asked = Instant::now();
            live.local.store(Arc::new(local_addresses()));
            for waker in wakers {
                waker.wake();
            }
        }
    }
}

fn follow(event: &InterfaceEvent, live: &Live) {
    for place in &live.places {
        if place.name != event.interface {
            continue;
        }
        match event.change {
            Change::Up => place.is_up.store(true, Ordering::Relaxed),
            Change::Down | Change::Removed => place.is_up.store(false, Ordering::Relaxed),
            Change::Appeared => {
                place.appeared.fetch_add(1, Ordering::Release);
            }
            Change::Renamed { .. } => {}
        }
    }
}

fn in_words(event: &InterfaceEvent) -> String {
    let name = &event.interface;
    match &event.change {
        Change::Up => format!("{name}: up"),
        Change::Down => format!("{name}: down; nothing is captured until it is up"),
        Change::Renamed { from, to } => {
            format!("{name}: renamed from {from} to {to}; it is captured on")
        }
        Change::Removed => format!("{name}: removed; captured again when it is there again"),
        Change::Appeared => format!("{name}: there again; its capture is opened anew"),
    }
}
