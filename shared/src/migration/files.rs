//! The files of a set: which there are in a directory, and which one a `file` means.

use std::fs;
use std::io;
use std::path::Path;

use toml_span::Value;

use super::limits::{BYTES, told};
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
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| failed(dir, source))? {
        let path = entry.map_err(|source| failed(dir, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".toml") && !name.starts_with('.') && path.is_file() {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        return Err(ReadError::Empty { path: dir.display().to_string() });
    }
    names.sort_unstable();
    let mut files = Vec::with_capacity(names.len());
    let mut unfit = Vec::new();
    for name in names {
        read(dir, name, &mut files, &mut unfit)?;
    }
    let mut named: Vec<String> = files.iter().flat_map(named_by).collect();
    named.sort_unstable();
    named.dedup();
    named.retain(|path| !files.iter().any(|file| file.path == *path));
    for path in named {
        read(dir, path, &mut files, &mut unfit)?;
    }
    if unfit.is_empty() { Ok(files) } else { Err(ReadError::Problems(unfit)) }
}

/// Reads a file, if there is one.
fn read(dir: &Path, path: String, files: &mut Vec<SourceFile>, unfit: &mut Vec<Problem>) -> Result<(), ReadError> {
    let whole = dir.join(&path);
    let size = match fs::metadata(&whole) {
        Ok(about) => usize::try_from(about.len()).unwrap_or(usize::MAX),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&whole, error)),
    };
    if size > BYTES {
        let message = format!("the file has {} bytes, and a whole set at most {}", told(size), told(BYTES));
        let help = "data in bulk does not belong into a definition: load it from a file on the server (COPY)";
        unfit.push(Source::new(&path, "").problem(0, message, Some(help.to_owned())));
        return Ok(());
    }
    match String::from_utf8(fs::read(&whole).map_err(|error| failed(&whole, error))?) {
        Ok(content) => files.push(SourceFile { path, content }),
        Err(error) => unfit.push(not_utf8(&path, error.as_bytes(), error.utf8_error().valid_up_to())),
    }
    Ok(())
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
}
