//! Wrong configurations and, word for word, what is said about them.

/// Cases of `wrong.txt`: `=== title`, the YAML, lines `$ key=value` for overrides, `---`, the message.
const CASES: &str = include_str!("wrong.txt");

struct Case<'a> {
    title: &'a str,
    yaml: String,
    overrides: Vec<String>,
    expected: &'a str,
}

fn cases() -> Vec<Case<'static>> {
    let mut out = Vec::new();
    for block in CASES.split("=== ").skip(1) {
        let (title, rest) = block.split_once('\n').expect("a title line");
        let (input, expected) = rest.split_once("---\n").expect("a line `---` before the message");
        let (overrides, yaml): (Vec<&str>, Vec<&str>) = input.lines().partition(|line| line.starts_with("$ "));
        let yaml = yaml.into_iter().fold(String::new(), |text, line| text + line + "\n");
        let overrides = overrides.into_iter().map(|line| line[2..].to_string()).collect();
        out.push(Case { title, yaml, overrides, expected });
    }
    out
}

fn message(case: &Case<'_>) -> String {
    let loaded =
        config::split_overrides(&case.overrides).and_then(|pairs| config::load("run.yaml", &case.yaml, &pairs));
    match loaded {
        Ok(_) => panic!("`{}` loads and should not", case.title),
        Err(errors) => {
            assert_eq!(errors.exit_code(), 2);
            errors.to_string()
        }
    }
}

#[test]
fn every_wrong_configuration_is_told_what_is_wrong_where_and_what_to_do() {
    let cases = cases();
    assert!(cases.len() >= 25, "{} cases", cases.len());
    let mut actual = String::new();
    let mut different = Vec::new();
    for case in &cases {
        let message = message(case);
        if message.trim_end() != case.expected.trim_end() {
            different.push(case.title);
        }
        let overrides: String = case.overrides.iter().map(|o| format!("$ {o}\n")).collect();
        actual += &format!("=== {}\n{}{overrides}---\n{}\n", case.title, case.yaml, message);
    }
    assert!(different.is_empty(), "{different:#?} differ; all cases as they are now:\n{actual}");
}

#[test]
fn every_message_has_a_code_a_place_and_something_to_do() {
    for case in cases() {
        let pairs = config::split_overrides(&case.overrides);
        let Err(errors) = pairs.and_then(|pairs| config::load("run.yaml", &case.yaml, &pairs)) else { unreachable!() };
        for problem in &errors.problems {
            let text = problem.to_string();
            assert!(text.starts_with("error[C00") && text.contains("--> "), "{text}");
            assert!(!problem.help.is_empty() || !problem.label.is_empty(), "{text}");
        }
    }
}
