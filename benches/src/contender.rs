//! Who is measured: one statement, a plain loop of batches, and Dunlin.

use std::time::Duration;

use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::{RunMigrationRequest, RunState, WatchRunsRequest};
use futures::future::try_join_all;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::Error;
use crate::fleet::Fleet;
use crate::measure::{Before, Figures, connect};

/// The order by hand, about that of Dunlin once it has found its pace: the remainders at which the stripes end (a page of the table has
/// 37 rows), the rows of a window, and those that a batch spans in the first stripe and in the others.
const BY_HAND: ([u32; 7], u32, u32, u32) = ([7, 13, 19, 24, 29, 33, 37], 200_000, 12_500, 50_000);

/// Rows of a batch of the plain loop.
const LOOP_BATCH: u32 = 10_000;

/// The same change, as each contender needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) table: &'static str,
    /// The single integer or uuid key.
    pub(crate) key: &'static str,
    pub(crate) key_type: &'static str,
    /// `UPDATE … SET …`, with no WHERE.
    pub(crate) update: &'static str,
    /// Counts the rows that are not changed yet.
    pub(crate) unchanged: &'static str,
}

/// Who makes the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// One UPDATE statement.
    Statement,
    /// A client that updates batch after batch in key order, with so many workers.
    Loop(u32),
    /// Dunlin's order of batches without Dunlin, in so many sessions: what the order can reach on this machine.
    ByHand(u32),
    /// Dunlin with so many agents of so many slots.
    Dunlin { agents: u32, slots: u32 },
}

impl Contender {
    /// The name in the table of figures.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Statement => "one UPDATE statement".to_owned(),
            Self::Loop(1) => "key-order loop, 1 worker".to_owned(),
            Self::Loop(workers) => format!("key-order loop, {workers} workers"),
            Self::ByHand(1) => "same order by hand, 1 session".to_owned(),
            Self::ByHand(sessions) => format!("same order by hand, {sessions} sessions"),
            Self::Dunlin { agents: 1, slots } => format!("Dunlin, 1 agent of {slots} slot"),
            Self::Dunlin { agents, slots } => format!("Dunlin, {agents} agents of {slots} slot"),
        }
    }

    /// Makes the change in the database at `url` and measures it. `controller` is an empty database.
    pub(crate) async fn measure(self, change: Change, url: &str, controller: &str) -> Result<Figures, Error> {
        let figures = match self {
            Self::Statement => {
                let client = connect(url).await?;
                let before = Before::note(url, controller, change.table).await?;
                client.batch_execute(change.update).await?;
                before.figures(None).await?
            }
            Self::Loop(workers) => {
                let before = Before::note(url, controller, change.table).await?;
                key_order_loop(change, url, workers).await?;
                before.figures(None).await?
            }
            Self::ByHand(sessions) => {
                let before = Before::note(url, controller, change.table).await?;
                try_join_all((0..sessions).map(|session| by_hand(change, url, session, sessions))).await?;
                before.figures(None).await?
            }
            Self::Dunlin { agents, slots } => dunlin(change, url, controller, agents, slots).await?,
        };
        let left: i64 = connect(url).await?.query_one(change.unchanged, &[]).await?.get(0);
        if left == 0 {
            Ok(figures)
        } else {
            Err(Error::Unexpected(format!("{}: {left} rows were not changed", self.label())))
        }
    }
}

/// Each worker takes an equal part of the keys and goes through it in batches, each a transaction.
async fn key_order_loop(change: Change, url: &str, workers: u32) -> Result<(), Error> {
    let Change { table, key, key_type, update, .. } = change;
    let cuts = connect(url)
        .await?
        .query(
            &format!(
                "SELECT {key}::text FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS n, count(*) OVER () AS rows
                 FROM {table}) numbered WHERE n % (rows / {workers}) = 0 ORDER BY {key}"
            ),
            &[],
        )
        .await?;
    let mut low: Option<String> = None;
    let mut parts = Vec::new();
    for (number, cut) in (1..=workers).zip(&cuts) {
        let high: Option<String> = if number == workers { None } else { Some(cut.get(0)) };
        parts.push(part_loop(connect(url).await?, low.clone(), high.clone(), table, key, key_type, update));
        low = high;
    }
    try_join_all(parts).await?;
    Ok(())
}

