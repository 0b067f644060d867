use std::collections::BTreeSet;

use dunlin_shared::ids::{Epoch, TaskId};
use futures::future::join_all;

use super::lab::{Lab, atomic, batched, claim, done, failed};
use crate::domain::Verdict;
use crate::domain::report::{Counted, Range, Report};
use crate::domain::run::State;
use crate::domain::task::Kind;

fn ranges(numbers: impl Iterator<Item = i32>) -> Report {
    let ranges = numbers
        .map(|ordinal| Range {
            ordinal,
            low: (ordinal > 1).then(|| vec![(ordinal - 1).to_string(), "a".to_owned()]),
            high: vec![ordinal.to_string(), "a".to_owned()],
            rows_total: 10,
            done: false,
            rows: 0,
            rows_walked: 0,
        })
        .collect();
    Report::Ranges { ranges, key: Vec::new() }
}

#[tokio::test]
async fn replicas_that_claim_at_once_get_each_task_once() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(1..=100)).await;

    let replicas = [lab.replica().await, lab.replica().await, lab.replica().await];
    let mut tasks = BTreeSet::new();
    loop {
        let round = join_all(replicas.iter().map(|store| claim(store, &agent, 7))).await;
        let granted: Vec<_> = round.into_iter().flatten().collect();
        if granted.is_empty() {
            break;
        }
        for one in granted {
            assert_eq!(one.lease.epoch, Epoch(1));
            assert!(tasks.insert(one.lease.task), "granted twice");
        }
    }
    assert_eq!(tasks.len(), 100);
}

#[tokio::test]
async fn a_range_is_granted_as_it_was_planned() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(1..=2)).await;
    let granted = lab.claim(&agent, 10).await;
    let range = granted[1].range.clone().unwrap();
    assert_eq!((range.ordinal, range.rows_total), (2, 10));
    assert_eq!(range.low, Some(vec!["1".to_owned(), "a".to_owned()]));
    assert_eq!(range.high, ["2", "a"]);
}

#[tokio::test]
async fn an_expired_lease_is_granted_again_with_the_next_epoch_and_the_old_holder_changes_nothing() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("a").await;
    let first = lab.claim_one(&agent).await;
    lab.run_out(first.lease).await;
    assert!(!lab.store.expire().await.unwrap().is_empty());
    assert!(lab.store.expire().await.unwrap().is_empty(), "once");

    let other = lab.agent("b").await;
    let second = lab.claim_one(&other).await;
    assert_eq!(second.lease.task, first.lease.task);
    assert_eq!(second.lease.epoch, first.lease.epoch.next());

    let stored = lab.report(first.lease, done(1)).await;
    assert_eq!(stored.verdicts, [Ok(Verdict::Late)]);
    let stored = lab.report(first.lease, failed(false)).await;
    assert_eq!(stored.verdicts, [Ok(Verdict::Late)]);
    assert_eq!(lab.run(run).await.state, State::Running);
    assert!(lab.store.renew(&[(first.lease, Counted::default().into())]).await.unwrap().kept.is_empty());

    lab.report(second.lease, done(1)).await;
    assert_eq!(lab.run(run).await.state, State::Succeeded);
    assert_eq!(lab.events(run).await, ["run_queued", "run_started", "lease_expired", "run_succeeded"]);
}

#[tokio::test]
async fn replicas_that_expire_leases_at_once_expire_each_once() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(1..=200)).await;
    let granted = lab.claim(&agent, 200).await;
    assert_eq!(granted.len(), 200);
    let sql = "UPDATE dunlin_controller.tasks SET expires_at = now() - interval '1 second' WHERE kind = 'range'";
    assert_eq!(lab.client.execute(sql, &[]).await.unwrap(), 200);

    let replicas = [lab.replica().await, lab.replica().await, lab.replica().await, lab.replica().await];
    for expired in join_all(replicas.iter().map(|store| store.expire())).await {
        expired.unwrap();
    }
    let rows = lab
        .client
        .query(
            "SELECT (details ->> 'task')::bigint, (details ->> 'epoch')::bigint FROM dunlin_controller.events
             WHERE run_id = $1 AND type = 'lease_expired'",
            &[&run],
        )
        .await
        .unwrap();
    let told: BTreeSet<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let leases: BTreeSet<(i64, i64)> = granted.iter().map(|one| (one.lease.task.0, one.lease.epoch.0)).collect();
    assert_eq!((rows.len(), told), (200, leases));
    let again = lab.claim(&agent, 300).await;
    assert!(again.len() == 200 && again.iter().all(|one| one.lease.epoch == Epoch(2)), "each is ready once");
}

