//! How replicas wake each other: notifications that are sent with the commit of the change that they tell of.
//!
//! They carry no news, only that there is some and where: whoever is woken looks it up. So a lost notification costs time
//! and nothing else, and a replica that lost its listening connection looks everything up when it is back.
//!
//! PostgreSQL serialises commits that notify. So they are sent where something starts or ends, not with every range.

use dunlin_shared::ids::{RunId, TargetName};

use super::error::Error;
use super::session::{Session, Statement};

/// The channels that replicas listen to.
pub(crate) const CHANNELS: [&str; 7] = [
    "dunlin_dispatch",
    "dunlin_timer",
    "dunlin_events",
    "dunlin_progress",
    "dunlin_revoke",
    "dunlin_look",
    "dunlin_look_all",
];

/// What other replicas, and this one, should look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Tasks have become ready.
    Dispatch,
    /// Something is due earlier than supposed.
    Timer,
    /// A target has new events.
    Events(TargetName),
    /// Runs on a target have got on.
    Progress(TargetName),
    /// A run has ended before its tasks: what is held of it must be given back.
    Revoke(RunId),
    /// Some agent that works on a target is to look at it.
    Look(TargetName),
    /// All agents that serve a target are.
    LookAll(TargetName),
}

impl Wake {
    fn channel(&self) -> &'static str {
        match self {
            Self::Dispatch => "dunlin_dispatch",
            Self::Timer => "dunlin_timer",
            Self::Events(_) => "dunlin_events",
            Self::Progress(_) => "dunlin_progress",
            Self::Revoke(_) => "dunlin_revoke",
            Self::Look(_) => "dunlin_look",
            Self::LookAll(_) => "dunlin_look_all",
        }
    }

    fn value(&self) -> String {
        match self {
            Self::Dispatch | Self::Timer => String::new(),
            Self::Events(target) | Self::Progress(target) | Self::Look(target) | Self::LookAll(target) => {
                target.to_string()
            }
            Self::Revoke(run) => run.to_string(),
        }
    }

    /// Reads a notification. `None`: it is this replica's own, which has been seen to already, or none of ours.
    pub(crate) fn read(replica: &str, channel: &str, payload: &str) -> Option<Self> {
        let (sender, value) = payload.split_once(' ')?;
        if sender == replica {
            return None;
        }
        match channel {
            "dunlin_dispatch" => Some(Self::Dispatch),
            "dunlin_timer" => Some(Self::Timer),
            "dunlin_events" => TargetName::parse(value).ok().map(Self::Events),
            "dunlin_progress" => TargetName::parse(value).ok().map(Self::Progress),
            "dunlin_look" => TargetName::parse(value).ok().map(Self::Look),
            "dunlin_look_all" => TargetName::parse(value).ok().map(Self::LookAll),
            "dunlin_revoke" => value.parse().ok().map(|run| Self::Revoke(RunId(run))),
            _ => None,
        }
    }
}

pub(super) const NOTIFY: Statement = Statement::new(
    "notify",
    "SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)",
);

/// Sends notifications with the commit of the open transaction.
pub(super) async fn notify(session: &Session, replica: &str, wakes: &[Wake]) -> Result<(), Error> {
    if wakes.is_empty() {
        return Ok(());
    }
    let channels: Vec<&str> = wakes.iter().map(Wake::channel).collect();
    let payloads: Vec<String> = wakes.iter().map(|wake| format!("{replica} {}", wake.value())).collect();
    session.execute(&NOTIFY, &[&channels, &payloads]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_reads_what_others_send_and_not_its_own() {
        for wake in [
            Wake::Dispatch,
            Wake::Timer,
            Wake::Events(TargetName::default()),
            Wake::Progress(TargetName::default()),
            Wake::Revoke(RunId(7)),
            Wake::Look(TargetName::default()),
            Wake::LookAll(TargetName::default()),
        ] {
            assert!(CHANNELS.contains(&wake.channel()));
            let payload = format!("a {}", wake.value());
            assert_eq!(Wake::read("a", wake.channel(), &payload), None);
            assert_eq!(Wake::read("b", wake.channel(), &payload), Some(wake));
        }
        assert_eq!(Wake::read("b", "dunlin_revoke", "garbage"), None);
    }
}
