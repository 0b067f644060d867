//! The files of a set: which there are in a directory, and which one a `file` means.
//!
//! What must stay true: no file outside of the directory is read, and no more of it than a set can have.

use std::fs;
use std::io;
use std::path::Path;

use toml_span::Value;

use super::contained::{self, Found};
use super::limits::{self, BYTES, FILES, told};
use super::position::Source;
use super::set::{Problem, ReadError, SourceFile};

/// The path in the set that `name` means in the definition at `definition`. `None` when it leads out of the set.
pub(super) fn resolve(definition: &str, name: &str) -> Option<String> {
    if name.starts_with('/') || name.contains('\\') || name.contains(':') {
        return None;
    }
    let mut parts: Vec<&str> = definition.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The `*.toml` files of a directory and the files that their steps name.
pub(super) fn read_dir(dir: &Path) -> Result<Vec<SourceFile>, ReadError> {
    let root = fs::canonicalize(dir).map_err(|source| failed(dir, source))?;
    let mut reading = Reading { dir, root: &root, room: BYTES, files: Vec::new(), unfit: Vec::new() };
    let mut names = Vec::new();
    for entry in fs::read_dir(&root).map_err(|source| failed(dir, source))? {
        let name = entry.map_err(|source| failed(dir, source))?.file_name();
        let shown = name.to_string_lossy();
        if !shown.ends_with(".toml") || shown.starts_with('.') {
            continue;
        }
        match name.to_str() {
            Some(name) => names.push(name.to_owned()),
            None => reading.refuse(&shown, "the name of the file is not UTF-8", "give it another name"),
        }
    }
    if names.is_empty() && reading.unfit.is_empty() {
        return Err(ReadError::Empty { path: dir.display().to_string() });
    }
    names.sort_unstable();
    reading.all(names, true)?;
    let mut named: Vec<String> = reading.files.iter().flat_map(named_by).collect();
    named.sort_unstable();
    named.dedup();
    named.retain(|path| !reading.files.iter().any(|file| file.path == *path));
    reading.all(named, false)?;
    if reading.unfit.is_empty() { Ok(reading.files) } else { Err(ReadError::Problems(reading.unfit)) }
}

/// The files of a set that were read so far, and what cannot be.
struct Reading<'a> {
    /// The directory as it was named.
    dir: &'a Path,
    /// Where it is.
    root: &'a Path,
    /// The bytes that the set may still have.
    room: usize,
    files: Vec<SourceFile>,
    unfit: Vec<Problem>,
}

impl Reading<'_> {
    /// Reads files, as far as they are there; those that were found in the directory are.
    fn all(&mut self, paths: Vec<String>, listed: bool) -> Result<(), ReadError> {
        if self.files.len() + paths.len() > FILES {
            self.unfit.push(limits::too_many_files(self.files.len() + paths.len()));
            return Err(ReadError::Problems(std::mem::take(&mut self.unfit)));
        }
        for path in paths {
            let most = self.room.saturating_sub(path.len());
            let found =
                contained::read(self.root, &path, most).map_err(|source| failed(&self.dir.join(&path), source))?;
            match found {
                Found::Bytes(bytes) => {
                    self.room = most.saturating_sub(bytes.len());
                    match String::from_utf8(bytes) {
                        Ok(content) => self.files.push(SourceFile { path, content }),
                        Err(error) => {
                            self.unfit.push(not_utf8(&path, error.as_bytes(), error.utf8_error().valid_up_to()));
                        }
                    }
                }
                Found::Large(size) if size > BYTES => {
                    let message = format!("the file has {} bytes, and a whole set at most {}", told(size), told(BYTES));
                    self.refuse(&path, message, limits::IN_BULK);
                }
                Found::Large(_) => {
                    let message =
                        format!("with this file the set has more than {} bytes, and no more were read", told(BYTES));
                    self.refuse(&path, message, &format!("split it; {}", limits::IN_BULK));
                    return Err(ReadError::Problems(std::mem::take(&mut self.unfit)));
                }
                Found::Outside(real) => {
                    let message = format!("this is a link that leads out of the set, to {}", real.display());
                    self.refuse(&path, message, "put the file itself into the directory of the set, or below it");
                }
                Found::Other(what) => {
                    let message = format!("this is {what}, and only regular files are read");
                    let help = if listed { "move it elsewhere, or give it another name" } else { "name a file" };
                    self.refuse(&path, message, help);
                }
                Found::Dangling => {
                    self.refuse(&path, "this is a link to a file that is not there", "mend or remove it")
                }
                Found::Nothing => {}
            }
        }
        Ok(())
    }

    fn refuse(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.unfit.push(Source::new(path, "").problem(0, message, Some(help.to_owned())));
    }
}

