//! A database of its own for each test, and agents that do as they are told.

use std::time::{Duration, SystemTime};

use dunlin_shared::ids::{AgentId, MigrationId, TargetName};
use dunlin_shared::migration::set::SourceFile;
use dunlin_shared::postgres::{connect, throwaway};
use tokio_postgres::Client;

use super::super::agents::{Hello, Reception, Welcomed};
use super::super::claims::{Assignment, Demand, Granted};
use super::super::following::Sight;
use super::super::queueing::{All, Queued, Single};
use super::super::registering::Request;
use super::super::reports::{Filed, Stored};
use super::super::runs::View;
use super::super::{Availability, Store};
use crate::domain::register::Missing;
use crate::domain::report::{Applied, Counted, Report, Retry};
use crate::domain::run::{Failure, State};
use crate::domain::task::Lease;

/// How long leases live here: long enough that none expires unless it is made to.
const TTL: Duration = Duration::from_secs(600);

/// A database with a store.
pub(super) struct Lab {
    pub(super) url: String,
    pub(super) store: Store,
    pub(super) client: Client,
}

/// An agent of one session.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) id: AgentId,
    pub(super) session: i64,
}

pub(super) fn main() -> TargetName {
    TargetName::default()
}

pub(super) fn id(text: &str) -> MigrationId {
    MigrationId::parse(text).unwrap()
}

/// A request to register files beside what is registered.
pub(super) fn set(files: &[SourceFile]) -> Request {
    Request { files: files.to_vec(), missing: Missing::Keep, by: "ann@desk".to_owned(), ..Request::default() }
}

/// An atomic migration.
pub(super) fn atomic(name: &str, version: i64, run_after: &[&str]) -> SourceFile {
    migration(name, version, run_after, "[[step]]\nname = \"s\"\nsql = \"CREATE TABLE t (id bigint)\"")
}

/// A migration of one batched step.
pub(super) fn batched(name: &str, version: i64) -> SourceFile {
    let step = "[[step]]\nname = \"b\"\nbatch = { table = \"t\" }\nsql = \"UPDATE t SET a = 1 WHERE :batch\"";
    migration(name, version, &[], step)
}

fn migration(name: &str, version: i64, run_after: &[&str], steps: &str) -> SourceFile {
    let content = format!(
        "id = \"{name}\"\nname = \"{name}\"\ndescription = \"d\"\nversion = {version}\nrun_after = {run_after:?}\n{steps}\n"
    );
    SourceFile { path: format!("{name}.toml"), content }
}

impl Lab {
    pub(super) async fn new() -> Self {
        let url = throwaway::shared().await.database("store").await.unwrap();
        let (client, _connection) = connect(&url, "test").await.unwrap();
        Self { store: open(&url).await, url, client }
    }

    /// Another replica on the same database.
    pub(super) async fn replica(&self) -> Store {
        open(&self.url).await
    }

    pub(super) async fn register(&self, files: &[SourceFile]) {
        self.store.register(set(files)).await.unwrap();
    }

    /// Connects an agent that reaches `main`, which has what the controller knows of it.
    pub(super) async fn agent(&self, name: &str) -> Worker {
        let worker = self.hello(name, &[]).await.0;
        self.see(&worker, &self.applied().await).await;
        worker
    }

    pub(super) async fn hello(&self, name: &str, leases: &[Lease]) -> (Worker, Welcomed) {
        let id = AgentId::parse(name).unwrap();
        let hello = Hello {
            agent: id.clone(),
            version: "1".to_owned(),
            slots: 100,
            transforms: Vec::new(),
            targets: vec![main()],
            leases: leases.to_vec(),
            instance: String::new(),
            process: String::new(),
        };
        let Reception::Welcome(welcomed) = self.store.welcome(&hello).await.unwrap() else { panic!("the id is taken") };
        (Worker { id, session: welcomed.session }, welcomed)
    }

    pub(super) async fn see(&self, worker: &Worker, applied: &[Applied]) {
        self.look(worker, applied, None).await;
    }

