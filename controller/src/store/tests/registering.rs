use dunlin_shared::migration::set::SourceFile;

use super::super::queueing::Single;
use super::super::registering::{RegisterError, Registration, Request};
use super::lab::{Lab, atomic, batched, done, failed, id, main, set};
use crate::domain::register::{Missing, Outcome, Refusal};
use crate::domain::run::State;

/// A file with another text where it says `bigint`.
fn changed(mut file: SourceFile, to: &str) -> SourceFile {
    file.content = file.content.replace("bigint", to);
    file
}

async fn refused(lab: &Lab, request: Request) -> Vec<Refusal> {
    match lab.store.register(request).await {
        Err(RegisterError::Refused(refusals)) => refusals,
        other => panic!("not refused: {other:?}"),
    }
}

async fn withdraw(lab: &Lab, files: &[SourceFile]) -> Registration {
    lab.store.register(Request { missing: Missing::Withdraw, ..set(files) }).await.unwrap()
}

async fn ids(lab: &Lab) -> Vec<String> {
    lab.store.list_migrations(0, 100).await.unwrap().0.iter().map(|one| one.definition.id.to_string()).collect()
}

#[tokio::test]
async fn what_is_missing_in_a_set_is_named_with_who_registered_it_and_nothing_changes() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    let request = Request { missing: Missing::Refuse, ..set(&[atomic("a", 1, &[]), atomic("c", 3, &[])]) };
    let refusals = refused(&lab, request.clone()).await;
    assert_eq!(refusals.len(), 1);
    let told = refusals[0].describe();
    assert!(told.starts_with("b (version 2), registered at 2") && told.ends_with("+00 by ann@desk"), "{told}");
    assert_eq!(ids(&lab).await, ["a", "b"]);
    // Only when nothing is wrong with the files: one that cannot be read is not missing.
    let broken = SourceFile { path: "b.toml".to_owned(), content: "id =".to_owned() };
    let request = Request { files: vec![atomic("a", 1, &[]), broken], ..request };
    assert!(matches!(lab.store.register(request).await, Err(RegisterError::Problems(_))));
}

#[tokio::test]
async fn what_was_withdrawn_is_kept_and_comes_back_when_it_is_registered_again() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    // Its version is free for another: that is how a migration is renamed.
    let taken = withdraw(&lab, &[atomic("a", 1, &[]), atomic("renamed", 2, &["a"])]).await;
    assert_eq!(taken.withdrawn[0].0, id("b"));
    assert_eq!(ids(&lab).await, ["a", "renamed"]);
    let kept = lab.store.get_migration(&id("b"), 0).await.unwrap().unwrap();
    assert_eq!(kept.withdrawn.unwrap().1, "ann@desk");
    assert!(kept.text.contains("id = \"b\""));
    let events = lab.store.list_events(&Default::default(), None, 100).await.unwrap();
    assert!(events.iter().any(|event| event.message.starts_with("migration b (version 2) was withdrawn by ann@desk")));
    let agent = lab.agent("x").await;
    assert!(matches!(lab.store.queue_one(&main(), &id("b"), false, false).await.unwrap(), Single::NoMigration));

    withdraw(&lab, &[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    assert!(lab.store.get_migration(&id("b"), 0).await.unwrap().unwrap().withdrawn.is_none());
    lab.queue("b").await;
    let granted = lab.claim_one(&agent).await;
    assert_eq!(granted.revision, 1, "the text of before is the revision of before");
}

#[tokio::test]
async fn what_comes_back_with_other_line_ends_keeps_its_text_and_the_text_says_what_is_done() {
    let lab = Lab::new().await;
    let with = |end: &str| changed(atomic("a", 1, &[]), &format!("bigint,{end}more text"));
    for back in ["amended", "withdrawn"] {
        lab.register(&[with("\\n")]).await;
        match back {
            "amended" => lab.register(&[changed(atomic("a", 1, &[]), "text")]).await,
            _ => drop(withdraw(&lab, &[atomic("b", 2, &[])]).await),
        }
        lab.register(&[with("\\r\\n")]).await;
        let stored = lab.store.get_migration(&id("a"), 0).await.unwrap().unwrap();
        let done = serde_json::to_string(&stored.definition).unwrap();
        assert!(stored.text.contains(",\\nmore") && done.contains(",\\nmore"), "{back}: {} and {done}", stored.text);
    }
}

#[tokio::test]
async fn what_a_target_has_or_may_have_a_part_of_is_not_withdrawn() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), batched("b", 2), atomic("c", 3, &[]), atomic("d", 4, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    // A part of the second may be there, and nothing of the third.
    for name in ["b", "c"] {
        lab.queue(name).await;
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, failed(false)).await;
    }
    let rest = [atomic("d", 4, &[])];
    let refusals = refused(&lab, Request { missing: Missing::Withdraw, ..set(&rest) }).await;
    assert!(matches!(&refusals[..], [Refusal::Partial { migration, .. }] if *migration == id("b")), "{refusals:?}");
    let rest = [atomic("d", 4, &[]), batched("b", 2)];
    withdraw(&lab, &rest).await;
    assert_eq!(ids(&lab).await, ["a", "b", "d"], "what is applied stays");

    lab.queue("b").await;
    let _begun = lab.claim_one(&agent).await;
    let refusals = refused(&lab, Request { missing: Missing::Withdraw, ..set(&rest[..1]) }).await;
    assert!(refusals.iter().any(|refusal| matches!(refusal, Refusal::Running { .. })), "{refusals:?}");
}