/// What a file that is no UTF-8 probably is.
fn not_utf8(path: &str, bytes: &[u8], good: usize) -> Problem {
    let (what, from) = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ("it begins like UTF-16".to_owned(), "UTF-16"),
        _ => {
            let byte = bytes.get(good).copied().unwrap_or_default();
            (format!("the byte 0x{byte:02X} here is part of no character"), "WINDOWS-1252")
        }
    };
    let text = String::from_utf8_lossy(bytes.get(..good).unwrap_or_default());
    let source = Source::new(path, &text);
    let help = format!("save it as UTF-8, such as by `iconv -f {from} -t UTF-8` (-f names the encoding that it has)");
    source.problem(source.text.len(), format!("the file is not UTF-8 text: {what}"), Some(help))
}

fn failed(path: &Path, source: io::Error) -> ReadError {
    ReadError::Io { path: path.display().to_string(), source }
}

/// The files that a definition names. A definition that cannot be read names none; it is refused later.
fn named_by(file: &SourceFile) -> Vec<String> {
    let Ok(root) = toml_span::parse(Source::new(&file.path, &file.content).text) else { return Vec::new() };
    let steps = ["step", "rollback"].iter().filter_map(|list| root.as_table()?.get(*list)?.as_array());
    let named = steps.flatten().filter_map(|step: &Value<'_>| step.as_table()?.get("file")?.as_str());
    named.filter_map(|name| resolve(&file.path, name)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_found_beside_the_definition_and_never_outside_the_set() {
        let found = |definition, name| resolve(definition, name);
        assert_eq!(found("a.toml", "x.sql").as_deref(), Some("x.sql"));
        assert_eq!(found("a.toml", "./sql//x.sql").as_deref(), Some("sql/x.sql"));
        assert_eq!(found("v1/a.toml", "../x.sql").as_deref(), Some("x.sql"));
        for name in ["../x.sql", "/etc/passwd", "sql/../../x.sql", "C:\\x.sql", "..", "."] {
            assert_eq!(found("a.toml", name), None, "{name}");
        }
    }

    #[test]
    fn a_directory_gives_its_definitions_and_the_files_they_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("b.toml", "[[step]]\nfile = \"sql/one.sql\"\n[[rollback]]\nfile = \"two.sql\"");
        write(
            "a.toml",
            "[[step]]\nfile = \"sql/one.sql\"\n[[step]]\nfile = \"../outside.sql\"\n[[step]]\nfile = \"no.sql\"",
        );
        write("sql/one.sql", "SELECT 1");
        write("two.sql", "SELECT 2");
        write("unnamed.sql", "SELECT 3");
        write("below/c.toml", "");
        write("README.md", "");
        let paths: Vec<String> = read_dir(dir.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, ["a.toml", "b.toml", "sql/one.sql", "two.sql"]);
    }

    #[test]
    fn a_directory_without_definitions_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_dir(dir.path()), Err(ReadError::Empty { .. })));
        assert!(matches!(read_dir(&dir.path().join("none")), Err(ReadError::Io { .. })));
    }

    #[test]
    fn a_file_that_is_not_utf8_is_told_with_the_place_and_what_it_probably_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.toml"), b"[[step]]\nfile = 'x.sql'\nname = 'caf\xe9'\n").unwrap();
        fs::write(dir.path().join("b.toml"), b"[[step]]\nfile = 'x.sql'\n").unwrap();
        fs::write(dir.path().join("x.sql"), b"\xff\xfeS\0E\0").unwrap();
        let Err(ReadError::Problems(problems)) = read_dir(dir.path()) else { panic!("it was read") };
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("a.toml:3:12: the file is not UTF-8 text: the byte 0xE9 here"), "{told:#?}");
        assert!(told[1].starts_with("x.sql:1:1: the file is not UTF-8 text: it begins like UTF-16"), "{told:#?}");
        assert!(told[1].contains("`iconv -f UTF-16 -t UTF-8`"), "{told:#?}");
    }

    #[test]
    fn a_file_that_is_too_large_for_a_set_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.toml"), b"[[step]]\nfile = 'dump.sql'\n").unwrap();
        let huge = fs::File::create(dir.path().join("dump.sql")).unwrap();
        huge.set_len(1 << 40).unwrap();
        let Err(ReadError::Problems(problems)) = read_dir(dir.path()) else { panic!("it was read") };
        assert!(problems[0].message.contains("1,099,511,627,776 bytes"), "{problems:#?}");
    }

    fn told(dir: &Path) -> Vec<String> {
        match read_dir(dir) {
            Err(ReadError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_link_is_followed_within_the_set_alone() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.sql"), "SELECT 'secret'").unwrap();
        fs::write(outside.path().join("secret.toml"), "secret = 1").unwrap();
        let place = tempfile::tempdir().unwrap();
        // As Kubernetes mounts a ConfigMap.
        let mounted = place.path().join("mounted");
        fs::create_dir_all(mounted.join("..2026_11_29/")).unwrap();
        fs::write(mounted.join("..2026_11_29/a.toml"), "[[step]]\nfile = 'x.sql'").unwrap();
        fs::write(mounted.join("..2026_11_29/x.sql"), "SELECT 1").unwrap();
        symlink("..2026_11_29", mounted.join("..data")).unwrap();
        symlink("..data/a.toml", mounted.join("a.toml")).unwrap();
        symlink("..data/x.sql", mounted.join("x.sql")).unwrap();
        symlink(&mounted, place.path().join("linked")).unwrap();
        for dir in [&mounted, &place.path().join("linked")] {
            let paths: Vec<String> = read_dir(dir).unwrap().into_iter().map(|file| file.path).collect();
            assert_eq!(paths, ["a.toml", "x.sql"]);
        }
        let dir = place.path().join("set");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.toml"), "[[step]]\nfile = 'x.sql'\n[[step]]\nfile = 'below/secret.sql'").unwrap();
        symlink(outside.path().join("secret.toml"), dir.join("b.toml")).unwrap();
        symlink(outside.path().join("secret.sql"), dir.join("x.sql")).unwrap();
        symlink(outside.path(), dir.join("below")).unwrap();
        symlink("nowhere", dir.join("c.toml")).unwrap();
        let told = told(&dir);
        for (problem, path) in told.iter().zip(["b.toml", "c.toml", "below/secret.sql", "x.sql"]) {
            let expected =
                if path == "c.toml" { "a link to a file that is not there" } else { "leads out of the set, to " };
            assert!(problem.starts_with(path) && problem.contains(expected), "{told:#?}");
        }
        assert_eq!(told.len(), 4, "{told:#?}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::write(at("a.toml"), "[[step]]\nfile = 'pipe.sql'\n[[step]]\nfile = 'folder'\n[[step]]\nfile = 'sock'")
            .unwrap();
        for pipe in ["b.toml", "pipe.sql"] {
            let made = std::process::Command::new("mkfifo").arg(at(pipe)).status().unwrap();
            assert!(made.success());
        }
        fs::create_dir(at("folder")).unwrap();
        fs::create_dir(at("d.toml")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("sock")).unwrap();
        symlink("/dev/zero", at("zero.toml")).unwrap();
        let told = told(dir.path());
        for (problem, (path, what)) in told.iter().zip([
            ("b.toml", "a named pipe"),
            ("d.toml", "a directory"),
            ("zero.toml", "to /dev/zero"),
            ("folder", "a directory"),
            ("pipe.sql", "a named pipe"),
            ("sock", "a socket"),
        ]) {
            assert!(problem.starts_with(path) && problem.contains(what), "{told:#?}");
        }
        assert_eq!(told.len(), 6, "{told:#?}");
    }

    #[test]
    fn no_more_is_read_than_a_set_can_have() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..300 {
            let large = fs::File::create(dir.path().join(format!("{number:03}.toml"))).unwrap();
            large.set_len(10 * 1024 * 1024).unwrap();
        }
        let told = told(dir.path());
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(
            told[0].starts_with("001.toml:1:1: with this file the set has more than 16,777,216 bytes"),
            "{told:#?}"
        );
        let many = tempfile::tempdir().unwrap();
        for number in 0..=FILES {
            fs::write(many.path().join(format!("{number}.toml")), "").unwrap();
        }
        assert!(super::tests::told(many.path())[0].starts_with("a set has at most 10,000 files, and these are 10,001"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_whose_size_is_not_known_is_read_up_to_the_limit() {
        // Its size is said to be 0.
        let root = Path::new("/proc/self");
        let root = fs::canonicalize(root).unwrap();
        assert!(matches!(contained::read(&root, "status", BYTES).unwrap(), Found::Bytes(bytes) if !bytes.is_empty()));
        assert!(matches!(contained::read(&root, "status", 10).unwrap(), Found::Large(11)));
    }
}
