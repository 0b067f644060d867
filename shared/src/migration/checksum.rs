//! Checksums of definitions and steps.
//!
//! SHA-256 over a canonical serialisation of the parsed form: compact JSON, fields in the order of the types, the text of
//! SQL files inlined. Comments and layout of the TOML leave no trace in it, nor does the way the SQL was given (`sql` or
//! `file`), nor does the kind of line ends: a checkout may turn them around. What must stay true: the same definition has the same checksum in every later version of Dunlin, since it
//! stands in the registry of targets. A new field of the types is therefore left out while it has its default.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(String);

impl Checksum {
    /// Takes a checksum that was stored or received. Text that no checksum looks like equals none.
    #[must_use]
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.0
    }
}

/// The checksum of a value of a kind; kinds never share checksums.
pub(super) fn checksum(kind: &str, value: &impl Serialize) -> Checksum {
    let json = serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain structs serialise: {error}"));
    let mut hash = Sha256::new();
    hash.update(b"dunlin 1 ");
    hash.update(kind);
    hash.update(b"\n");
    hash.update(with_plain_line_ends(&json));
    Checksum(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// JSON with LF for each CR LF in its texts.
fn with_plain_line_ends(json: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(json.len());
    let mut rest = json;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [b'r', b'\\', b'n', ..]) => rest = &tail[1..],
            (b'\\', [escaped, behind @ ..]) => {
                plain.extend([b'\\', *escaped]);
                rest = behind;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        let pieces = vec!["\r", "\n", "\r\n", "\\", "r", "n", "\"", "é"];
        prop::collection::vec(prop::sample::select(pieces), 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_checksum_is_blind_to_the_kind_of_line_ends_and_to_nothing_else(one in text(), other in text()) {
            let plain = |text: &str| text.replace("\r\n", "\n");
            prop_assert_eq!(checksum("a", &one) == checksum("a", &other), plain(&one) == plain(&other));
        }
    }
}
