use dunlin_proto::status::Details;
use dunlin_proto::v1;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::work_response::Message as Hear;
use dunlin_shared::postgres::connect;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::lab::{Agent, Controller, SOON, atomic, database, target};

async fn forget(controller: &Controller, target: &str) -> Result<v1::ForgetTargetResponse, Status> {
    let request = v1::ForgetTargetRequest { target: target.to_owned(), ..Default::default() };
    controller.fleet().forget_target(request).await.map(tonic::Response::into_inner)
}

async fn forget_agent(controller: &Controller, id: &str) -> Result<v1::ForgetAgentResponse, Status> {
    let request = v1::ForgetAgentRequest { id: id.to_owned(), ..Default::default() };
    controller.fleet().forget_agent(request).await.map(tonic::Response::into_inner)
}

fn obstacles(status: &Status) -> Vec<(String, String)> {
    Details::of(status).obstacles.into_iter().map(|one| (one.kind, one.subject)).collect()
}

#[tokio::test]
async fn what_is_in_the_way_of_forgetting_is_named_with_the_way_out() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "one", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap().id;
    let _held = agent.grant().await;

    let refused = forget(&controller, "main").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(Details::of(&refused).reason, "TARGET_IN_USE");
    let named = [("AGENT", "one".to_owned()), ("UNFINISHED_RUN", run.to_string())];
    assert_eq!(obstacles(&refused), named.map(|(kind, subject)| (kind.to_owned(), subject)));
    let told = format!("{:?}", Details::of(&refused));
    assert!(told.contains("stop the agent") && told.contains(&format!("dunlin cancel {run}")), "{told}");
    let connected = forget_agent(&controller, "one").await.unwrap_err();
    assert_eq!(Details::of(&connected).reason, "AGENT_IN_USE");
    assert_eq!(obstacles(&connected), [("CONNECTED".to_owned(), "one".to_owned())]);

    // Nobody is forgotten for want of a name.
    for name in ["", "\0"] {
        assert_eq!(forget(&controller, name).await.unwrap_err().code(), Code::InvalidArgument, "{name:?}");
        assert_eq!(forget_agent(&controller, name).await.unwrap_err().code(), Code::InvalidArgument, "{name:?}");
    }
    assert_eq!(forget(&controller, "nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(forget_agent(&controller, "nobody").await.unwrap_err().code(), Code::NotFound);
}

/// Its heartbeats were not taken in for a while, so it was not seen to be connected; its stream is open.
#[tokio::test]
async fn an_agent_that_was_missed_only_tells_of_its_target_again() {
    let url = database().await;
    let controller = Controller::start(&url).await;
    let mut agent = Agent::connect(&controller, "one", 1).await;
    let (client, _connection) = connect(&url, "test").await.unwrap();
    let reached = timeout(SOON, async {
        let reached = "SELECT count(*) FROM dunlin_controller.targets WHERE reachable";
        while client.query_one(reached, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    reached.await.expect("the target is not reached");
    client.batch_execute("UPDATE dunlin_controller.agents SET connected_until = NULL").await.unwrap();
    assert_eq!(forget(&controller, "main").await.unwrap().agents, ["one"]);
    let time = loop {
        if let Hear::Look(look) = agent.hear().await.unwrap() {
            break look.time;
        }
    };
    agent.say(Say::Target(v1::TargetReport { look_time: time, ..target("main", Vec::new()) })).await;
    let known = timeout(SOON, async {
        loop {
            let request = v1::GetSchemaVersionRequest::default();
            if controller.registry().get_schema_version(request).await.is_ok() {
                return;
            }
            sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    known.await.expect("the target is not known again");
}
