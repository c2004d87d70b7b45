//! The house rules that neither rustc nor clippy checks.

mod arrows;
mod functions;
mod rules;
mod source;

use source::Source;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One broken rule and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    path: PathBuf,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// Folders without text of ours.
const SKIPPED: [&str; 5] = [".git", ".venv", "fixtures", "runs", "target"];

/// Kinds of files whose lines are checked, besides `.ci/run`.
const TEXT: [&str; 6] = ["md", "py", "rs", "sh", "toml", "yaml"];

/// Checks the working tree at `root`; findings are in the order of paths and lines.
pub(crate) fn run(root: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = check_files(root)?;
    findings.extend(arrows::check(root)?);
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}

fn check_files(root: &Path) -> io::Result<Vec<Finding>> {
    let mut paths = Vec::new();
    walk(root, Path::new(""), &mut paths)?;
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(root.join(&path))?;
        rules::trailing_whitespace(&path, &text, &mut findings);
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push((path, text));
        }
    }
    let mut sources: Vec<Source> = sources.iter().map(|(path, text)| Source::new(path, text)).collect();
    let test_modules: HashSet<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        source.is_test |= test_modules.iter().any(|module| source.path.starts_with(module))
            || test_modules.contains(&source.path.with_extension(""));
        for rule in rules::ALL {
            rule(source, &mut findings);
        }
        functions::check(source, &mut findings);
    }
    rules::macros(&sources, &mut findings);
    Ok(findings)
}

/// Collects the text files under `root/inner`, as paths relative to `root`.
fn walk(root: &Path, inner: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(inner))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let path = inner.join(&name);
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            walk(root, &path, paths)?;
        }
        let is_text = path.extension().is_some_and(|extension| TEXT.iter().any(|text| extension == *text));
        if kind.is_file() && (is_text || path == Path::new(".ci/run")) {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_meets_our_text_and_nothing_else() {
        let root = std::env::temp_dir().join(format!("xtask-tidy-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        };
        let prints = "//! A module.\nfn f() { println!(); }\n";
        write("crates/nn/src/lib.rs", "//! A crate.\n#![forbid(unsafe_code)]\n#[cfg(test)]\nmod checks;\nmod norm;\n");
        write("crates/nn/src/checks.rs", prints);
        write("crates/nn/src/norm.rs", prints);
        write("target/debug/made.rs", prints);
        write("fixtures/blanks.md", "a \n");
        write(".ci/run", "a \n");
        write("weights.bin", "a \n");
        let found = check_files(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let mut places: Vec<_> = found.iter().map(|f| format!("{}:{}", f.path.display(), f.line)).collect();
        places.sort();
        assert_eq!(places, [".ci/run:1", "crates/nn/src/norm.rs:2"]);
    }
}
