//! Following runs at a controller that breaks its streams.

use std::net::SocketAddr;
use std::sync::Mutex;

use dunlin_proto::v1::run_service_server::{RunService, RunServiceServer};
use dunlin_proto::v1::{
    CancelRunRequest, CancelRunResponse, Event, GetRunRequest, GetRunResponse, ListEventsRequest, ListEventsResponse,
    ListRunsRequest, ListRunsResponse, RunMigrationRequest, RunMigrationResponse, RunPendingMigrationsRequest,
    RunPendingMigrationsResponse, RunState,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

type Item = Result<WatchRunsResponse, Status>;

/// A controller that answers each watch with the next of these streams.
struct Fake {
    streams: Mutex<Vec<Vec<Item>>>,
    /// How long each stream is open before anything comes.
    quiet: Duration,
    asked: &'static Mutex<Vec<i64>>,
}

#[tonic::async_trait]
impl RunService for Fake {
    type WatchRunsStream = BoxStream<'static, Item>;

    async fn watch_runs(&self, request: Request<WatchRunsRequest>) -> Result<Response<Self::WatchRunsStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner().after_sequence);
        let mut streams = self.streams.lock().unwrap();
        let next = if streams.is_empty() { vec![Err(Status::unavailable("no more"))] } else { streams.remove(0) };
        let quiet = self.quiet;
        let after = async move {
            sleep(quiet).await;
            stream::iter(next)
        };
        Ok(Response::new(Box::pin(stream::once(after).flatten())))
    }

    async fn run_pending_migrations(
        &self,
        _: Request<RunPendingMigrationsRequest>,
    ) -> Result<Response<RunPendingMigrationsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn run_migration(&self, _: Request<RunMigrationRequest>) -> Result<Response<RunMigrationResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_run(&self, _: Request<CancelRunRequest>) -> Result<Response<CancelRunResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_run(&self, _: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_events(&self, _: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Follows run 1 at a controller that answers with these streams; and what it was asked for.
async fn followed(streams: Vec<Vec<Item>>, answered: bool) -> (Result<Followed, Error>, Vec<i64>) {
    let what = Follow { run_ids: vec![1], answered, patience: Duration::from_secs(60), ..Follow::default() };
    follow_fake(streams, Duration::ZERO, &what).await
}

async fn follow_fake(streams: Vec<Vec<Item>>, quiet: Duration, what: &Follow) -> (Result<Followed, Error>, Vec<i64>) {
    let asked: &'static Mutex<Vec<i64>> = Box::leak(Box::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let service = RunServiceServer::new(Fake { streams: Mutex::new(streams), quiet, asked });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let outcome = follow(&Controllers::new(format!("http://{address}")), what).await;
    let asked = asked.lock().unwrap().clone();
    (outcome, asked)
}

fn told(state: RunState, sequence: i64) -> Item {
    Ok(WatchRunsResponse {
        run: Some(Run { id: 1, migration_id: "sample".to_owned(), state: state.into(), ..Run::default() }),
        event: Some(Event { message: "something".to_owned(), ..Event::default() }),
        sequence,
    })
}

fn broken() -> Item {
    Err(Status::unavailable("the controller stops"))
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_behind_the_last_event() {
    let streams = vec![
        vec![told(RunState::Queued, 7), told(RunState::Running, 8), broken()],
        vec![broken()],
        vec![told(RunState::Succeeded, 9)],
    ];
    let (outcome, asked) = followed(streams, false).await;
    assert_eq!(outcome.unwrap().runs()[0].state(), RunState::Succeeded);
    assert_eq!(asked, [0, 8, 8]);
}

#[tokio::test]
async fn a_stream_that_ends_before_the_run_is_taken_up_too() {
    let streams = vec![vec![told(RunState::Running, 3)], vec![told(RunState::Failed, 4)]];
    let (outcome, asked) = followed(streams, true).await;
    let runs = outcome.unwrap().runs();
    assert_eq!(Error::of_runs(&runs).unwrap_err().exit_code(), 1);
    assert_eq!(asked, [0, 3]);
}

#[tokio::test]
async fn patience_ends_and_says_that_the_run_goes_on() {
    let what = Follow { run_ids: vec![1], patience: Duration::from_secs(2), ..Follow::default() };
    let streams = vec![vec![told(RunState::Running, 3), broken()]];
    let (outcome, asked) = follow_fake(streams, Duration::ZERO, &what).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("Run 1 goes on; `dunlin watch 1` follows it again."), "{error}");
    assert!(asked.len() > 2, "{asked:?}");
}

#[tokio::test]
async fn patience_is_counted_from_each_loss_and_not_from_the_last_word() {
    // Longer than there is patience for, nothing is said in a connection that is there.
    let (patience, quiet) = (Duration::from_millis(800), Duration::from_millis(1_000));
    let what = Follow { run_ids: vec![1], answered: true, patience, ..Follow::default() };
    let streams = vec![vec![broken()], vec![broken()], vec![told(RunState::Succeeded, 9)]];
    let (outcome, asked) = follow_fake(streams, quiet, &what).await;
    assert_eq!(outcome.unwrap().runs()[0].state(), RunState::Succeeded);
    assert_eq!(asked, [0, 0, 0]);
}

#[tokio::test]
async fn a_try_that_hangs_ends_with_the_patience() {
    // The kernel accepts for it, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let controllers = Controllers::new(format!("http://{}", silent.local_addr().unwrap()));
    let what = Follow { run_ids: vec![1], ..Follow::default() };
    let mut order = Order::AsNamed;
    let opening = Opening { order: &mut order, until: Some(Instant::now()) };
    let mut progress = Progress::new(Scope::default());
    let mut attempt = Attempt::default();
    let ended = attempt.follow(&controllers, &what, opening, &mut Followed::default(), &mut progress).await;
    assert!(ended.unwrap_err().to_string().contains("no controller answers"));
    assert!(!attempt.connected());
}

#[tokio::test]
async fn a_first_try_in_vain_is_the_end() {
    let (outcome, asked) = followed(Vec::new(), false).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 3);
    assert_eq!(asked, [0]);
}

#[tokio::test]
async fn a_refusal_is_the_end() {
    let (outcome, asked) = followed(vec![vec![Err(Status::not_found("there is no run 1"))]], true).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 4);
    assert_eq!(asked, [0]);
}

#[test]
fn runs_are_complete_once_all_have_ended() {
    let mut followed = Followed::default();
    let run = |id, state: RunState| (id, Run { id, state: state.into(), ..Run::default() });
    followed.runs.extend([run(1, RunState::Succeeded), run(2, RunState::Running)]);
    assert!(followed.complete(&[1]));
    assert!(!followed.complete(&[1, 2]));
    assert!(!followed.complete(&[3]));
    assert!(!followed.complete(&[]));
}

#[test]
fn several_runs_can_be_followed_again() {
    let what = Follow { run_ids: vec![4, 5], ..Follow::default() };
    assert_eq!(goes_on(&what), "The runs go on; `dunlin watch 4 5` follows them again.");
}
