//! What becomes of a worker that fails.

use super::*;

fn worker(work: impl FnOnce(&Shared) -> WorkerStats + Send + 'static) -> Worker {
    let shared = Arc::new(Shared::default());
    let in_thread = Arc::clone(&shared);
    let thread = spawn("flowtap-test", move || {
        in_thread.work(|| work(&in_thread));
    });
    Worker {
        shared,
        thread: thread.unwrap(),
        waker: None,
    }
}

#[test]
fn a_worker_that_fails_ends_the_tap_and_is_remembered() {
    let table = FilterTable::compile(Vec::new(), Vec::new()).unwrap();
    let mut tap = Tap::new(Arc::new(table), None);
    let stop = Arc::clone(&tap.stop);
    tap.workers.push(worker(move |_| {
        while !stop.is_wanted() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        WorkerStats::default()
    }));
    assert!(!tap.is_finished());
    tap.workers.push(worker(|_| panic!("as a defect would")));
    while !tap.is_finished() {
        std::thread::yield_now();
    }
    let said = "the data plane failed: as a defect would";
    assert_eq!(tap.error().as_deref(), Some(said));
    let stopped = tap.stop(Duration::from_secs(5));
    assert_eq!(stopped.unwrap_err().to_string(), said);
    assert_eq!(tap.error().as_deref(), Some(said));
}

#[test]
fn what_was_wrong_is_known_after_the_end() {
    let table = FilterTable::compile(Vec::new(), Vec::new()).unwrap();
    let mut tap = Tap::new(Arc::new(table), None);
    tap.workers.push(worker(|shared| {
        shared.lock().error = Some("the file is damaged".to_owned());
        WorkerStats::default()
    }));
    tap.stop(Duration::from_secs(5)).unwrap();
    assert_eq!(tap.error().as_deref(), Some("the file is damaged"));
}
