//! Numbers for people, the same in every message: `1,234,567`.
//!
//! Whatever an operator reads says a number in one way, whether the command, a controller or an agent says it. Numbers that are names
//! (runs, versions, keys of rows) and those that stand in a definition are told as they are written there, without separators.

/// A number with separators: `1,234,567`.
#[must_use]
pub fn count(number: impl Into<i64>) -> String {
    let number: i64 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A number of things: `1 run`, `2,000 runs`.
#[must_use]
pub fn counted(number: impl Into<i64>, one: &str, many: &str) -> String {
    let number: i64 = number.into();
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A number of rows: `1 row`, `2,000 rows`.
#[must_use]
pub fn rows(number: impl Into<i64>) -> String {
    counted(number, "row", "rows")
}

/// The length of a list, as [`count`] and [`counted`] take it.
#[must_use]
pub fn length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(-1_234), "-1,234");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1, "run", "runs"), "1 run");
        assert_eq!(counted(1_200, "run", "runs"), "1,200 runs");
        assert_eq!(rows(0), "0 rows");
        assert_eq!(rows(500_189), "500,189 rows");
    }
}
