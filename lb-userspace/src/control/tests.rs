//! The control socket as a client sees it: a real socket, a daemon that answers from a script.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time,
};

use super::{Error, Handle, Server};
use crate::{
    config::Control,
    http::{
        Limits,
        testing::{self, Answer, PATIENCE, daemon, event, silent_daemon},
    },
};

/// A server on a socket of its own.
struct Fixture {
    directory: TempDir,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Fixture {
    fn new(handle: Handle, limits: Limits) -> Self {
        let directory = TempDir::new().expect("a directory");
        let server = Server::bind(&config(&socket(&directory))).expect("binds");
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server.with_limits(limits).run(handle, stopped));
        Self { directory, stop, server }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(socket(&self.directory)).await.expect("connects")
    }

    async fn ask(&self, line: &str, headers: &str, body: &str) -> Answer {
        testing::request(self.connect().await, line, headers, body).await
    }
}

/// In a directory that does not exist yet.
fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("run").join("weir.sock")
}

fn config(socket: &Path) -> Control {
    Control { socket: socket.to_owned(), group: "no-such-group".to_owned() }
}

fn plain() -> Fixture {
    Fixture::new(daemon(), Limits::default())
}

#[tokio::test]
async fn each_route_answers() {
    let server = plain();
    let status = server.ask("GET /v1/status", "", "").await;
    assert_eq!(status.status, 200);
    assert!(status.header.contains("content-type: application/json"), "{}", status.header);
    assert_eq!(status.json()["services"][0]["backends"][1]["state"], "down");

    let services = server.ask("GET /v1/services", "", "").await;
    assert_eq!(services.json()[0]["name"], "web");
    let service = server.ask("GET /v1/services/web", "", "").await;
    assert_eq!(service.json()["health"], "yellow");

    let question =
        r#"{"protocol":"tcp","source":"198.51.100.7:555","destination":"192.0.2.10:80"}"#;
    let explained = server.ask("POST /v1/explain", "", question).await;
    assert_eq!((explained.status, &explained.json()["slot"]), (200, &555.into()));

    let reload = server.ask("POST /v1/reload", "", "").await;
    assert_eq!((reload.status, reload.code().as_str()), (422, "config"));
    assert_eq!(reload.json()["error"]["message"], "one\ntwo");
}

