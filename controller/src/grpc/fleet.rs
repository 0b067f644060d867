//! The agents and the targets.

use std::sync::Arc;

use dunlin_proto::convert::timestamp;
use dunlin_proto::status::{self, Obstacle};
use dunlin_proto::v1;
use dunlin_proto::v1::fleet_service_server::FleetService;
use dunlin_shared::ids::{AgentId, TargetName};
use tonic::{Code, Request, Response, Status};

use super::page;
use super::status::{STATED, bad_field, bad_id, known, no_target, of_store, stated};
use crate::domain::identity::Kind;
use crate::replica::Replica;
use crate::store::forgetting::{Dismissed, Forgotten, InUse};
use crate::store::rebinding::{Rebinding, Rebound};

/// The most characters of a reason.
const REASON: usize = 500;

/// The service.
pub(crate) struct Fleet {
    replica: Arc<Replica>,
}

impl Fleet {
    pub(crate) fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }
}

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        const LIST: &str = "agents";
        let request = request.into_inner();
        let of_target = match request.target.as_str() {
            "" => None,
            name => Some(known(&self.replica.store, name).await?),
        };
        let filter = of_target.as_ref().map(|target| target.as_str());
        let size = page::size(request.page_size, 100, 1000)?;
        let after: String = page::after(LIST, &request.target, &request.page_token)?.unwrap_or_default();
        let agents = self.replica.store.list_agents(filter, &after, size + 1).await.map_err(of_store)?;
        let (agents, next_page_token) = page::cut(LIST, &request.target, agents, size, |last| last.id.clone());
        let agents = agents
            .into_iter()
            .map(|agent| v1::Agent {
                id: agent.id,
                connected: agent.connected,
                version: agent.version,
                slots: agent.slots,
                leases: i32::try_from(agent.leases).unwrap_or(i32::MAX),
                targets: agent.targets,
                transforms: agent.transforms,
                connect_time: Some(timestamp(agent.connected_at)),
                last_seen_time: Some(timestamp(agent.last_seen_at)),
            })
            .collect();
        Ok(Response::new(v1::ListAgentsResponse { agents, next_page_token }))
    }

    async fn list_targets(
        &self,
        request: Request<v1::ListTargetsRequest>,
    ) -> Result<Response<v1::ListTargetsResponse>, Status> {
        const LIST: &str = "targets";
        let request = request.into_inner();
        let size = page::size(request.page_size, 100, 1000)?;
        let after: String = page::after(LIST, "", &request.page_token)?.unwrap_or_default();
        let targets = self.replica.store.list_targets(&after, size + 1).await.map_err(of_store)?;
        let (targets, next_page_token) = page::cut(LIST, "", targets, size, |last| last.name.clone());
        let count = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
        let targets = targets
            .into_iter()
            .map(|target| v1::Target {
                name: target.name,
                version: target.version,
                applied: count(target.applied),
                pending: count(target.pending),
                agents: count(target.agents),
                server_version: target.server_version,
                reachable: target.reachable,
                error: target.error,
                report_time: target.reported_at.map(timestamp),
                refusal: target.refusal,
            })
            .collect();
        Ok(Response::new(v1::ListTargetsResponse { targets, next_page_token }))
    }

    async fn rebind_target(
        &self,
        request: Request<v1::RebindTargetRequest>,
    ) -> Result<Response<v1::RebindTargetResponse>, Status> {
        let request = request.into_inner();
        let target = known(&self.replica.store, &request.target).await?;
        let kind = match request.kind() {
            v1::RebindKind::Moved => Kind::Moved,
            v1::RebindKind::Restored => Kind::Restored,
            v1::RebindKind::Copied => Kind::Copied,
            v1::RebindKind::Replaced => Kind::Replaced,
            v1::RebindKind::Unspecified => return Err(bad_field("kind", "it must say what the database is")),
        };
        let reason = stated("reason", &request.reason, REASON)?;
        if reason.is_empty() {
            return Err(bad_field("reason", "it must say why"));
        }
        let requested_by = stated("requested_by", &request.requested_by, STATED)?;
        let rebinding = Rebinding { target: target.clone(), kind, reason, requested_by };
        let (rebound, wakes) = self.replica.store.rebind(&rebinding).await.map_err(of_store)?;
        self.replica.wake(&wakes);
        match rebound {
            Rebound::Bound(place) => Ok(Response::new(v1::RebindTargetResponse { place })),
            Rebound::Unseen => {
                let message = format!(
                    "no connected agent sees a database as target {target}; start one with --target {target}=URL"
                );
                Err(status::error(Code::Unavailable, status::TARGET_UNREACHED, message))
            }
            Rebound::Refused(why) => {
                let obstacle = Obstacle::new("NOT_REBOUND", target.as_str(), why.clone());
                Err(status::precondition("NOT_REBOUND", why, [obstacle]))
            }
        }
    }

    async fn forget_target(
        &self,
        request: Request<v1::ForgetTargetRequest>,
    ) -> Result<Response<v1::ForgetTargetResponse>, Status> {
        let request = request.into_inner();
        let target = TargetName::parse(request.target.as_str()).map_err(|error| bad_id("target", &error))?;
        let reason = stated("reason", &request.reason, REASON)?;
        let by = stated("requested_by", &request.requested_by, STATED)?;
        match self.replica.store.forget_target(&target, &reason, &by).await.map_err(of_store)? {
            Forgotten::Removed(removed, wakes) => {
                self.replica.wake(&wakes);
                Ok(Response::new(v1::ForgetTargetResponse {
                    target: target.to_string(),
                    runs: removed.runs,
                    tasks: removed.tasks,
                    applied: removed.applied,
                    agents: removed.agents,
                }))
            }
            Forgotten::Unknown => Err(no_target(&target)),
            Forgotten::InUse(obstacles) => Err(target_in_use(&target, &obstacles)),
        }
    }

    async fn forget_agent(
        &self,
        request: Request<v1::ForgetAgentRequest>,
    ) -> Result<Response<v1::ForgetAgentResponse>, Status> {
        let request = request.into_inner();
        let agent = AgentId::parse(request.id.as_str()).map_err(|error| bad_id("id", &error))?;
        let by = stated("requested_by", &request.requested_by, STATED)?;
        let refused = |kind: &str, message: String| {
            Err(status::precondition("AGENT_IN_USE", message.clone(), [Obstacle::new(kind, agent.as_str(), message)]))
        };
        match self.replica.store.forget_agent(&agent, &by).await.map_err(of_store)? {
            Dismissed::Removed(targets) => {
                Ok(Response::new(v1::ForgetAgentResponse { id: agent.to_string(), targets }))
            }
            Dismissed::Unknown => {
                let message = format!("no agent has the id {agent}; `dunlin agents` lists those that there are");
                Err(status::not_found("agent", agent.as_str(), message))
            }
            Dismissed::Connected => {
                refused("CONNECTED", format!("agent {agent} is connected, and was not forgotten: stop it first"))
            }
            Dismissed::Holding(leases) => refused(
                "LEASES",
                format!(
                    "agent {agent} holds {leases} leases, and was not forgotten: ask again when they have expired, within {}",
                    humantime::format_duration(self.replica.store.lease_ttl())
                ),
            ),
        }
    }
}

