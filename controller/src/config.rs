//! What the controller is told at its start, by options or the environment.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;

/// Dunlin's controller: the registry, the schedule, and the leases.
#[derive(Clone, Debug, Parser)]
#[command(name = "dunlin-controller", version, about)]
pub struct Config {
    /// The database of the controllers, as a URL of PostgreSQL. All controllers of a fleet use the same.
    #[arg(long, env = "DUNLIN_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,

    /// Where to listen. With port 0 a free port is taken; the log tells which.
    #[arg(long, env = "DUNLIN_LISTEN", default_value = "127.0.0.1:7440", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// How long a lease lives without a heartbeat. Agents send one three times as often.
    #[arg(long, env = "DUNLIN_LEASE_TTL", default_value = "30s", value_name = "DURATION", value_parser = ttl)]
    pub lease_ttl: Duration,

    /// How many connections to the database are kept at most, besides one for listening.
    #[arg(long, env = "DUNLIN_DATABASE_CONNECTIONS", default_value_t = 10, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub database_connections: u16,
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
}
