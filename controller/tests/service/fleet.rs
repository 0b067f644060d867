use dunlin_proto::v1;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::work_response::Message as Hear;
use tokio::time::{sleep, timeout};

use crate::lab::{Agent, Controller, SOON, atomic, batched, database, hello, target};

#[tokio::test]
async fn agents_and_targets_are_told_of() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut said = hello("one", 3);
    said.targets.push(target("eu", Vec::new()));
    let mut one = Agent::open(&controller, said).await;
    one.welcome().await;
    let _two = Agent::connect(&controller, "two", 1).await;
    controller.run_one("a").await.unwrap();

    let mut fleet = controller.fleet();
    let first = v1::ListAgentsRequest { page_size: 1, ..Default::default() };
    let page = fleet.list_agents(first.clone()).await.unwrap().into_inner();
    assert_eq!(page.agents[0].targets, ["eu", "main"]);
    assert!(page.agents[0].connected);
    let second = v1::ListAgentsRequest { page_token: page.next_page_token, ..first };
    let page = fleet.list_agents(second).await.unwrap().into_inner();
    assert_eq!((page.agents[0].id.as_str(), page.next_page_token.as_str()), ("two", ""));

    let targets = fleet.list_targets(v1::ListTargetsRequest::default()).await.unwrap().into_inner().targets;
    let told: Vec<_> = targets.iter().map(|one| (one.name.as_str(), one.agents, one.pending, one.reachable)).collect();
    assert_eq!(told, [("eu", 1, 1, true), ("main", 2, 1, true)]);
}

#[tokio::test]
async fn an_agent_that_goes_away_is_not_connected() {
    let controller = Controller::start(&database().await).await;
    let agent = Agent::connect(&controller, "one", 1).await;
    drop(agent);
    let gone = timeout(SOON, async {
        loop {
            let answer = controller.fleet().list_agents(v1::ListAgentsRequest::default()).await.unwrap();
            if !answer.into_inner().agents[0].connected {
                return;
            }
            sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    gone.await.expect("it is still connected");
}

/// What an agent says of `main`: a database whose line is at a number, with a mark.
fn seen(line: i64, mark: &str, look_time: Option<pbjson_types::Timestamp>) -> v1::TargetReport {
    let (data, mark) = ("data".to_owned(), mark.to_owned());
    let identity = v1::TargetIdentity { system: "1".to_owned(), database: 5, data, line, mark };
    v1::TargetReport { identity: Some(identity), raised: true, look_time, ..target("main", Vec::new()) }
}

/// An agent that sees a database.
async fn agent_at(controller: &Controller, id: &str, line: i64, mark: &str) -> Agent {
    let mut agent = Agent::open(controller, v1::Hello { targets: vec![seen(line, mark, None)], ..hello(id, 1) }).await;
    agent.welcome().await;
    agent
}

async fn look(agent: &mut Agent) -> Option<pbjson_types::Timestamp> {
    loop {
        if let Hear::Look(look) = agent.hear().await.unwrap() {
            return look.time;
        }
    }
}

async fn main_of(controller: &Controller) -> v1::Target {
    let answer = controller.fleet().list_targets(v1::ListTargetsRequest::default()).await.unwrap().into_inner();
    answer.targets.into_iter().find(|target| target.name == "main").unwrap()
}

#[tokio::test]
async fn an_agent_that_raises_the_line_is_granted_nothing_before_another_has_seen_it_do_so() {
    let controller = Controller::start(&database().await).await;
    let other = v1::DefinitionFile { path: "b.toml".to_owned(), ..batched("b", 2, &[]) };
    controller.register(&[atomic("a", 1, &[]), other]).await.unwrap();
    let mut first = agent_at(&controller, "first", 10, "m").await;
    controller.run_one("a").await.unwrap();
    let _its_slot = first.grant().await;
    controller.run_one("b").await.unwrap();
    let mut second = agent_at(&controller, "second", 11, "n").await;
    // However often it is asked: as long as the first has not looked, nobody knows that both see one database.
    for _time in 0..3 {
        assert!(!looks_or_is_granted(&mut second).await);
    }
    let time = look(&mut first).await;
    first.say(Say::Target(seen(11, "n", time))).await;
    while !looks_or_is_granted(&mut second).await {}
    assert_eq!(main_of(&controller).await.refusal, "");
}

/// Answers a look of the second agent. True when it was granted something instead.
async fn looks_or_is_granted(second: &mut Agent) -> bool {
    loop {
        match second.hear().await.unwrap() {
            Hear::Look(look) => {
                second.say(Say::Target(seen(11, "n", look.time))).await;
                return false;
            }
            Hear::Grant(_) => return true,
            _ => {}
        }
    }
}

#[tokio::test]
async fn two_agents_that_do_not_see_each_other_raise_the_line_stop_the_target() {
    for (line, mark) in [(10, "m"), (11, "other")] {
        let controller = Controller::start(&database().await).await;
        controller.register(&[atomic("a", 1, &[])]).await.unwrap();
        let mut first = agent_at(&controller, "first", 10, "m").await;
        let _second = agent_at(&controller, "second", 11, "n").await;
        let time = look(&mut first).await;
        first.say(Say::Target(seen(line, mark, time))).await;
        let refused = timeout(SOON, async {
            loop {
                if let Hear::Recognition(said) = first.hear().await.unwrap() {
                    return said;
                }
            }
        });
        let refused = refused.await.expect("the first is not told");
        assert_eq!(refused.verdict(), v1::Verdict::Refused);
        assert!(refused.message.contains("dunlin target rebind main --restored|--copied"), "{refused:?}");
        assert!(!main_of(&controller).await.refusal.is_empty());
        // Nothing is granted, and nothing can be said as long as agents see two databases.
        let request = v1::RebindTargetRequest {
            target: "main".to_owned(),
            kind: v1::RebindKind::Restored.into(),
            reason: "r".to_owned(),
            requested_by: "t".to_owned(),
        };
        let status = controller.fleet().rebind_target(request).await.unwrap_err();
        assert!(status.message().contains("two databases"), "{status:?}");
        let request = v1::RunPendingMigrationsRequest::default();
        let unreached = controller.runs().run_pending_migrations(request).await.unwrap_err();
        assert!(unreached.message().contains("rebind main"), "{unreached:?}");
    }
}

#[tokio::test]
async fn a_report_that_is_older_than_what_is_known_is_no_earlier_state() {
    let controller = Controller::start(&database().await).await;
    let mut first = agent_at(&controller, "first", 10, "m").await;
    first.say(Say::Target(seen(9, "l", None))).await;
    let time = look(&mut first).await;
    assert!(time.is_some(), "it is asked to look again");
    first.say(Say::Target(seen(12, "o", time))).await;
    assert_eq!(main_of(&controller).await.refusal, "");
}
