//! What the controller is told at its start, by options or the environment.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;

/// Dunlin's controller: the registry, the schedule, and the leases.
#[derive(Clone, Debug, Parser)]
#[command(name = "dunlin-controller", version, about)]
pub struct Config {
    /// The database of the controllers, as a URL of PostgreSQL, or @ and the path of a file with the URL, which is read again when it
    /// changes. All controllers of a fleet use the same.
    #[arg(long, env = "DUNLIN_DATABASE_URL", hide_env_values = true, value_name = "URL|@FILE")]
    pub database_url: String,

    /// Where to listen. With port 0 a free port is taken; the log tells which.
    #[arg(long, env = "DUNLIN_LISTEN", default_value = "127.0.0.1:7440", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// How long a lease lives without a heartbeat. Agents send one three times as often.
    #[arg(long, env = "DUNLIN_LEASE_TTL", default_value = "30s", value_name = "DURATION", value_parser = ttl)]
    pub lease_ttl: Duration,

    /// How long a lease may be renewed without a sign of life of its task before another agent gets it, where another can take it; 0 leaves
    /// it with its holder.
    #[arg(long, env = "DUNLIN_STUCK_AFTER", default_value = "15m", value_name = "DURATION", value_parser = stuck_after)]
    pub stuck_after: Duration,

    /// How many connections to the database are kept at most, besides one for listening.
    #[arg(long, env = "DUNLIN_DATABASE_CONNECTIONS", default_value_t = 10, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub database_connections: u16,

    /// How long ended runs and their events are kept, such as 90d; 0 keeps them for ever. The last runs of each migration on each target
    /// stay.
    #[arg(long, env = "DUNLIN_KEEP", default_value = "90d", value_name = "DURATION", value_parser = keep)]
    pub keep: Duration,

    /// How many connections one address may have open, such as that of a proxy before many agents [default: half of what the limit of
    /// open files leaves room for, which is also the most]
    #[arg(long, env = "DUNLIN_MAX_CONNECTIONS_PER_PEER", value_name = "NUMBER",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_peer: Option<u32>,
}

fn keep(text: &str) -> Result<Duration, String> {
    let keep = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 90d, or 0 for ever"))?;
    let most = Duration::from_secs(100 * 366 * 24 * 3600);
    if keep.is_zero() || (Duration::from_secs(1)..=most).contains(&keep) {
        Ok(keep)
    } else {
        Err("it must be 1s to 100 years, or 0".to_owned())
    }
}

fn stuck_after(text: &str) -> Result<Duration, String> {
    let after =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 15m, or 0 for never"))?;
    if after.is_zero() || (Duration::from_secs(2)..=Duration::from_secs(366 * 24 * 3600)).contains(&after) {
        Ok(after)
    } else {
        Err("it must be 2s to 1 year, or 0".to_owned())
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s or 2m"))?;
    if (Duration::from_millis(300)..=Duration::from_secs(24 * 3600)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("it must be 300ms to 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_consistent() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }

    #[test]
    fn a_time_to_live_is_bounded() {
        assert_eq!(ttl("3s"), Ok(Duration::from_secs(3)));
        assert!(ttl("1ms").is_err());
        assert!(ttl("soon").is_err());
    }

    #[test]
    fn what_is_kept_for_ever_is_said_by_nought() {
        assert_eq!(keep("90d"), Ok(Duration::from_secs(90 * 24 * 3600)));
        assert_eq!(keep("0"), Ok(Duration::ZERO));
        for wrong in ["90", "-1d", "5ms", "1000y"] {
            assert!(keep(wrong).is_err(), "{wrong}");
        }
    }
}
