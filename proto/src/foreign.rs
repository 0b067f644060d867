//! What answers at the URL of a controller and is none: the usual mistakes, named as what they are.
//!
//! Whoever says `https` to a port without TLS, or `http` to one with it, gets an error of a protocol that nobody has heard of. Which
//! mistake it was is seen in the first bytes that come back. Nothing is decided by it but the words of an error.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, InvalidMessage, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Uri;

/// The first message of a client of HTTP/2, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The type of the frame with which a server of HTTP/2 begins.
const SETTINGS: u8 = 4;

/// The types of what a server of TLS says first.
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;

/// How long the answer may take.
const LIMIT: Duration = Duration::from_millis(500);

/// What answers and is no controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    /// It answers with an alert of TLS.
    #[error("this port speaks TLS: write https://")]
    Tls,
    /// It answers in HTTP/1, or in something else than HTTP/2.
    #[error(
        "what answers there speaks no HTTP/2, and a controller does: name a controller's own port, or have the proxy pass HTTP/2 on; \
         where it asks for TLS, write https://"
    )]
    NoHttp2,
    /// It accepts, and closes the connection without a word.
    #[error(
        "what accepts there closes the connection without a word: it speaks something else than gRPC (for TLS write https://), or it \
         stops just now"
    )]
    Mute,
}

/// What answers without TLS, asked as a client of HTTP/2. `None`: nobody, or it may be a controller.
pub(crate) async fn heard(url: &str) -> Option<Foreign> {
    let uri: Uri = url.parse().ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let mut stream = timeout(LIMIT, TcpStream::connect(place(&uri)?)).await.ok()?.ok()?;
    let asking = async {
        stream.write_all(PREFACE).await?;
        // The type of a frame is its fourth byte.
        let mut first = [0; 4];
        stream.read_exact(&mut first).await?;
        Ok::<_, io::Error>(first)
    };
    let foreign = match timeout(LIMIT, asking).await.ok()? {
        Ok([ALERT, 3, ..]) => return Some(Foreign::Tls),
        Ok([.., SETTINGS]) => return None,
        Ok(_) => Foreign::NoHttp2,
        Err(_) => Foreign::Mute,
    };
    let tls = timeout(LIMIT, answers_tls(&uri)).await;
    Some(if matches!(tls, Ok(Ok(true))) { Foreign::Tls } else { foreign })
}

/// Whether what is there answers a client of TLS: many servers have no word for others.
async fn answers_tls(uri: &Uri) -> io::Result<bool> {
    let (host, port) = place(uri).ok_or(io::ErrorKind::InvalidInput)?;
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        // Nothing is believed that is heard.
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&hello).await?;
    let mut first = [0; 2];
    stream.read_exact(&mut first).await?;
    Ok(matches!(first, [ALERT | HANDSHAKE, 3]))
}

fn place(uri: &Uri) -> Option<(String, u16)> {
    Some((uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80)))
}

/// What an error of TLS means, in words. `None` where it is no such error.
pub(crate) fn of_tls(error: &(dyn Error + 'static)) -> Option<String> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| error.downcast_ref())?;
    Some(match tls {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this port does not speak TLS: write http://, or name the port of the proxy that does".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not trusted: who has signed it is not among the roots of this system (SSL_CERT_FILE names a file \
             with others)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name than the one in the URL".to_owned(),
        rustls::Error::InvalidCertificate(other) => format!("its certificate is not accepted: {other:?}"),
        other => format!("TLS failed: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_tls_are_told_in_words() {
        let told = |error: rustls::Error| of_tls(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
        let plain = told(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert!(plain.starts_with("this port does not speak TLS: write http://"), "{plain}");
        let unknown = told(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.contains("not trusted"), "{unknown}");
        assert_eq!(of_tls(&io::Error::other("something else")), None);
    }
}
