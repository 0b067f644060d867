//! The command itself: output for programs, exit codes, completions, help.

use dunlin_tests::fleet::Fleet;

use crate::definitions::{ADD_LEVEL, create_platform, trivial};

#[tokio::test]
async fn every_answer_is_one_json_document_when_asked() {
    let fleet = Fleet::start().await;
    create_platform(fleet.main(), 10).await;
    let register = ["register", "migrations", "--output", "json"];
    fleet.write(ADD_LEVEL.0, ADD_LEVEL.1);
    let registered = fleet.dunlin(&register).await.ended(0).json();
    assert_eq!(registered["migrations"][0]["outcome"], "REGISTER_OUTCOME_REGISTERED");
    let registered = fleet.dunlin(&register).await.ended(0).json();
    assert_eq!(registered["migrations"][0]["outcome"], "REGISTER_OUTCOME_UNCHANGED");
    let _run = fleet.dunlin(&["run", "--pending", "--output", "json"]).await.ended(0).json();
    for arguments in [
        &["plan"][..],
        &["status"],
        &["list"],
        &["show", "add-course-level-field"],
        &["runs"],
        &["events"],
        &["agents"],
        &["targets"],
        &["version"],
    ] {
        let outcome = fleet.dunlin(&[arguments, &["--output", "json"]].concat()).await.ended(0);
        assert!(outcome.json().is_object(), "{outcome:?}");
        assert_eq!(outcome.stdout.trim_end().lines().count(), 1, "{outcome:?}");
        // For people, the same command prints something else, and no escape codes where there is no terminal.
        let outcome = fleet.dunlin(arguments).await.ended(0);
        assert!(!outcome.stdout.is_empty() && !outcome.stdout.contains('\u{1b}'), "{outcome:?}");
    }
    let agents = fleet.dunlin(&["agents", "--output", "json"]).await.json();
    assert_eq!(agents["agents"][0]["id"], "agent-0");
    let targets = fleet.dunlin(&["targets", "--output", "json"]).await.json();
    assert_eq!((&targets["targets"][0]["name"], &targets["targets"][0]["version"]), (&"main".into(), &4.into()));
}

#[tokio::test]
async fn the_exit_code_tells_what_kind_of_failure_it_was() {
    let fleet = Fleet::start().await;
    fleet.write("bad.toml", &trivial("bad", 1, "SELECT 1 / 0"));
    for (arguments, code) in [
        (&["register", "migrations"][..], 0),
        (&["run", "bad"], 1),
        (&["fly"], 2),
        (&["run"], 2),
        (&["register", "no-such-directory"], 2),
        (&["version", "--controller", "http://127.0.0.1:1"], 3),
        (&["version", "--target", "nobody-serves-this"], 4),
    ] {
        let outcome = fleet.dunlin(arguments).await.ended(code);
        assert!(code == 0 || !outcome.stderr.is_empty(), "{outcome:?}");
    }
}

#[tokio::test]
async fn wait_returns_when_an_agent_serves_the_target_and_gives_up_in_time() {
    let fleet = Fleet::start().await;
    let _there = fleet.dunlin(&["wait", "--timeout", "30s"]).await.ended(0);
    let never = fleet.dunlin(&["wait", "--target", "nobody-serves-this", "--timeout", "5s"]).await;
    assert!(matches!(never.code, 3 | 4), "{never:?}");
    // It says so before the time is over, too.
    let _never = never.says(&["nobody-serves-this", "Waiting: target nobody-serves-this is not known"]);
}

#[tokio::test]
async fn a_new_migration_is_a_valid_one_that_runs_once_it_says_what_to_do() {
    let fleet = Fleet::start().await;
    let _new = fleet.dunlin(&["new", "first-one", "--dir", "migrations"]).await.ended(0);
    let files: Vec<_> = std::fs::read_dir(fleet.migrations()).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(files[0].path()).unwrap();
    assert!(text.contains("first-one"), "{text}");
    let _checked = fleet.dunlin(&["check", "migrations"]).await.ended(0).says(&["first-one"]);
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    let fleet = Fleet::builder().controllers(0).agents(0).start().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = fleet.dunlin(&["completions", shell]).await.ended(0).stdout;
        assert!(
            script.contains("dunlin") && script.contains("--pending") | script.contains("pending"),
            "{shell}: {script}"
        );
    }
}

#[tokio::test]
async fn a_set_is_checked_without_a_controller() {
    let fleet = Fleet::builder().controllers(0).agents(0).start().await;
    fleet.write("one.toml", &trivial("one", 1, "SELECT 1"));
    let _valid = fleet.dunlin(&["check", "migrations"]).await.ended(0).says(&["one"]);
}
