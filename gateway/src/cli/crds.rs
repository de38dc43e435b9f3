//! `ringway crds`: our CustomResourceDefinitions.

use std::process::ExitCode;

use super::table;

/// Prints them all, as one YAML stream.
pub fn main() -> Result<ExitCode, String> {
    let mut text = String::new();
    for (_, yaml) in controller::crds() {
        text.push_str("---\n");
        text.push_str(yaml.strip_prefix("---\n").unwrap_or(&yaml));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    table::print(&text).map(|()| ExitCode::SUCCESS)
}
