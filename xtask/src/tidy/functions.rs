//! Budgets of a function: its lines and its parameters.

use super::Finding;
use super::source::{Source, Token, item_end};

const MAX_LINES: usize = 70;
const MAX_PARAMETERS: usize = 7;

/// Finds functions of more than 70 lines, from `fn` to the closing brace, or with more than 7 parameters besides `self`.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let tokens = &source.tokens;
    for i in source.find(&["fn"]) {
        let Some(name) =
            tokens.get(i + 1).filter(|name| name.text.starts_with(|c: char| c.is_alphabetic() || c == '_'))
        else {
            continue; // a function pointer, or a name that a macro fills in
        };
        let line = tokens[i].line;
        if source.is_test_line(line) {
            continue;
        }
        let mut report = |message| findings.push(Finding { path: source.path.into(), line, message });
        let (parameters, end) = parameters(tokens, i + 2);
        if parameters > MAX_PARAMETERS {
            report(format!("`{}` has {parameters} parameters; the budget is {MAX_PARAMETERS}", name.text));
        }
        let lines = tokens[item_end(tokens, end)].line + 1 - line;
        if lines > MAX_LINES {
            report(format!("`{}` has {lines} lines; the budget is {MAX_LINES}", name.text));
        }
    }
}

/// Number of parameters besides `self`, and the index after their closing parenthesis; `start` follows the name.
fn parameters(tokens: &[Token], start: usize) -> (usize, usize) {
    let (mut round, mut angle, mut count) = (0, 0, 0);
    let (mut in_parameter, mut is_self) = (false, false);
    for (i, token) in tokens.iter().enumerate().skip(start) {
        let is_arrow = token.text == ">" && token.joined && matches!(tokens[i - 1].text, "-" | "=");
        let at_top = round == 1 && angle == 0;
        if at_top && matches!(token.text, "," | ")") {
            count += usize::from(in_parameter && !is_self);
            (in_parameter, is_self) = (false, false);
        } else if round > 0 {
            is_self |= at_top && token.text == "self";
            in_parameter = true;
        }
        match token.text {
            "<" => angle += 1,
            ">" if !is_arrow => angle -= 1,
            "(" | "[" | "{" if round > 0 || angle == 0 => round += 1,
            ")" | "]" | "}" if round > 0 => round -= 1,
            _ => {}
        }
        if round == 0 && angle == 0 && token.text == ")" {
            return (count, i + 1);
        }
    }
    (count, tokens.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn messages(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source::new(Path::new("crates/x/src/lib.rs"), text), &mut findings);
        findings.into_iter().map(|finding| finding.message).collect()
    }

    fn body(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    #[test]
    fn seventy_one_lines_are_one_too_many() {
        assert_eq!(messages(&body(70)), [""; 0]);
        assert_eq!(messages(&body(71)), ["`long` has 71 lines; the budget is 70"]);
        assert_eq!(messages(&format!("#[cfg(test)]\nmod tests {{\n{}}}", body(100))), [""; 0]);
    }

    #[test]
    fn a_signature_without_body_ends_at_its_semicolon() {
        assert_eq!(messages(&format!("trait T {{ fn f(&self) -> [u8; 4];\n{} }}", "fn g();\n".repeat(80))), [""; 0]);
    }

    #[test]
    fn eight_parameters_are_one_too_many_and_self_is_none() {
        assert_eq!(messages("fn f(a: A, b: B, c: C, d: D, e: E, f: F, g: G) {}"), [""; 0]);
        assert_eq!(messages("fn f(&mut self, a: A, b: B, c: C, d: D, e: E, f: F, g: G,) {}"), [""; 0]);
        let found = messages("fn f(a: A, b: B, c: C, d: D, e: E, f: F, g: G, h: H) {}");
        assert_eq!(found, ["`f` has 8 parameters; the budget is 7"]);
    }

    #[test]
    fn commas_inside_types_separate_no_parameters() {
        assert_eq!(
            messages(
                "fn f<A, B: Fn(u8, u8) -> u8>(a: (A, B, A, B), b: [M<A, B>; 2], c: &dyn Fn(A, B, A) -> M<B, A>) {}"
            ),
            [""; 0]
        );
        let nested = "fn f<F: Fn(u8) -> u8>(a: M<A, B>, b: B, c: C, d: D, e: fn(A, B) -> C, f: F, g: G, h: H) {}";
        assert_eq!(messages(nested), ["`f` has 8 parameters; the budget is 7"]);
    }

    #[test]
    fn function_pointers_and_macro_names_are_skipped() {
        assert_eq!(
            messages("type F = fn(A, B, C, D, E, F, G, H); macro_rules! m { ($n:ident) => { fn $n() {} } }"),
            [""; 0]
        );
    }
}
