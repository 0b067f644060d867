//! Texts of others that are orders to a terminal: messages of PostgreSQL with values of an application, notices, definitions, ids.

use std::process::Command;

use dunlin_shared::visible::is_unseen;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::process::Process;
use dunlin_tests::programs::{Program, repository, tool};

/// Orders: the title, the clipboard, a clear screen, a link, colours and their end; each also by a control of one character; a
/// carriage return, and text that is written backwards.
const ORDERS: &str = "\u{1b}]0;owned\u{7}\u{1b}]52;c;b3duZWQ=\u{7}\u{1b}[2J\u{1b}[31mred\u{1b}[0m\u{9b}2J\u{9d}0;owned\u{9c}\r\u{202e}txt\u{2066}\u{7f}";
/// How they begin where they are shown.
const SHOWN: &str = "\\x1b]0;owned\\x07\\x1b]52;c;b3duZWQ=";

/// A migration that tells the value of a row: in a notice first, and then in the error that it ends with.
const TELLS: &str = r#"
id = "tells"
name = "Tells"
description = "says \u001b]0;owned\u0007\u001b]52;c;b3duZWQ= and TURNED"
version = 1
[[step]]
name = "unique"
sql = """
DO $$ BEGIN RAISE NOTICE '%', (SELECT email FROM people LIMIT 1); END $$;
INSERT INTO people SELECT email FROM people LIMIT 1;
"""
"#;

fn tells() -> String {
    TELLS.replace("TURNED", "\u{202e}")
}

async fn fleet_with_orders() -> Fleet {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE people (email text PRIMARY KEY)").await;
    let _one = fleet.main().rows("INSERT INTO people VALUES ($1)", &[&ORDERS]).await;
    fleet.register(&[("tells.toml", &tells())]).await;
    fleet
}

/// What of a text a terminal takes for an order.
fn orders(text: &str) -> Vec<char> {
    text.chars().filter(|c| is_unseen(*c) && !matches!(c, '\n' | '\t')).collect()
}

#[tokio::test]
async fn no_output_of_the_command_is_an_order_to_a_terminal() {
    let fleet = fleet_with_orders().await;
    let run = fleet.dunlin(&["run", "tells"]).await.ended(1).says(&[SHOWN]);
    assert_eq!(orders(&run.text()), [], "{run:?}");
    for arguments in
        [&["status"][..], &["runs"], &["events"], &["show", "tells"], &["plan"], &["list"], &["watch", "1"]]
    {
        let text = fleet.dunlin(arguments).await.text();
        assert_eq!(orders(&text), [], "dunlin {}: {text:?}", arguments.join(" "));
        let json = [arguments, &["--output", "json"]].concat();
        let text = fleet.dunlin(&json).await.text();
        assert_eq!(orders(&text), [], "dunlin {}: {text:?}", json.join(" "));
    }
    for arguments in [&["events"][..], &["status"], &["show", "tells"]] {
        let _told = fleet.dunlin(arguments).await.says(&[SHOWN]);
    }
    // As JSON it is the same text.
    let events = fleet.dunlin(&["events", "--output", "json"]).await.ended(0).json();
    let told = |event: &serde_json::Value| event["message"].as_str().is_some_and(|message| message.contains(ORDERS));
    assert!(events["events"].as_array().unwrap().iter().any(told), "{events:#}");
    // So is the definition in a file.
    let text = fleet.dunlin(&["show", "tells", "--definition"]).await.ended(0).stdout;
    assert_eq!(text.trim(), tells().trim());
    // What is wrong with a definition is shown with its line.
    fleet.write("bad.toml", &format!("id = \"bad\"\n{} = 1\n", ORDERS.replace('\r', "")));
    let checked = fleet.dunlin(&["check", "migrations"]).await.ended(2).says(&[SHOWN]);
    assert_eq!(orders(&checked.text()), [], "{checked:?}");
}

#[tokio::test]
async fn a_terminal_gets_only_the_orders_of_the_command_itself() {
    let fleet = fleet_with_orders().await;
    let definition = ["show", "tells", "--definition"];
    for (number, arguments) in [&["run", "tells"][..], &["events"], &["status"], &definition].iter().enumerate() {
        let command = fleet.dunlin_command(arguments);
        let mut terminal = Command::new(tool("venv/bin/python"));
        terminal.arg(repository().join("tests/foreign/terminal.py")).args(["120", "100"]);
        terminal.arg(command.get_program()).args(command.get_args()).current_dir(fleet.directory());
        terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut terminal = Process::start(terminal, &format!("terminal-{number}"), fleet.directory());
        let _status = terminal.ended().await;
        let shown = terminal.log();
        let escaped = if *arguments == definition { "\\u{202e}" } else { "\\x1b]0;owned" };
        assert!(shown.contains(escaped), "{shown:?}");
        for order in
            ["\u{1b}]", "\u{1b}[2J", "\u{1b}[31mred", "\u{9b}", "\u{9d}", "\u{202e}", "\u{2066}", "\u{7f}", "\u{7}"]
        {
            assert!(!shown.contains(order), "dunlin {}: {order:?} in {shown:?}", arguments.join(" "));
        }
    }
}

#[tokio::test]
async fn ids_and_names_with_orders_are_refused_where_they_enter() {
    let fleet = Fleet::start().await;
    for id in ["a\u{1b}[2J", "a\u{202e}b", "a\u{9b}b"] {
        let mut agent = Command::new(Program::Agent.path());
        agent.args(["--id", id, "--controller", &fleet.controller_urls()]);
        agent.args(["--target", &format!("main={}", fleet.main().url())]).current_dir(fleet.directory());
        let mut agent = Process::start(agent, "refused", fleet.directory());
        assert!(!agent.ended().await.success());
        assert!(agent.log().contains("is not an agent id: 1 to 100 printable characters"), "{}", agent.log());
        assert_eq!(orders(&agent.log()), []);
        let step = format!("[[step]]\nname = \"{}\"\nsql = \"SELECT 1\"\n", id.replace('\u{1b}', "\\u001b"));
        let head = "id = \"a\"\nname = \"A\"\ndescription = \"d\"\nversion = 1\n";
        fleet.write("step.toml", &format!("{head}{step}"));
        let _refused = fleet.dunlin(&["check", "migrations"]).await.ended(2).says(&["is not a step name"]);
        let _refused = fleet.dunlin(&["status", "--target", id]).await.ended(2).says(&["is not a target name"]);
        let _refused = fleet.dunlin(&["run", id]).await.ended(2).says(&["is not a migration id"]);
    }
}