async fn part_loop(
    client: tokio_postgres::Client,
    mut low: Option<String>,
    end: Option<String>,
    table: &str,
    key: &str,
    key_type: &str,
    update: &str,
) -> Result<(), Error> {
    let literal = |value: &str| format!("'{value}'::{key_type}");
    let until = end.as_deref().map_or_else(String::new, |end| format!(" AND {key} <= {}", literal(end)));
    loop {
        let above = low.as_deref().map_or_else(|| "true".to_owned(), |low| format!("{key} > {}", literal(low)));
        let bound = client
            .query_opt(
                &format!(
                    "SELECT {key}::text FROM {table} WHERE {above}{until} ORDER BY {key} OFFSET {} LIMIT 1",
                    LOOP_BATCH - 1
                ),
                &[],
            )
            .await?
            .map(|row| row.get::<_, String>(0));
        let upto = bound.as_deref().map_or_else(|| until.clone(), |high| format!(" AND {key} <= {}", literal(high)));
        client.batch_execute(&format!("{update} WHERE {above}{upto}")).await?;
        match bound {
            Some(high) => low = Some(high),
            None => return Ok(()),
        }
    }
}

/// Windows, stripes and batches in a loop inside the server: no round trips, no checkpoints, nobody who could take over. The
/// sessions take turns at the windows. For an integer key from 1 on.
async fn by_hand(change: Change, url: &str, session: u32, sessions: u32) -> Result<(), Error> {
    let Change { table, key, update, .. } = change;
    let (ends, window, span_in_first, span) = BY_HAND;
    let divisor = ends[ends.len() - 1];
    let (first, step) = (session * window, sessions * window);
    let client = connect(url).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    client
        .batch_execute(&format!(
            "DO $$ DECLARE highest bigint := (SELECT max({key}) FROM {table}); at bigint; upto bigint; stripe int; ends int; BEGIN
                 FOR low IN {first}..highest - 1 BY {step} LOOP
                     stripe := 0;
                     FOREACH ends IN ARRAY ARRAY{ends:?} LOOP
                         at := low;
                         WHILE at < low + {window} LOOP
                             upto := least(at + CASE stripe WHEN 0 THEN {span_in_first} ELSE {span} END, low + {window});
                             {update} WHERE ({key} > at AND {key} <= upto OR {key} = upto)
                                 AND {key} % {divisor} >= stripe AND {key} % {divisor} < ends;
                             COMMIT;
                             at := upto;
                         END LOOP;
                         stripe := ends;
                     END LOOP;
                 END LOOP;
             END $$"
        ))
        .await?;
    Ok(())
}

async fn dunlin(change: Change, url: &str, controller: &str, agents: u32, slots: u32) -> Result<Figures, Error> {
    let fleet = Fleet::start(controller, url, agents, slots).await?;
    let definition = format!(
        "id = \"change\"\nname = \"Change\"\ndescription = \"The measured change.\"\nversion = 1\n\
         [[step]]\nname = \"change\"\nbatch = {{ table = \"{}\" }}\nsql = \"{} WHERE :batch\"\n",
        change.table, change.update
    );
    fleet.register(vec![("change".to_owned(), definition)]).await?;
    let observer = connect(url).await?;
    let before = Before::note(url, controller, change.table).await?;
    let called = Instant::now();
    let first = tokio::spawn(async move {
        let probe = "SELECT EXISTS (SELECT FROM dunlin.checkpoints WHERE kind = 'range' AND batches > 0)";
        let probe = observer.prepare(probe).await?;
        while !observer.query_one(&probe, &[]).await?.get::<_, bool>(0) {
            if called.elapsed() > Duration::from_secs(60) {
                return Err(Error::Unexpected("no batch was committed within a minute".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(called.elapsed())
    });
    let request = RunMigrationRequest { migration_id: "change".to_owned(), wait_for_agent: true, ..Default::default() };
    let run = fleet.runs().run_migration(request).await?.into_inner().run;
    let run = run.ok_or_else(|| Error::Unexpected("the migration was skipped".to_owned()))?;
    wait_for(fleet.runs(), vec![run.id]).await?;
    let first = first.await.map_err(|e| Error::Unexpected(e.to_string()))??;
    let figures = before.figures(Some(first)).await?;
    fleet.stop()?;
    Ok(figures)
}

/// Follows runs to their end; an error unless all succeed.
pub(crate) async fn wait_for(mut runs: RunServiceClient<Channel>, run_ids: Vec<i64>) -> Result<(), Error> {
    let request = WatchRunsRequest { run_ids, ..Default::default() };
    let mut stream = runs.watch_runs(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(run) = message.run
            && matches!(run.state(), RunState::Failed | RunState::Cancelled)
        {
            return Err(Error::Unexpected(format!("run {} did not succeed: {:?}", run.id, run.error)));
        }
    }
    Ok(())
}
