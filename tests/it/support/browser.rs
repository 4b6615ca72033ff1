//! A real browser: Debian's Chromium, or one from npm where that is not there. Tests steer it with scripts of their own, which
//! import what they share from `browser.mjs`.

use std::path::Path;

use serde_json::Value;

use super::clients::node_files;

/// A browser, what steers it, and what looks for whom a page cannot be used by.
const PACKAGES: &str = "playwright-core@1.65.1 @sparticuz/chromium@153.0.0 axe-core@4.14.1";
/// What scripts share.
const SHARED: &[(&str, &str)] = &[("browser.mjs", include_str!("../pages/browser.mjs"))];

/// Runs a script with a browser; gives the JSON that it prints. `name` is the script's own.
pub(crate) async fn browse(name: &str, script: &str, plan: Value) -> Value {
    browse_with(&[], name, script, plan).await
}

/// The same with more files beside the script, which it imports.
pub(crate) async fn browse_with(more: &[(&str, &str)], name: &str, script: &str, mut plan: Value) -> Value {
    // Where a step fails, a picture of each page is left there.
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    plan["pictures"] = pictures.display().to_string().into();
    let files: Vec<_> = SHARED.iter().chain(more).copied().collect();
    node_files(PACKAGES, &files, script, &plan).await
}

/// What the browser's pages complained of.
pub(crate) fn complaints(seen: &Value) -> Vec<&str> {
    let complaints = seen["complaints"].as_array().expect("a list").iter();
    complaints.filter_map(Value::as_str).collect()
}
