//! Why a connection would not be as safe as it must be.
//!
//! Trying again mends none of it: somebody has to change the server, its certificate, or the URL. So the reason comes with the way out.

use std::fmt;

use rustls::CertificateError;

use super::url::{Roots, Trust};

/// What is wrong with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insecurity {
    /// It has no TLS.
    NoTls,
    /// Its certificate leads to no authority that is trusted; where those are.
    UnknownIssuer(String),
    /// Its certificate is for other names.
    OtherName {
        /// The name of the host in the URL.
        host: String,
        /// The names in the certificate.
        names: Vec<String>,
    },
    /// Its certificate is not accepted for another reason.
    Certificate(String),
}

impl fmt::Display for Insecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTls => write!(
                f,
                "the server has no TLS. Set it up there; or, where nobody else can be on the way to the server, write \
                 sslmode=disable into the URL: everything, rows included, then goes unencrypted, and nobody proves to be the server"
            ),
            Self::UnknownIssuer(roots) => write!(
                f,
                "the server's certificate was issued by none of the authorities {roots}. Name a file with the certificate of the \
                 authority that did, by sslrootcert=FILE in the URL"
            ),
            Self::OtherName { host, names } if names.is_empty() => write!(
                f,
                "the server's certificate has no names of hosts (the common name does not count), so it is not for {host}. Give the \
                 server one that has; or write sslmode=verify-ca into the URL, with the authority's own sslrootcert: then any server \
                 with a certificate of that authority is believed"
            ),
            Self::OtherName { host, names } => write!(
                f,
                "the server's certificate is not for {host}, but for {}. Write one of these names into the URL (and the address, where \
                 that is another, as hostaddr); or sslmode=verify-ca, with the authority's own sslrootcert: then any server with a \
                 certificate of that authority is believed",
                names.join(", ")
            ),
            Self::Certificate(reason) => write!(f, "the server's certificate is not accepted: {reason}"),
        }
    }
}

impl Insecurity {
    /// What the client library has found, if it is that.
    pub(super) fn of(error: &tokio_postgres::Error, host: &str, trust: &Trust) -> Option<Self> {
        let inner = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?.get_ref()?;
        let rustls::Error::InvalidCertificate(reason) = inner.downcast_ref::<rustls::Error>()? else { return None };
        Some(match reason {
            // The second is an authority that has the name of one that is trusted, and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer(match trust {
                Trust::Named(Roots::In(path)) | Trust::Issued(Roots::In(path)) => {
                    format!("in the file {path:?} of sslrootcert")
                }
                _ => "that this system trusts".to_owned(),
            }),
            CertificateError::NotValidForName => Self::OtherName { host: host.to_owned(), names: Vec::new() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::OtherName { host: host.to_owned(), names: presented.iter().map(|name| bare(name)).collect() }
            }
            other => Self::Certificate(other.to_string()),
        })
    }
}

/// A name as people write it: rustls has it as `DnsName("db.example.com")`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}