#[tokio::test]
async fn changes_reach_the_daemon_as_they_were_said() {
    let server = plain();
    let backend = "/v1/services/web/backends/a";
    for (line, body, command) in [
        (format!("PUT {backend}"), r#"{"weight": 3}"#, "weight: Some(3)"),
        (format!("DELETE {backend}"), "", "Remove"),
        (format!("POST {backend}/maintenance"), "", "Maintenance"),
        (format!("POST {backend}/enable"), "", "Enable"),
    ] {
        let answer = server.ask(&line, "", body).await;
        assert_eq!(answer.status, 200, "{line}: {}", answer.body);
        let message = answer.json()["message"].as_str().expect("a sentence").to_owned();
        assert!(message.contains(command) && message.contains("\"a\""), "{message}");
    }
    let drain = server.ask(&format!("POST {backend}/drain"), "", "").await;
    assert_eq!(drain.status, 200);
}

#[tokio::test]
async fn a_plan_is_asked_for_by_the_same_request() {
    let server = plain();
    let backend = "/v1/services/web/backends/a";
    for (line, body) in [
        (format!("PUT {backend}?plan=true"), r#"{"weight": 3}"#),
        (format!("DELETE {backend}?now=true&plan"), ""),
        (format!("POST {backend}/drain?plan=true"), ""),
        (format!("POST {backend}/maintenance?plan=true"), ""),
        (format!("POST {backend}/enable?plan=true"), ""),
    ] {
        let answer = server.ask(&line, "", body).await;
        assert_eq!((answer.status, &answer.json()["slots"]), (200, &65_537.into()), "{line}");
    }
    let done = server.ask(&format!("POST {backend}/drain?plan=false"), "", "").await;
    assert!(done.json()["slots"].is_null() && done.json()["message"].is_string());
    let absent = server.ask("POST /v1/services/web/backends/x/drain?plan", "", "").await;
    assert_eq!((absent.status, absent.code().as_str()), (404, "no_backend"));
    let wrong = server.ask(&format!("POST {backend}/drain?plna=true"), "", "").await;
    assert_eq!(wrong.status, 422);
    let message = wrong.json()["error"]["message"].to_string();
    assert!(message.contains("plan=true") && message.contains("plna"), "{message}");
}

#[tokio::test]
async fn conditions_are_honoured() {
    let server = plain();
    let put = async |backend: &str, headers: &str| {
        let line = format!("PUT /v1/services/web/backends/{backend}");
        server.ask(&line, headers, r#"{"address": "10.0.0.9"}"#).await
    };
    let exists = put("a", "if-none-match: *\r\n").await;
    assert_eq!((exists.status, exists.code().as_str()), (412, "exists"));
    let absent = put("new", "if-match: *\r\n").await;
    assert_eq!((absent.status, absent.code().as_str()), (412, "no_backend"));
    assert_eq!(put("new", "if-none-match: *\r\n").await.status, 200);
    assert_eq!(put("a", "if-match: *\r\n").await.status, 200);
    assert_eq!(put("a", "if-match: \"tag\"\r\n").await.status, 400);
    assert_eq!(put("a", "if-match: *\r\nif-none-match: *\r\n").await.status, 400);
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let server = plain();
    let put = "PUT /v1/services/web/backends/a";
    for (line, body, status, code) in [
        (put, "{\"weight\":", 400, "malformed"),
        (put, "", 400, "malformed"),
        (put, r#"{"wieght": 1}"#, 422, "invalid"),
        (put, r#"{"weight": 70000}"#, 422, "invalid"),
        ("PUT /v1/services/web/backends/a%20b", "{}", 422, "invalid"),
        ("PUT /v1/services/web/backends/full", "{}", 507, "full"),
        ("PUT /v1/services/nope/backends/a", "{}", 404, "no_service"),
        ("GET /v1/services/nope", "", 404, "no_service"),
        ("DELETE /v1/services/web/backends/nope", "", 404, "no_backend"),
        ("GET /v2/status", "", 404, "no_path"),
        ("GET /", "", 404, "no_path"),
        ("POST /v1/services/web/backends/a/dance", "", 404, "no_path"),
        ("GET /v1/events?follow=maybe", "", 422, "invalid"),
        ("GET /v1/reload", "", 405, "method_not_allowed"),
        ("POST /v1/explain", r#"{"protocol":"icmp"}"#, 422, "invalid"),
    ] {
        let answer = server.ask(line, "", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{line} {body}");
    }
    let weight = server.ask(put, "", r#"{"weight": 70000}"#).await;
    assert!(weight.body.contains("line 1 column 16"), "{}", weight.body);
    let method = server.ask("POST /v1/status", "", "").await;
    assert!(method.header.contains("allow: get, head"), "{}", method.header);
}

#[tokio::test]
async fn bodies_over_a_mebibyte_are_refused() {
    let server = plain();
    let put = "PUT /v1/services/web/backends/a";
    let fits = format!("{{}}{}", " ".repeat(1024 * 1024 - 2));
    assert_eq!(server.ask(put, "", &fits).await.status, 200);
    let over = server.ask(put, "", &format!("{fits} ")).await;
    assert_eq!((over.status, over.code().as_str()), (413, "too_large"));
}

#[tokio::test]
async fn garbage_and_slow_clients_are_cut_off() {
    let short = Duration::from_millis(50);
    let limits = Limits { header_timeout: short, body_timeout: short, ..Limits::default() };
    let server = Fixture::new(daemon(), limits);

    let garbage = testing::raw(server.connect().await, &[0xff; 64]).await;
    assert!(garbage.starts_with(b"HTTP/1.1 400"), "{garbage:?}");

    let nothing = testing::raw(server.connect().await, b"").await;
    assert_eq!(nothing, b"");
    let half_a_header =
        testing::raw(server.connect().await, b"GET /v1/status HTTP/1.1\r\nho").await;
    assert!(!half_a_header.starts_with(b"HTTP/1.1 2"), "{half_a_header:?}");

    let head = b"PUT /v1/services/web/backends/a HTTP/1.1\r\nhost: w\r\ncontent-length: 9\r\n\r\n{";
    let half_a_body = testing::parse(&testing::raw(server.connect().await, head).await);
    assert_eq!((half_a_body.status, half_a_body.code().as_str()), (408, "timeout"));
}

#[tokio::test]
async fn an_exchange_that_takes_too_long_is_cut_off() {
    let limits = Limits { exchange_timeout: Duration::from_millis(50), ..Limits::default() };
    let (handle, _requests) = silent_daemon();
    let server = Fixture::new(handle, limits);
    let cut = testing::raw(server.connect().await, b"GET /v1/status HTTP/1.1\r\nhost: w\r\n\r\n");
    assert_eq!(cut.await, b"");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_busy_or_gone() {
    let limits = Limits { answer_timeout: Duration::from_millis(50), ..Limits::default() };
    let (handle, requests) = silent_daemon();
    let server = Fixture::new(handle, limits);
    let busy = server.ask("GET /v1/status", "", "").await;
    assert_eq!((busy.status, busy.code().as_str()), (503, "busy"));
    drop(requests);
    let gone = server.ask("GET /v1/status", "", "").await;
    assert_eq!((gone.status, gone.code().as_str()), (503, "stopping"));
}

#[tokio::test]
async fn the_connection_too_many_waits_for_a_place() {
    let server = plain();
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(server.connect().await);
    }
    let waiting = server.ask("GET /v1/services/web", "", "");
    tokio::pin!(waiting);
    let early = time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "65 connections were served at once");
    idle.pop();
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test]
async fn events_are_kept_and_followed_until_the_server_stops() {
    let handle = daemon();
    let server = Fixture::new(handle.clone(), Limits::default());
    handle.events.publish(event(1));
    let kept = server.ask("GET /v1/events", "", "").await;
    assert_eq!(kept.json()["sequence"], 1);

    let mut followed = follow(&server).await;
    assert_eq!(next_event(&mut followed).await["sequence"], 1);
    handle.events.publish(event(2));
    assert_eq!(next_event(&mut followed).await["sequence"], 2);

    handle.events.publish(event(3));
    server.stop.send_replace(true);
    assert_eq!(next_event(&mut followed).await["sequence"], 3);
    time::timeout(PATIENCE, server.server).await.expect("stops").expect("in order");
    assert!(!socket(&server.directory).exists(), "the socket is left behind");
}

#[tokio::test]
async fn a_follower_that_falls_behind_learns_how_much_it_missed() {
    let handle = daemon();
    let server = Fixture::new(handle.clone(), Limits::default());
    let mut followed = follow(&server).await;
    handle.events.publish(event(1));
    assert_eq!(next_event(&mut followed).await["sequence"], 1);
    // In one go: the server's task cannot run meanwhile, and 1024 events are kept for it.
    for sequence in 2..=1030 {
        handle.events.publish(event(sequence));
    }
    let missed = next_event(&mut followed).await;
    assert_eq!((&missed["event"], &missed["missed"]), (&"missed".into(), &5.into()));
    assert_eq!(next_event(&mut followed).await["sequence"], 7);
}

#[tokio::test]
async fn followers_leave_room_for_others() {
    let server = Fixture::new(daemon(), Limits { followers: 1, ..Limits::default() });
    let first = follow(&server).await;
    let second = server.ask("GET /v1/events?follow=true", "", "").await;
    assert_eq!((second.status, second.code().as_str()), (503, "busy"));
    assert_eq!(server.ask("GET /v1/status", "", "").await.status, 200);
    drop(first);
    // The place is free once the server has seen the connection end.
    let again = async {
        while server.connect_and_peek().await != 200 {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, again).await.expect("a place for another follower");
}

#[tokio::test]
async fn only_a_dead_daemons_socket_is_replaced() {
    let directory = TempDir::new().expect("a directory");
    let path = socket(&directory);
    let live = Server::bind(&config(&path)).expect("binds, making the directory");
    let refused = Server::bind(&config(&path)).expect_err("it is alive");
    assert!(matches!(refused, Error::InUse(_)), "{refused}");
    assert!(refused.to_string().starts_with("another weir answers on /"), "{refused}");
    drop(live);
    assert!(!path.exists());

    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists(), "a stale socket");
    let server = Server::bind(&config(&path)).expect("replaces it");
    let metadata = path.symlink_metadata().expect("a file");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o660);
    drop(server);

    std::fs::write(&path, "precious").expect("writes");
    let refused = Server::bind(&config(&path)).expect_err("it is a file");
    assert!(matches!(refused, Error::NotASocket(_)), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
}

impl Fixture {
    /// The status of an answer to a request to follow; leaves at once.
    async fn connect_and_peek(&self) -> u16 {
        let mut stream = self.connect().await;
        stream.write_all(FOLLOW).await.expect("writes");
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.expect("an answer");
        let text = String::from_utf8(start.to_vec()).expect("text");
        text["HTTP/1.1 ".len()..].parse().expect("a status")
    }
}

const FOLLOW: &[u8] = b"GET /v1/events?follow=true HTTP/1.0\r\nhost: w\r\n\r\n";

/// Follows events; the header of the answer has been read. (Version 1.0 has no chunks.)
async fn follow(server: &Fixture) -> Lines<BufReader<UnixStream>> {
    let mut stream = server.connect().await;
    stream.write_all(FOLLOW).await.expect("writes");
    let mut lines = BufReader::new(stream).lines();
    while !next_line(&mut lines).await.is_empty() {}
    lines
}

async fn next_line(lines: &mut Lines<BufReader<UnixStream>>) -> String {
    let line = time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
    line.expect("reads").expect("a line")
}

async fn next_event(lines: &mut Lines<BufReader<UnixStream>>) -> serde_json::Value {
    serde_json::from_str(&next_line(lines).await).expect("JSON")
}
