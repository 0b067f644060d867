//! The names of authors as people have typed them.

/// One way to write a name: "Tolkien, J. R. R." and "J.R.R.  Tolkien" are both "J. R. R. Tolkien".
pub(crate) fn normal(typed: &str) -> String {
    let ordered = match typed.split_once(',') {
        Some((family, given)) if !given.trim().is_empty() => format!("{given} {family}"),
        _ => typed.replace(',', " "),
    };
    let mut spaced = String::with_capacity(ordered.len());
    let mut letters = ordered.chars().peekable();
    while let Some(letter) = letters.next() {
        spaced.push(letter);
        if letter == '.' && letters.peek().is_some_and(|next| next.is_alphabetic()) {
            spaced.push(' ');
        }
    }
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_author_is_written_in_one_way() {
        for typed in ["J. R. R. Tolkien", "Tolkien, J. R. R.", "J.R.R.  Tolkien", " Tolkien,J.R.R. "] {
            assert_eq!(normal(typed), "J. R. R. Tolkien");
        }
        assert_eq!(normal("Plato"), "Plato");
        assert_eq!(normal("Plato,"), "Plato");
        assert_eq!(normal("  "), "");
    }
}
