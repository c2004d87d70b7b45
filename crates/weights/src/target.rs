//! Which modules an adapter goes on: names, `all-linear`, or a regular expression, with PEFT's meaning.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The shorthand for every linear layer but the output head.
const ALL_LINEAR: &str = "all-linear";
/// The output head, in any of the model's wrappings.
const HEAD: &str = "lm_head";

/// `target_modules` of PEFT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `all-linear`, or a regular expression that matches a whole module path.
    Pattern(String),
    /// Module paths, or their ends behind a dot.
    Names(Vec<String>),
}

impl Targets {
    /// The form that a user's list of words has: one word that is no plain name is a pattern.
    pub fn from_words(words: Vec<String>) -> Targets {
        match <[String; 1]>::try_from(words) {
            Ok([word]) if is_all_linear(&word) || !is_plain(&word) => Targets::Pattern(word),
            Ok(word) => Targets::Names(word.into()),
            Err(words) => Targets::Names(words),
        }
    }
}

fn is_all_linear(pattern: &str) -> bool {
    pattern.eq_ignore_ascii_case(ALL_LINEAR)
}

/// Whether the word can be part of a module path: a dot then stands for itself.
fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The paths of `modules`, a model's linear layers, that `targets` names and `exclude` does not; in the order of
/// `modules`. A name, or a pattern as a whole, that matches none of them is an error.
///
/// As PEFT's `check_target_module_exists`: a name matches a path that equals it or ends in it behind a dot, a pattern
/// must match the whole path, exclusion comes first.
pub fn resolve<'m>(targets: &Targets, exclude: Option<&Targets>, modules: &[&'m str]) -> Result<Vec<&'m str>, Error> {
    let mut left = modules.to_vec();
    if let Some(exclude) = exclude {
        let excluded = matcher(exclude)?;
        left = try_filter(left, |module| Ok(!excluded(module)?))?;
    }
    let matches = matcher(targets)?;
    let selected = try_filter(left.clone(), &matches)?;
    let unmatched = match targets {
        Targets::Names(names) => names.iter().find(|name| !left.iter().any(|m| ends_in(m, name))),
        Targets::Pattern(pattern) => Some(pattern).filter(|_| selected.is_empty()),
    };
    match unmatched {
        Some(target) => Err(Error::NoTarget { target: target.clone(), modules: leaves(modules) }),
        None => Ok(selected),
    }
}

type Matcher<'t> = Box<dyn Fn(&str) -> Result<bool, Error> + 't>;

fn matcher(targets: &Targets) -> Result<Matcher<'_>, Error> {
    Ok(match targets {
        Targets::Names(names) => Box::new(|module| Ok(names.iter().any(|name| ends_in(module, name)))),
        Targets::Pattern(word) if is_all_linear(word) => Box::new(|module| Ok(!ends_in(module, HEAD))),
        Targets::Pattern(pattern) => {
            let fault = |e: fancy_regex::Error| Error::Pattern { pattern: pattern.clone(), why: e.to_string() };
            let whole = Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(fault)?;
            Box::new(move |module| whole.is_match(module).map_err(fault))
        }
    })
}

fn try_filter(modules: Vec<&str>, keep: impl Fn(&str) -> Result<bool, Error>) -> Result<Vec<&str>, Error> {
    modules.into_iter().filter_map(|m| keep(m).map(|k| k.then_some(m)).transpose()).collect()
}

