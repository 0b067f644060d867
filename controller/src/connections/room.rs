//! How many connections there may be: of all peers together, and of each.
//!
//! A connection takes a descriptor, and so do those to the database, which come and go. Who serves on the last descriptor has
//! none for the database, and then serves nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Descriptors beside connections: the standard ones, the runtime's, the listener, files that are read in passing, and one
/// for a connection that is refused.
const SPARE: u64 = 32;

/// The fewest connections to serve with.
const FEWEST: u64 = 16;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The process may open too few files.
    #[error(
        "this process may have {limit} files open, and needs at least {least}: {database} for connections to the database, and \
         the rest to serve; raise the hard limit (`ulimit -Hn`), or lower --database-connections"
    )]
    Files {
        /// The limit.
        limit: u64,
        /// What is needed at least.
        least: u64,
        /// The connections to the database.
        database: u64,
    },
    /// One peer could take the place of all others.
    #[error(
        "--max-connections-per-peer is {asked}, and at most {most} are possible, half of what the limit of open files leaves room \
         for; lower it, or raise the hard limit (`ulimit -Hn`)"
    )]
    Peer {
        /// What was asked for.
        asked: u64,
        /// What is possible.
        most: u64,
    },
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are as many as there may be.
    All(u64),
    /// The peer has as many as one may have.
    Peer(u64),
}

/// How many connections there may be, and who has them. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    all: u64,
    each: u64,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    peers: HashMap<IpAddr, u64>,
}

impl Room {
    /// The room that a limit of open files leaves beside the connections to the database.
    pub(crate) fn new(limit: u64, database: u64, each: Option<u64>) -> Result<Self, Error> {
        // One more listens, one brings the schema up to date.
        let database = database + 2;
        let least = database + SPARE + FEWEST;
        if limit < least {
            return Err(Error::Files { limit, least, database });
        }
        let all = limit - database - SPARE;
        let most = all / 2;
        match each {
            Some(asked) if asked > most => Err(Error::Peer { asked, most }),
            each => Ok(Self { all, each: each.unwrap_or(most), taken: Arc::default() }),
        }
    }

    /// Takes a place for a peer, until it is dropped.
    pub(super) fn take(&self, peer: IpAddr) -> Result<Place, Full> {
        // An address of IPv4 that came by a socket of IPv6 is the same.
        let peer = peer.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.all {
            return Err(Full::All(self.all));
        }
        if taken.peers.get(&peer).is_some_and(|of_peer| *of_peer >= self.each) {
            return Err(Full::Peer(self.each));
        }
        taken.all += 1;
        *taken.peers.entry(peer).or_default() += 1;
        Ok(Place { peer, taken: Arc::clone(&self.taken) })
    }
}

/// The place of a connection.
#[derive(Debug)]
pub(super) struct Place {
    peer: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_peer) = taken.peers.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                taken.peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn peer(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn a_peer_has_half_of_the_room_at_most_and_the_database_has_its_own() {
        let room = Room::new(72, 10, None).unwrap();
        let mut places: Vec<Place> = (0..14).map(|_| room.take(peer(1)).unwrap()).collect();
        assert_eq!(room.take(peer(1)).unwrap_err(), Full::Peer(14));
        let mapped: Ipv6Addr = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert_eq!(room.take(mapped.into()).unwrap_err(), Full::Peer(14));
        places.extend((2..=15).map(|last| room.take(peer(last)).unwrap()));
        assert_eq!(room.take(peer(16)).unwrap_err(), Full::All(28));
        places.clear();
        assert!(room.taken.lock().unwrap().peers.is_empty(), "peers that are gone leave nothing");
        room.take(peer(1)).unwrap();
    }

    #[test]
    fn what_leaves_no_room_is_refused_with_the_way_out() {
        let few = Room::new(40, 10, None).unwrap_err();
        assert_eq!(few, Error::Files { limit: 40, least: 60, database: 12 });
        assert!(few.to_string().contains("--database-connections"), "{few}");
        let greedy = Room::new(1024, 10, Some(491)).unwrap_err();
        assert_eq!(greedy, Error::Peer { asked: 491, most: 490 });
        assert!(Room::new(1024, 10, Some(490)).is_ok());
        assert!(Room::new(u64::MAX, 1000, None).is_ok(), "no limit");
    }
}
