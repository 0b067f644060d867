//! Pages of lists: sizes, and tokens that say where the next page begins.
//!
//! A token is opaque to callers: it holds the key of the last entry of its page, and a digest of what was asked for, so that
//! it is refused where it does not belong.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::status::bad_field;

/// The size of a page: what was asked for, or a default, and never more than the most.
pub(crate) fn size(asked: i32, default: i64, most: i64) -> Result<i64, Status> {
    match asked {
        ..=-1 => Err(bad_field("page_size", format!("it must not be negative, and is {asked}"))),
        0 => Ok(default),
        asked => Ok(i64::from(asked).min(most)),
    }
}

fn digest(list: &str, filter: &str) -> String {
    let hash = Sha256::digest(format!("{list}\n{filter}"));
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The token of the page behind an entry.
pub(crate) fn token(list: &str, filter: &str, key: &impl Serialize) -> String {
    let text = serde_json::to_string(&(digest(list, filter), key)).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(text)
}

/// The key of the last entry of the page before. `None` for the first page.
pub(crate) fn after<T: DeserializeOwned>(list: &str, filter: &str, token: &str) -> Result<Option<T>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let refused =
        || bad_field("page_token", "it is not the `next_page_token` of a page of this list with the same filters");
    let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let (found, key): (String, Value) = serde_json::from_slice(&text).map_err(|_| refused())?;
    // No entry of a list has a character that PostgreSQL cannot store.
    if found != digest(list, filter) || has_null(&key) {
        return Err(refused());
    }
    serde_json::from_value(key).map(Some).map_err(|_| refused())
}

fn has_null(key: &Value) -> bool {
    match key {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_null),
        _ => false,
    }
}

/// Cuts what was read, one more than a page, to a page, and tells its token.
pub(crate) fn cut<T, K: Serialize>(
    list: &str,
    filter: &str,
    mut entries: Vec<T>,
    size: i64,
    key: impl FnOnce(&T) -> K,
) -> (Vec<T>, String) {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if entries.len() <= size {
        return (entries, String::new());
    }
    entries.truncate(size);
    let token = entries.last().map(|last| token(list, filter, &key(last))).unwrap_or_default();
    (entries, token)
}

/// The most bytes of a page. One entry alone can be longer.
const BYTES: usize = 3 * 1024 * 1024;

/// The first of some entries that are not too long for a page together, at least one; and whether there are `more`, these left out
/// included.
pub(crate) fn within<T: Message>(entries: &mut impl Iterator<Item = T>, more: bool) -> (Vec<T>, bool) {
    let mut page: Vec<T> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.encoded_len();
        if bytes > BYTES && !page.is_empty() {
            return (page, true);
        }
        page.push(entry);
    }
    (page, more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let token = token("runs", "main", &7_i64);
        assert_eq!(after::<i64>("runs", "main", &token).unwrap(), Some(7));
        assert!(after::<i64>("runs", "other", &token).is_err());
        assert!(after::<i64>("events", "main", &token).is_err());
        assert_eq!(after::<i64>("runs", "main", "").unwrap(), None);
    }

    #[test]
    fn a_token_with_what_no_text_can_have_is_refused() {
        for key in ["\0", "a\0b"] {
            assert!(after::<String>("agents", "", &token("agents", "", &key)).is_err());
            assert!(after::<(i32, String)>("applied", "", &token("applied", "", &(1, key))).is_err());
        }
        let odd = "a\\u0000";
        assert_eq!(after::<String>("agents", "", &token("agents", "", &odd)).unwrap().as_deref(), Some(odd));
    }

    #[test]
    fn a_page_ends_before_it_is_too_long() {
        let text = |length| "x".repeat(length);
        let lengths = |texts: Vec<String>, more| {
            let (page, more) = within(&mut texts.into_iter(), more);
            (page.iter().map(String::len).collect::<Vec<_>>(), more)
        };
        assert_eq!(lengths(vec![text(10), text(20)], false), (vec![10, 20], false));
        assert_eq!(lengths(vec![text(10), text(20)], true), (vec![10, 20], true));
        assert_eq!(lengths(vec![text(10), text(BYTES), text(1)], false), (vec![10], true));
        assert_eq!(lengths(vec![text(2 * BYTES), text(1)], false), (vec![2 * BYTES], true));
    }

    #[test]
    fn sizes_are_clamped_and_negative_ones_refused() {
        assert_eq!(size(0, 100, 1000).unwrap(), 100);
        assert_eq!(size(5000, 100, 1000).unwrap(), 1000);
        assert_eq!(size(-1, 100, 1000).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    proptest! {
        #[test]
        fn no_token_that_was_made_up_is_taken(token in "\\PC{1,40}") {
            prop_assert!(after::<i64>("runs", "", &token).is_err());
        }
    }
}