/// A target that cannot be forgotten, what is in the way and how it goes.
fn target_in_use(target: &TargetName, obstacles: &[InUse]) -> Status {
    let told = |obstacle: &InUse| match obstacle {
        InUse::Agent(agent) => {
            format!("agent {agent} is connected and serves it: stop the agent, or start it without --target {target}=…")
        }
        InUse::Run(run, migration, state) => {
            format!("run {run} of {migration} is {state}: cancel it with `dunlin cancel {run}`, or let it end")
        }
        InUse::Held(agent, run) => {
            format!("agent {agent} holds a task of run {run}, which has ended: ask again when the lease has expired")
        }
    };
    let subject = |obstacle: &InUse| match obstacle {
        InUse::Agent(agent) => ("AGENT", agent.clone()),
        InUse::Run(run, ..) => ("UNFINISHED_RUN", run.to_string()),
        InUse::Held(_, run) => ("HELD_TASK", run.to_string()),
    };
    let message = match obstacles {
        [one] => format!("target {target} was not forgotten: {}", told(one)),
        many => format!("target {target} was not forgotten: {} obstacles", many.len()),
    };
    let obstacles = obstacles.iter().map(|obstacle| {
        let (kind, subject) = subject(obstacle);
        Obstacle::new(kind, subject, told(obstacle))
    });
    status::precondition("TARGET_IN_USE", message, obstacles)
}