    /// Lets an agent tell what `main` has, as the answer to a look where `asked` names it. Returns the look to ask for.
    pub(super) async fn look(
        &self,
        worker: &Worker,
        applied: &[Applied],
        asked: Option<SystemTime>,
    ) -> Option<SystemTime> {
        let (server_version, applied) = ("15".to_owned(), applied.to_vec());
        let sight = Sight {
            target: main(),
            error: None,
            server_version,
            applied,
            asked,
            held: None,
            identity: None,
            raised: false,
        };
        self.store.see_target(&worker.id, &sight, false).await.unwrap().ask
    }

    pub(super) async fn applied(&self) -> Vec<Applied> {
        let rows = self.store.list_applied(&main(), (0, ""), 1000).await.unwrap();
        rows.into_iter().map(|(_, row)| row).collect()
    }

    pub(super) async fn queue(&self, name: &str) -> i64 {
        match self.store.queue_one(&main(), &id(name), false, false).await.unwrap() {
            Single::Queued(Queued { runs, .. }) => runs[0],
            other => panic!("not queued: {other:?}"),
        }
    }

    pub(super) async fn queue_pending(&self) -> Vec<i64> {
        match self.store.queue_pending(&main(), false).await.unwrap() {
            All::Queued(queued) => queued.runs,
            other => panic!("not queued: {other:?}"),
        }
    }

    pub(super) async fn claim(&self, worker: &Worker, free: i32) -> Vec<Granted> {
        claim(&self.store, worker, free).await
    }

    /// Claims the one task that is ready.
    pub(super) async fn claim_one(&self, worker: &Worker) -> Granted {
        let mut granted = self.claim(worker, 10).await;
        assert_eq!(granted.len(), 1, "{granted:?}");
        granted.remove(0)
    }

    pub(super) async fn report(&self, lease: Lease, report: Report) -> Stored {
        self.store.store_reports(&[Filed { lease, report }]).await.unwrap()
    }

    pub(super) async fn run(&self, id: i64) -> View {
        self.store.runs_by_id(&[id]).await.unwrap().remove(0)
    }

    pub(super) async fn states(&self, ids: &[i64]) -> Vec<State> {
        self.store.runs_by_id(ids).await.unwrap().iter().map(|view| view.state).collect()
    }

    /// Lets a lease run out.
    pub(super) async fn run_out(&self, lease: Lease) {
        let sql = "UPDATE dunlin_controller.tasks SET expires_at = now() - interval '1 second' WHERE id = $1";
        assert_eq!(self.client.execute(sql, &[&lease.task.0]).await.unwrap(), 1);
    }

    /// The types of the events of a run, in order.
    pub(super) async fn events(&self, run: i64) -> Vec<&'static str> {
        let events = self.store.events_between(&main(), 0, i64::MAX, Some(&[run]), 1000).await.unwrap();
        events.into_iter().map(|event| event.event_type.unwrap().as_str()).collect()
    }
}

async fn open(url: &str) -> Store {
    let store = Store::new(url, 5, TTL).unwrap();
    store.open().await.unwrap();
    assert_eq!(*store.availability().borrow(), Availability::Available);
    store
}

pub(super) async fn claim(store: &Store, worker: &Worker, free: i32) -> Vec<Granted> {
    let demands = [Demand { target: main(), transforms: Vec::new(), free, agents: vec![worker.id.clone()] }];
    let round = store
        .claim(&demands, |candidates| {
            candidates
                .iter()
                .map(|one| Assignment { id: one.id, agent: worker.id.clone(), session: worker.session })
                .collect()
        })
        .await
        .unwrap();
    round.granted
}

/// So many rows, changed and walked.
pub(super) fn counted(rows: i64) -> Counted {
    Counted { rows, rows_walked: rows, rows_walked_before: 0 }
}

pub(super) fn done(rows: i64) -> Report {
    Report::Done { counted: counted(rows), already_done: false, applied: None }
}

pub(super) fn failed(retryable: bool) -> Report {
    Report::Failed {
        failure: Box::new(Failure { message: "boom".to_owned(), ..Failure::default() }),
        retry: retryable.then(Retry::default),
        counted: Counted::default(),
    }
}
