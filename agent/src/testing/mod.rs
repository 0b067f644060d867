//! What the tests of this crate share: a database with the ledger, leases for it, and a controller's part played by hand.

mod controller;
mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{
    Batch, Check, KeyColumn, Mending, Migration, PlanTask, PlannedRange, RangeTask, SealTask, StatementTask, Step,
    StepKind, StepOutline, TaskNote, WorkRequest, grant,
};
use dunlin_shared::ids::{AgentId, Epoch, MigrationId, RunId, TargetName, TransformName};
use dunlin_shared::migration::mending::Wanted;
use dunlin_shared::postgres::{Connector, Session, throwaway};
use dunlin_tests::pooler::Pooler;
use tokio::sync::mpsc;
use tokio_postgres::Row;

use crate::limits::Limits;
use crate::session::{Book, LeaseId};
use crate::steps::{self, Context, Ended, Error, Told, Tuning, Witnesses};
use crate::target::Target;
use crate::transform::{Transform, Transforms};
use crate::waits::Seen;
use crate::watchdog::Watch;
use crate::worker;

pub(crate) use controller::{AgentStream, Controller, recognition};
pub(crate) use proxy::Proxy;

/// A database of its own, an agent's view of it, and a client beside that.
pub(crate) struct Lab {
    pub(crate) target: Arc<Target>,
    pub(crate) client: Session,
    pub(crate) url: String,
    book: Arc<Book>,
    stream: mpsc::UnboundedReceiver<WorkRequest>,
    tasks: AtomicI64,
    plans: AtomicI64,
    pub(crate) transforms: Transforms,
    pub(crate) tuning: Tuning,
    pub(crate) limits: Limits,
    pub(crate) run: RunId,
    pub(crate) applications: i32,
    /// The steps of the migration; where there are none, those of the task that is worked on.
    pub(crate) steps: Vec<Step>,
    pub(crate) mending: Mending,
}

/// A step's ranges as a controller keeps them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Planned {
    pub(crate) ranges: Vec<PlannedRange>,
    pub(crate) key: Vec<KeyColumn>,
}

