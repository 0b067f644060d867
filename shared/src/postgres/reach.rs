//! The way to a session: the servers of a URL one after the other, each as `sslmode` wants it.
//!
//! The server is asked for TLS here and not by the client library, which then begins at once with what was agreed: so it is known why
//! there is no TLS where it must be, and nothing is sent before. What must stay true: a password never goes to a server that is less safe
//! than the URL asks for.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Connection, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::Connector;
use super::dial::{self, Address, Peer, Socket};
use super::error::Error;
use super::insecure::Insecurity;
use super::source::Loaded;
use super::url::Mode;

/// TLS over a socket.
pub(super) type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;

/// What comes of connecting: the client, and what its connection was handed to.
pub(super) struct Connected<D> {
    pub(super) client: Client,
    pub(super) driven: D,
    pub(super) peer: Peer,
    pub(super) loaded: Arc<Loaded>,
    /// True under TLS.
    pub(super) encrypted: bool,
}

/// Whether the server is asked for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Never,
    /// It may have none.
    Perhaps,
    Always,
}

/// A session that has begun, and whether it is encrypted.
type Begun<S, T> = (Client, Connection<S, T>, bool);

/// An attempt that failed.
struct Failed {
    error: Error,
    encrypted: bool,
}

impl Connector {
    /// Connects to the first server that lets itself be worked with. `over` says what the connection is read through, `drive` what is to
    /// become of it.
    pub(super) async fn open<S, L, D>(
        &self,
        over: impl Fn(Socket, Tls) -> (S, L),
        drive: impl Fn(Connection<S, L::Stream>) -> D,
    ) -> Result<Connected<D>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: TlsConnect<S>,
    {
        let connecting = async {
            let loaded = self.source.now()?;
            match self.reach(&loaded, &over, &drive).await {
                // What was read may be of yesterday.
                Err(error) if error.denied() => match self.source.other_than(&loaded) {
                    Some(other) => self.reach(&other, &over, &drive).await,
                    None => Err(error),
                },
                reached => reached,
            }
        };
        self.within(Box::pin(connecting)).await
    }

