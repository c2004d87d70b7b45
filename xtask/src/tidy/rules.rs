//! Rules read off the tokens or lines of one file, and the count of macros of a crate.

use super::Finding;
use super::source::Source;
use std::collections::BTreeMap;
use std::path::Path;

type Rule = fn(&Source, &mut Vec<Finding>);

/// Every rule about one Rust file.
pub(super) const ALL: [Rule; 7] = [length, header, unsafe_code, ignored_tests, unfinished, environment, printing];

const MAX_LINES: usize = 600;
const MAX_MACROS: usize = 2;

/// Crates that may write `unsafe`: devices, memory maps, communication.
const UNSAFE: [&str; 3] = ["dist", "kernels", "mapped"];

/// Crates that may read arguments and environment, and print.
const FRONT: [&str; 3] = ["bench", "cli", "xtask"];

fn report(source: &Source, line: usize, message: impl Into<String>, findings: &mut Vec<Finding>) {
    findings.push(Finding { path: source.path.into(), line, message: message.into() });
}

fn is_front(source: &Source) -> bool {
    FRONT.contains(&source.room()) || source.path.ends_with("build.rs") || source.path.iter().any(|p| p == "examples")
}

/// No line of any text file ends in a blank.
pub(super) fn trailing_whitespace(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    for (i, line) in text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding { path: path.into(), line: i + 1, message: "trailing whitespace".into() });
        }
    }
}

/// At most two `macro_rules!` per crate.
pub(super) fn macros(sources: &[Source], findings: &mut Vec<Finding>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources {
        for i in source.find(&["macro_rules", "!"]) {
            let count = counts.entry(source.room()).or_default();
            *count += 1;
            if *count > MAX_MACROS {
                let message = format!("macro {count} of `{}`; the budget is {MAX_MACROS} per crate", source.room());
                report(source, source.tokens[i].line, message, findings);
            }
        }
    }
}

fn length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    let counted = (1..=lines).filter(|&line| !source.is_test_line(line)).count();
    if counted > MAX_LINES {
        report(source, lines, format!("{counted} lines without tests; the budget is {MAX_LINES}"), findings);
    }
}

fn header(source: &Source, findings: &mut Vec<Finding>) {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    if !first.starts_with("//! ") {
        report(source, 1, "a module opens with a sentence in `//!` that says what it is", findings);
    }
}

fn unsafe_code(source: &Source, findings: &mut Vec<Finding>) {
    if UNSAFE.contains(&source.room()) {
        return;
    }
    for i in source.find(&["unsafe"]) {
        let message = format!("`unsafe` belongs in {} only", UNSAFE.join(", "));
        report(source, source.tokens[i].line, message, findings);
    }
    let is_root = source.path.ends_with("src/lib.rs") || source.path.ends_with("src/main.rs");
    if is_root && source.find(&["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"]).next().is_none() {
        report(source, 1, "the crate must `#![forbid(unsafe_code)]`", findings);
    }
}

fn ignored_tests(source: &Source, findings: &mut Vec<Finding>) {
    let plain = source.find(&["#", "[", "ignore"]);
    let conditional = source.find(&["cfg_attr"]).filter(|&i| {
        let attribute = source.tokens[i..].iter().take_while(|token| token.text != "]");
        attribute.into_iter().any(|token| token.text == "ignore")
    });
    for i in plain.chain(conditional) {
        report(source, source.tokens[i].line, "no test is ignored: mend it or remove it", findings);
    }
}

fn unfinished(source: &Source, findings: &mut Vec<Finding>) {
    for name in ["todo", "unimplemented"] {
        for i in source.find(&[name, "!"]) {
            report(source, source.tokens[i].line, format!("`{name}!` is left in the code"), findings);
        }
    }
}

fn environment(source: &Source, findings: &mut Vec<Finding>) {
    if is_front(source) {
        return;
    }
    // `env::consts` is about the machine the program was built for.
    let reads = |i: usize| source.tokens.get(i + 3).is_none_or(|token| token.text != "consts");
    let used = source.find(&["env", ":", ":"]).filter(|&i| reads(i));
    let imported = source.find(&["use", "std", ":", ":", "env", ";"]);
    for line in used.chain(imported).map(|i| source.tokens[i].line) {
        if !source.is_test_line(line) {
            report(source, line, "only the command line reads arguments and environment", findings);
        }
    }
}

