//! Connection URLs as libpq reads them.
//!
//! `tokio-postgres` reads the URL; what it does not know is taken out first: the modes of `sslmode` that verify, and
//! `sslrootcert`. Parameters that cannot be honoured are refused, since ignoring one could mean less security than was
//! asked for.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

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

/// How the server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Whatever certificate it shows, as libpq does for `prefer` and `require`.
    Anyone,
    /// A certificate for its host name that the system trusts.
    SystemRoots,
    /// A certificate for its host name that leads to a root in this file.
    RootsIn(PathBuf),
}

/// What a URL says.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) trust: Trust,
}

/// Reads a URL. `application_name` stands where the URL names none.
pub(super) fn parse(url: &str, application_name: &str) -> Result<Settings, Error> {
    let after_scheme =
        ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or(Error::Scheme)?;
    let address = after_scheme.split_once('@').map_or(after_scheme, |(_, address)| address);
    let (place, query) = address.split_once('?').unwrap_or((address, ""));
    let mut kept = Vec::new();
    let mut mode = None;
    let mut root = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(Error::Url("a parameter has no value"))?;
        match name {
            "sslmode" => mode = Some(value),
            "sslrootcert" => {
                let path = percent_decode_str(value).decode_utf8().map_err(|_| Error::Url("sslrootcert is no text"))?;
                root = Some(path.into_owned());
            }
            name if PARAMETERS.contains(&name) => kept.push(parameter),
            name => return Err(Error::Parameter(harmless(name, address))),
        }
    }
    let credentials = &after_scheme[..after_scheme.len() - address.len()];
    let rest = format!("postgres://{credentials}{place}?{}", kept.join("&"));
    let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| Error::Config(reason(&error)))?;
    let (ssl_mode, trust) = tls(mode.unwrap_or("prefer"), root)?;
    config.ssl_mode(ssl_mode);
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::Url("it names no host"));
    }
    fill_in(&mut config, &kept, application_name);
    Ok(Settings { config, trust })
}

fn tls(mode: &str, root: Option<String>) -> Result<(SslMode, Trust), Error> {
    let verified = |root: Option<String>| match root.as_deref() {
        None | Some("system") => Trust::SystemRoots,
        Some(path) => Trust::RootsIn(path.into()),
    };
    match mode {
        "disable" => Ok((SslMode::Disable, Trust::Anyone)),
        "allow" | "prefer" => Ok((SslMode::Prefer, Trust::Anyone)),
        // A root that is named is there to be used: libpq then verifies with `require` too.
        "require" if root.is_none() => Ok((SslMode::Require, Trust::Anyone)),
        "require" | "verify-ca" | "verify-full" => Ok((SslMode::Require, verified(root))),
        _ => Err(Error::SslMode),
    }
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

    fn trust(url: &str) -> (SslMode, Trust) {
        let settings = parse(url, "test").unwrap();
        (settings.config.get_ssl_mode(), settings.trust)
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        assert_eq!(trust("postgres://h/d"), (SslMode::Prefer, Trust::Anyone));
        assert_eq!(trust("postgres://h/d?sslmode=disable"), (SslMode::Disable, Trust::Anyone));
        assert_eq!(trust("postgresql://u@h/d?sslmode=require"), (SslMode::Require, Trust::Anyone));
        assert_eq!(trust("postgres://h/d?sslmode=verify-full"), (SslMode::Require, Trust::SystemRoots));
        assert_eq!(
            trust("postgres://h/d?sslmode=verify-ca&sslrootcert=%2Fetc%2Fca.pem"),
            (SslMode::Require, Trust::RootsIn("/etc/ca.pem".into()))
        );
        assert_eq!(
            trust("postgres://h/d?sslrootcert=ca.pem&sslmode=require"),
            (SslMode::Require, Trust::RootsIn("ca.pem".into()))
        );
        assert!(matches!(parse("postgres://h/d?sslmode=full", "test"), Err(Error::SslMode)));
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
            "postgres://u:hunter@h/d?sslkey=hunter",
            "postgres://u:hunter@/d",
            "mysql://u:hunter@h/d",
            "host=h password=hunter",
        ] {
            let error = parse(url, "test").unwrap_err();
            assert!(!error.to_string().contains("hunter") && !format!("{error:?}").contains("hunter"), "{error:?}");
        }
        let error = parse("postgres://u:p@h/d?sslkey=a", "test").unwrap_err();
        assert!(error.to_string().contains("sslkey"), "{error}");
        let settings = parse("postgres://u:hunter@h/d", "test").unwrap();
        assert!(!format!("{settings:?}").contains("hunter"));
    }
}
