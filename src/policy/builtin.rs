//! The set that is in force when no policy is given.

use super::source::SourceFile;

/// Its name in findings and records.
pub const BUILTIN_NAME: &str = "<built-in>";

/// The built-in default set.
pub fn sources() -> Vec<SourceFile> {
    let text = include_str!("../../config/writegate.toml").to_owned();
    vec![SourceFile { name: BUILTIN_NAME.to_owned(), text }]
}