#[tokio::test]
async fn a_target_that_turns_out_to_have_what_was_withdrawn_shows_it_with_its_text() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("b").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    let mut had = lab.applied().await;
    had[0].revision = 1;
    // The target is put back; what it had is withdrawn; and then it has it again.
    let asked = lab.look(&agent, &[], None).await;
    lab.look(&agent, &[], asked).await;
    withdraw(&lab, &[atomic("a", 1, &[])]).await;
    lab.see(&agent, &had).await;
    assert_eq!(lab.applied().await[0].id, "b");
    let shown = lab.store.get_migration(&id("b"), 0).await.unwrap().unwrap();
    assert!(shown.withdrawn.is_some() && shown.text.contains("id = \"b\""));
    assert_eq!(lab.store.applied_where(&id("b")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_changed_definition_cancels_the_runs_that_have_not_begun_and_tells_both() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &[])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    let begun = lab.claim_one(&agent).await;
    let files = [changed(atomic("b", 2, &[]), "int")];
    let trial = lab.store.register(Request { validate_only: true, ..set(&files) }).await.unwrap();
    assert_eq!(trial.cancelled.len(), 1);
    assert_eq!(lab.states(&runs).await, [State::Running, State::Queued, State::Queued], "only a trial");

    let registered = lab.store.register(set(&files)).await.unwrap();
    assert_eq!(registered.migrations[0].outcome, Outcome::Changed);
    assert_eq!(lab.states(&runs).await, [State::Running, State::Cancelled, State::Cancelled]);
    let cancelled: Vec<i64> = registered.cancelled.iter().map(|run| run.run.0).collect();
    assert_eq!(cancelled, runs[1..]);
    let told = lab.store.events_between(&main(), 0, i64::MAX, Some(&runs[1..2]), 100).await.unwrap();
    let told = &told.last().unwrap().message;
    assert!(told.contains("another definition of b was registered by ann@desk"), "{told}");

    // The one that has begun keeps its definition.
    let refusals = refused(&lab, set(&[changed(atomic("a", 1, &[]), "int")])).await;
    assert!(matches!(refusals[..], [Refusal::Running { .. }]));
    lab.report(begun.lease, done(0)).await;
    let again = lab.queue_pending().await;
    assert_eq!(lab.claim_one(&agent).await.revision, 2);
    assert_eq!(lab.run(again[0]).await.revision, 2);
}

#[tokio::test]
async fn runs_that_nobody_can_begin_do_not_freeze_the_registry() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    let run = lab.queue("a").await;
    lab.store.leave(&agent.id, agent.session, "it is gone").await.unwrap();
    assert_eq!(lab.run(run).await.state, State::Running);
    let registered = lab.store.register(set(&[changed(atomic("a", 1, &[]), "int")])).await.unwrap();
    assert_eq!(registered.cancelled.len(), 1);
    assert_eq!(lab.run(run).await.state, State::Cancelled);
}

#[tokio::test]
async fn other_words_are_taken_for_all_and_another_deed_only_where_it_is_amended() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    let first = lab.applied().await[0].checksum.clone();

    let mut words = atomic("a", 1, &[]);
    words.content = words.content.replace("name = \"a\"", "name = \"Words\"").replace("sql = \"", "sql = \"/* why */ ");
    let registered = lab.store.register(set(&[words])).await.unwrap();
    assert_eq!((registered.migrations[0].outcome, registered.migrations[0].revision), (Outcome::Reworded, 2));
    let applied = lab.applied().await;
    assert_eq!((applied[0].checksum.as_str(), applied[0].name.as_str()), (first.as_str(), "Words"));

    let other = changed(atomic("a", 1, &[]), "int");
    let refusals = refused(&lab, set(std::slice::from_ref(&other))).await;
    assert!(refusals[0].describe().contains("--amend a --reason"), "{refusals:?}");
    let amend = Request { amend: [id("a")].into(), reason: "too wide".to_owned(), ..set(&[other]) };
    let registered = lab.store.register(amend).await.unwrap();
    let amended = &registered.migrations[0];
    assert_eq!((amended.outcome, amended.revision, amended.kept.len()), (Outcome::Amended, 3, 1));
    let listed = lab.store.list_migrations(0, 10).await.unwrap().0;
    assert_eq!((listed[0].revision, listed[0].reason.as_str(), listed[0].others.len()), (3, "too wide", 1));
    // What the target has can still be read, and nothing is pending there.
    assert!(lab.store.get_migration(&id("a"), 1).await.unwrap().unwrap().text.contains("bigint"));
    assert!(lab.queue_pending().await.is_empty());
    let absent = Request { amend: [id("zz")].into(), reason: "x".to_owned(), ..set(&[atomic("c", 9, &[])]) };
    assert!(matches!(lab.store.register(absent).await, Err(RegisterError::NotInSet(_))));
}
