//! Connection URLs as libpq reads them.
//!
//! `tokio-postgres` reads the URL; what it does not know is taken out first: `sslmode`, and the parameters that name files. Parameters
//! that cannot be honoured are refused, since ignoring one could mean less security than was asked for.
//!
//! Where libpq would be content with less, and nothing was said, the server must prove who it is: off this machine `sslmode` is
//! `verify-full`. Authorities are those of the system unless a file is named; nothing is looked for in a home directory.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslNegotiation};

use super::Error;

/// How long connecting may take, the look-up of the host's name included, unless the URL says so itself. A resolver whose
/// question or answer was lost asks again after 5 s: with less, every attempt would be given up just before.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Parameters that `tokio-postgres` honours.
const PARAMETERS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// How much a connection is protected, as libpq has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never encrypted.
    Disable,
    /// Encrypted only where the server does not let it in otherwise.
    Allow,
    /// Encrypted where the server can.
    Prefer,
    /// Encrypted, whoever the server is.
    Require,
    /// Encrypted, to a server with a certificate of a trusted authority.
    VerifyCa,
    /// The same, and the certificate is for the name of the host.
    VerifyFull,
}

impl Mode {
    const ALL: [Self; 6] = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// As a URL has it.
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// True where a connection can come about without TLS.
    fn weak(self) -> bool {
        matches!(self, Self::Disable | Self::Allow | Self::Prefer)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those that the system trusts.
    System,
    /// Those in this file.
    In(PathBuf),
}

/// How the server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// By whatever certificate it shows.
    Anyone,
    /// By a certificate that leads to one of these, whatever its name.
    Issued(Roots),
    /// By a certificate for its host name that leads to one of these.
    Named(Roots),
}

/// The certificate of this side, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What a URL says.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) trust: Trust,
    pub(super) own: Option<Own>,
    pub(super) passfile: Option<PathBuf>,
}

/// Reads a URL. `application_name` stands where the URL names none.
pub(super) fn parse(url: &str, application_name: &str) -> Result<Settings, Error> {
    let after_scheme =
        ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or(Error::Scheme)?;
    let address = after_scheme.split_once('@').map_or(after_scheme, |(_, address)| address);
    let (place, query) = address.split_once('?').unwrap_or((address, ""));
    let mut kept = Vec::new();
    let mut mode = None;
    let (mut root, mut certificate, mut key, mut passfile) = (None, None, None, None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(Error::Url("a parameter has no value"))?;
        match name {
            "sslmode" => {
                mode = Some(Mode::ALL.into_iter().find(|mode| mode.name() == value).ok_or(Error::SslMode)?);
            }
            "sslrootcert" => root = Some(path(value, "sslrootcert is no text")?),
            "sslcert" => certificate = Some(path(value, "sslcert is no text")?),
            "sslkey" => key = Some(path(value, "sslkey is no text")?),
            "passfile" => passfile = Some(path(value, "passfile is no text")?),
            name if PARAMETERS.contains(&name) => kept.push(parameter),
            name => return Err(Error::Parameter(harmless(name, address))),
        }
    }
    let credentials = &after_scheme[..after_scheme.len() - address.len()];
    let rest = format!("postgres://{credentials}{place}?{}", kept.join("&"));
    let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| Error::Config(reason(&error)))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::Url("it names no host"));
    }
    let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    let mode = match mode {
        Some(mode) if mode.weak() && direct => {
            return Err(Error::Url("sslnegotiation=direct needs an sslmode of require, verify-ca or verify-full"));
        }
        Some(mode) => mode,
        // Who names an authority wants it looked at.
        None if root.is_some() || direct || !stays_here(&config) => Mode::VerifyFull,
        None => Mode::Prefer,
    };
    let trust = trust(mode, root)?;
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Own { certificate, key }),
        (None, None) => None,
        _ => return Err(Error::Url("sslcert and sslkey belong together: name both")),
    };
    fill_in(&mut config, &kept, application_name);
    Ok(Settings { config, mode, trust, own, passfile })
}

fn path(value: &str, wrong: &'static str) -> Result<PathBuf, Error> {
    let path = percent_decode_str(value).decode_utf8().map_err(|_| Error::Url(wrong))?;
    if path.is_empty() { Err(Error::Url("a parameter names a file and is empty")) } else { Ok(path.as_ref().into()) }
}

