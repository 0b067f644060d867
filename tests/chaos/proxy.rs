//! A network of one link that can be troubled.
//!
//! What must stay true: trouble that is over leaves the link as it was for new connections. Connections that went half-open
//! stay so: the client is told nothing, ever; the server is after a while, as by the keep-alive of its system, so that it does
//! not run out of connections.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::plan::Trouble;

/// How long the server's end of a dead connection lives.
const SERVER_NOTICES: Duration = Duration::from_secs(20);

/// What the network does now. The counts say how often something happened to all connections at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weather {
    cuts: u64,
    deaths: u64,
    refuses: bool,
    swallows: bool,
    delay: Duration,
}

/// A link through a proxy.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Link {
    /// Starts a proxy in front of an address.
    pub(crate) async fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::default());
        tokio::spawn(async move {
            loop {
                // An error is one of the connection, or of a system that is short of something for a moment.
                if let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(client, server, seen.clone()));
                }
            }
        });
        Ok(Self { address, weather })
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins trouble.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.weather.send_modify(|weather| match trouble {
            Trouble::Cut => weather.cuts += 1,
            Trouble::Refuse => {
                weather.cuts += 1;
                weather.refuses = true;
            }
            Trouble::Delay(delay) => weather.delay = delay,
            Trouble::HalfOpen => {
                weather.deaths += 1;
                weather.swallows = true;
            }
        });
    }

    /// Ends all trouble.
    pub(crate) fn heal(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { cuts: weather.cuts, deaths: weather.deaths, ..Weather::default() };
        });
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let born = *weather.borrow_and_update();
    if born.refuses {
        return;
    }
    if born.swallows {
        swallow(&mut client).await;
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _faster = client.set_nodelay(true).and(server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let dies = tokio::select! {
        () = pump(&mut from_client, &mut to_server, weather.clone()) => false,
        () = pump(&mut from_server, &mut to_client, weather.clone()) => false,
        dies = ends(&mut weather, born) => dies,
    };
    if dies {
        tokio::join!(
            async {
                swallow(&mut from_client).await;
                drop(to_client);
            },
            async {
                let _noticed = timeout(SERVER_NOTICES, swallow(&mut from_server)).await;
                drop(to_server);
            }
        );
    }
}

/// Carries what one end sends to the other, until it has sent all.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Ends when the connection is cut, with false, or dies, with true.
async fn ends(weather: &mut watch::Receiver<Weather>, born: Weather) -> bool {
    match weather.wait_for(|now| now.cuts > born.cuts || now.deaths > born.deaths).await {
        Ok(now) => now.deaths > born.deaths,
        Err(_) => false,
    }
}

/// Reads what nobody gets, until its sender is gone.
async fn swallow(from: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = vec![0; 65536];
    while let Ok(1..) = from.read(&mut buffer).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to a server that sends back what it gets.
    async fn echo() -> Link {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Link::start(address).await.unwrap()
    }

    /// True when what is sent comes back; false when the connection is cut.
    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn a_link_carries_until_it_is_cut_and_new_connections_afterwards() {
        let link = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        link.trouble(Trouble::Cut);
        assert!(!answers(&mut stream).await);
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        link.trouble(Trouble::Refuse);
        assert!(!answers(&mut stream).await);
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(!answers(&mut stream).await);
        link.heal();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut stream).await);
    }

    #[tokio::test]
    async fn a_half_open_connection_stays_silent_also_when_the_trouble_is_over() {
        let link = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        link.trouble(Trouble::HalfOpen);
        link.heal();
        let silent = timeout(Duration::from_millis(500), answers(&mut stream)).await;
        assert!(silent.is_err(), "neither an answer nor an end");
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut stream).await);
    }
}
