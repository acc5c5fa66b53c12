//! `https`: the `http` check through TLS, whoever the server claims to be.
//!
//! Certificates are not verified, on purpose. A check asks whether the backend serves, at an
//! address that its certificate does not name; it sends no secret and believes no answer beyond
//! "yes". Who sits on the wire and can forge that answer can as well keep the backend's packets.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use super::{http, reason::Failure, tcp};
use crate::config::HttpCheck;

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each check shall see a whole handshake, as a new client does.
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

/// Sends the request over a new TLS connection and judges the answer.
pub(super) async fn check(peer: SocketAddr, check: &HttpCheck) -> Result<(), Failure> {
    let stream = tcp::connect(peer).await?;
    let name = server_name(peer, check.host.as_deref());
    let stream = TlsConnector::from(CONFIG.clone()).connect(name, stream).await?;
    http::exchange(stream, peer, check).await
}

/// The configured host without its port, if it is a DNS name. Else the address, which is not sent
/// (RFC 6066, section 3: literal addresses are not permitted).
fn server_name(peer: SocketAddr, host: Option<&str>) -> ServerName<'static> {
    host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name))
        .and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| peer.ip().into())
}

/// Accepts every certificate; see the top of this file.
///
/// Signatures of the handshake are not verified either: that would refuse certificates of odd
/// makes, such as X.509 version 1, and prove only that an unknown server has an unknown key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
