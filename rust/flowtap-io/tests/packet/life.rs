//! Interfaces that go down, change their name, vanish and come back; waits that somebody ends.

use std::time::{Duration, Instant};

use flowtap_io::packet::{Capture, Change, FanoutGroup, FanoutMode, InterfaceWatch};

use crate::net::{
    Namespace, PATIENCE, assert_silent, is_root, numbered, options, read_numbered, wire,
};

fn watch(namespace: &Namespace, names: &[&str]) -> InterfaceWatch {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    namespace.run(|| InterfaceWatch::open(&names).unwrap())
}

/// The next changes, in order.
fn expect(namespace: &Namespace, watch: &mut InterfaceWatch, changes: &[Change]) {
    for change in changes {
        let event = namespace.run(|| watch.next_event(PATIENCE).unwrap());
        let event = event.unwrap_or_else(|| panic!("{change:?} did not come"));
        assert_eq!(event.interface, "vb");
        assert_eq!(event.change, *change);
    }
}

#[test]
fn a_capture_survives_what_happens_to_its_interface() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut watch = watch(&b, &["vb", "other"]);
    assert!(watch.current("vb").unwrap().is_up);
    assert!(watch.current("other").is_none());
    let mut capture = b.capture("vb");
    a.sender("va").send(&[numbered(1, 60)]);
    read_numbered(&mut capture, 1);

    b.ip("link set vb down");
    expect(&b, &mut watch, &[Change::Down]);
    let began = Instant::now();
    assert!(
        capture
            .next_block(Duration::from_millis(150))
            .unwrap()
            .is_none()
    );
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!(capture.went_down(), 1);
    b.ip("link set vb up");
    expect(&b, &mut watch, &[Change::Up]);
    a.sender("va").send(&[numbered(2, 60)]);
    assert_eq!(read_numbered(&mut capture, 1)[0].octets, numbered(2, 60));

    b.ip("link set vb name vx");
    let renamed = Change::Renamed {
        from: "vb".to_owned(),
        to: "vx".to_owned(),
    };
    expect(&b, &mut watch, &[renamed]);
    a.sender("va").send(&[numbered(3, 60)]);
    assert_eq!(read_numbered(&mut capture, 1)[0].octets, numbered(3, 60));

    a.ip("link del va");
    expect(&b, &mut watch, &[Change::Down, Change::Removed]);
    assert!(
        capture
            .next_block(Duration::from_millis(50))
            .unwrap()
            .is_none()
    );
    assert_eq!(capture.went_down(), 2);
    assert!(b.run(|| capture.reopen()).is_err());

    a.connect("va", &b, "vb");
    expect(&b, &mut watch, &[Change::Appeared, Change::Up]);
    b.run(|| capture.reopen().unwrap());
    capture.admit_all().unwrap();
    a.sender("va").send(&[numbered(4, 60)]);
    assert_eq!(read_numbered(&mut capture, 1)[0].octets, numbered(4, 60));
    // The sums go on. (The kernel sends a few frames of its own.)
    assert!(capture.statistics().read().received >= 4);
}

#[test]
fn what_is_not_read_is_known_and_can_be_given_up() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut capture = b.capture("vb");
    let sent: Vec<_> = (0..50).map(|number| numbered(number, 60)).collect();
    a.sender("va").send(&sent);
    read_numbered(&mut capture, 50);
    a.sender("va").send(&sent);
    capture.admit_nothing().unwrap();
    a.sender("va").send(&sent);
    // The kernel sends a few frames of its own.
    let unread = capture.unread();
    assert!((50..80).contains(&unread), "{unread}");
    // All of them come, those after the end do not, and then nothing is left.
    read_numbered(&mut capture, 50);
    assert_silent(&mut capture);
    assert_eq!(capture.unread(), 0);

    capture.admit_all().unwrap();
    let before = capture.statistics().read();
    a.sender("va").send(&sent);
    capture.admit_nothing().unwrap();
    let unread = capture.unread();
    capture.lose_unread();
    let after = capture.statistics().read();
    assert_eq!(
        (after.received, after.dropped),
        (before.received, before.dropped + unread)
    );
}

#[test]
fn another_interface_has_the_name_before_the_first_one_is_gone() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut watch = watch(&b, &["vb"]);
    let mut capture = b.capture("vb");
    b.ip("link set vb down");
    b.ip("link set vb name vx");
    b.ip("link set vx up");
    let renamed = Change::Renamed {
        from: "vb".to_owned(),
        to: "vx".to_owned(),
    };
    expect(&b, &mut watch, &[Change::Down, renamed, Change::Up]);
    a.connect("vc", &b, "vb");
    a.ip("link del va");
    let gone = [Change::Down, Change::Removed];
    expect(&b, &mut watch, &gone);
    expect(&b, &mut watch, &[Change::Appeared, Change::Up]);
    b.run(|| capture.reopen().unwrap());
    capture.admit_all().unwrap();
    a.sender("vc").send(&[numbered(1, 60)]);
    assert_eq!(read_numbered(&mut capture, 1)[0].octets, numbered(1, 60));
}

