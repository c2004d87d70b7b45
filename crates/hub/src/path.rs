//! The one gate for file names that come from outside.

use crate::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// A relative path that stays below any folder it is joined to, on every platform.
///
/// Parts are separated by `/`. Refused are: absolute paths, `.` and `..`, empty parts, drives and streams (`:`),
/// backslashes, control and invisible characters, the characters and device names that Windows reserves, parts that end
/// in a dot or a space, `.git` (its hooks are executed), parts over 255 and paths over 1024 bytes, over 32 parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafeRelPath(String);

impl SafeRelPath {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::UnsafeName`] with the rule that it breaks.
    pub fn new(name: &str) -> Result<SafeRelPath, Error> {
        match broken_rule(name) {
            None => Ok(SafeRelPath(name.to_owned())),
            Some(why) => Err(Error::UnsafeName { name: name.chars().take(200).collect(), why }),
        }
    }

    /// The name with `/` between its parts.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, at least one.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path below `folder`.
    pub fn below(&self, folder: &Path) -> PathBuf {
        let mut path = folder.to_path_buf();
        path.extend(self.parts());
        path
    }

    /// The path below `folder`, if no folder on the way is a symbolic link that could lead out of it.
    ///
    /// # Errors
    /// [`Error::UnsafeName`] if one is.
    pub(crate) fn below_without_links(&self, folder: &Path) -> Result<PathBuf, Error> {
        let target = self.below(folder);
        let between = target.ancestors().skip(1).take(self.parts().count() - 1);
        for parent in between {
            if parent.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink()) {
                let why = "a folder on its way is a symbolic link";
                return Err(Error::UnsafeName { name: self.0.clone(), why });
            }
        }
        Ok(target)
    }
}

impl fmt::Display for SafeRelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > 1024 {
        return Some("it is longer than 1024 bytes");
    }
    if name.starts_with('/') {
        return Some("it is absolute");
    }
    if name.contains('\\') {
        return Some("it has a backslash");
    }
    if name.contains(is_invisible) {
        return Some("it has a control or invisible character");
    }
    if name.split('/').count() > 32 {
        return Some("it has more than 32 parts");
    }
    name.split('/').find_map(broken_part)
}

fn broken_part(part: &str) -> Option<&'static str> {
    match part {
        "" => return Some("it has an empty part"),
        "." | ".." => return Some("it has a `.` or `..` part"),
        _ => {}
    }
    if part.len() > 255 {
        return Some("a part is longer than 255 bytes");
    }
    if part.contains(['<', '>', ':', '"', '|', '?', '*']) {
        return Some("it has a drive, a stream or a character that Windows reserves");
    }
    if part.ends_with(['.', ' ']) || part.starts_with(' ') {
        return Some("a part begins with a space or ends in a dot or a space");
    }
    let lower = part.to_lowercase();
    if lower == ".git" || lower == "git~1" {
        return Some("it is inside .git, whose hooks are executed");
    }
    let stem = lower.split('.').next().unwrap_or_default().trim_end();
    if is_device(stem) {
        return Some("it is a device name on Windows");
    }
    None
}

/// `con`, `prn`, `aux`, `nul`, `conin$`, `conout$`, `com1`..`com9`, `lpt1`..`lpt9`, also with superscript digits.
fn is_device(stem: &str) -> bool {
    let numbered = |prefix: &str| {
        let mut rest = stem.strip_prefix(prefix).unwrap_or_default().chars();
        matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
    };
    matches!(stem, "con" | "prn" | "aux" | "nul" | "conin$" | "conout$") || numbered("com") || numbered("lpt")
}

/// Control characters, and those that make a name look like another one: bidirectional marks, zero widths, line ends.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_hostile_names_are_refused() {
        let long = "a".repeat(256);
        let longer = "a/".repeat(600) + "a";
        let deep = "a/".repeat(40) + "a";
        #[rustfmt::skip]
        let names = [
            "", "/", "/etc/passwd", "//server/share", "///", ".", "..", "../x", "a/..", "a/../b", "a/../../b", "./a",
            "a/./b", "a//b", "a/", "a/.", "..\\x", "a\\b", "\\\\server\\share", "C:", "C:/x", "c:\\x", "C:x", "a:b",
            "file:///etc/passwd", "a/b:stream", "x\0", "\0", "a/\0/b", "a\nb", "a\rb", "a\tb", "\u{1b}[31mred", "a\u{7f}",
            "a\u{85}b", "con", "CON", "Con.txt", "a/aux", "nul", "NUL.json", "prn.tar.gz", "com1", "COM9.txt", "lpt1",
            "com¹", "conin$", "aux .txt", "a.", "a..", "a ", " a", "...", "a<b", "a>b", "a|b", "a?b", "a*b", "a\"b",
            ".git", ".git/hooks/post-checkout", "a/.GIT/config", "git~1/config", "model\u{202e}snosj.py", "a\u{200b}b",
            "\u{feff}config.json", "a\u{2066}b", ".g\u{200c}it/config", &long, &longer, &deep,
        ];
        assert!(names.len() >= 60, "{}", names.len());
        for name in names {
            assert!(matches!(SafeRelPath::new(name), Err(Error::UnsafeName { .. })), "{name:?} was accepted");
        }
    }

    #[test]
    fn ordinary_names_are_accepted_and_stay_below() {
        #[rustfmt::skip]
        let names = [
            "config.json", "model-00001-of-00002.safetensors", "data/train-00000.parquet", ".gitattributes", ".gitignore",
            "a/b/c/d.txt", "with space.md", "Übung/模型.json", "a..b", "..a", "...a", "-rf", "~/x", "$HOME", "%2e%2e", "con1",
            "console.json", "common.py", "command.txt", "lpt", "nullable", "a=b,c;d@e!f#g&h'i(j)k[l]{m}~n`o^p+q", ".cache/x",
        ];
        for name in names {
            let path = SafeRelPath::new(name).unwrap();
            assert_eq!(path.as_str(), name);
            assert_eq!(path.below(Path::new("/top")).strip_prefix("/top").unwrap(), Path::new(name));
        }
    }
}
