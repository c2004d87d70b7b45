//! The documented variables of the Hub as one plain value.

use crate::Error;
use crate::address::Address;
use crate::secret::Secret;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the Hub is, where its cache is, and who asks.
///
/// `Debug` shows no secret: the token and a proxy's password are [`Secret`]s.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`: the Hub or a mirror, `https://huggingface.co` by default, without `/` at the end.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`: the cache, shared with `huggingface_hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what [`Settings::find_token`] found.
    pub token: Option<Secret>,
    /// `HF_TOKEN_PATH`, else `HF_HOME/token`: where a login left its token.
    pub token_path: PathBuf,
    /// `HF_HUB_OFFLINE`: no socket is ever opened.
    pub offline: bool,
    /// `HTTPS_PROXY` or `ALL_PROXY`; may hold a password.
    pub proxy: Option<Secret>,
    /// `NO_PROXY`: hosts that are asked directly.
    pub no_proxy: String,
    /// `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE`: PEM certificates to trust in place of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// How we call ourselves.
    pub user_agent: String,
    /// Patience and parallelism.
    pub limits: Limits,
}

/// How long to wait, how often to try, how much at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// Over this time at least [`Limits::slow_bytes`] must arrive.
    pub slow_window: Duration,
    /// Bytes per [`Limits::slow_window`].
    pub slow_bytes: u64,
    /// Attempts in a row without progress before giving up.
    pub attempts: u32,
    /// The pause before the second attempt; doubled after each further one, times a random number in [0.5, 1).
    pub first_pause: Duration,
    /// The longest such pause.
    pub longest_pause: Duration,
    /// The longest `Retry-After` that is waited for.
    pub longest_retry_after: Duration,
    /// Files at once.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        let seconds = Duration::from_secs;
        Limits {
            connect: seconds(10),
            idle: seconds(30),
            slow_window: seconds(60),
            slow_bytes: 60 << 10,
            attempts: 6,
            first_pause: seconds(1),
            longest_pause: seconds(20),
            longest_retry_after: seconds(300),
            parallel: 8,
        }
    }
}

impl Settings {
    /// Fills the settings from variables; reads no file.
    ///
    /// Read are `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE` (or its old name `HUGGINGFACE_HUB_CACHE`), `XDG_CACHE_HOME`,
    /// `HF_TOKEN` (or `HUGGING_FACE_HUB_TOKEN`), `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`),
    /// `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` (also in lower case), `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`, `HOME` and
    /// `USERPROFILE`. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the variable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Settings, Error> {
        let get = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.trim().is_empty()));
        let home = get(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let path = |names: &[&str]| get(names).map(|text| expand(&text, home.as_deref(), &lookup));
        let hf_home = match path(&["HF_HOME"]) {
            Some(found) => found,
            None => match (path(&["XDG_CACHE_HOME"]), &home) {
                (Some(cache), _) => cache.join("huggingface"),
                (None, Some(home)) => home.join(".cache/huggingface"),
                (None, None) => return Err(Error::invalid("HF_HOME", "", "set it: HOME is not set either")),
            },
        };
        let endpoint = get(&["HF_ENDPOINT"]).unwrap_or_else(|| "https://huggingface.co".into());
        let secret = |names: &[&str], what| get(names).map(|text| Secret::new(what, &text)).transpose();
        Ok(Settings {
            endpoint: Address::endpoint(&endpoint)?.to_string(),
            cache: path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| hf_home.join("hub")),
            token: secret(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"], "HF_TOKEN")?,
            token_path: path(&["HF_TOKEN_PATH"]).unwrap_or_else(|| hf_home.join("token")),
            offline: get(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]).is_some_and(|text| is_true(&text)),
            proxy: secret(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"], "HTTPS_PROXY")?,
            no_proxy: get(&["NO_PROXY", "no_proxy"]).unwrap_or_default(),
            certificates: path(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"]),
            user_agent: concat!("prospect/", env!("CARGO_PKG_VERSION")).into(),
            limits: Limits::default(),
        })
    }

    /// Settles the token in the order `token_file`, `HF_TOKEN`, `HF_TOKEN_PATH`, cached login.
    ///
    /// # Errors
    /// A `token_file` that is not there or holds no token; a cached login that cannot be read.
    pub fn find_token(&mut self, token_file: Option<&Path>) -> Result<(), Error> {
        let (path, must_exist) = match token_file {
            Some(path) => (path, true),
            None if self.token.is_some() => return Ok(()),
            None => (self.token_path.as_path(), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() && !must_exist => Ok(()),
            Ok(text) => {
                let text = zeroize::Zeroizing::new(text);
                self.token = Some(Secret::new("token file", &text)?);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(()),
            Err(source) => Err(Error::Io { action: "read the token in", path: path.to_path_buf(), source }),
        }
    }
}

/// `~` and `$NAME` or `${NAME}` in a path, as `huggingface_hub` reads them; an unknown name stays as it is.
fn expand(text: &str, home: Option<&Path>, lookup: impl Fn(&str) -> Option<String>) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = match after.strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => (&braced[..end], end + 2),
                None => ("", 0),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..at + 1 + length]),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    match (out.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_path_buf(),
        (Some(below), Some(home)) if below.starts_with('/') => home.join(&below[1..]),
        _ => PathBuf::from(out),
    }
}

fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Settings::from_env(find)
    }

    #[test]
    fn folders_follow_the_documented_order() {
        let cache = |variables: &[(&str, &str)]| of(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")]), "/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf"), ("HF_HUB_CACHE", "")]), "/h/hf/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("U", "me"), ("HF_HUB_CACHE", "/s/$U/${U}x$V")]), "/s/me/mex$V");
        assert_eq!(of(&[("HF_HOME", "/f")]).unwrap().token_path, Path::new("/f/token"));
        assert!(of(&[]).is_err());
    }

    #[test]
    fn the_endpoint_is_an_http_address_without_credentials() {
        let endpoint = |text: &str| of(&[("HOME", "/h"), ("HF_ENDPOINT", text)]).map(|settings| settings.endpoint);
        assert_eq!(of(&[("HOME", "/h")]).unwrap().endpoint, "https://huggingface.co");
        assert_eq!(endpoint("https://mirror.example/hf/").unwrap(), "https://mirror.example/hf");
        for wrong in ["ftp://x", "huggingface.co", "https://user:pw@host", "https://h/?q=1", "https://", "http://h h"] {
            let error = endpoint(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
            assert!(!format!("{error} {error:?}").contains("pw"), "{error}");
        }
    }

    #[test]
    fn offline_and_tokens_are_read_and_not_shown() {
        let settings = of(&[("HOME", "/h"), ("HF_TOKEN", "hf_canary"), ("HF_HUB_OFFLINE", "True")]).unwrap();
        assert!(settings.offline && settings.token.is_some());
        assert!(!format!("{settings:?}").contains("canary"));
        assert!(!of(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }

    #[test]
    fn a_token_file_comes_before_the_variable_and_a_login_after_it() {
        let folder = std::env::temp_dir().join(format!("hub-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "hf_login\n").unwrap();
        std::fs::write(folder.join("given"), "hf_given\n").unwrap();
        let home = folder.to_str().unwrap();
        let mut settings = of(&[("HF_HOME", home)]).unwrap();
        settings.find_token(None).unwrap();
        assert_eq!(settings.token.unwrap().expose(), "hf_login");
        let mut settings = of(&[("HF_HOME", home), ("HF_TOKEN", "hf_variable")]).unwrap();
        settings.find_token(None).unwrap();
        assert_eq!(settings.token.as_ref().unwrap().expose(), "hf_variable");
        settings.find_token(Some(&folder.join("given"))).unwrap();
        assert_eq!(settings.token.as_ref().unwrap().expose(), "hf_given");
        assert_eq!(settings.find_token(Some(&folder.join("missing"))).unwrap_err().exit_code(), 6);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
