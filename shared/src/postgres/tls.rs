//! TLS to PostgreSQL: rustls with ring, set up for each connector and not for the whole process.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use super::files::{self, Files, Readers};
use super::url::{Own, Roots, Settings, Trust};

/// What the protocol is called in a handshake that begins without a question before.
const ALPN: &[u8] = b"postgresql";

/// Makes a TLS client as the settings want it. What is read is added to `files`.
pub(super) fn client(settings: &Settings, files: &mut Files) -> Result<MakeRustlsConnect, Error> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |error: rustls::Error| Error::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(wrong)?;
    let builder = match &settings.trust {
        Trust::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { issued: None, provider }))
        }
        Trust::Named(roots) => builder.with_root_certificates(trusted(roots, files)?),
        Trust::Issued(roots) => {
            let roots = Arc::new(trusted(roots, files)?);
            let issued = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            let issued = Some(issued.map_err(|error| Error::Tls(error.to_string()))?);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { issued, provider }))
        }
    };
    let mut config = match &settings.own {
        None => builder.with_no_client_auth(),
        Some(Own { certificate, key }) => {
            let chain = certificates("sslcert", certificate, files)?;
            let text = files.read("sslkey", key, Readers::OwnerOrGroupOfRoot)?;
            let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
                files::wrong("sslkey", key, "it holds no key in PEM that can be read without a password")
            })?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    files::wrong("sslkey", key, &format!("it is not the key of the certificate {certificate:?}"))
                }
                error => files::wrong("sslcert", certificate, &error.to_string()),
            })?
        }
    };
    if settings.config.get_ssl_negotiation() == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn trusted(roots: &Roots, files: &mut Files) -> Result<RootCertStore, Error> {
    match roots {
        Roots::System => system_roots(),
        Roots::In(path) => roots_in(path, files),
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(Error::Tls(
            "this system has no trusted root certificates; name a file with sslrootcert".to_owned(),
        ));
    }
    Ok(roots)
}

fn roots_in(path: &Path, files: &mut Files) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("sslrootcert", path, files)? {
        roots.add(certificate).map_err(|error| files::wrong("sslrootcert", path, &error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(
    parameter: &'static str,
    path: &Path,
    files: &mut Files,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = files.read(parameter, path, Readers::All)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    // The reason could hold a part of the file.
    let found = found.map_err(|_| files::wrong(parameter, path, "it is no PEM"))?;
    match found.is_empty() {
        true => Err(files::wrong(parameter, path, "it holds no certificate in PEM")),
        false => Ok(found),
    }
}

/// Asks for no name: of a certificate of a trusted authority, where `issued` knows them, or of whoever answers. The handshake's signatures
/// are checked in both cases.
#[derive(Debug)]
struct AnyName {
    issued: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(issued) = &self.issued else { return Ok(ServerCertVerified::assertion()) };
        match issued.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when everything else is in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