/// True where no connection leaves this machine: a Unix socket, `localhost`, or an address of the loopback interface.
fn stays_here(config: &Config) -> bool {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    (0..hosts.len().max(addresses.len())).all(|entry| match (addresses.get(entry), hosts.get(entry)) {
        (Some(address), _) => address.is_loopback(),
        (None, Some(Host::Unix(_))) => true,
        (None, Some(Host::Tcp(name))) => {
            let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
        }
        (None, None) => false,
    })
}

fn trust(mode: Mode, root: Option<PathBuf>) -> Result<Trust, Error> {
    let system = root.as_deref() == Some(Path::new("system"));
    if system && mode != Mode::VerifyFull {
        return Err(Error::Url(
            "sslrootcert=system needs sslmode=verify-full: anybody can have a certificate from those",
        ));
    }
    let roots = || match &root {
        Some(path) if !system => Roots::In(path.clone()),
        _ => Roots::System,
    };
    Ok(match mode {
        Mode::VerifyFull => Trust::Named(roots()),
        Mode::VerifyCa => Trust::Issued(roots()),
        // An authority that is named is there to be used: libpq then looks at it with these, too.
        Mode::Allow | Mode::Prefer | Mode::Require if root.is_some() => Trust::Issued(roots()),
        Mode::Disable | Mode::Allow | Mode::Prefer | Mode::Require => Trust::Anyone,
    })
}

