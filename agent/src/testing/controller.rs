//! A controller played by hand: it takes the agent's stream, and the test says what it answers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use dunlin_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{Ack, Grant, Hello, Lease, Welcome, WorkRequest, WorkResponse, grant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::MIGRATION;

const PATIENCE: Duration = Duration::from_secs(20);

/// One stream of an agent.
pub(crate) struct AgentStream {
    pub(crate) hello: Hello,
    requests: Streaming<WorkRequest>,
    answers: mpsc::UnboundedSender<Result<WorkResponse, Status>>,
}

/// A controller that hands streams to the test.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    streams: mpsc::UnboundedReceiver<AgentStream>,
}

struct Service(mpsc::UnboundedSender<AgentStream>);

#[tonic::async_trait]
impl AgentService for Service {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut requests = request.into_inner();
        let Some(WorkRequest { message: Some(Saying::Hello(hello)) }) = requests.message().await? else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (answers, receiver) = mpsc::unbounded_channel();
        let _gone = self.0.send(AgentStream { hello, requests, answers });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

impl Controller {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(Service(sender)))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, streams }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
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
    }

    pub(crate) fn grant(&self, task_id: i64, task: grant::Task) -> Lease {
        let lease = Lease { task_id, epoch: 1 };
        self.say(Hearing::Grant(Grant {
            lease: Some(lease),
            target: "main".to_owned(),
            run_id: 1,
            migration_id: MIGRATION.to_owned(),
            applications: 0,
            task: Some(task),
        }));
        lease
    }

    pub(crate) fn acknowledge(&self, lease: Lease) {
        self.say(Hearing::Ack(Ack { lease: Some(lease) }));
    }

    /// The next message that is no heartbeat; `None` when the agent has closed the stream.
    pub(crate) async fn report(&mut self) -> Option<Saying> {
        let next = async {
            while let Some(Ok(request)) = self.requests.next().await {
                match request.message {
                    Some(Saying::Heartbeat(_)) => {}
                    message => return message,
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
                let message = self.requests.next().await.unwrap().unwrap().message;
                if let Some(Saying::Heartbeat(heartbeat)) = message {
                    return heartbeat.leases.into_iter().filter_map(|lease| lease.lease).collect();
                }
            }
        };
        timeout(PATIENCE, next).await.expect("the agent should send heartbeats")
    }
}
