//! How many values a text of TOML has, before any of them is made.
//!
//! A value is two bytes of the text and a hundred in memory. What must stay true: a text that is TOML has no more values than are counted
//! here; of what is none it does not matter.

/// True when a text has more values than this.
pub(super) fn more_than(most: usize, text: &str) -> bool {
    // Each begins behind one of these.
    count(text.as_bytes(), most) > most
}

fn count(mut text: &[u8], most: usize) -> usize {
    let mut found = 0;
    while let Some((first, rest)) = text.split_first() {
        text = match first {
            b'#' => behind(rest, b"\n", false),
            b'"' | b'\'' => string(text),
            b'=' | b',' | b'[' | b'{' => {
                found += 1;
                if found > most {
                    return found;
                }
                rest
            }
            _ => rest,
        };
    }
    found
}

/// What stands behind a string that a text begins with.
fn string(text: &[u8]) -> &[u8] {
    let Some((quote, _)) = text.split_first() else { return text };
    let escapes = *quote == b'"';
    let three = [*quote; 3];
    if text.starts_with(&three) {
        return behind(&text[3..], &three, escapes);
    }
    // A line's end ends one that is left open, too.
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\n' => break,
            b'\\' if escapes => at += 2,
            byte if byte == quote => return &text[at + 1..],
            _ => at += 1,
        }
    }
    text.get(at..).unwrap_or_default()
}

/// What stands behind an end, or nothing.
fn behind<'a>(text: &'a [u8], end: &[u8], escapes: bool) -> &'a [u8] {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(end) {
            return &rest[end.len()..];
        }
        at += if escapes && rest[0] == b'\\' { 2 } else { 1 };
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_texts_and_comments_is_no_value() {
        let counted = |text: &str| count(text.as_bytes(), 1000);
        assert_eq!(counted("a = 1\nb = [1, 2, 3]\n[[step]]\nc = { d = 1 }"), 1 + 2 + 2 + 2 + 3);
        for quoted in [
            "a = 'x,,,\\'",
            "a = \"x,\\\",,\"",
            "a = '''\nx,'',,'''",
            "a = \"\"\"\nx,\\\"\"\",\\\\,\"\"\"",
            "a = 1 # ,,,[[",
            "\"a,,\" = 1",
        ] {
            assert_eq!(counted(quoted), 1, "{quoted}");
            assert_eq!(counted(&format!("{quoted}\nb = 1")), 2, "{quoted}");
        }
        assert!(more_than(3, "a = [1, 2, 3]") && !more_than(4, "a = [1, 2, 3]"));
        for left_open in ["a = \"", "a = '''", "a = \"\\", "'", "#"] {
            counted(left_open);
        }
    }
}
