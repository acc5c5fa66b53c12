//! Handing programs to the kernel.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::{
    pthread::{pthread_kill, pthread_self},
    signal::Signal,
};
use tokio::signal::unix::{SignalKind, signal};
use weir::dataplane::{Entrance, load_decapsulator};
use weir_lab::program::object;

/// Far less than loading a program takes, and still leaving the processor to it.
const BETWEEN: Duration = Duration::from_micros(50);

#[test]
fn signals_do_not_keep_a_program_from_being_loaded() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    // A handler: without one, the signal would be dropped before it disturbs anything.
    let _handled = {
        let _context = runtime.enter();
        signal(SignalKind::child()).unwrap()
    };
    let object = object().unwrap();
    let entrance = Entrance { sources: Vec::new(), vips: Vec::new(), port: 6080 };
    let loading = pthread_self();
    let (disturbed, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let loaded = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                pthread_kill(loading, Signal::SIGCHLD).unwrap();
                disturbed.store(true, Ordering::Relaxed);
                thread::sleep(BETWEEN);
            }
        });
        while !disturbed.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let loaded = load_decapsulator(&object, &entrance);
        ended.store(true, Ordering::Relaxed);
        loaded
    });
    loaded.unwrap();
}
