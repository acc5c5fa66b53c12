//! One connection: asks, checks the answers, and opens another after its end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep_until, timeout},
};

use super::account::{End, Ledger};

/// A connection that waits longer for an answer is broken.
const SILENCE: Duration = Duration::from_secs(5);
/// More than any backend's name and number.
const ANSWER_LIMIT: usize = 128;

/// The place of one connection at a time.
#[derive(Debug)]
pub(super) struct Line {
    /// Its place in the ledger.
    pub(super) index: usize,
    pub(super) server: SocketAddr,
    /// Between two questions.
    pub(super) period: Duration,
    /// When it opens first. All that it does later it does whole periods after this, so that
    /// connections which broke together do not go on in step and make each other wait.
    pub(super) start: Instant,
    pub(super) ledger: Arc<Ledger>,
}

impl Line {
    /// Keeps a connection here for as long as it is polled.
    pub(super) async fn keep(self) {
        sleep_until(self.start.into()).await;
        loop {
            let asked = Instant::now();
            match timeout(SILENCE, open(self.server)).await {
                Ok(Ok((mut stream, backend))) => {
                    self.ledger.opened(self.index, &backend, asked);
                    let Err(end) = self.talk(&mut stream, &backend).await else {
                        self.ledger.renewed(self.index);
                        continue;
                    };
                    self.ledger.ended(self.index, end, Instant::now());
                }
                Ok(Err(why)) => self.ledger.failed_to_open(&why),
                Err(_) => self.ledger.failed_to_open("no answer"),
            }
            sleep_until(self.next_turn().into()).await;
        }
    }

    /// Asks until the connection shall be renewed, or is broken.
    async fn talk(&self, stream: &mut TcpStream, backend: &str) -> Result<(), End> {
        for number in 1_u64.. {
            pause(stream, self.next_turn()).await?;
            if self.ledger.asks(self.index, Instant::now()) {
                return Ok(());
            }
            let answer = timeout(SILENCE, ask(stream, number)).await.map_err(|_| End::Silent)??;
            match answer.split_once(' ') {
                Some((name, _)) if name != backend => return Err(End::Foreign),
                Some((_, echo)) if echo == number.to_string() => {}
                _ => return Err(End::Garbled),
            }
            self.ledger.answered(self.index, Instant::now());
        }
        Ok(())
    }

    fn next_turn(&self) -> Instant {
        let (now, period) = (Instant::now(), self.period.as_nanos().max(1));
        let past = now.saturating_duration_since(self.start).as_nanos() % period;
        now + Duration::from_nanos(u64::try_from(period - past).unwrap_or(u64::MAX))
    }
}

/// Connects and asks who is there.
async fn open(server: SocketAddr) -> Result<(TcpStream, String), String> {
    let mut stream = TcpStream::connect(server).await.map_err(|error| error.kind().to_string())?;
    stream.set_nodelay(true).map_err(|error| error.kind().to_string())?;
    let answer = ask(&mut stream, 0).await.map_err(|end| format!("{end} at the first question"))?;
    match answer.split_once(' ') {
        Some((name, "0")) => Ok((stream, name.to_owned())),
        _ => Err(format!("{} at the first question", End::Garbled)),
    }
}

/// Waits for the time of the next question; nothing may come before it.
async fn pause(stream: &mut TcpStream, next: Instant) -> Result<(), End> {
    let mut byte = [0];
    tokio::select! {
        () = sleep_until(next.into()) => Ok(()),
        read = stream.read(&mut byte) => Err(match read {
            Ok(0) => End::Closed,
            Ok(_) => End::Garbled,
            Err(_) => End::Reset,
        }),
    }
}

/// Sends a line and returns the answer without its end.
async fn ask(stream: &mut TcpStream, number: u64) -> Result<String, End> {
    let question = format!("{number}\n");
    stream.write_all(question.as_bytes()).await.map_err(|_| End::Reset)?;
    let (mut answer, mut length) = ([0; ANSWER_LIMIT], 0);
    while length < ANSWER_LIMIT {
        match stream.read(&mut answer[length..]).await {
            Ok(0) => return Err(End::Closed),
            Ok(more) => length += more,
            Err(_) => return Err(End::Reset),
        }
        if let Some(text) = answer[..length].strip_suffix(b"\n") {
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
    }
    Err(End::Garbled)
}
