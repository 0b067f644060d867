//! The JSON Schema of the definition format.
