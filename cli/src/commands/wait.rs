//! `dunlin wait`: returns once work can begin: a controller serves, and an agent reaches the target. Until then it says what is missing,
//! and says it again when that changes.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::{Output, tell};
use crate::render::words;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The options of `dunlin wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many agents must serve the target
    #[arg(long, value_name = "N", default_value_t = 1)]
    agents: usize,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: humantime::Duration,
}

/// What is ready.
#[derive(Debug, Serialize)]
struct Ready {
    controller: String,
    target: String,
    agents: usize,
}

/// Waits and tells.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let target = &args.target.target;
    let mut told = String::new();
    let tell_once = |missing: &str| {
        // The way out stands in the lines behind, for the end.
        let missing = missing.lines().next().unwrap_or_default();
        if told != missing {
            missing.clone_into(&mut told);
            tell(&format!("Waiting: {missing}"));
        }
    };
    let agents = ready(controllers, target, args.agents, args.timeout.into(), tell_once)
        .await
        .map_err(|missing| Error::Unreachable(format!("not ready after {}: {missing}", args.timeout)))?;
    let ready = Ready { controller: controllers.urls().to_owned(), target: target.clone(), agents };
    output.answer(&ready, |_| format!("Ready: {} {target}.", words::plural(agents, "agent serves", "agents serve")))
}

/// Waits until a controller serves.
///
/// # Errors
/// What is missing when the time is over.
pub(crate) async fn serving(controllers: &Controllers, timeout: Duration) -> Result<(), String> {
    repeat(controllers, timeout, |_| {}, || serves(controllers)).await
}

/// Waits until a controller serves and at least `agents` agents reach the target, and returns their number. `missing` is told after
/// each look what is missing.
///
/// # Errors
/// What is missing when the time is over.
pub(crate) async fn ready(
    controllers: &Controllers,
    target: &str,
    agents: usize,
    timeout: Duration,
    missing: impl FnMut(&str),
) -> Result<usize, String> {
    repeat(controllers, timeout, missing, || reaches(controllers, target, agents)).await
}

/// Looks again and again, until it is so or the time is over.
async fn repeat<T, F: Future<Output = Result<T, String>>>(
    controllers: &Controllers,
    timeout: Duration,
    mut told: impl FnMut(&str),
    mut look: impl FnMut() -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + timeout;
    let mut seen = None;
    loop {
        let missing = match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(missing)) => missing,
            // The time is over in the middle of a look: what the one before has found still holds.
            Err(_) => {
                return Err(seen.unwrap_or_else(|| format!("the controller at {} does not answer", controllers.urls())));
            }
        };
        if Instant::now() + PAUSE > deadline {
            return Err(missing);
        }
        told(&missing);
        seen = Some(missing);
        sleep(PAUSE).await;
    }
}

/// Whether a controller serves.
async fn serves(controllers: &Controllers) -> Result<(), String> {
    let channel = controllers.connect().await.map_err(|error| error.to_string())?;
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let status = health.map_err(|status| format!("the controller does not tell its health: {}", status.message()))?;
    if status.into_inner().status() != ServingStatus::Serving {
        // What it says to a question is why.
        return Err(match super::targets::all(controllers).await {
            Ok(_) => "the controller runs but does not serve yet".to_owned(),
            Err(error) => format!("the controller runs but does not serve: {error}"),
        });
    }
    Ok(())
}

/// Whether enough agents reach the target, and how many do.
async fn reaches(controllers: &Controllers, target: &str, agents: usize) -> Result<usize, String> {
    serves(controllers).await?;
    let serving = super::agents::all(controllers, target).await.map_err(|error| error.to_string())?;
    let connected = serving.iter().filter(|agent| agent.connected).count();
    if connected < agents {
        return Err(format!(
            "the controller serves, but {connected} of {} {target}; start one: dunlin-agent --controller {} --target \
             {target}=URL",
            words::plural(agents, "agent serves", "agents serve"),
            controllers.urls()
        ));
    }
    let targets = super::targets::all(controllers).await.map_err(|error| error.to_string())?;
    match targets.iter().find(|known| known.name == target) {
        Some(known) if known.reachable => Ok(connected),
        Some(known) if !known.error.is_empty() => Err(format!("the agents do not reach {target}: {}", known.error)),
        Some(_) | None => Err(format!("no agent has reported on {target} yet")),
    }
}
