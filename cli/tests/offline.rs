//! The command as a process, without a controller: exit codes, and what goes to standard output and standard error.

use std::path::Path;
use std::process::{Command, Output};

/// Nothing listens here: the port is reserved and never given to a program that asks for any free one.
const NOBODY: &str = "http://127.0.0.1:1";

/// Runs the command in a directory.
fn dunlin(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.current_dir(dir).args(arguments).env("DUNLIN_CONTROLLER", NOBODY).env_remove("DUNLIN_OUTPUT");
    command.output().expect("the command starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/learning-platform"))
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["run"][..],
        &["run", "--pending", "some-id"],
        &["run", "--pending", "--rerun"],
        &["no-such-command"],
        &["watch", "zero"],
        &["wait", "--timeout", "soon"],
        &["watch", "--output", "json"],
        &["version", "--controller", "not-a-url"],
        &["check", "no-such-directory"],
        &["new", "Not An Id"],
    ] {
        let output = dunlin(dir.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(stderr(&output).contains("error: "), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn no_controller_is_exit_code_3_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let example = example().to_str().unwrap();
    for arguments in [
        &["version"][..],
        &["plan", "--output", "json"],
        &["register", example],
        &["run", "--pending"],
        &["run", "update-user-roles"],
        &["watch", "4", "5"],
        &["status"],
        &["list"],
        &["show", "update-user-roles"],
        &["runs"],
        &["events"],
        &["agents"],
        &["targets"],
    ] {
        let output = dunlin(dir.path(), arguments);
        assert_eq!(code(&output), 3, "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        for part in [NOBODY, "dunlin dev", "DUNLIN_CONTROLLER"] {
            assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_wait_in_vain_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let output = dunlin(dir.path(), &["wait", "--timeout", "300ms"]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("not ready after 300ms: no controller answers"), "{}", stderr(&output));
}

#[test]
fn the_example_migrations_have_no_problems() {
    let output = dunlin(example(), &["check", "."]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("      5  update-user-roles          2          add-course-level-field\n"));
    assert!(stdout(&output).ends_with("7 migrations, no problems\n"), "{}", stdout(&output));
}

#[test]
fn a_check_as_json_is_one_document() {
    let output = dunlin(example(), &["check", ".", "--output", "json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
    let document: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["migrations"][4]["id"], "update-user-roles");
    assert_eq!(document["migrations"][4]["version"], 5);
    assert_eq!(document["problems"], serde_json::json!([]));
}

#[test]
fn all_problems_of_a_set_are_told_at_once_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let migrations = dir.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    let definition = |id: &str, version: u32, sql: &str| {
        format!(
            "id = \"{id}\"\nname = \"n\"\ndescription = \"d\"\nversion = {version}\n\n[[step]]\nname = \"s\"\nsql = {sql}\n"
        )
    };
    std::fs::write(migrations.join("a.toml"), definition("a", 1, "5")).unwrap();
    std::fs::write(migrations.join("b.toml"), definition("b", 2, "\"SELECT :batch\"")).unwrap();

    let output = dunlin(dir.path(), &["check"]);
    assert_eq!(code(&output), 2);
    assert_eq!(stdout(&output), "");
    for part in
        ["--> migrations/a.toml:8:7", "8 | sql = 5", "      ^", "--> migrations/b.toml:8:", "2 problems in migrations"]
    {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }

    let output = dunlin(dir.path(), &["check", "--output", "json"]);
    assert_eq!(code(&output), 2);
    assert_eq!(stderr(&output), "");
    let document: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["migrations"], serde_json::json!([]));
    assert_eq!(document["problems"][0]["file"], "a.toml");
    assert_eq!(document["problems"][0]["line"], 8);
    assert_eq!(document["problems"].as_array().unwrap().len(), 2);
}

#[test]
fn new_migrations_count_upwards_and_pass_the_check() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&dunlin(dir.path(), &["new", "create-users"])), 0);
    assert_eq!(code(&dunlin(dir.path(), &["new", "add-role", "--dir", "migrations"])), 0);
    let text = std::fs::read_to_string(dir.path().join("migrations/add-role.toml")).unwrap();
    assert!(text.contains("version     = 2 "), "{text}");
    assert!(text.contains("run_after   = [\"create-users\"] "), "{text}");
    let output = dunlin(dir.path(), &["check"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_new_migration_never_overwrites_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), "not even TOML").unwrap();
    let output = dunlin(dir.path(), &["new", "a", "--dir", "."]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("exists already"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(dir.path().join("a.toml")).unwrap(), "not even TOML");
}

#[test]
fn version_and_completions_need_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = dunlin(dir.path(), &["--version"]);
    assert_eq!(stdout(&output), concat!("dunlin ", env!("CARGO_PKG_VERSION"), "\n"));
    for shell in ["bash", "zsh", "fish"] {
        let output = dunlin(dir.path(), &["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("register"), "{shell}");
    }
}

#[test]
fn dev_names_a_port_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for program in ["dunlin-controller", "dunlin-agent"] {
        std::fs::write(dir.path().join(program), "").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(["dev", "--listen", &address.to_string()]).env("PATH", dir.path());
    let output = command.output().unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(
        stderr(&output).contains(&format!("port {} of 127.0.0.1 is in use", address.port())),
        "{}",
        stderr(&output)
    );
}

#[test]
fn dev_names_a_program_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("dunlin");
    std::fs::copy(env!("CARGO_BIN_EXE_dunlin"), &copy).unwrap();
    let output = Command::new(copy).args(["dev", "--listen", "127.0.0.1:0"]).env("PATH", dir.path()).output().unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("dunlin-controller is neither beside this one"), "{}", stderr(&output));
}

#[test]
fn nobody_reading_is_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(["check", "."]).current_dir(example()).stdout(writer.try_clone().unwrap());
    assert_eq!(command.status().unwrap().code(), Some(0));
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(["version", "--controller", NOBODY]).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(3));
}
