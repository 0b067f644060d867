//! README's "Use it", typed from its first line to its last on an empty database.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dunlin_tests::command::Outcome;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::process::Process;
use dunlin_tests::programs::{Program, repository, tool_in};

/// What a reader of the section does, in its order.
#[derive(Debug, PartialEq)]
enum Act {
    /// Types a command.
    Type(String),
    /// Writes a file: what a block of TOML says, under the name that the text before it gives.
    Write(String, String),
}

/// The acts of a section of Markdown: commands stand behind `$` in blocks, or in the first column of a table.
fn acts(section: &str) -> Vec<Act> {
    let mut acts = Vec::new();
    let (mut file, mut block, mut text) = (String::new(), None, String::new());
    for line in section.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => (block, text) = (Some(language), String::new()),
            (Some(_), Some("toml")) => {
                acts.push(Act::Write(std::mem::take(&mut file), std::mem::take(&mut text)));
                block = None;
            }
            (Some(_), Some(_)) => block = None,
            (None, Some("toml")) => text = text + line + "\n",
            (None, Some(_)) => acts.extend(line.strip_prefix("$ ").map(|command| Act::Type(command.to_owned()))),
            (None, None) if line.starts_with("| `") => {
                let column = line.split('|').nth(1).unwrap_or_default();
                let commands = column.split('`').skip(1).step_by(2);
                // `status`, `version` and the like are short for `dunlin status`.
                acts.extend(commands.map(|command| {
                    let short = !command.starts_with("dunlin ");
                    Act::Type(if short { format!("dunlin {command}") } else { command.to_owned() })
                }));
            }
            (None, None) => {
                let named = line.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".toml")).last();
                file = named.map_or(file, str::to_owned);
            }
        }
    }
    acts
}

#[test]
fn the_acts_of_a_section_are_read() {
    let section = "Put it into\n`m/a.toml`:\n```console\n$ dunlin new a\n> out\n```\n```toml\nid = 1\n```\n\
                   | command | |\n| --- | --- |\n| `dunlin run x`, `status` | runs `x` |\n";
    let type_ = |text: &str| Act::Type(text.to_owned());
    let write = Act::Write("m/a.toml".to_owned(), "id = 1\n".to_owned());
    assert_eq!(acts(section), [type_("dunlin new a"), write, type_("dunlin run x"), type_("dunlin status")]);
}

#[tokio::test]
async fn what_the_readme_says_works_when_it_is_typed() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Use it\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    // A fleet without processes: an address that is free, a place for files, and an empty database.
    let fleet = Fleet::builder().controllers(0).agents(0).start().await;
    let grpcurl = tool_in("Go", "go/grpcurl");
    let programs = Program::Dunlin.path().parent().unwrap().to_owned();
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let places = [Some(programs.as_path()), grpcurl.as_deref().and_then(Path::parent)].into_iter().flatten();
    let path = std::env::join_paths(places.map(Path::to_owned).chain(std::env::split_paths(&usual))).unwrap();
    let directory = fleet.directory().join("empty");
    std::fs::create_dir(&directory).unwrap();
    let (mut dev, mut typed) = (None, 0);
    for act in acts(section) {
        let command = match act {
            Act::Write(file, text) => {
                std::fs::write(directory.join(file), text).unwrap();
                continue;
            }
            // The programs of the test are built, and on the PATH.
            Act::Type(command) if command.starts_with("cargo ") || command.starts_with("export PATH=") => continue,
            Act::Type(command) => command,
        };
        if command == "dunlin dev" {
            let listen = ["dev", "--listen", fleet.address(0), "--postgres", fleet.main().url()];
            dev = Some(Process::start(fleet.dunlin_command(&listen), "dev", fleet.directory()));
            let _ready = fleet.dunlin(&["wait", "--timeout", "60s"]).await.ended(0);
            continue;
        }
        if command.starts_with("grpcurl ") && grpcurl.is_none() {
            continue;
        }
        let command = command.replace("localhost:7440", fleet.address(0));
        let mut shell = tokio::process::Command::new("sh");
        shell.arg("-c").arg(&command).current_dir(&directory).stdin(Stdio::null()).kill_on_drop(true);
        shell.env("PATH", &path).env("DUNLIN_CONTROLLER", fleet.controller_urls());
        let output = tokio::time::timeout(Duration::from_secs(60), shell.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{command} does not end")).unwrap();
        let outcome = Outcome::new(&[&command], &output).ended(0);
        if command.starts_with("grpcurl ") && command.ends_with("GetSchemaVersion") {
            let version = outcome.json()["version"].to_string();
            assert!(
                section.contains(&format!("\"version\": {version},")),
                "the README shows another answer: {version}"
            );
        }
        typed += 1;
    }
    assert!(typed >= 10, "{typed} commands were typed");
    let left: i64 = fleet.main().value("SELECT count(*) FROM users WHERE role = 'teacher'").await;
    let renamed: i64 = fleet.main().value("SELECT count(*) FROM users WHERE role = 'instructor'").await;
    assert_eq!((left, renamed), (0, 10_000));
    let dev = dev.as_mut().expect("the README starts `dunlin dev`");
    dev.terminate();
    assert_eq!(dev.ended().await.code(), Some(0), "{}", dev.log());
}
