use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    config::StatusPattern,
    health::testing::{closed_port, http_check, loopback, request_head, silent_server, soon},
};

/// A server that answers one request, and then the head of that request.
async fn server(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.into();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = request_head(&mut stream).await;
        // The checker may hang up in the middle of a long answer.
        let _ = stream.write_all(&answer).await;
        head
    });
    (address, request)
}

/// The reason with which a check of that answer fails.
async fn reason(answer: impl Into<Vec<u8>>, check: &HttpCheck) -> String {
    let (address, _) = server(answer).await;
    soon(super::check(address, check)).await.unwrap_err().to_string()
}

fn with_body(text: &str) -> HttpCheck {
    HttpCheck { body: Some(text.to_owned()), ..http_check() }
}

#[tokio::test]
async fn sends_a_plain_request_and_takes_an_expected_status() {
    let (address, request) = server("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n").await;
    soon(check(address, &http_check())).await.unwrap();
    let head = request.await.unwrap().to_lowercase();
    let lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines[0], "get /health?deep=1 http/1.1");
    for line in [
        format!("host: {address}"),
        format!("user-agent: weir/{}", env!("CARGO_PKG_VERSION")),
        "connection: close".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} is missing in {head}");
    }
}

#[tokio::test]
async fn sends_the_configured_host_and_method() {
    let (address, request) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let host = Some("grafana.example".to_owned());
    let head = HttpCheck { host, method: "HEAD".to_owned(), ..http_check() };
    soon(check(address, &head)).await.unwrap();
    let head = request.await.unwrap();
    assert!(head.starts_with("HEAD "), "{head}");
    assert!(head.to_lowercase().contains("\r\nhost: grafana.example\r\n"), "{head}");
}

#[tokio::test]
async fn another_status_fails_with_both() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(reason(answer, &http_check()).await, "status 503, expected 2xx or 3xx");
    let only = HttpCheck { expect: vec![StatusPattern::Code(503)], ..http_check() };
    let (address, _) = server(answer).await;
    soon(check(address, &only)).await.unwrap();
}

#[tokio::test]
async fn finds_the_text_in_a_body_of_any_framing() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall is ok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nall is o\r\n1\r\nk\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nall is ok",
    ] {
        let (address, _) = server(answer).await;
        soon(check(address, &with_body("ok"))).await.expect(answer);
    }
}

#[tokio::test]
async fn a_body_without_the_text_fails() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfailed";
    assert_eq!(reason(answer, &with_body("ok")).await, r#"the body does not contain "ok""#);
}

#[tokio::test]
async fn an_endless_body_is_read_to_a_limit() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut sent_bytes = 0;
        while let Ok(bytes) = stream.write(&[b'o'; 4096]).await {
            sent_bytes += bytes;
        }
        sent_bytes
    });
    let failure = soon(check(address, &with_body("ok"))).await.unwrap_err();
    assert_eq!(failure.to_string(), r#"the first 1048576 bytes of the body do not contain "ok""#);
    // What was sent beyond the limit is what the sockets' buffers hold.
    assert!(soon(sent).await.unwrap() >= MAX_BODY_BYTES);
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let endless = "HTTP/1.1 200 OK\r\nX-Long: ".to_owned() + &"x".repeat(4 * MAX_HEAD_BYTES);
    assert_eq!(reason(endless, &http_check()).await, "the head of the answer is too large");
    let many = "HTTP/1.1 200 OK\r\n".to_owned() + &"X: y\r\n".repeat(1000) + "\r\n";
    assert_eq!(reason(many, &http_check()).await, "the head of the answer is too large");
}

#[tokio::test]
async fn garbage_is_not_http() {
    assert_eq!(
        reason("SSH-2.0-OpenSSH_9.2p1\r\n\r\n", &http_check()).await,
        "the answer is not HTTP/1.1"
    );
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_healthy() {
    let closed = "the connection was closed before the answer was complete";
    assert_eq!(reason("", &http_check()).await, closed);
    assert_eq!(reason("HTTP/1.1 200 OK\r\nContent-", &http_check()).await, closed);
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nno";
    assert_eq!(reason(short, &with_body("ok")).await, closed);
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let (_port, address) = closed_port();
    let failure = soon(check(address, &http_check())).await.unwrap_err();
    assert_eq!(failure.to_string(), "connection refused");
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_timeout() {
    let address = silent_server().await;
    let start = Instant::now();
    let limit = Duration::from_millis(100);
    assert!(timeout(limit, check(address, &http_check())).await.is_err());
    assert!(start.elapsed() >= limit);
}

#[tokio::test]
async fn an_impossible_request_is_this_machines_fault() {
    let odd = HttpCheck { method: "G E T".to_owned(), ..http_check() };
    let failure = soon(check(silent_server().await, &odd)).await.unwrap_err();
    assert_eq!(failure.to_string(), "this machine: the configured request is not valid HTTP");
}

#[test]
fn a_text_is_found_across_pieces_with_little_memory() {
    let mut search = Search::new("needle");
    for piece in ["hay ne", "ed", "ne", "e", "d", "l"] {
        assert!(!search.feed(piece.as_bytes()));
        assert!(search.tail.len() < "needle".len());
    }
    assert!(search.feed(b"e and more"));
    assert!(Search::new("").feed(b""));
}
