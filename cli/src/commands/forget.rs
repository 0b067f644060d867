//! Targets and agents are forgotten, one after the other: what is refused holds up none of the others, and is told at the end.

use dunlin_proto::v1::{ForgetAgentRequest, ForgetAgentResponse, ForgetTargetRequest, ForgetTargetResponse};
use dunlin_shared::ids::{AgentId, TargetName};
use serde::Serialize;

use crate::connection::Controllers;
use crate::error::Error;
use crate::operator;
use crate::output::{Output, tell};
use crate::render::count;

/// The answers, as they are told to programs.
#[derive(Debug, Serialize)]
struct Forgotten<T> {
    forgotten: Vec<T>,
}

/// Forgets targets.
pub(super) async fn targets(
    names: &[String],
    reason: &str,
    controllers: &Controllers,
    output: &Output,
) -> Result<(), Error> {
    check(names.iter().map(|name| TargetName::parse(name.as_str()).map(drop)))?;
    let client = controllers.fleet().await?;
    let forget = async |target: &String| {
        let (target, reason) = (target.clone(), reason.to_owned());
        let request = ForgetTargetRequest { target, reason, requested_by: operator::stated() };
        client.clone().forget_target(request).await.map(tonic::Response::into_inner)
    };
    each(names, forget, target_text, output).await
}

/// Forgets agents.
pub(super) async fn agents(ids: &[String], controllers: &Controllers, output: &Output) -> Result<(), Error> {
    check(ids.iter().map(|id| AgentId::parse(id.as_str()).map(drop)))?;
    let client = controllers.fleet().await?;
    let forget = async |id: &String| {
        let request = ForgetAgentRequest { id: id.clone(), requested_by: operator::stated() };
        client.clone().forget_agent(request).await.map(tonic::Response::into_inner)
    };
    each(ids, forget, agent_text, output).await
}

/// Refuses names that are none before anything is forgotten.
fn check(mut names: impl Iterator<Item = Result<(), dunlin_shared::ids::Error>>) -> Result<(), Error> {
    names.try_for_each(|name| name.map_err(|error| Error::Usage(error.to_string())))
}

async fn each<T: Serialize>(
    names: &[String],
    forget: impl AsyncFn(&String) -> Result<T, tonic::Status>,
    text: impl Fn(&T) -> String,
    output: &Output,
) -> Result<(), Error> {
    let (mut forgotten, mut refused, mut stopped) = (Vec::new(), Vec::new(), None);
    for name in names {
        match forget(name).await.map_err(Error::from) {
            Ok(answer) => forgotten.push(answer),
            Err(Error::Refused(why)) => refused.push(why),
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
    }
    if !forgotten.is_empty() {
        let answer = Forgotten { forgotten };
        output.answer(&answer, |_| answer.forgotten.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    match stopped {
        Some(error) => {
            refused.iter().for_each(|why| tell(why));
            Err(error)
        }
        None if refused.is_empty() => Ok(()),
        None => Err(Error::Refused(refused.join("\n"))),
    }
}

fn target_text(answer: &ForgetTargetResponse) -> String {
    let ForgetTargetResponse { target, runs, tasks, applied, agents } = answer;
    let served = match agents.as_slice() {
        [] => String::new(),
        agents => format!(", and that it was served by {}", agents.join(", ")),
    };
    format!(
        "Target {target} is forgotten: {} of its runs with {} tasks, {} migrations in the copy of its registry{served}. \
         Its events are kept; its database was not touched.",
        count(*runs),
        count(*tasks),
        count(*applied),
    )
}

fn agent_text(answer: &ForgetAgentResponse) -> String {
    let served = match answer.targets.as_slice() {
        [] => String::new(),
        targets => format!(", which served {}", targets.join(", ")),
    };
    format!("Agent {}{served} is forgotten. Its events are kept.", answer.id)
}
