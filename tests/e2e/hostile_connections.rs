//! Crowds that connect and say nothing: they are closed, and whoever speaks is served beside them and after them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use dunlin_proto::client;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::process::Process;
use dunlin_tests::until::{DEADLINE, until};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The words that HTTP/2 begins with, and settings that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const ROWS: u32 = 500;

/// Another address of this machine.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connections to a controller, from an address.
async fn crowd(fleet: &Fleet, from: Ipv4Addr, count: usize) -> Vec<TcpStream> {
    let address: SocketAddr = fleet.address(0).parse().unwrap();
    join_all((0..count).map(|_| async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).unwrap();
        socket.connect(address).await.unwrap()
    }))
    .await
}

/// Waits until the controller has closed all connections.
async fn closed(crowd: Vec<TcpStream>) {
    let all = join_all(crowd.into_iter().map(|mut stream| async move {
        // A reset is an end, too.
        let _end = stream.read_to_end(&mut Vec::new()).await;
    }));
    timeout(DEADLINE, all).await.expect("a connection that says nothing stays open");
}

/// Whether a client that connects now is served.
async fn served(fleet: &Fleet) -> bool {
    match client::choose(&fleet.controller_urls(), &client::Options::default()).await {
        Ok(choice) => choice.serves,
        Err(_) => false,
    }
}

fn lines(process: &Process, text: &str) -> u64 {
    let count = process.log().lines().filter(|line| line.contains(text)).count();
    u64::try_from(count).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_says_nothing_is_closed_and_takes_nothing_from_others() {
    // Room for twenty connections, ten of them of one peer.
    let mut fleet = Fleet::builder().controller_files(64).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let others = crowd(&fleet, OTHER, 50).await;
    until("those of one peer are refused", async || {
        (lines(fleet.controller(0), "of a peer are refused") > 0).then_some(())
    })
    .await;
    // Beside it, with all connections to the database in use at some time.
    assert!(served(&fleet).await, "who speaks is not served beside a crowd of another peer");
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 100"))]).await;
    let _run = fleet.dunlin(&["run", "triple"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    closed(others).await;

    // From the address that clients have themselves; one of them speaks first, and leaves pings unanswered.
    let mut own = crowd(&fleet, Ipv4Addr::LOCALHOST, 30).await;
    for stream in own.iter_mut().take(1) {
        let _refused = stream.write_all(PREFACE).await;
    }
    closed(own).await;
    until("a client is served after the crowd", async || served(&fleet).await.then_some(())).await;
    fleet.register(&[("more.toml", &numbers::migration("more", 2, "size = 50, range = 100"))]).await;
    let _run = fleet.dunlin(&["run", "more"]).await.ended(0);
    let said = lines(fleet.controller(0), "of a peer are refused");
    assert!(said <= 1 + DEADLINE.as_secs() / 10, "{said} lines for one crowd");
    assert_eq!(lines(fleet.controller(0), "no connection can be accepted"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_without_descriptors_waits_for_some_and_says_so_once() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    until("it serves", async || served(&fleet).await.then_some(())).await;
    let controller = fleet.controller(0).pid();
    let open = fs::read_dir(format!("/proc/{controller}/fd")).unwrap().count();
    let limit = open + 5;
    let limited = Command::new("prlimit")
        .args([format!("--pid={controller}"), format!("--nofile={limit}:{limit}")])
        .status()
        .unwrap();
    assert!(limited.success());
    let before = cpu_ticks(&fs::read_to_string(format!("/proc/{controller}/stat")).unwrap());
    let crowd = crowd(&fleet, Ipv4Addr::LOCALHOST, 30).await;
    until("it says so", async || (lines(fleet.controller(0), "no connection can be accepted") > 0).then_some(())).await;
    closed(crowd).await;
    // Ten seconds and more have passed, in most of which nothing could be accepted.
    let used = cpu_ticks(&fs::read_to_string(format!("/proc/{controller}/stat")).unwrap()) - before;
    assert!(used < 300, "{used} ticks of the processor for doing nothing");
    until("a client is served after the crowd", async || served(&fleet).await.then_some(())).await;
    let said = lines(fleet.controller(0), "no connection can be accepted");
    assert!(said <= 1 + DEADLINE.as_secs() / 10, "{said} lines for one crowd");
}

/// The time that a process has used, in hundredths of a second.
fn cpu_ticks(stat: &str) -> u64 {
    // Behind the name, which may have spaces, from the third field on; user and system are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_limit_of_open_files_that_leaves_no_room_is_told_at_the_start() {
    let mut fleet = Fleet::builder().controllers(0).agents(0).controller_files(50).start().await;
    fleet.start_controller();
    assert!(!fleet.controller(0).ended().await.success());
    let log = fleet.controller(0).log();
    assert!(log.contains("this process may have 50 files open, and needs at least 60"), "{log}");
    fleet.replace_controller(0, "controller-of-one", &[("DUNLIN_MAX_CONNECTIONS_PER_PEER", "1000000000")]);
    assert!(!fleet.controller(0).ended().await.success());
}
