//! The listening connection: it brings the notifications of other replicas, and by its life or death tells whether the
//! database is there.
//!
//! It is kept up for as long as the process lives: lost, it is made again, at first at once and then with growing rests. It
//! is asked every few seconds whether it is alive, since a connection that is cut off silently brings nothing either.

use std::time::Duration;

use dunlin_shared::postgres::{self, describe};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_postgres::{Client, Notification};

use super::database::{Availability, Store};
use super::error::Error;
use super::wake::{CHANNELS, Wake};

/// How often the connection is asked.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long bringing the schema up to date may take, waiting for another replica included.
const SCHEMA_WITHIN: Duration = Duration::from_secs(60);
/// The rests between tries to connect, and the longest where the server does not let the controller in: somebody has to do
/// something then.
const RESTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
const LONGEST_DENIED: Duration = Duration::from_secs(15);

/// What the listening connection tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The connection is up, at first or again: anything may have happened before.
    Up,
    /// A notification of another replica.
    Wake(Wake),
}

/// Why the connection is not up.
#[derive(Debug, PartialEq, Eq)]
struct Down {
    reason: String,
    /// True where the server does not let the controller in, or the connection would not be as safe as it must be.
    denied: bool,
}

/// Why a connection did not come up.
enum Failed {
    /// It can later.
    Down(Down),
    /// Somebody has to do something first.
    Unusable(postgres::Error),
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self::Down(reason.into())
    }
}

impl From<String> for Down {
    fn from(reason: String) -> Self {
        Self { reason, denied: false }
    }
}

impl Down {
    /// The rest after the one that was.
    fn next(&self, rest: Duration) -> Duration {
        (rest * 2).min(if self.denied { LONGEST_DENIED } else { RESTS.1 })
    }
}

impl Store {
    /// Brings the schema up to date whenever the database comes up, then listens. Ends when the receiver is dropped.
    ///
    /// # Errors
    /// The database cannot be used before somebody does something about it, and was not used before. One that was is tried again.
    pub async fn listen(self, heard: mpsc::Sender<Heard>) -> Result<(), Error> {
        let mut rest = RESTS.0;
        let mut told = None;
        let mut was_there = false;
        while !heard.is_closed() {
            let lost = match self.listen_once(&heard).await {
                Ok(reason) => {
                    (rest, told, was_there) = (RESTS.0, None, true);
                    Down::from(reason)
                }
                Err(Failed::Unusable(error)) if !was_there => return Err(Error::Url(error)),
                Err(Failed::Unusable(error)) => Down { reason: error.to_string(), denied: true },
                Err(Failed::Down(down)) => down,
            };
            if heard.is_closed() {
                return Ok(());
            }
            // Once for each reason: a wrong password stays wrong however often it is tried.
            if told.as_ref() != Some(&lost.reason) {
                tracing::warn!(
                    database = self.place(),
                    reason = lost.reason,
                    "the controller's database is away; it is tried again until it is there"
                );
                told = Some(lost.reason.clone());
            }
            self.set_availability(Availability::Away(lost.reason.clone()));
            sleep(rest.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            rest = lost.next(rest);
        }
        Ok(())
    }

    /// `Ok` when the connection was up and is lost; `Err` when it did not come up.
    async fn listen_once(&self, heard: &mpsc::Sender<Heard>) -> Result<String, Failed> {
        let (client, mut notifications) = match self.connector().listen().await {
            Ok(connected) => connected,
            Err(error) if error.retryable() => {
                return Err(Failed::Down(Down { denied: error.denied(), reason: error.to_string() }));
            }
            Err(error) => return Err(Failed::Unusable(error)),
        };
        // Each time: what comes back may be a database that was restored, or is empty.
        match timeout(SCHEMA_WITHIN, self.bring_up_to_date()).await {
            Ok(Ok(())) => {}
            // It says once that the database is away.
            Ok(Err(Error::Unavailable { reason })) => return Err(reason.into()),
            Ok(Err(error)) => return Err(error.to_string().into()),
            Err(_) => {
                let late = "its schema was not brought up to date in time; another replica may be doing that";
                return Err(late.to_owned().into());
            }
        }
        let channels: Vec<String> = CHANNELS.iter().map(|channel| format!("LISTEN {channel}")).collect();
        ask(&client, &channels.join("; ")).await?;
        self.set_availability(Availability::Available);
        tracing::info!(database = self.place(), "the controller's database is there");
        if heard.send(Heard::Up).await.is_err() {
            return Ok(String::new());
        }
        Ok(self.hear(&client, &mut notifications, heard).await)
    }

    async fn hear(
        &self,
        client: &Client,
        notifications: &mut mpsc::UnboundedReceiver<Notification>,
        heard: &mpsc::Sender<Heard>,
    ) -> String {
        let mut asking = interval_at(Instant::now() + ASK_EVERY, ASK_EVERY);
        asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notification = notifications.recv() => {
                    let Some(notification) = notification else { return "the connection was lost".to_owned() };
                    let wake = Wake::read(self.replica(), notification.channel(), notification.payload());
                    if let Some(wake) = wake && heard.send(Heard::Wake(wake)).await.is_err() {
                        return String::new();
                    }
                }
                _ = asking.tick() => {
                    if let Err(reason) = ask(client, "SELECT 1").await {
                        return reason;
                    }
                }
                () = heard.closed() => return String::new(),
            }
        }
    }
}

async fn ask(client: &Client, sql: &str) -> Result<(), String> {
    match timeout(ANSWER_WITHIN, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_let_in_knocks_seldom() {
        let rests = |down: &Down| {
            let next = |rest: &Duration| Some(down.next(*rest));
            std::iter::successors(Some(RESTS.0), next).nth(20)
        };
        let denied = Down { reason: String::new(), denied: true };
        assert_eq!(rests(&denied), Some(LONGEST_DENIED));
        assert_eq!(rests(&Down::from(String::new())), Some(RESTS.1));
    }
}
