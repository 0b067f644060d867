//! An agent that nobody should trust, beside one that works: what it says of keys becomes SQL nowhere.

use dunlin_proto::v1::agent_service_client::AgentServiceClient;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::work_response::Message as Hear;
use dunlin_proto::v1::{self, RunState, WorkRequest, WorkResponse};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::until::{DEADLINE, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

const ROWS: u32 = 500;

/// A client of the protocol that says what it likes.
struct Rogue {
    say: mpsc::UnboundedSender<WorkRequest>,
    hear: Streaming<WorkResponse>,
}

impl Rogue {
    async fn connect(fleet: &Fleet) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let main = v1::TargetReport { name: "main".to_owned(), reachable: true, ..Default::default() };
        let hello = v1::Hello { agent_id: "rogue".to_owned(), slots: 1, targets: vec![main], ..Default::default() };
        say.send(WorkRequest { message: Some(Say::Hello(hello)) }).unwrap();
        let mut client = AgentServiceClient::new(fleet.channel());
        let hear = client.work(UnboundedReceiverStream::new(said)).await.unwrap().into_inner();
        Self { say, hear }
    }

    async fn granted(&mut self) -> v1::Grant {
        let grant = async {
            loop {
                let heard = self.hear.message().await.unwrap().expect("the stream ended");
                if let Some(Hear::Grant(grant)) = heard.message {
                    return grant;
                }
            }
        };
        tokio::time::timeout(DEADLINE, grant).await.expect("no grant came")
    }

    /// Tells ranges along a key, and that the plan is given back. Gives the code with which the stream ends, if it does.
    async fn plans(mut self, lease: Option<v1::Lease>, r#type: &str) -> Option<Code> {
        let key = |value: &str| v1::Key { values: vec![value.to_owned()] };
        let range = v1::PlannedRange { ordinal: 1, high: Some(key("500")), rows_total: 500, ..Default::default() };
        let key = vec![v1::KeyColumn { name: "id".to_owned(), r#type: r#type.to_owned() }];
        let planned = v1::RangesPlanned { lease, ranges: vec![range], key };
        let released = v1::TaskReleased { lease, reason: v1::ReleaseReason::Stopping.into(), ..Default::default() };
        for message in [Say::RangesPlanned(planned), Say::Released(released)] {
            let _closed = self.say.send(WorkRequest { message: Some(message) });
            loop {
                match self.hear.message().await {
                    Ok(Some(WorkResponse { message: Some(Hear::Ack(_)) })) => break,
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended"),
                    Err(status) => return Some(status.code()),
                }
            }
        }
        None
    }
}

#[tokio::test]
async fn no_agent_executes_what_another_says_of_a_key() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    numbers::create(fleet.main(), ROWS).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    let mut rogue = Rogue::connect(&fleet).await;
    let _there = fleet.dunlin(&["wait", "--timeout", "60s"]).await.ended(0);
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    let lease = rogue.granted().await.lease;
    let attack = "bigint AND false); CREATE TABLE public.stolen (); COMMIT; --";
    assert_eq!(rogue.plans(lease, attack).await, Some(Code::InvalidArgument));

    // What could be a key is another than the target's.
    let mut rogue = Rogue::connect(&fleet).await;
    let lease = rogue.granted().await.lease;
    assert_eq!(rogue.plans(lease, "integer").await, None);
    fleet.start_agent();
    let ended =
        until("the run has ended", async || fleet.last_run("triple").await.filter(|run| run.end_time.is_some())).await;
    assert_eq!(ended.state(), RunState::Failed, "{ended:?}");
    assert_eq!(numbers::count(fleet.main()).await, (0, i64::from(ROWS), 0));
    assert!(ended.error.unwrap().next.contains("dunlin run triple"));

    let _done = fleet.dunlin(&["run", "triple"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let stolen: i64 = fleet.main().value("SELECT count(*) FROM pg_class WHERE relname = 'stolen'").await;
    assert_eq!(stolen, 0);
}
