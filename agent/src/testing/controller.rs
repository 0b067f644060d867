//! A controller played by hand: it takes the agent's stream, and the test says what it answers. Only heartbeats are answered
//! by themselves, unless it is told to be deaf to them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{
    Ack, Grant, Hello, Lease, Recognition, Renewed, TargetReport, Verdict, Welcome, WorkRequest, WorkResponse, grant,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::MIGRATION;

const PATIENCE: Duration = Duration::from_secs(20);

/// One stream of an agent.
pub(crate) struct AgentStream {
    pub(crate) hello: Hello,
    requests: mpsc::UnboundedReceiver<Saying>,
    answers: mpsc::UnboundedSender<Result<WorkResponse, Status>>,
}

/// A controller that hands streams to the test.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    streams: mpsc::UnboundedReceiver<AgentStream>,
    deaf: Arc<AtomicBool>,
}

struct Service {
    streams: mpsc::UnboundedSender<AgentStream>,
    deaf: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut requests = request.into_inner();
        let Some(WorkRequest { message: Some(Saying::Hello(hello)) }) = requests.message().await? else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (answers, receiver) = mpsc::unbounded_channel();
        let (said, saying) = mpsc::unbounded_channel();
        tokio::spawn(hear(requests, said, answers.downgrade(), Arc::clone(&self.deaf)));
        let _gone = self.streams.send(AgentStream { hello, requests: saying, answers });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

async fn hear(
    mut requests: Streaming<WorkRequest>,
    said: mpsc::UnboundedSender<Saying>,
    answers: mpsc::WeakUnboundedSender<Result<WorkResponse, Status>>,
    deaf: Arc<AtomicBool>,
) {
    while let Ok(Some(WorkRequest { message: Some(message) })) = requests.message().await {
        if let (Saying::Heartbeat(beat), Some(answers)) = (&message, answers.upgrade())
            && !deaf.load(Ordering::Relaxed)
        {
            let kept = beat.leases.iter().filter_map(|progress| progress.lease).collect();
            let message = Some(Hearing::Renewed(Renewed { kept, lost: Vec::new() }));
            let _gone = answers.send(Ok(WorkResponse { message }));
        }
        if let (Saying::Target(report), Some(answers)) = (&message, answers.upgrade()) {
            recognise(report, &answers);
        }
        let _gone = said.send(message);
    }
}

/// What a controller says of a database that it has not heard of: it is the target.
pub(crate) fn recognition(report: &TargetReport) -> Option<Recognition> {
    let seen = report.identity.clone().filter(|_| !report.raised)?;
    let verdict = if seen.data.is_empty() { Verdict::Adopt } else { Verdict::Accepted };
    let data = uuid::Uuid::new_v4().to_string();
    let (target, verdict) = (report.name.clone(), verdict.into());
    Some(Recognition { target, seen: Some(seen), verdict, data, message: String::new() })
}

fn recognise(report: &TargetReport, answers: &mpsc::UnboundedSender<Result<WorkResponse, Status>>) {
    if let Some(said) = recognition(report) {
        let _gone = answers.send(Ok(WorkResponse { message: Some(Hearing::Recognition(said)) }));
    }
}

impl Controller {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        let deaf = Arc::<AtomicBool>::default();
        let service = Service { streams: sender, deaf: Arc::clone(&deaf) };
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, streams, deaf }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on heartbeats are not answered.
    pub(crate) fn be_deaf(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// The next stream that an agent opens.
    pub(crate) async fn stream(&mut self) -> AgentStream {
        timeout(PATIENCE, self.streams.recv()).await.expect("an agent should connect").unwrap()
    }
}

impl AgentStream {
    pub(crate) fn say(&self, message: Hearing) {
        let _gone = self.answers.send(Ok(WorkResponse { message: Some(message) }));
    }

    pub(crate) fn welcome(&self, kept: Vec<Lease>) {
        self.say(Hearing::Welcome(Welcome {
            lease_ttl: Some(dunlin_proto::convert::duration(Duration::from_secs(3))),
            heartbeat_interval: Some(dunlin_proto::convert::duration(Duration::from_millis(100))),
            kept,
        }));
        for report in &self.hello.targets {
            recognise(report, &self.answers);
        }
    }

    pub(crate) fn grant(&self, task_id: i64, task: grant::Task) -> Lease {
        let lease = Lease { task_id, epoch: 1 };
        let steps = super::steps_of(&task).iter().map(Into::into).collect();
        self.say(Hearing::Grant(Grant {
            lease: Some(lease),
            target: "main".to_owned(),
            run_id: 1,
            migration_id: MIGRATION.to_owned(),
            applications: 0,
            task: Some(task),
            steps,
            mending: None,
        }));
        lease
    }

    pub(crate) fn acknowledge(&self, lease: Lease) {
        self.say(Hearing::Ack(Ack { lease: Some(lease) }));
    }

    /// The next message that is no heartbeat, nor tells unasked that a target is reached; `None` when the agent has closed the stream.
    pub(crate) async fn report(&mut self) -> Option<Saying> {
        let next = async {
            while let Some(message) = self.requests.recv().await {
                match message {
                    Saying::Heartbeat(_) => {}
                    Saying::Target(report) if report.reachable && report.look_time.is_none() => {}
                    message => return Some(message),
                }
            }
            None
        };
        timeout(PATIENCE, next).await.expect("the agent should say something")
    }

    /// The leases of the next heartbeat.
    pub(crate) async fn heartbeat(&mut self) -> Vec<Lease> {
        let next = async {
            loop {
                if let Saying::Heartbeat(heartbeat) = self.requests.recv().await.unwrap() {
                    return heartbeat.leases.into_iter().filter_map(|lease| lease.lease).collect();
                }
            }
        };
        timeout(PATIENCE, next).await.expect("the agent should send heartbeats")
    }
}
