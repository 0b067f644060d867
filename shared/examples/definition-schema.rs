//! Writes `docs/definition.schema.json`, the JSON Schema of the definition format.

use std::error::Error;
use std::fs;

use dunlin_shared::migration::schema::json_schema;

fn main() -> Result<(), Box<dyn Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/definition.schema.json");
    fs::write(path, format!("{:#}\n", json_schema()))?;
    Ok(())
}
