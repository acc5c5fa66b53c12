//! Who is not wanted at the port of `[sync]`: a balancer with another key, one who sends garbage,
//! and one who connects and says nothing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use weir::sync::Key;

use crate::{Balancer, Lab, Weir, sync::SYNC_PORT};

/// Connections that say nothing, as many as are accepted at a time.
const HALF_OPEN: usize = 16;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
const GARBAGE: [u8; 4096] = [0xA5; 4096];

/// They come again and again until this is dropped.
#[derive(Debug)]
pub(super) struct Strangers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _other_key: Weir,
}

impl Strangers {
    pub(super) fn start(
        lab: &Lab,
        stranger: &Balancer,
        peers: &[Balancer],
        weir: &Path,
    ) -> Result<Self> {
        let all = [peers, std::slice::from_ref(stranger)].concat();
        let config =
            super::configuration(lab, stranger) + &stranger.sync_section(&Key::generate(), &all)?;
        let other_key = stranger.start_weir_at(weir, &config)?;
        let server = SocketAddr::from((peers[0].address(), SYNC_PORT));
        let stop = Arc::new(AtomicBool::new(false));
        let works: [fn(SocketAddr, &AtomicBool); 2] = [send_garbage, say_nothing];
        let threads = works.into_iter().map(|work| {
            let (namespace, stopped) = (lab.client().namespace().clone(), Arc::clone(&stop));
            thread::Builder::new().name("stranger".to_owned()).spawn(move || {
                if namespace.move_this_thread().is_ok() {
                    work(server, &stopped);
                }
            })
        });
        let threads = threads.collect::<Result<_, _>>()?;
        Ok(Self { stop, threads, _other_key: other_key })
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A stranger that panicked has printed itself.
            let _ = thread.join();
        }
    }
}

/// Each connection is filled until it is closed. What fails is what is wanted.
fn send_garbage(server: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(server) {
            let _ = stream.set_write_timeout(Some(PAUSE));
            while stream.write_all(&GARBAGE).is_ok() {}
        }
        thread::sleep(PAUSE);
    }
}

/// Each connection is kept until the other side closes it.
fn say_nothing(server: SocketAddr, stop: &AtomicBool) {
    let mut kept: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        kept.retain_mut(|stream| {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            // The greeting that comes, or nothing yet: it is open. Nothing for ever: closed.
            !matches!(stream.read(&mut [0; 64]), Ok(0))
        });
        while kept.len() < HALF_OPEN {
            let Ok(stream) = TcpStream::connect(server) else { break };
            kept.push(stream);
        }
        thread::sleep(PAUSE);
    }
}
