//! What was found to be wrong, collected from everywhere.

use std::sync::{Arc, Mutex, PoisonError};

/// The list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Violations(Arc<Mutex<Vec<String>>>);

impl Violations {
    /// Adds one, in a sentence that says where to look.
    pub(crate) fn add(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        eprintln!("VIOLATION: {sentence}");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
    }

    /// Adds several.
    pub(crate) fn extend(&self, sentences: impl IntoIterator<Item = String>) {
        for sentence in sentences {
            self.add(sentence);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