pub(crate) const MIGRATION: &str = "sample";

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::on(throwaway::shared().await).await
    }

    /// A laboratory on a server.
    pub(crate) async fn on(server: &throwaway::Server) -> Self {
        let url = server.database("agent").await.unwrap();
        Self::at(&url, &url).await
    }

    /// A laboratory where a setting of the server is another one for the agent's sessions.
    pub(crate) async fn with_setting(name: &str, value: &str) -> Self {
        let url = throwaway::shared().await.database("agent").await.unwrap();
        Self::at(&url, &format!("{url}?options=-c%20{name}%3D{value}")).await
    }

    /// The same database, where a setting of the server is another one for the agent's sessions.
    pub(crate) async fn again_with_setting(self, name: &str, value: &str) -> Self {
        Self::at(&self.url, &format!("{}?options=-c%20{name}%3D{value}", self.url)).await
    }

    /// The same database, where the agent has another URL.
    pub(crate) async fn again_as(self, agents_url: &str) -> Self {
        Self::at(&self.url, agents_url).await
    }

    /// A laboratory, and the same target for sessions with another setting.
    pub(crate) async fn seen_twice(name: &str, value: &str) -> (Self, Arc<Target>) {
        let lab = Self::new().await;
        let url = format!("{}?options=-c%20{name}%3D{value}", lab.url);
        let target = Target::new(TargetName::default(), &url, 8).unwrap();
        target.trust(Duration::from_secs(20)).await;
        (lab, Arc::new(target))
    }

    /// A laboratory whose agent reaches the database through a proxy.
    pub(crate) async fn behind_a_proxy() -> (Self, Proxy) {
        let server = throwaway::shared().await;
        let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).await;
        let url = server.database("agent").await.unwrap();
        (Self::at(&url, &proxy.url(&url)).await, proxy)
    }

    /// A laboratory whose agent reaches the database through PgBouncer in transaction mode, with so many processes of the server.
    pub(crate) async fn behind_a_pooler(size: u32) -> (Self, Pooler) {
        let pooler = Pooler::start(size).await;
        let url = throwaway::shared().await.database("pooled").await.unwrap();
        (Self::at(&url, &pooler.url(&url)).await, pooler)
    }

    async fn at(url: &str, agents_url: &str) -> Self {
        let target = |url: &str, size| Target::new(TargetName::default(), url, size).unwrap();
        Self::of(url, target(agents_url, 8), target(url, 1)).await
    }

    /// A laboratory in a database, whose agent has the role `role` in place of that of its URL.
    pub(crate) async fn under(role: &str, url: &str, agents_url: &str) -> Self {
        let target = |url: &str, size| Target::new(TargetName::default(), url, size).unwrap().with_role(role).unwrap();
        Self::of(url, target(agents_url, 8), target(url, 1)).await
    }

    async fn of(url: &str, target: Target, other: Target) -> Self {
        // By another, whose sessions are gone again.
        let report = other.trust(Duration::from_secs(20)).await;
        drop(other);
        target.accept(&report);
        drop(target.lend().await.unwrap());
        let client = connect(url).await;
        let book = Arc::new(Book::default());
        let (sender, stream) = mpsc::unbounded_channel();
        book.open_stream(sender);
        Self {
            target: Arc::new(target),
            client,
            url: url.to_owned(),
            book,
            stream,
            tasks: AtomicI64::new(1),
            plans: AtomicI64::new(1),
            transforms: Transforms::default(),
            tuning: Tuning::default(),
            limits: Limits::default(),
            run: RunId(1),
            applications: 0,
            steps: Vec::new(),
            mending: Mending { request_id: "request".to_owned(), ..Mending::default() },
        }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn row(&self, sql: &str) -> Row {
        self.client.query_one(sql, &[]).await.unwrap()
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.row(sql).await.get(0)
    }

    pub(crate) fn transform(&mut self, name: &str, transform: impl Transform) {
        self.transforms.insert(TransformName::parse(name).unwrap(), Arc::new(transform));
    }

    /// A lease with an epoch.
    pub(crate) fn context(&self, epoch: i64) -> Context {
        let task = self.tasks.fetch_add(1, Ordering::Relaxed);
        Context {
            agent: AgentId::parse("tester").unwrap(),
            target: Arc::clone(&self.target),
            lease: self.book.enter(LeaseId { task, epoch }).unwrap(),
            epoch: Epoch(epoch),
            run: self.run,
            migration: MigrationId::parse(MIGRATION).unwrap(),
            applications: self.applications,
            steps: wanted(&self.steps),
            mending: self.mending.clone(),
            limits: self.limits,
            transforms: self.transforms.clone(),
            tuning: self.tuning.clone(),
            beats: AtomicU64::new(0),
            told: Told::default(),
            watch: Watch { quiet: Duration::from_millis(300), look: Duration::from_secs(1) },
            waits: Seen::default(),
            sessions: Witnesses::default(),
        }
    }

    /// A lease with an epoch, of a migration that has the steps of the task where the laboratory has none.
    pub(crate) fn context_of(&self, epoch: i64, task: &grant::Task) -> Context {
        let context = self.context(epoch);
        if context.steps.is_empty() { Context { steps: wanted(&steps_of(task)), ..context } } else { context }
    }

    /// Lets a worker work on a task to the end of its lease, and returns its last report.
    pub(crate) async fn perform(&mut self, epoch: i64, task: grant::Task) -> Message {
        worker::work(self.context_of(epoch, &task), task).await;
        let mut last = None;
        while let Ok(request) = self.stream.try_recv() {
            match request.message {
                Some(Message::Note(_) | Message::RangesPlanned(_)) => {}
                message => last = message,
            }
        }
        last.expect("a lease ends with a report")
    }

    pub(crate) fn book(&self) -> &Arc<Book> {
        &self.book
    }

    pub(crate) async fn work(&self, epoch: i64, task: grant::Task) -> Result<Ended, Error> {
        steps::run(&self.context_of(epoch, &task), &task, false).await
    }

    /// The notes and planned ranges that were sent since the last call.
    pub(crate) fn sent(&mut self) -> (Vec<TaskNote>, Planned) {
        let mut notes = Vec::new();
        let mut planned = Planned::default();
        while let Ok(request) = self.stream.try_recv() {
            match request.message {
                Some(Message::Note(note)) => notes.push(note),
                Some(Message::RangesPlanned(report)) => {
                    planned.ranges.extend(report.ranges);
                    planned.key = report.key;
                }
                _ => {}
            }
        }
        (notes, planned)
    }

    /// Plans a step to its end and returns its ranges.
    pub(crate) async fn plan(&mut self, step: &Step) -> Planned {
        self.sent();
        let mut planned = Planned::default();
        loop {
            let epoch = self.plans.fetch_add(1, Ordering::Relaxed);
            let known_ranges = i32::try_from(planned.ranges.len()).unwrap();
            let ended = self.work(epoch, plan_task(step, known_ranges)).await.unwrap();
            let (_, more) = self.sent();
            planned.ranges.extend(more.ranges);
            planned.key = if more.key.is_empty() { planned.key } else { more.key };
            if matches!(ended, Ended::Done { .. }) {
                break;
            }
        }
        planned
    }

    /// Plans a step and works through all its ranges.
    pub(crate) async fn work_through(&mut self, step: &Step) -> i64 {
        let planned = self.plan(step).await;
        let mut rows = 0;
        for range in &planned.ranges {
            match self.work(1, range_task(step, &planned, range)).await.unwrap() {
                Ended::Done { rows: more, rows_walked, .. } => {
                    assert_eq!(rows_walked, range.rows_total);
                    rows += more;
                }
                other => panic!("{other:?}"),
            }
        }
        rows
    }
}

