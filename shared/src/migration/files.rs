//! The files of a set: which there are in a directory, and which one a `file` means.

use std::fs;
use std::io;
use std::path::Path;

use toml_span::Value;

use super::set::{ReadError, SourceFile};

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
    for name in names {
        files.extend(read(dir, name)?);
    }
    let mut named: Vec<String> = files.iter().flat_map(named_by).collect();
    named.sort_unstable();
    named.dedup();
    named.retain(|path| !files.iter().any(|file| file.path == *path));
    for path in named {
        files.extend(read(dir, path)?);
    }
    Ok(files)
}

/// Reads a file; `None` when there is no such file.
fn read(dir: &Path, path: String) -> Result<Option<SourceFile>, ReadError> {
    let whole = dir.join(&path);
    match fs::read(&whole) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(content) => Ok(Some(SourceFile { path, content })),
            Err(_) => Err(ReadError::NotText { path: whole.display().to_string() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&whole, error)),
    }
}

fn failed(path: &Path, source: io::Error) -> ReadError {
    ReadError::Io { path: path.display().to_string(), source }
}

/// The files that a definition names. A definition that cannot be read names none; it is refused later.
fn named_by(file: &SourceFile) -> Vec<String> {
    let Ok(root) = toml_span::parse(file.content.trim_start_matches('\u{feff}')) else { return Vec::new() };
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
        fs::write(dir.path().join("a.toml"), [0xff]).unwrap();
        assert!(matches!(read_dir(dir.path()), Err(ReadError::NotText { .. })));
    }
}