#[tokio::test]
async fn leases_of_a_run_are_above_those_of_every_earlier_run() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    lab.queue("a").await;
    let mut last = Epoch::ZERO;
    for _again in 0..3 {
        let granted = lab.claim_one(&agent).await;
        assert!(granted.lease.epoch > last);
        last = granted.lease.epoch;
        lab.run_out(granted.lease).await;
        lab.store.expire().await.unwrap();
    }
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, failed(false)).await;
    lab.queue("a").await;
    assert!(lab.claim_one(&agent).await.lease.epoch > granted.lease.epoch);
}

#[tokio::test]
async fn what_an_agent_does_not_announce_goes_back_at_once() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(1..=2)).await;
    let granted = lab.claim(&agent, 2).await;

    let (again, welcomed) = lab.hello("a", &[plan.lease, granted[0].lease]).await;
    let mut kept: Vec<_> = welcomed.kept.iter().map(|(lease, ..)| *lease).collect();
    kept.sort();
    assert_eq!(kept, [plan.lease, granted[0].lease]);
    assert!(lab.claim(&agent, 5).await.is_empty(), "the older stream is granted nothing");
    let taken = lab.claim_one(&again).await;
    assert_eq!(taken.lease.task, granted[1].lease.task);
    assert_eq!(taken.lease.epoch, granted[1].lease.epoch.next());
}

#[tokio::test]
async fn a_grant_that_is_committed_behind_the_next_hello_goes_back_at_once() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    lab.queue("a").await;
    // A replica that stands still just before its commit.
    lab.client
        .batch_execute(
            "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER stand AFTER UPDATE ON dunlin_controller.tasks DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW WHEN (new.state = 'leased') EXECUTE FUNCTION stand();
             SELECT pg_advisory_lock(77)",
        )
        .await
        .unwrap();
    let replica = lab.replica().await;
    let waiting = async |kind: &str| {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = $1";
        lab.client.query_one(sql, &[&kind]).await.unwrap().get::<_, i64>(0)
    };
    let said = async {
        while waiting("advisory").await == 0 {
            tokio::task::yield_now().await;
        }
        let release = async {
            // The hello waits for the grant. Were it not so, it would be done by itself.
            while waiting("transactionid").await == 0 {
                tokio::task::yield_now().await;
            }
            lab.client.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            said = lab.hello("a", &[]) => {
                lab.client.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
                said.0
            }
            () = release => unreachable!("it never ends"),
        }
    };
    let (granted, again) = tokio::join!(claim(&replica, &agent, 1), said);
    assert_eq!(granted.len(), 1, "it was granted to the stream of before");
    let taken = lab.claim_one(&again).await;
    assert_eq!(taken.lease.epoch, granted[0].lease.epoch.next());
}

#[tokio::test]
async fn a_plan_that_has_yielded_lets_its_ranges_go_first() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(1..=2)).await;
    let yielded = Report::Released {
        reason: crate::domain::report::ReleaseReason::Yielded,
        message: String::new(),
        counted: Counted::default(),
    };
    lab.report(plan.lease, yielded).await;
    let granted = lab.claim(&agent, 10).await;
    let order: Vec<TaskId> = granted.iter().map(|granted| granted.lease.task).collect();
    assert_eq!((order.len(), order.last()), (3, Some(&plan.lease.task)));
    assert_eq!(granted[2].known_ranges, 2);
}

#[tokio::test]
async fn a_plan_is_told_how_many_slots_could_work_on_its_ranges() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    for other in ["reaches", "unreachable", "gone"] {
        lab.agent(other).await;
    }
    lab.client
        .batch_execute(
            "UPDATE dunlin_controller.agents SET slots = CASE id WHEN 'a' THEN 2 WHEN 'reaches' THEN 3 ELSE 100 END;
             UPDATE dunlin_controller.agent_targets SET reachable = false WHERE agent_id = 'unreachable';
             UPDATE dunlin_controller.agents SET connected_until = NULL WHERE id = 'gone'",
        )
        .await
        .unwrap();
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    assert_eq!((plan.kind, plan.slots), (Kind::Plan, 5));
    lab.report(plan.lease, ranges(1..=1)).await;
    let range = lab.claim_one(&agent).await;
    assert_eq!((range.kind, range.slots), (Kind::Range, 0));
}

#[tokio::test]
async fn the_next_due_moment_is_known() {
    let lab = Lab::new().await;
    assert_eq!(lab.store.next_due().await.unwrap(), None);
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    let due = lab.store.next_due().await.unwrap().unwrap();
    assert!(due.as_secs() > 500, "{due:?}");
    lab.report(granted.lease, failed(true)).await;
    let due = lab.store.next_due().await.unwrap().unwrap();
    assert!(due.as_millis() <= 300, "{due:?}");
    assert!(lab.claim(&agent, 1).await.is_empty(), "it rests");
}
