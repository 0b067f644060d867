//! A network between agent and target that can lose things.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What the network does.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Counts down with every COMMIT, and every BEGIN (... READ COMMITTED), that passes; the answer to the one that makes it 0 is
    /// lost, and the connection with it.
    pub(crate) commits_until_cut: AtomicI64,
    /// Connections that have an answer now are dead from then on: it is swallowed, and so is everything behind it, the end of the
    /// connection too.
    pub(crate) swallow: AtomicBool,
    /// Counts the commits that have another message right behind them.
    pub(crate) followed_commits: AtomicI64,
}

/// A proxy in front of a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    pub(crate) faults: Arc<Faults>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let cut = Arc::new(AtomicBool::new(false));
                tokio::spawn(requests(from_client, to_server, Arc::clone(&shared), Arc::clone(&cut)));
                tokio::spawn(answers(from_server, to_client, Arc::clone(&shared), cut));
            }
        });
        Self { address, faults }
    }

    /// The URL of the same database through the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once("@127.0.0.1:").unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{before}@{}/{database}?sslmode=disable", self.address)
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Arc<Faults>, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let commits = buffer[..length].windows(6).filter(|bytes| *bytes == b"COMMIT").count();
        if buffer[..length].windows(8).any(|bytes| bytes == b"COMMIT\0Q") {
            faults.followed_commits.fetch_add(1, Ordering::SeqCst);
        }
        for _ in 0..commits {
            if faults.commits_until_cut.fetch_sub(1, Ordering::SeqCst) == 1 {
                cut.store(true, Ordering::SeqCst);
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Arc<Faults>, cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if cut.load(Ordering::SeqCst) {
            // The server has answered, so it has committed or refused; nobody hears it. Both ends close.
            break;
        }
        if faults.swallow.load(Ordering::SeqCst) {
            while let Ok(1..) = from.read(&mut buffer).await {}
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
}
