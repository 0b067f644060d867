//! A way to a database that can be closed, or lose all that goes along it without a word.

use std::net::SocketAddr;

use dunlin_shared::postgres::throwaway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// They work.
    Open,
    /// They are cut, and new ones as soon as they are accepted.
    Cut,
    /// They stay, new ones are accepted, and nothing is answered.
    Silent,
}

/// A way to the throwaway server of the test program.
#[derive(Debug)]
pub struct Way {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
}

impl Way {
    /// Opens a way.
    ///
    /// # Panics
    /// When there is no server, or no port for it.
    pub async fn open() -> Self {
        let port = throwaway::shared().await.port();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("the address of a listener");
        let (passage, state) = watch::channel(Passage::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, port, state.clone()));
            }
        });
        Self { address, passage }
    }

    /// The URL of a database of the throwaway server along this way.
    ///
    /// # Panics
    /// When it is none of that server.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once("@127.0.0.1:").expect("a URL of the throwaway server");
        let (_, database) = rest.split_once('/').expect("a URL of the throwaway server");
        format!("{before}@{}/{database}?sslmode=disable", self.address)
    }

    /// Changes what becomes of connections, also of those that are open.
    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn carry(near: TcpStream, port: u16, mut state: watch::Receiver<Passage>) {
    if state.wait_for(|passage| *passage != Passage::Silent).await.is_err() || *state.borrow() == Passage::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = state.clone();
    tokio::select! {
        () = along(near_read, far_write, state.clone()) => {}
        () = along(far_read, near_write, state.clone()) => {}
        _ = cut.wait_for(|passage| *passage == Passage::Cut) => {}
    }
}

async fn along(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Passage>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|passage| *passage != Passage::Silent).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
