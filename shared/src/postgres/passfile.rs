//! A file of passwords in the format of libpq: lines of `host:port:database:user:password`.
//!
//! The first line that fits counts. A field `*` fits everything; `\:` and `\\` stand for `:` and `\`; a line that begins with `#` is a
//! remark.

use std::fmt;

/// The file. What it prints as has no passwords.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Passfile(Vec<[String; 5]>);

impl fmt::Debug for Passfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passfile({} lines)", self.0.len())
    }
}

impl Passfile {
    /// Reads the text. A line with too few fields fits nothing.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(fields).collect())
    }

    /// The password for a connection.
    pub(super) fn password(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let wanted = [host, port.as_str(), database, user];
        let fits =
            |fields: &&[String; 5]| fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        self.0.iter().find(fits).map(|[.., password]| password.as_str())
    }
}

fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields = vec![String::new()];
    let mut characters = line.strip_suffix('\r').unwrap_or(line).chars();
    while let Some(character) = characters.next() {
        let character = match character {
            // What follows the password is of no account.
            ':' if fields.len() == 5 => break,
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        fields.last_mut()?.push(character);
    }
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = Passfile::parse(
            "# remark\nbroken:line\nh:5432:d:u:first\nh:5432:d:*:pa\\:ss\\\\word\r\n*:*:*:who:last:rest\n::1:5432:d:u:no\n\\:\\:1:5432:d:u:six\n",
        );
        assert_eq!(file.password("h", 5432, "d", "u"), Some("first"));
        assert_eq!(file.password("h", 5432, "d", "v"), Some("pa:ss\\word"));
        assert_eq!(file.password("other", 1, "x", "who"), Some("last"));
        assert_eq!(file.password("::1", 5432, "d", "u"), Some("six"));
        assert_eq!(file.password("h", 5433, "d", "u"), None);
        assert!(!format!("{file:?}").contains("first"));
    }
}
