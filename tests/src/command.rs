//! What an invocation of `dunlin` printed and how it ended.

use std::process::Output;

/// The outcome of one invocation.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The arguments.
    pub arguments: String,
    /// The exit code; -1 when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Puts an outcome together.
    #[must_use]
    pub fn new(arguments: &[&str], output: &Output) -> Self {
        Self {
            arguments: arguments.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Everything it printed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// The same outcome, when it ended with `code`.
    ///
    /// # Panics
    /// When it ended with another code.
    #[must_use]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "`dunlin {}` ended with {}, not with {code}\nstdout: {}\nstderr: {}",
            self.arguments, self.code, self.stdout, self.stderr
        );
        self
    }

    /// The same outcome, when everything that it printed contains each of the texts.
    ///
    /// # Panics
    /// When one is missing.
    #[expect(clippy::return_self_not_must_use, reason = "the check is what it is called for")]
    pub fn says(self, texts: &[&str]) -> Self {
        let all = self.text();
        for text in texts {
            assert!(all.contains(text), "`dunlin {}` does not say {text:?}:\n{all}", self.arguments);
        }
        self
    }

    /// Standard output as one JSON document.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("`dunlin {}` did not print JSON: {error}\n{}", self.arguments, self.stdout))
    }
}
