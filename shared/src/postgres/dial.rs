//! The way to a server, below the session: hosts in their order, names looked up, sockets as the URL wants them.
//!
//! The client library does the same for its own connections, and hands out no stream to look at; so this is done here, by the same
//! settings. Nothing is decided here: a host that does not answer is followed by the next, and the last error is told.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use rand::seq::SliceRandom;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// Where servers listen on Unix sockets, as PostgreSQL and Debian have it.
const DEFAULT_FOLDERS: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A server, as far as it is known before it has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) address: Address,
    /// The name that its certificate must have: the host's, or the address where the URL has only that.
    pub(super) name: String,
    /// What the URL calls it, as a passfile does.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
}

/// The servers of a configuration, in the order in which they are tried.
pub(super) async fn peers(config: &Config) -> io::Result<Vec<Peer>> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let mut entries: Vec<usize> = (0..hosts.len().max(addresses.len())).collect();
    let shuffled = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    if shuffled {
        entries.shuffle(&mut rand::rng());
    }
    let mut found = Vec::new();
    let mut unknown = None;
    for entry in entries {
        let port = ports.get(entry).or_else(|| ports.first()).copied().unwrap_or(5432);
        let name = match hosts.get(entry) {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(_)) => String::new(),
            None => addresses.get(entry).map(ToString::to_string).unwrap_or_default(),
        };
        let looked_up = match (addresses.get(entry), hosts.get(entry)) {
            (Some(address), _) => address.to_string(),
            (None, Some(Host::Unix(folder))) => {
                let address = Address::Unix(folder.join(format!(".s.PGSQL.{port}")));
                // As libpq has it for the folder that servers listen in by default.
                let default = DEFAULT_FOLDERS.iter().any(|known| folder == Path::new(known));
                let host = if default { "localhost".to_owned() } else { folder.display().to_string() };
                found.push(Peer { address, name, host, port });
                continue;
            }
            (None, _) => name.clone(),
        };
        match lookup_host((looked_up.as_str(), port)).await {
            Ok(addresses) => {
                let mut addresses: Vec<SocketAddr> = addresses.collect();
                if shuffled {
                    addresses.shuffle(&mut rand::rng());
                }
                let peer = |to| Peer { address: Address::Tcp(to), name: name.clone(), host: name.clone(), port };
                found.extend(addresses.into_iter().map(peer));
            }
            Err(error) => unknown = Some(error),
        }
    }
    match unknown {
        Some(error) if found.is_empty() => Err(error),
        _ if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "the host's name stands for no address")),
        _ => Ok(found),
    }
}

/// Connects a socket.
pub(super) async fn socket(config: &Config, peer: &Peer) -> io::Result<Socket> {
    let connecting = async {
        match &peer.address {
            Address::Tcp(address) => tcp(config, *address).await.map(Socket::Tcp),
            Address::Unix(path) => unix(path).await.map(Socket::Unix),
        }
    };
    match config.get_connect_timeout() {
        Some(limit) => match timeout(*limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")),
        },
        None => connecting.await,
    }
}

/// Asks a server whether it has TLS, as a session begins. Nothing more than the answer is read: what comes behind it is no part of it.
pub(super) async fn asks_for_tls(socket: &mut Socket) -> io::Result<bool> {
    socket.write_all(&ASK).await?;
    match socket.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no PostgreSQL, or it has ended the connection")),
    }
}

/// The question for TLS: its length, and its code.
const ASK: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

async fn tcp(config: &Config, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(stream)
}

async fn unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// A socket of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! either {
    ($socket:expr, $stream:ident => $then:expr) => {
        match $socket.get_mut() {
            Socket::Tcp($stream) => $then,
            Socket::Unix($stream) => $then,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buffer))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
