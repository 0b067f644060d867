//! Leases that are renewed and stand still, and leases that are given back again and again.

use std::time::Duration;

use super::lab::{Lab, Worker, atomic, id, main};
use crate::domain::report::{Counted, Progress, ReleaseReason, Report};
use crate::domain::task::Lease;

const AFTER: Duration = Duration::from_secs(900);

async fn stands_still(lab: &Lab, lease: Lease) {
    let sql = "UPDATE dunlin_controller.tasks SET alive_at = now() - interval '1 h' WHERE id = $1";
    assert_eq!(lab.client.execute(sql, &[&lease.task.0]).await.unwrap(), 1);
}

/// A lease of the first of two agents.
async fn held() -> (Lab, Worker, Worker, i64, Lease) {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let (holder, other) = (lab.agent("holder").await, lab.agent("other").await);
    let run = lab.queue("a").await;
    let lease = lab.claim_one(&holder).await.lease;
    (lab, holder, other, run, lease)
}

#[tokio::test]
async fn a_lease_that_is_only_renewed_goes_to_another_agent_that_can_take_it() {
    let (lab, holder, other, run, lease) = held().await;
    assert!(lab.store.take_from_stuck(AFTER).await.unwrap().is_empty(), "it has just begun");
    stands_still(&lab, lease).await;
    assert_eq!(lab.store.renew(&[(lease, Progress::default())]).await.unwrap().kept, [lease]);
    assert!(!lab.store.take_from_stuck(AFTER).await.unwrap().is_empty());
    assert!(lab.store.renew(&[(lease, Progress::default())]).await.unwrap().kept.is_empty());
    let events = lab.store.list_events(&Default::default(), None, 10).await.unwrap();
    let expected = "agent holder, which works on a, has renewed its lease for 15m without a sign of life of the task: whoever is free \
                    goes on with it";
    assert_eq!(events.iter().filter(|event| event.message == expected).count(), 1, "{events:?}");
    assert!(lab.events(run).await.contains(&"lease_expired"));
    assert!(lab.claim(&holder, 10).await.is_empty(), "another one can take it");
    assert_eq!(lab.claim_one(&other).await.lease.epoch, lease.epoch.0.saturating_add(1).into());
}

#[tokio::test]
async fn a_sign_of_life_keeps_a_lease_and_one_that_was_told_before_is_none() {
    let (lab, _holder, _other, _run, lease) = held().await;
    let alive = Progress { alive: 1, ..Progress::default() };
    stands_still(&lab, lease).await;
    lab.store.renew(&[(lease, alive.clone())]).await.unwrap();
    assert!(lab.store.take_from_stuck(AFTER).await.unwrap().is_empty());
    stands_still(&lab, lease).await;
    lab.store.renew(&[(lease, alive)]).await.unwrap();
    assert!(!lab.store.take_from_stuck(AFTER).await.unwrap().is_empty());
}

#[tokio::test]
async fn where_no_other_agent_can_take_it_a_lease_stays() {
    let (lab, _holder, other, _run, lease) = held().await;
    stands_still(&lab, lease).await;
    lab.store.leave(&other.id, other.session, "it was stopped").await.unwrap();
    assert!(lab.store.take_from_stuck(AFTER).await.unwrap().is_empty());
    assert_eq!(lab.store.renew(&[(lease, Progress::default())]).await.unwrap().kept, [lease]);
}

#[tokio::test]
async fn what_an_agent_gives_back_goes_to_another_one_first() {
    for reason in [ReleaseReason::Stopping, ReleaseReason::Busy, ReleaseReason::TargetUnreachable] {
        let (lab, holder, other, _run, lease) = held().await;
        let given_back = Report::Released { reason, message: "so".to_owned(), counted: Counted::default() };
        lab.report(lease, given_back).await;
        lab.client.batch_execute("UPDATE dunlin_controller.tasks SET run_at = now()").await.unwrap();
        assert!(lab.claim(&holder, 10).await.is_empty(), "{reason:?}");
        let due = lab.store.next_due().await.unwrap().unwrap();
        assert!(due <= Duration::from_secs(10), "it is looked at again when others have had their turn: {due:?}");
        lab.client
            .batch_execute("UPDATE dunlin_controller.tasks SET passed_over_until = now() - interval '1 ms'")
            .await
            .unwrap();
        assert_eq!(lab.claim(&holder, 10).await.len(), 1, "{reason:?}: nobody else came");
        drop(other);
    }
}

#[tokio::test]
async fn what_the_only_agent_gives_back_it_gets_again() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("only").await;
    lab.store.queue_one(&main(), &id("a"), false, false).await.unwrap();
    let lease = lab.claim_one(&agent).await.lease;
    let reason = ReleaseReason::Stopping;
    lab.report(lease, Report::Released { reason, message: "so".to_owned(), counted: Counted::default() }).await;
    lab.claim_one(&agent).await;
}
