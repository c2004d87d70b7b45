//! Include and exclude patterns with the meaning they have in `huggingface_hub`: shell patterns in which `*` crosses `/`.

/// Whether `name` is wanted: it matches some `include` (or there is none) and no `exclude`.
pub fn selected(name: &str, include: &[String], exclude: &[String]) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
    (include.is_empty() || any(include)) && !any(exclude)
}

/// Matches `*`, `?`, `[abc]`, `[a-z]` and `[!abc]`; a pattern that ends in `/` means all that is below.
///
/// The time is at most the product of the two lengths, whatever the pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.last() == Some(&'/') {
        pattern.push('*');
    }
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut last_star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            last_star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some((star, from)) = last_star {
            // The latest star takes one more character; earlier stars need no second try.
            last_star = Some((star, from + 1));
            p = star + 1;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Matches one character at `p` and gives the place after the pattern's element, or `None`.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => match class(&pattern[p + 1..], c) {
            Some((length, true)) => Some(p + 1 + length),
            Some((_, false)) => None,
            None => (c == '[').then_some(p + 1),
        },
        literal => (literal == c).then_some(p + 1),
    }
}

/// Reads a class after its `[`: its length with the `]`, and whether `c` is in it; `None` if it does not end.
fn class(rest: &[char], c: char) -> Option<(usize, bool)> {
    let negated = rest.first() == Some(&'!');
    let start = usize::from(negated);
    // A `]` in the first place is a member.
    let end = start + 1 + rest.get(start + 1..)?.iter().position(|&c| c == ']')?;
    let members = &rest[start..end];
    let mut found = false;
    let mut i = 0;
    while i < members.len() {
        if i + 2 < members.len() && members[i + 1] == '-' {
            found |= members[i] <= c && c <= members[i + 2];
            i += 3;
        } else {
            found |= members[i] == c;
            i += 1;
        }
    }
    Some((end + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_fnmatch() {
        let yes = [
            ("*.json", "config.json"),
            ("*.json", "a/b.json"),
            ("data/", "data/x/y"),
            ("model-?.bin", "model-1.bin"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[]]x", "]x"),
            ("[", "["),
            ("*a*b*", "xaybz"),
            ("", ""),
            ("**", "x"),
        ];
        let no = [
            ("*.json", "config.jsonl"),
            ("config", "config.json"),
            ("data/", "data"),
            ("?", ""),
            ("[a-c]x", "dx"),
            ("[!a-c]x", "ax"),
            ("*.SAFETENSORS", "a.safetensors"),
            ("", "x"),
            ("[ab", "a"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_exponential_time() {
        assert!(!matches(&("*a".repeat(300) + "b"), &"a".repeat(5000)));
    }

    #[test]
    fn exclude_wins_over_include() {
        let of = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert!(selected("a.json", &[], &[]));
        assert!(selected("a.json", &of(&["*.txt", "*.json"]), &of(&["b*"])));
        assert!(!selected("b.json", &of(&["*.json"]), &of(&["b*"])));
        assert!(!selected("a.bin", &of(&["*.json"]), &[]));
    }
}