    async fn reach<S, L, D>(
        &self,
        loaded: &Arc<Loaded>,
        over: &impl Fn(Socket, Tls) -> (S, L),
        drive: &impl Fn(Connection<S, L::Stream>) -> D,
    ) -> Result<Connected<D>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: TlsConnect<S>,
    {
        let mut last = None;
        for peer in dial::peers(&loaded.config).await.map_err(|error| self.unreached(error))? {
            let connected = match self.attempt(loaded, &peer, over).await {
                Ok((client, connection, encrypted)) => {
                    let driven = drive(connection);
                    let loaded = Arc::clone(loaded);
                    self.serves(&loaded, &client).await.map(|()| Connected { client, driven, peer, loaded, encrypted })
                }
                Err(failed) => Err(failed.error),
            };
            match connected {
                Ok(connected) => return Ok(connected),
                // What somebody has to mend is told, whatever else did not answer.
                Err(_) if matches!(last, Some(Error::Insecure { .. })) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(Error::Url("it names no host")))
    }

    /// Connects to one server as `sslmode` wants it.
    async fn attempt<S, L>(
        &self,
        loaded: &Loaded,
        peer: &Peer,
        over: &impl Fn(Socket, Tls) -> (S, L),
    ) -> Result<Begun<S, L::Stream>, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: TlsConnect<S>,
    {
        // Boxed: each would have its room in the future of whoever connects.
        let once = |asking| Box::pin(self.once(loaded, peer, asking, over));
        if matches!(peer.address, Address::Unix(_)) {
            return once(Asking::Never).await;
        }
        match loaded.mode {
            Mode::Disable => once(Asking::Never).await,
            Mode::Allow => match once(Asking::Never).await {
                Err(first) if first.error.denied() => once(Asking::Perhaps).await.map_err(|_| first),
                done => done,
            },
            Mode::Prefer => match once(Asking::Perhaps).await {
                Err(first) if first.encrypted && (first.error.denied() || !first.error.answered()) => {
                    once(Asking::Never).await.map_err(|_| first)
                }
                done => done,
            },
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => once(Asking::Always).await,
        }
    }

    async fn once<S, L>(
        &self,
        loaded: &Loaded,
        peer: &Peer,
        asking: Asking,
        over: &impl Fn(Socket, Tls) -> (S, L),
    ) -> Result<Begun<S, L::Stream>, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: TlsConnect<S>,
    {
        let plain = |error| Failed { error, encrypted: false };
        let mut config = loaded.config_for(peer).map_err(plain)?;
        let (socket, encrypted) = self.socket(loaded, peer, asking).await.map_err(plain)?;
        // The question was asked already.
        config.ssl_negotiation(SslNegotiation::Direct);
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        let (stream, tls) = over(socket, tls(loaded, peer));
        let connected = config.connect_raw(stream, tls).await;
        match connected {
            Ok((client, connection)) => Ok((client, connection, encrypted)),
            Err(error) => Err(Failed { error: self.refused(loaded, peer, error), encrypted }),
        }
    }

    /// Connects a socket. True where TLS comes next.
    async fn socket(&self, loaded: &Loaded, peer: &Peer, asking: Asking) -> Result<(Socket, bool), Error> {
        let mut socket = dial::socket(&loaded.config, peer).await.map_err(|error| self.unreached(error))?;
        if asking == Asking::Never {
            return Ok((socket, false));
        }
        if loaded.config.get_ssl_negotiation() == SslNegotiation::Direct {
            return Ok((socket, true));
        }
        let has = dial::asks_for_tls(&mut socket).await.map_err(|error| self.unreached(error))?;
        if !has && asking == Asking::Always {
            return Err(self.insecure(loaded, Insecurity::NoTls));
        }
        Ok((socket, has))
    }

    /// Asks a server to cancel what a session executes that it has begun, as safely as the session itself.
    pub(super) async fn cancelled(
        &self,
        loaded: &Loaded,
        peer: &Peer,
        token: &CancelToken,
        encrypted: bool,
    ) -> Result<(), Error> {
        let asking = if encrypted { Asking::Always } else { Asking::Never };
        let (socket, _) = self.socket(loaded, peer, asking).await?;
        let cancelled = token.cancel_query_raw(socket, tls(loaded, peer)).await;
        cancelled.map_err(|error| self.refused(loaded, peer, error))
    }

    /// Whether the server is of the kind that the URL asks for.
    async fn serves(&self, loaded: &Loaded, client: &Client) -> Result<(), Error> {
        let wanted = match loaded.config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => "off",
            TargetSessionAttrs::ReadOnly => "on",
            _ => return Ok(()),
        };
        let refused = |source| Error::Connect { place: self.place(), source };
        let answer = client.simple_query("SHOW transaction_read_only").await.map_err(refused)?;
        let found = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if found == Some(wanted) {
            return Ok(());
        }
        let reason = if wanted == "off" { "database does not allow writes" } else { "database is not read only" };
        Err(self.unreached(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason)))
    }

    fn insecure(&self, loaded: &Loaded, why: Insecurity) -> Error {
        Error::Insecure { place: self.place(), mode: loaded.mode, why }
    }

    fn unreached(&self, source: std::io::Error) -> Error {
        Error::Unreached { place: self.place(), source }
    }

    fn refused(&self, loaded: &Loaded, peer: &Peer, source: tokio_postgres::Error) -> Error {
        match Insecurity::of(&source, &peer.name, &loaded.trust) {
            Some(why) => self.insecure(loaded, why),
            None => Error::Connect { place: self.place(), source },
        }
    }
}

/// TLS to one server.
fn tls(loaded: &Loaded, peer: &Peer) -> Tls {
    let made: Result<Tls, Infallible> = MakeTlsConnect::<Socket>::make_tls_connect(&mut loaded.tls.clone(), &peer.name);
    let Ok(tls) = made;
    tls
}