/// Whether `name` is the module's path or the end of it behind a dot.
fn ends_in(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// The distinct last parts of module paths, in order of first appearance; modules that are numbered, as experts may be, are one pattern.
pub(crate) fn leaves(modules: &[&str]) -> Vec<String> {
    let mut leaves: Vec<String> = Vec::new();
    for module in modules {
        let mut parts = module.rsplit('.');
        let leaf = match (parts.next().unwrap_or(module), parts.next()) {
            (number, Some(name)) if number.bytes().all(|b| b.is_ascii_digit()) => format!(".*{name}.*"),
            (leaf, _) => leaf.to_owned(),
        };
        if !leaves.contains(&leaf) {
            leaves.push(leaf);
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [&str; 6] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "lm_head",
    ];

    fn names(names: &[&str]) -> Targets {
        Targets::Names(names.iter().map(|&n| n.to_owned()).collect())
    }

    fn indices(targets: &Targets, exclude: Option<&Targets>) -> Vec<usize> {
        let found = resolve(targets, exclude, &MODULES).unwrap();
        found.iter().map(|f| MODULES.iter().position(|m| m == f).unwrap()).collect()
    }

    #[test]
    fn names_match_whole_paths_and_ends_behind_a_dot() {
        assert_eq!(indices(&names(&["q_proj"]), None), [0, 3]);
        assert_eq!(indices(&names(&["up_proj", "v_proj"]), None), [1, 2, 4]);
        assert_eq!(indices(&names(&["mlp.up_proj", "lm_head"]), None), [2, 4, 5]);
        assert_eq!(indices(&names(&["model.layers.1.self_attn.q_proj"]), None), [3]);
        assert!(resolve(&names(&["proj"]), None, &MODULES).is_err(), "a part of a name is no name");
    }

    #[test]
    fn all_linear_is_all_but_the_head() {
        for spelling in ["all-linear", "All-Linear"] {
            assert_eq!(indices(&Targets::Pattern(spelling.into()), None), [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_pattern_matches_the_whole_path() {
        let pattern = |p: &str| Targets::Pattern(p.to_owned());
        assert_eq!(indices(&pattern(r".*\.(q|v)_proj"), None), [0, 1, 3]);
        assert_eq!(indices(&pattern(r"lm_head|.*\.1\..*"), None), [3, 4, 5]);
        assert_eq!(indices(&pattern(r"(?!.*mlp).*_proj"), None), [0, 1, 3]);
        assert_eq!(indices(&pattern("model|lm_head"), None), [5], "each alternative must match the whole path");
        assert!(resolve(&pattern("q_proj"), None, &MODULES).is_err());
    }

    #[test]
    fn exclusion_comes_first() {
        let layer_0 = Targets::Pattern(r".*\.0\..*".to_owned());
        assert_eq!(indices(&names(&["q_proj"]), Some(&layer_0)), [3]);
        assert!(resolve(&names(&["v_proj"]), Some(&layer_0), &MODULES).is_err());
    }

    #[test]
    fn a_name_without_a_module_is_an_error_that_lists_them() {
        let error = resolve(&names(&["q_proj", "query"]), None, &MODULES).unwrap_err();
        let expected = "target module \"query\" matches no linear layer of this model, which has: \
                        q_proj, v_proj, up_proj, lm_head";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn numbered_modules_are_listed_as_a_pattern_that_matches_them() {
        let path = |name: &str, n: usize| format!("model.layers.0.mlp.experts.{name}.{n}");
        let modules: Vec<String> =
            (0..32).flat_map(|n| ["gate_up_projs", "down_projs"].map(|name| path(name, n))).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).chain(["lm_head"]).collect();
        let error = resolve(&names(&["gate_up_proj"]), None, &modules).unwrap_err().to_string();
        assert!(error.ends_with("which has: .*gate_up_projs.*, .*down_projs.*, lm_head"), "{error}");
        let listed = Targets::from_words(vec![".*gate_up_projs.*".into()]);
        assert_eq!(resolve(&listed, None, &modules).unwrap().len(), 32);
    }

    #[test]
    fn what_is_no_pattern_or_never_ends_is_an_error() {
        let broken = Targets::Pattern("(q_proj".to_owned());
        assert!(matches!(resolve(&broken, None, &MODULES), Err(Error::Pattern { .. })));
        // Back-references make this exponential; the engine's limit stops it.
        let long = "a".repeat(64);
        let slow = Targets::Pattern(r"(a*)*(a*)*(a*)*\1b".to_owned());
        assert!(matches!(resolve(&slow, None, &[long.as_str()]), Err(Error::Pattern { .. })));
    }

    #[test]
    fn one_word_is_a_pattern_only_if_it_cannot_be_a_name() {
        let words = |words: &[&str]| Targets::from_words(words.iter().map(|&w| w.to_owned()).collect());
        assert_eq!(words(&["q_proj"]), names(&["q_proj"]));
        assert_eq!(words(&["mlp.up_proj"]), names(&["mlp.up_proj"]));
        assert_eq!(words(&["q_proj", "v_proj"]), names(&["q_proj", "v_proj"]));
        assert_eq!(words(&["all-linear"]), Targets::Pattern("all-linear".into()));
        assert_eq!(words(&[".*q_proj"]), Targets::Pattern(".*q_proj".into()));
    }
}