/// A connection whose other end is gone is noticed within half a minute.
fn fill_in(config: &mut Config, given: &[&str], application_name: &str) {
    let absent = |name: &str| !given.iter().any(|parameter| parameter.split('=').next() == Some(name));
    if absent("application_name") {
        config.application_name(application_name);
    }
    if absent("connect_timeout") {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if absent("keepalives_idle") {
        config.keepalives_idle(Duration::from_secs(10));
    }
    if absent("keepalives_interval") {
        config.keepalives_interval(Duration::from_secs(5));
    }
    if absent("keepalives_retries") {
        config.keepalives_retries(3);
    }
    if absent("tcp_user_timeout") {
        config.tcp_user_timeout(Duration::from_secs(30));
    }
}

/// The name of a parameter where it surely is one. An unescaped `@` or `?` in a password makes a part of it look like a
/// parameter, and that must not be shown.
fn harmless(name: &str, address: &str) -> Option<String> {
    let named = !address.contains('@') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    named.then(|| name.to_owned())
}

/// The reasons of `tokio-postgres` name parameters, never their values.
fn reason(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(url: &str) -> (Mode, Trust) {
        let settings = parse(url, "test").unwrap();
        (settings.mode, settings.trust)
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        let file = || Roots::In("/etc/ca.pem".into());
        for (parameters, mode, trust) in [
            ("sslmode=disable", Mode::Disable, Trust::Anyone),
            ("sslmode=allow", Mode::Allow, Trust::Anyone),
            ("sslmode=prefer", Mode::Prefer, Trust::Anyone),
            ("sslmode=require", Mode::Require, Trust::Anyone),
            ("sslmode=verify-ca", Mode::VerifyCa, Trust::Issued(Roots::System)),
            ("sslmode=verify-full", Mode::VerifyFull, Trust::Named(Roots::System)),
            ("sslmode=verify-full&sslrootcert=system", Mode::VerifyFull, Trust::Named(Roots::System)),
            ("sslrootcert=system", Mode::VerifyFull, Trust::Named(Roots::System)),
            ("sslmode=disable&sslrootcert=/etc/ca.pem", Mode::Disable, Trust::Anyone),
            ("sslmode=prefer&sslrootcert=/etc/ca.pem", Mode::Prefer, Trust::Issued(file())),
            ("sslrootcert=%2Fetc%2Fca.pem&sslmode=require", Mode::Require, Trust::Issued(file())),
            ("sslmode=verify-ca&sslrootcert=/etc/ca.pem", Mode::VerifyCa, Trust::Issued(file())),
            ("sslrootcert=/etc/ca.pem", Mode::VerifyFull, Trust::Named(file())),
            ("sslnegotiation=direct", Mode::VerifyFull, Trust::Named(Roots::System)),
        ] {
            for host in ["db.example.com", "localhost"] {
                assert_eq!(
                    said(&format!("postgresql://u@{host}/d?{parameters}")),
                    (mode, trust.clone()),
                    "{parameters}"
                );
            }
        }
        for refused in ["sslmode=full", "sslmode=require&sslrootcert=system", "sslmode=prefer&sslnegotiation=direct"] {
            let error = parse(&format!("postgres://h/d?{refused}"), "test").unwrap_err();
            assert!(error.to_string().contains("sslmode"), "{error}");
        }
    }

    #[test]
    fn off_this_machine_the_server_must_prove_who_it_is_unless_the_url_says_otherwise() {
        for url in [
            "postgres://localhost/d",
            "postgres://LOCALHOST,127.1.2.3/d",
            "postgres://127.0.0.1/d",
            "postgres://[::1]/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://db.example.com/d?hostaddr=127.0.0.1",
        ] {
            assert_eq!(said(url), (Mode::Prefer, Trust::Anyone), "{url}");
        }
        for url in [
            "postgres://db.example.com/d",
            "postgres://10.0.0.1/d",
            "postgres://[::2]/d",
            "postgres://localhost.example.com/d",
            "postgres://127.0.0.1.example.com/d",
            "postgres://localhost,db.example.com/d",
            "postgres://localhost/d?hostaddr=10.0.0.1",
            "postgres://localhost/d?host=db",
        ] {
            assert_eq!(said(url), (Mode::VerifyFull, Trust::Named(Roots::System)), "{url}");
        }
    }

    #[test]
    fn files_are_named_by_parameters_and_a_certificate_needs_its_key() {
        let settings = parse("postgres://h/d?sslcert=/c%20d&sslkey=/k&passfile=/p", "test").unwrap();
        assert_eq!(settings.own, Some(Own { certificate: "/c d".into(), key: "/k".into() }));
        assert_eq!(settings.passfile, Some("/p".into()));
        for alone in ["sslcert=/c", "sslkey=/k"] {
            assert!(parse(&format!("postgres://h/d?{alone}"), "test").unwrap_err().to_string().contains("sslkey"));
        }
    }

    #[test]
    fn the_url_outranks_the_defaults() {
        let config =
            parse("postgres://u:p%40w@h:5433/d?application_name=mine&connect_timeout=9", "test").unwrap().config;
        assert_eq!(config.get_application_name(), Some("mine"));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(9)));
        assert_eq!(config.get_password(), Some(&b"p@w"[..]));
        assert_eq!(config.get_ports(), [5433]);
        let config = parse("postgres://h/d", "test").unwrap().config;
        assert_eq!(config.get_application_name(), Some("test"));
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
    }

    #[test]
    fn a_host_in_a_parameter_can_be_a_socket() {
        let config = parse("postgres:///d?host=/var/run/postgresql&port=5444", "test").unwrap().config;
        assert_eq!(config.get_hosts().len(), 1);
        assert_eq!(config.get_ports(), [5444]);
        assert!(matches!(parse("postgres:///d", "test"), Err(Error::Url(_))));
    }

    #[test]
    fn no_error_shows_a_password() {
        for url in [
            "postgres://u:hunter@2?hunter=x@h/d",
            "postgres://u:hunter@2@h/d?hunter=1",
            "postgres://u:hunter@h:port/d",
            "postgres://u:hunter@h/d?hunter",
            "postgres://u:hunter@h/d?sslmode=hunter",
            "postgres://u:hunter@h/d?sslcrl=hunter",
            "postgres://u:hunter@/d",
            "mysql://u:hunter@h/d",
            "host=h password=hunter",
        ] {
            let error = parse(url, "test").unwrap_err();
            assert!(!error.to_string().contains("hunter") && !format!("{error:?}").contains("hunter"), "{error:?}");
        }
        let error = parse("postgres://u:p@h/d?sslcrl=a", "test").unwrap_err();
        assert!(error.to_string().contains("sslcrl"), "{error}");
        let settings = parse("postgres://u:hunter@h/d", "test").unwrap();
        assert!(!format!("{settings:?}").contains("hunter"));
    }
}
