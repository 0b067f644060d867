use dunlin_proto::v1;
use tokio::time::{sleep, timeout};

use crate::lab::{Agent, Controller, SOON, atomic, database, hello, target};

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
