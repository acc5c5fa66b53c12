use rcgen::generate_simple_self_signed;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::health::testing::{http_check, loopback, request_head, soon};

/// A TLS server with a certificate that nobody signed, for a name that is not its own. It answers
/// one request and tells the server name that it was asked for.
async fn server(
    versions: &[&'static rustls::SupportedProtocolVersion],
    answer: &'static str,
) -> (SocketAddr, oneshot::Receiver<Option<String>>) {
    let made = generate_simple_self_signed(["another.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, asked_for) = oneshot::channel();
    let address = once(async move |stream| {
        let mut stream = acceptor.accept(stream).await.unwrap();
        // Not every test asks.
        let _ = tell.send(stream.get_ref().1.server_name().map(str::to_owned));
        request_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    (address, asked_for)
}

/// A server that does one thing with one connection.
async fn once<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    address
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_self_signed_certificate_of_another_name_passes() {
    for version in [&TLS12, &TLS13] {
        let (address, asked_for) = server(&[version], OK).await;
        let with_body = HttpCheck { body: Some("ok".to_owned()), ..http_check() };
        soon(check(address, &with_body)).await.unwrap();
        assert_eq!(asked_for.await.unwrap(), None, "an address is no server name");
    }
}

#[tokio::test]
async fn the_host_is_the_server_name() {
    let (address, asked_for) = server(&[&TLS13], OK).await;
    let host = Some("grafana.example:8443".to_owned());
    soon(check(address, &HttpCheck { host, ..http_check() })).await.unwrap();
    assert_eq!(asked_for.await.unwrap().as_deref(), Some("grafana.example"));
}

#[tokio::test]
async fn the_answer_counts_as_with_http() {
    let (address, _) = server(&[&TLS13], "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
    let failure = soon(check(address, &http_check())).await.unwrap_err();
    assert_eq!(failure.to_string(), "status 500, expected 2xx or 3xx");
}

#[tokio::test]
async fn a_server_without_tls_says_so() {
    let address = once(async |mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Held open until the check has hung up.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let failure = soon(check(address, &http_check())).await.unwrap_err();
    assert_eq!(failure.to_string(), "the answer is not TLS");
}

#[tokio::test]
async fn a_server_that_hangs_up_in_the_handshake_says_so() {
    let address = once(async |mut stream| {
        // Read, or the kernel would answer the unread bytes with a reset.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
    })
    .await;
    let failure = soon(check(address, &http_check())).await.unwrap_err();
    assert_eq!(failure.to_string(), "the connection was closed before the answer was complete");
}

#[test]
fn server_names_are_hosts_or_addresses() {
    let peer: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
    let name = |host| server_name(peer, host);
    assert_eq!(name(Some("a.example")), ServerName::try_from("a.example").unwrap());
    assert_eq!(name(None), ServerName::from(peer.ip()));
    assert_eq!(name(Some("not a name")), ServerName::from(peer.ip()));
}
