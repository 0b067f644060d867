//! Directories of definitions in which somebody has put what is none: links to other files, pipes, devices.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use dunlin_tests::fleet::Fleet;

use crate::definitions::trivial;

const SECRET: &str = "PRIVATE-KEY-OF-SOMEBODY";

#[tokio::test]
async fn nothing_outside_of_the_directory_is_read_shown_or_registered() {
    let fleet = Fleet::start().await;
    let outside = fleet.directory().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.sql"), format!("SELECT '{SECRET}")).unwrap();
    fs::write(outside.join("secret.toml"), format!("{SECRET} = ")).unwrap();
    let of = |file: &str| trivial("one", 1, "SELECT 1").replace("sql = \"SELECT 1\"", &format!("file = \"{file}\""));
    let clear = || fs::remove_dir_all(fleet.migrations()).unwrap_or_default();
    let link = |to: &std::path::Path, name: &str| symlink(to, fleet.migrations().join(name)).unwrap();
    for (kind, says) in [
        ("a file of a step", "a link that leads out of the set"),
        ("a directory", "a link that leads out of the set"),
        ("a definition", "a link that leads out of the set"),
        ("a device", "a link that leads out of the set, to /dev/zero"),
        ("a pipe", "a named pipe"),
    ] {
        clear();
        match kind {
            "a file of a step" => {
                fleet.write("one.toml", &of("x.sql"));
                link(&outside.join("secret.sql"), "x.sql");
            }
            "a directory" => {
                fleet.write("one.toml", &of("below/secret.sql"));
                link(&outside, "below");
            }
            "a definition" => {
                fleet.write("one.toml", &trivial("one", 1, "SELECT 1"));
                link(&outside.join("secret.toml"), "two.toml");
            }
            "a device" => {
                fleet.write("one.toml", &of("x.sql"));
                link("/dev/zero".as_ref(), "x.sql");
            }
            _ => {
                fleet.write("one.toml", &of("x.sql"));
                assert!(Command::new("mkfifo").arg(fleet.migrations().join("x.sql")).status().unwrap().success());
            }
        }
        for command in ["check", "register"] {
            let refused = fleet.dunlin(&[command, "migrations"]).await.ended(2).says(&[says]);
            assert!(!refused.text().contains(SECRET), "{kind}: {refused:?}");
        }
    }
    let list = fleet.dunlin(&["list", "--output", "json"]).await.ended(0).json();
    assert_eq!(list["migrations"].as_array().map_or(0, Vec::len), 0, "{list}");
}

#[tokio::test]
async fn a_mounted_configmap_is_a_directory_like_others() {
    let fleet = Fleet::start().await;
    let mounted = fleet.migrations();
    fleet.write("..2026_11_29/one.toml", &trivial("one", 1, "SELECT 1"));
    symlink("..2026_11_29", mounted.join("..data")).unwrap();
    symlink("..data/one.toml", mounted.join("one.toml")).unwrap();
    let _done = fleet.dunlin(&["register", "migrations"]).await.ended(0).says(&["1 registered"]);
    let _done = fleet.dunlin(&["run", "--pending"]).await.ended(0);
}