#[test]
fn addresses_that_come_and_go_are_told_at_once() {
    if !is_root() {
        return;
    }
    let (_a, b) = wire();
    let names = ["vb".to_owned()];
    let mut watch = b.run(|| InterfaceWatch::open_with_addresses(&names).unwrap());
    for words in [
        "addr add 192.0.2.7/24 dev vb",
        "addr del 192.0.2.7/24 dev vb",
    ] {
        b.ip(words);
        let began = Instant::now();
        assert!(watch.next_event(PATIENCE).unwrap().is_none());
        assert!(watch.take_addresses_changed());
        assert!(!watch.take_addresses_changed());
        assert!(began.elapsed() < PATIENCE);
    }
}

#[test]
fn an_interface_that_is_down_can_be_opened() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    b.ip("link set vb down");
    let mut watch = watch(&b, &["vb"]);
    let mut capture = b.capture("vb");
    assert!(
        capture
            .next_block(Duration::from_millis(20))
            .unwrap()
            .is_none()
    );
    b.ip("link set vb up");
    expect(&b, &mut watch, &[Change::Up]);
    a.sender("va").send(&[numbered(1, 60)]);
    read_numbered(&mut capture, 1);
}

#[test]
fn workers_find_each_other_again() {
    if !is_root() {
        return;
    }
    let (a, b) = wire();
    let mut watch = watch(&b, &["vb"]);
    let mut options = options("vb");
    options.fanout = Some(FanoutGroup::new(FanoutMode::Hash));
    let mut workers: Vec<Capture> = (0..2).map(|_| b.capture_with(options.clone())).collect();
    b.ip("link set vb down");
    b.ip("link set vb up");
    expect(&b, &mut watch, &[Change::Down, Change::Up]);
    for _ in 0..2 {
        a.ip("link del va");
        expect(&b, &mut watch, &[Change::Down, Change::Removed]);
        a.connect("va", &b, "vb");
        expect(&b, &mut watch, &[Change::Appeared, Change::Up]);
        for worker in &mut workers {
            b.run(|| worker.reopen().unwrap());
            worker.admit_all().unwrap();
        }
        let sent: Vec<_> = (0..200)
            .map(|number| {
                // Different senders, lest all go to one worker.
                let mut frame = numbered(number, 60);
                frame[6..12].copy_from_slice(&[2, 1, 1, 1, 1, number.to_le_bytes()[0]]);
                frame
            })
            .collect();
        a.sender("va").send(&sent);
        let mut seen = Vec::new();
        for worker in &mut workers {
            while let Some(mut block) = worker.next_block(Duration::from_millis(100)).unwrap() {
                seen.extend(block.frames().map(|frame| frame.octets().to_vec()));
            }
        }
        seen.retain(|frame| frame[12..14] == [0x88, 0xb5]);
        seen.sort();
        let mut sent = sent;
        sent.sort();
        assert!(seen == sent);
    }
}

#[test]
fn an_idle_wait_ends_at_once_when_somebody_wants_it() {
    if !is_root() {
        return;
    }
    let (_a, b) = wire();
    let mut capture = b.capture("vb");
    let mut watch = watch(&b, &["vb"]);
    // What comes of the interface's own accord.
    while capture
        .next_block(Duration::from_millis(50))
        .unwrap()
        .is_some()
    {}
    let (frames, changes) = (capture.waker(), watch.waker());
    // The machine may be busy with something else; it is not each time.
    let took = (0..5).map(|_| {
        std::thread::scope(|scope| {
            let one = scope.spawn(|| {
                let came = capture.next_block(PATIENCE).unwrap().is_some();
                (came, Instant::now())
            });
            let two = scope.spawn(|| {
                let came = watch.next_event(PATIENCE).unwrap().is_some();
                (came, Instant::now())
            });
            std::thread::sleep(Duration::from_millis(30));
            let woken = Instant::now();
            frames.wake();
            changes.wake();
            let ends = [one.join().unwrap(), two.join().unwrap()];
            assert!(ends.iter().all(|(came, _)| !came));
            let took = ends.map(|(_, ended)| ended.saturating_duration_since(woken));
            took.into_iter().max().unwrap()
        })
    });
    let took = took.min().unwrap();
    assert!(took < Duration::from_millis(50), "{took:?}");
    // A wake that comes before the wait ends it too, and only that one.
    frames.wake();
    frames.wake();
    let began = Instant::now();
    assert!(capture.next_block(PATIENCE).unwrap().is_none());
    assert!(began.elapsed() < PATIENCE);
    let began = Instant::now();
    assert!(
        capture
            .next_block(Duration::from_millis(100))
            .unwrap()
            .is_none()
    );
    assert!(began.elapsed() >= Duration::from_millis(100));
}