fn printing(source: &Source, findings: &mut Vec<Finding>) {
    for name in ["print", "println", "eprint", "eprintln", "dbg"] {
        for line in source.find(&[name, "!"]).map(|i| source.tokens[i].line) {
            if name == "dbg" || !(is_front(source) || source.is_test_line(line)) {
                report(source, line, format!("`{name}!`: only the command line prints"), findings);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! A module.\n#![forbid(unsafe_code)]\n";

    /// `path:line` of the findings in `text`, with a proper header put before it as lines 1 and 2.
    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        let text = format!("{HEADER}{text}");
        let mut findings = Vec::new();
        rule(&Source::new(Path::new(path), &text), &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    const LIBRARY: &str = "crates/nn/src/lib.rs";

    #[test]
    fn a_file_of_601_lines_is_too_long_and_tests_do_not_count() {
        assert_eq!(lines(length, LIBRARY, &"x();\n".repeat(598)), [0; 0]);
        assert_eq!(lines(length, LIBRARY, &"x();\n".repeat(599)), [601]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "x();\n".repeat(900));
        assert_eq!(lines(length, LIBRARY, &tests), [0; 0]);
        assert_eq!(lines(length, "crates/nn/tests/all.rs", &"x();\n".repeat(900)), [0; 0]);
    }

    #[test]
    fn a_module_without_a_header_is_found() {
        let found = |text| {
            let mut findings = Vec::new();
            header(&Source::new(Path::new(LIBRARY), text), &mut findings);
            findings.len()
        };
        assert_eq!(found("//! Says what.\n"), 0);
        assert_eq!(found("use a;\n//! Too late.\n"), 1);
        assert_eq!(found("// Not a module comment.\n"), 1);
        assert_eq!(found(""), 1);
    }

    #[test]
    fn unsafe_is_found_outside_its_rooms() {
        let text = "fn f() {\n    unsafe { g() }\n}";
        assert_eq!(lines(unsafe_code, LIBRARY, text), [4]);
        assert_eq!(lines(unsafe_code, "crates/nn/tests/all.rs", text), [4]);
        assert_eq!(lines(unsafe_code, "crates/kernels/src/lib.rs", text), [0; 0]);
        assert_eq!(lines(unsafe_code, LIBRARY, "// unsafe\nconst S: &str = \"unsafe\";"), [0; 0]);
    }

    #[test]
    fn a_crate_that_does_not_forbid_unsafe_is_found() {
        let mut findings = Vec::new();
        unsafe_code(&Source::new(Path::new(LIBRARY), "//! A crate.\n"), &mut findings);
        assert_eq!(findings.len(), 1);
        findings.clear();
        unsafe_code(&Source::new(Path::new("crates/nn/src/norm.rs"), "//! A module.\n"), &mut findings);
        assert_eq!(findings, []);
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(lines(ignored_tests, LIBRARY, "#[test]\n#[ignore]\nfn f() {}"), [4]);
        assert_eq!(lines(ignored_tests, LIBRARY, "#[ignore = \"slow\"]\nfn f() {}"), [3]);
        assert_eq!(lines(ignored_tests, LIBRARY, "#[cfg_attr(windows, ignore)]\nfn f() {}"), [3]);
        assert_eq!(lines(ignored_tests, LIBRARY, "#[cfg_attr(windows, must_use)]\nfn ignore() {}"), [0; 0]);
    }

    #[test]
    fn unfinished_code_is_found() {
        assert_eq!(lines(unfinished, LIBRARY, "fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }"), [3, 4]);
        assert_eq!(lines(unfinished, LIBRARY, "fn todo() {}"), [0; 0]);
    }

    #[test]
    fn reading_the_environment_is_found_outside_the_front() {
        let text = "fn f() { std::env::var(\"X\"); }\nuse std::env;\nfn g() { env::args(); }";
        assert_eq!(lines(environment, LIBRARY, text), [3, 5, 4]);
        assert_eq!(lines(environment, "crates/cli/src/main.rs", text), [0; 0]);
        assert_eq!(lines(environment, "crates/nn/build.rs", text), [0; 0]);
        assert_eq!(lines(environment, "crates/nn/tests/all.rs", text), [0; 0]);
        assert_eq!(lines(environment, LIBRARY, "const V: &str = env!(\"V\"); std::env::consts::ARCH;"), [0; 0]);
    }

    #[test]
    fn printing_is_found_in_libraries() {
        let text = "fn f() { println!(); }\nfn g() { eprint!(); }\nfn h() { dbg!(); }\nfn i() { sprintln!(); }";
        let mut found = lines(printing, LIBRARY, text);
        found.sort_unstable();
        assert_eq!(found, [3, 4, 5]);
        assert_eq!(lines(printing, "crates/cli/src/main.rs", text), [5]);
        assert_eq!(lines(printing, LIBRARY, "#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}"), [0; 0]);
    }

    #[test]
    fn trailing_whitespace_is_found() {
        let mut findings = Vec::new();
        trailing_whitespace(Path::new("README.md"), "a\nb \nc\t\nd\r\ne", &mut findings);
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn the_third_macro_of_a_crate_is_found() {
        let one = "macro_rules! a { () => {} }\n";
        let two = one.repeat(2);
        let source = |path, text| Source::new(Path::new(path), text);
        let mut findings = Vec::new();
        macros(&[source("crates/nn/src/a.rs", &two), source("crates/pack/src/a.rs", one)], &mut findings);
        assert_eq!(findings, []);
        macros(&[source("crates/nn/src/a.rs", &two), source("crates/nn/src/b.rs", one)], &mut findings);
        assert_eq!(
            findings.iter().map(Finding::to_string).collect::<Vec<_>>(),
            ["crates/nn/src/b.rs:1: macro 3 of `nn`; the budget is 2 per crate"]
        );
    }
}
