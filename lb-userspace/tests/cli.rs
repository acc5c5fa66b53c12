//! The `weir` command as a shell sees it: exit status, standard output, standard error.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
    thread,
};

use tempfile::TempDir;

fn weir(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).env_remove("WEIR_CONFIG").env_remove("WEIR_SOCKET");
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    weir(arguments).output().expect("runs")
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&["dance"][..], &[], &["backend", "add", "web"], &["status", "--what"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(error(&output).contains("Usage: weir"), "{arguments:?}");
    }
}

#[test]
fn help_has_an_example() {
    let output = run(&["backend", "add", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("Example:\n  weir backend add grafana g4"), "{text}");
}

#[test]
fn an_absent_daemon_is_1_with_one_line() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("weir.sock");
    let socket = socket.to_str().expect("text");
    // No socket, and then one that a dead daemon left.
    for _ in 0..2 {
        let output = run(&["--socket", socket, "status"]);
        assert_eq!(output.status.code(), Some(1));
        let error = error(&output);
        let says = format!("weir: weir does not answer on {socket}; is `weir run` running?");
        assert!(error.starts_with(&says) && error.lines().count() == 1, "{error}");
        drop(UnixListener::bind(socket));
    }
}

#[test]
fn a_missing_configuration_is_1() {
    let output = run(&["check", "--config", "/nonexistent/weir.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("/nonexistent/weir.toml"), "{}", error(&output));
}

#[test]
fn a_named_configuration_that_cannot_be_read_never_means_the_default_daemon() {
    let output = run(&["reload", "--config", "/nonexistent/weir.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("--socket"), "{}", error(&output));
}

#[test]
fn a_refusal_is_1_with_the_daemons_words() {
    let body = r#"{"error":{"code":"exists","message":"it is so"}}"#;
    let enable = ["backend", "enable", "web", "a"];
    let (output, request) = against(&answer("409 Conflict", body), &enable);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error(&output), "weir: it is so\n");
    assert!(request.starts_with("POST /v1/services/web/backends/a/enable HTTP/1.1"), "{request}");
}

#[test]
fn add_and_set_say_what_they_expect() {
    let done = answer("200 OK", r#"{"message":"done"}"#);
    let add = ["backend", "add", "web", "a", "--address", "10.0.0.1"];
    let (output, request) = against(&done, &add);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"done\n"[..]));
    assert!(request.contains("if-none-match: *"), "{request}");
    assert!(request.ends_with(r#"{"address":"10.0.0.1"}"#), "{request}");

    let (output, request) = against(&done, &["backend", "set", "web", "a", "--weight=3", "--json"]);
    assert_eq!(output.stdout, br#"{"message":"done"}"#);
    assert!(request.contains("if-match: *"), "{request}");
    assert!(request.ends_with(r#"{"weight":3}"#), "{request}");
}

#[test]
fn who_stops_reading_is_no_failure() {
    let line = "{\"sequence\":1,\"time\":0,\"event\":\"stopped\"}\n".repeat(10_000);
    let answer = answer("200 OK", &line);
    let directory = TempDir::new().expect("a directory");
    let (socket, daemon) = daemon(&directory, answer);
    let mut child = weir(&["--socket", &socket, "events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut start = [0; 24];
    let mut out = child.stdout.take().expect("piped");
    out.read_exact(&mut start).expect("a line");
    assert_eq!(&start, b"1970-01-01T00:00:00.000Z");
    drop(out);
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), error(&output).as_str()), (Some(0), ""));
    daemon.join().expect("served");
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Runs a command against a daemon that gives one answer; returns its output and the request.
fn against(answer: &str, arguments: &[&str]) -> (Output, String) {
    let directory = TempDir::new().expect("a directory");
    let (socket, daemon) = daemon(&directory, answer.to_owned());
    let output = run(&[&["--socket", &socket], arguments].concat());
    (output, daemon.join().expect("served"))
}

/// A daemon that takes one request, which it returns, and gives one answer.
fn daemon(directory: &TempDir, answer: String) -> (String, thread::JoinHandle<String>) {
    let socket = directory.path().join("weir.sock");
    let listener = UnixListener::bind(&socket).expect("binds");
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let request = read_request(&mut stream);
        // The client may leave early.
        let _ = stream.write_all(answer.as_bytes());
        request
    });
    (socket.to_str().expect("text").to_owned(), served)
}

/// Reads one request, header and body, however many pieces it comes in.
fn read_request(stream: &mut impl Read) -> String {
    let mut request = String::new();
    loop {
        if let Some((header, body)) = request.split_once("\r\n\r\n") {
            let length = header.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
                return request;
            }
        }
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).expect("a request");
        assert_ne!(read, 0, "half a request: {request}");
        request.push_str(std::str::from_utf8(&piece[..read]).expect("text"));
    }
}
