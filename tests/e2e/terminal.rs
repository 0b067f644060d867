//! What is seen on a terminal, which may change while it is looked at.

use std::process::Command;

use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::process::Process;
use dunlin_tests::programs::{repository, tool};
use dunlin_tests::until::until;

/// The texts between the moves of the cursor, without colours.
fn rows(drawn: &str) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut letters = drawn.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                let code = letters.find(|letter| letter.is_ascii_alphabetic());
                // Colours move nothing.
                if code != Some('m') {
                    rows.push(String::new());
                }
            }
            '\r' | '\n' => rows.push(String::new()),
            other => rows.last_mut().unwrap().push(other),
        }
    }
    rows
}

#[tokio::test]
async fn lines_of_progress_fit_into_a_terminal_that_gets_narrower() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 1_000).await;
    let name = "give-every-user-of-the-platform-a-number-that-is-three-times-as-large";
    fleet.register(&[("triple.toml", &numbers::migration(name, 1, "size = 100, range = 500"))]).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 700").await;

    let run = fleet.dunlin_command(&["run", "--pending"]);
    let mut terminal = Command::new(tool("venv/bin/python"));
    terminal.arg(repository().join("tests/foreign/terminal.py")).args(["120", "60"]);
    terminal.arg(run.get_program()).args(run.get_args()).current_dir(fleet.directory());
    terminal.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut terminal = Process::start(terminal, "terminal", fleet.directory());
    // Drawn anew some times, as it is while somebody looks.
    let drawn = until("the bar is drawn on the narrower terminal", async || {
        let log = terminal.log();
        let (_, narrower) = log.split_once("<<narrower>>\n")?;
        (narrower.matches("  [").count() > 3 || narrower.matches("… [").count() > 3).then(|| narrower.to_owned())
    })
    .await;
    gate.open().await;
    assert!(terminal.ended().await.success(), "{}", terminal.log());

    // What was begun for the wider terminal may come first.
    let (_, drawn) = drawn.split_once("\u{1b}[J").expect("what the terminal has wrapped is taken away");
    let rows = rows(drawn);
    let longest = rows.iter().filter(|row| row.contains("% ")).max_by_key(|row| row.chars().count()).unwrap();
    assert!(longest.chars().count() <= 60, "{longest:?}");
    assert!(rows.iter().any(|row| row.contains("give-every-user-of-…")), "{rows:?}");
}
