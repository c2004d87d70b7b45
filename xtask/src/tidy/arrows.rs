//! Which crate of the workspace may depend on which.

use super::Finding;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::process::Command;

/// The arrows of the architecture, by package name. Rooms at the bottom come first; arrows only point up this list.
///
/// A new arrow is a change of the architecture: it is added here in the commit that says why in `ARCHITECTURE.md`.
const ALLOWED: [(&str, &[&str]); 24] = [
    ("config", &[]),
    ("dist", &[]),
    ("hub", &[]),
    ("mapped", &[]),
    ("kernels", &["mapped"]),
    ("objective", &[]),
    ("optim", &["kernels"]),
    ("pack", &[]),
    ("rundir", &[]),
    ("tables", &[]),
    ("testkit", &[]),
    ("weights", &["kernels", "mapped"]),
    ("xtask", &[]),
    ("data", &["mapped", "tables"]),
    ("nn", &["kernels", "pack"]),
    ("model", &["kernels", "nn", "pack", "weights"]),
    ("infer", &["data", "kernels", "model", "nn", "pack", "weights"]),
    (
        "train",
        &[
            "config",
            "data",
            "dist",
            "infer",
            "kernels",
            "mapped",
            "model",
            "nn",
            "objective",
            "optim",
            "pack",
            "rundir",
            "weights",
        ],
    ),
    ("eval", &["config", "data", "infer"]),
    ("serve", &["data", "infer"]),
    ("gguf", &["data", "infer", "kernels", "model", "train", "weights"]),
    (
        "bench",
        &["config", "data", "kernels", "model", "nn", "objective", "optim", "pack", "rundir", "train", "weights"],
    ),
    ("demo", &["config", "data", "eval", "infer", "model", "rundir", "train", "weights"]),
    (
        "prospect",
        &[
            "config", "data", "demo", "dist", "eval", "gguf", "hub", "infer", "model", "rundir", "serve", "train",
            "weights",
        ],
    ),
];

/// What every crate may use in its tests.
const IN_TESTS: &str = "testkit";

/// Reads the workspace at `root` with `cargo metadata` and finds the arrows that are not allowed.
pub(super) fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(findings(root, &metadata))
}

fn findings(root: &Path, metadata: &Value) -> Vec<Finding> {
    let list = |value: &'_ Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut findings = Vec::new();
    for package in list(metadata, "packages") {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let path = manifest.strip_prefix(root).unwrap_or(manifest);
        let mut report = |message| findings.push(Finding { path: path.into(), line: 1, message });
        let Some((_, allowed)) = ALLOWED.iter().find(|(from, _)| *from == name) else {
            report(format!("`{name}` has no row in the table of arrows (xtask/src/tidy/arrows.rs)"));
            continue;
        };
        for dependency in list(&package, "dependencies") {
            let to = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string();
            let in_tests = dependency["kind"] == "dev" && to == IN_TESTS;
            if is_ours && !in_tests && !allowed.contains(&to) {
                report(format!("`{name}` may not depend on `{to}`; see the table in xtask/src/tidy/arrows.rs"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(name: &str, dependencies: Value) -> Vec<String> {
        let package = json!({"name": name, "manifest_path": "/r/crates/x/Cargo.toml", "dependencies": dependencies});
        let found = findings(Path::new("/r"), &json!({"packages": [package]}));
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_new_arrow_is_found_and_a_known_one_is_not() {
        let arrow = |to: &str| json!([{"name": to, "path": "/r/crates/y", "kind": null}]);
        assert_eq!(messages("model", arrow("nn")), [""; 0]);
        assert_eq!(
            messages("nn", arrow("model")),
            ["crates/x/Cargo.toml:1: `nn` may not depend on `model`; see the table in xtask/src/tidy/arrows.rs"]
        );
    }

    #[test]
    fn testkit_is_for_tests_only_and_other_peoples_crates_are_free() {
        let on = |name: &str, kind: Value, path: Value| json!([{"name": name, "path": path, "kind": kind}]);
        assert_eq!(messages("pack", on("testkit", json!("dev"), json!("/r/crates/testkit"))), [""; 0]);
        assert_eq!(messages("pack", on("testkit", json!(null), json!("/r/crates/testkit"))).len(), 1);
        assert_eq!(messages("pack", on("train", json!("dev"), json!("/r/crates/train"))).len(), 1);
        assert_eq!(messages("pack", on("half", json!(null), json!(null))), [""; 0]);
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(messages("helpers", json!([])).len(), 1);
    }

    #[test]
    fn the_table_has_no_cycle() {
        for (i, (from, to)) in ALLOWED.iter().enumerate() {
            for to in *to {
                assert!(ALLOWED[..i].iter().any(|(name, _)| name == to), "{from} -> {to} points down the list");
            }
        }
    }
}