pub(crate) async fn connect(url: &str) -> Session {
    Connector::new(url, "test").unwrap().session().await.unwrap()
}

/// Polls a query until it returns true.
pub(crate) async fn until(client: &Session, sql: &str) {
    let wait = async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never true: {sql}"));
}

/// The steps that a task names.
pub(crate) fn steps_of(task: &grant::Task) -> Vec<Step> {
    match task {
        grant::Task::Statement(task) => task.steps.clone(),
        grant::Task::Plan(task) => task.step.clone().into_iter().collect(),
        grant::Task::Range(_) => Vec::new(),
        grant::Task::Seal(task) => task.migration.iter().flat_map(|migration| migration.steps.clone()).collect(),
    }
}

fn wanted(steps: &[Step]) -> Vec<Wanted> {
    steps.iter().map(|step| Wanted::from(&StepOutline::from(step))).collect()
}

pub(crate) fn sql_step(sql: &str) -> Step {
    Step {
        name: "change".to_owned(),
        kind: StepKind::Sql.into(),
        sql: sql.to_owned(),
        checksum: sql.to_owned(),
        ..Step::default()
    }
}

pub(crate) fn batch_step(table: &str, sql: &str, size: i32, range: i32, stripes: i32) -> Step {
    Step {
        kind: StepKind::Batch.into(),
        batch: Some(Batch { table: table.to_owned(), size, range, stripes, ..Batch::default() }),
        ..sql_step(sql)
    }
}

pub(crate) fn statement_task(step: Step) -> grant::Task {
    grant::Task::Statement(StatementTask { steps: vec![step], ..StatementTask::default() })
}

pub(crate) fn atomic_task(steps: Vec<Step>, before: &[&str], after: &[&str]) -> grant::Task {
    let seal = seal(&steps, after);
    grant::Task::Statement(StatementTask { before: checks(before), steps, seal: Some(seal) })
}

pub(crate) fn plan_task(step: &Step, known_ranges: i32) -> grant::Task {
    grant::Task::Plan(PlanTask { before: Vec::new(), step: Some(step.clone()), known_ranges, ..PlanTask::default() })
}

pub(crate) fn range_task(step: &Step, planned: &Planned, range: &PlannedRange) -> grant::Task {
    grant::Task::Range(RangeTask { step: Some(step.clone()), range: Some(range.clone()), key: planned.key.clone() })
}

pub(crate) fn seal(steps: &[Step], after: &[&str]) -> SealTask {
    SealTask {
        after: checks(after),
        migration: Some(Migration {
            id: MIGRATION.to_owned(),
            name: "A sample".to_owned(),
            version: 1,
            checksum: "checksum".to_owned(),
            steps: steps.to_vec(),
            ..Migration::default()
        }),
    }
}

pub(crate) fn checks(queries: &[&str]) -> Vec<Check> {
    queries
        .iter()
        .map(|sql| Check { name: "it holds".to_owned(), sql: (*sql).to_owned(), row_security: false })
        .collect()
}

/// The message of an error that is final.
pub(crate) fn refusal(ended: Result<Ended, Error>) -> dunlin_proto::v1::RunError {
    match ended {
        Err(Error::Final(error)) => *error,
        other => panic!("not refused: {other:?}"),
    }
}
