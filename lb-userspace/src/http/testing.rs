//! For the tests of both servers: a daemon that answers from a script, and raw HTTP.

use std::time::{Duration, SystemTime};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time,
};

use crate::{
    config::{Algorithm, AttachMode, Forward, Name, Protocol},
    control::{EventLog, Handle, Request},
    core::{
        BackendId, BackendState, BackendStatus, Command, CommandError, Event, EventKind, Expect,
        Explanation, FlowsStatus, Health, InterfaceStatus, PacketStatus, Plan, ServiceStatus,
        SlotsStatus, Status,
    },
};

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A daemon with the service `web` and its backends `a` (up) and `b` (down). It knows no other
/// service; `full` is the name of a backend for which there is no room.
pub(crate) fn daemon() -> Handle {
    let (handle, mut requests) = silent_daemon();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            answer(request);
        }
    });
    handle
}

/// A daemon that takes questions in and never answers, as long as the receiver lives.
pub(crate) fn silent_daemon() -> (Handle, mpsc::Receiver<Request>) {
    let (requests, receiver) = mpsc::channel(8);
    (Handle { requests, events: EventLog::default() }, receiver)
}

fn answer(request: Request) {
    // Who asked may be gone.
    match request {
        Request::Status(to) => drop(to.send(status())),
        Request::Command(command, to) => drop(to.send(carry_out(&command))),
        Request::Plan(command, to) => drop(to.send(plan(&command))),
        Request::Vrrp(command, to) => drop(to.send(Ok(format!("{command:?}")))),
        Request::Explain(question, to) => drop(to.send(Explanation {
            service: Some(name("web")),
            backend: Some(name("a")),
            slot: Some(u32::from(question.source.port())),
            slot_state: Some("settled".to_owned()),
            reason: "settled".to_owned(),
            verdict: "tx".to_owned(),
        })),
        Request::Reload(to) => drop(to.send(Err(vec!["one".to_owned(), "two".to_owned()]))),
    }
}

fn carry_out(command: &Command) -> Result<String, CommandError> {
    let (id, expect) = match command {
        Command::Put { id, expect, .. } => (id.clone(), *expect),
        Command::Remove { id, .. }
        | Command::Drain(id)
        | Command::Maintenance(id)
        | Command::Enable(id) => (id.clone(), Expect::Present),
    };
    let known = matches!(id.backend.as_str(), "a" | "b");
    match (known, expect) {
        _ if id.service != name("web") => Err(CommandError::NoService(id.service)),
        (true, Expect::Absent) => Err(CommandError::Exists(id)),
        (false, Expect::Present) => Err(CommandError::NoBackend(id)),
        (false, _) if id.backend == name("full") => Err(CommandError::Full("no room".to_owned())),
        _ => Ok(format!("{command:?}")),
    }
}

fn plan(command: &Command) -> Result<Plan, CommandError> {
    Ok(Plan {
        message: carry_out(command)?,
        service: name("web"),
        slots: 65_537,
        slots_moved: 0,
        recorded_flows: 0,
        moves: Vec::new(),
        breaks: Vec::new(),
        notes: Vec::new(),
    })
}

pub(crate) fn event(sequence: u64) -> Event {
    let kind = EventKind::Started { adopted: false };
    Event { sequence, time: SystemTime::UNIX_EPOCH, kind, phases: None }
}

pub(crate) fn id(backend: &str) -> BackendId {
    BackendId { service: name("web"), backend: name(backend) }
}

pub(crate) fn status() -> Status {
    Status {
        node: "lb-1".to_owned(),
        version: "0.1.0".to_owned(),
        interfaces: vec![InterfaceStatus { name: "eth0".to_owned(), mode: AttachMode::Native }],
        sync: None,
        services: vec![ServiceStatus {
            name: name("web"),
            address: [192, 0, 2, 10].into(),
            port: 80,
            protocol: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            affinity: true,
            forward: Forward::L2,
            health: Health::Yellow,
            packets: 70,
            bytes: 7000,
            panic: false,
            leaving: Vec::new(),
            slots: SlotsStatus { settled: 60_000, moving: 5_000, exceptions: 537 },
            backends: vec![
                backend("a", BackendState::Up, 65537),
                backend("b", BackendState::Down, 0),
            ],
        }],
        machine_suspected: false,
        vrrp: Vec::new(),
        notices: Vec::new(),
        packets: PacketStatus {
            tx: 60,
            redirect: 10,
            pass: vec![("not_ip".to_owned(), 3), ("icmp".to_owned(), 4)],
            drop: vec![("no_backend".to_owned(), 5)],
            answer: vec![("ping".to_owned(), 6)],
            handed_on: 7,
            echo: vec![("answered".to_owned(), 5)],
        },
        flows: FlowsStatus {
            recorded: 42,
            half_open: 3,
            limit: 65_536,
            lost: 1,
            half_open_lost: 2,
        },
    }
}

fn backend(text: &str, state: BackendState, slots: u32) -> BackendStatus {
    BackendStatus {
        name: name(text),
        address: [10, 0, 0, 1].into(),
        port: 80,
        weight: 1,
        backup: false,
        state,
        since: SystemTime::UNIX_EPOCH,
        reason: "connection refused".to_owned(),
        slots,
        packets: 30,
        bytes: 3000,
        new_flows: 2,
        tracked_flows: 0,
    }
}

/// A whole answer: status, header in lower case, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) header: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }

    /// The `code` of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("a code").to_owned()
    }
}

/// Writes `bytes` and reads until the server closes. The server may answer and close before it
/// has read all of it.
pub(crate) async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let exchange = async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut read).await;
    };
    time::timeout(PATIENCE, exchange).await.expect("the server closes the connection");
    read
}

/// Sends a request and reads its whole answer.
pub(crate) async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    line: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let text =
        format!("{line} HTTP/1.1\r\nhost: weir\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    parse(&raw(stream, text.as_bytes()).await)
}

pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let (header, body) = text.split_once("\r\n\r\n").expect("a header");
    let status = header.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer { status, header: header.to_ascii_lowercase(), body: body.to_owned() }
}
