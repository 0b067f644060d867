//! What a connection is made from: the URL, which can stand in a file, and the files that it names.
//!
//! All of it is read again when one of the files has changed, at the next connection, and once more where the server refuses the role
//! or its password. Connections that are there stay, but pools do not hand them out again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;
use super::dial::Peer;
use super::files::{self, Files, Readers};
use super::passfile::Passfile;
use super::{tls, url};

/// What begins the name of a file in place of a URL.
const IN_FILE: char = '@';

/// The URL, as it was named.
pub(super) struct Source {
    text: String,
    application_name: String,
    loaded: Mutex<Arc<Loaded>>,
}

/// What was read.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) mode: url::Mode,
    pub(super) trust: url::Trust,
    pub(super) tls: MakeRustlsConnect,
    passfile: Option<(PathBuf, Passfile)>,
    files: Files,
}

impl Source {
    /// Reads everything.
    pub(super) fn new(text: &str, application_name: &str) -> Result<Self, Error> {
        let loaded = Mutex::new(Arc::new(Loaded::new(text, application_name)?));
        Ok(Self { text: text.to_owned(), application_name: application_name.to_owned(), loaded })
    }

    /// What was read last.
    pub(super) fn known(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True when a file is not what it was.
    pub(super) fn changed(&self) -> bool {
        self.known().files.changed()
    }

    /// What there is now.
    pub(super) fn now(&self) -> Result<Arc<Loaded>, Error> {
        if self.changed() { self.again() } else { Ok(self.known()) }
    }

    /// What there is now, where it is not what was there `before` for the role and its password.
    pub(super) fn other_than(&self, before: &Loaded) -> Option<Arc<Loaded>> {
        let now = self.again().ok()?;
        let same = now.config == before.config && now.passfile == before.passfile;
        (!same).then_some(now)
    }

    fn again(&self) -> Result<Arc<Loaded>, Error> {
        let loaded = Arc::new(Loaded::new(&self.text, &self.application_name)?);
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&loaded);
        Ok(loaded)
    }
}

impl Loaded {
    fn new(text: &str, application_name: &str) -> Result<Self, Error> {
        let mut files = Files::default();
        match text.strip_prefix(IN_FILE) {
            None => Self::of(text, application_name, files),
            Some(path) => {
                let path = Path::new(path);
                let url = url_in(path, &mut files)?;
                Self::of(&url, application_name, files)
                    .map_err(|error| Error::InFile { path: path.to_owned(), source: Box::new(error) })
            }
        }
    }

    fn of(url: &str, application_name: &str, mut files: Files) -> Result<Self, Error> {
        let settings = url::parse(url, application_name)?;
        let tls = tls::client(&settings, &mut files)?;
        let passfile = match &settings.passfile {
            // The URL's own password comes first, as in libpq.
            Some(path) if settings.config.get_password().is_none() => {
                let bytes = files.read("passfile", path, Readers::Owner)?;
                let text = String::from_utf8(bytes).map_err(|_| files::wrong("passfile", path, "it is no text"))?;
                Some((path.clone(), Passfile::parse(&text)))
            }
            _ => None,
        };
        let url::Settings { config, mode, trust, .. } = settings;
        Ok(Self { config, mode, trust, tls, passfile, files })
    }

    /// The settings for one of the servers, with the password for it.
    pub(super) fn config_for(&self, peer: &Peer) -> Result<Config, Error> {
        let mut config = self.config.clone();
        let Some((path, passfile)) = &self.passfile else { return Ok(config) };
        let user = match config.get_user() {
            Some(user) => user.to_owned(),
            None => return Err(Error::Url("it names no user, which passfile needs")),
        };
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let password = passfile.password(&peer.host, peer.port, &database, &user).ok_or_else(|| {
            let wanted = format!("{}:{}:{database}:{user}", peer.host, peer.port);
            files::wrong("passfile", path, &format!("no line of it is for {wanted}"))
        })?;
        config.password(password);
        Ok(config)
    }
}

fn url_in(path: &Path, files: &mut Files) -> Result<String, Error> {
    const PARAMETER: &str = "the database URL";
    let bytes = files.read(PARAMETER, path, Readers::All)?;
    let text = String::from_utf8(bytes).map_err(|_| files::wrong(PARAMETER, path, "it is no text"))?;
    let url = text.trim();
    match url.split_whitespace().count() {
        1 => Ok(url.to_owned()),
        0 => Err(files::wrong(PARAMETER, path, "it is empty; it must hold one URL")),
        _ => Err(files::wrong(PARAMETER, path, "it must hold one URL and nothing else, no white space within")),
    }
}
