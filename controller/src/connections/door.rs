//! Accepting connections.
//!
//! A connection for which there is no room is closed at once, so that its client goes to another controller. Where none can be
//! accepted, since the system has no descriptors or no memory left, there is a rest before the next try: the one that
//! waits is still there, and would be found again without end.

use std::io;
use std::time::Duration;

use futures::{Stream, stream};
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::opening::Opening;
use super::room::{Full, Place, Room};
use super::seldom::Seldom;

/// The first and the longest rest after a failure.
const RESTS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Where connections come in.
struct Door {
    listener: TcpListener,
    room: Room,
    rest: Duration,
    failures: Seldom,
    crowds: Seldom,
    peers: Seldom,
}

/// The connections of a listener for which there is room, without end.
pub(crate) fn incoming(listener: TcpListener, room: Room) -> impl Stream<Item = io::Result<Opening>> {
    let (failures, crowds, peers) = Default::default();
    let door = Door { listener, room, rest: RESTS.0, failures, crowds, peers };
    stream::unfold(door, |mut door| async move {
        let (stream, place) = door.next().await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection that is slow for small messages");
        }
        Some((Ok(Opening::new(stream, Some(place))), door))
    })
}

impl Door {
    async fn next(&mut self) -> (TcpStream, Place) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            self.rest = RESTS.0;
            match self.room.take(peer.ip()) {
                Ok(place) => return (stream, place),
                Err(full) => {
                    drop(stream);
                    self.refused(peer.ip(), full);
                }
            }
        }
    }

    fn refused(&mut self, peer: std::net::IpAddr, full: Full) {
        match full {
            Full::All(all) => {
                if let Some(refused) = self.crowds.again() {
                    tracing::warn!(
                        refused,
                        "connections are refused: {all} are open, as many as the limit of open files leaves room for; start more \
                         controllers, or raise the hard limit (`ulimit -Hn`)"
                    );
                }
            }
            Full::Peer(each) => {
                if let Some(refused) = self.peers.again() {
                    tracing::warn!(
                        %peer,
                        refused,
                        "connections of a peer are refused: it has {each} open, the most that one may have \
                         (--max-connections-per-peer)"
                    );
                }
            }
        }
    }

    async fn failed(&mut self, error: &io::Error) {
        if of_one_connection(error) {
            tracing::debug!(%error, "a connection was gone before it was accepted");
            return;
        }
        if let Some(failures) = self.failures.again() {
            tracing::error!(%error, failures, "no connection can be accepted; those that are open are served, and it is tried again");
        }
        sleep(self.rest).await;
        self.rest = (self.rest * 2).min(RESTS.1);
    }
}

/// True for what is wrong with the one that was to be accepted, and says nothing of the next: on Linux also the errors of the
/// network that are pending on it.
fn of_one_connection(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| {
        matches!(
            errno,
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::EOPNOTSUPP
                | Errno::EPERM
                | Errno::ETIMEDOUT
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_one_connection_holds_up_no_other() {
        let of = |errno: Errno| of_one_connection(&errno.into());
        assert!(of(Errno::ECONNABORTED) && of(Errno::EPROTO));
        for all in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert!(!of(all), "{all}");
        }
    }
}
