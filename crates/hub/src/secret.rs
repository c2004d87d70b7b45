//! A token that cannot be printed.

use crate::Error;
use std::fmt;
use ureq::http::HeaderValue;
use zeroize::Zeroizing;

/// An access token: `Debug` and `Display` show `***`, memory is wiped on drop, and only this crate reads the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a token; white space around it is removed.
    ///
    /// # Errors
    /// An empty text and anything but visible ASCII; the text is never shown.
    pub fn new(what: &'static str, text: &str) -> Result<Secret, Error> {
        let text = text.trim();
        let fits = !text.is_empty() && text.len() <= 4096 && text.bytes().all(|b| b.is_ascii_graphic());
        match fits {
            true => Ok(Secret(Zeroizing::new(text.to_owned()))),
            false => Err(Error::invalid(what, "", "not a token: expected one word of visible ASCII characters")),
        }
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The `Authorization` value, marked so that the HTTP library hides it too.
    pub(crate) fn bearer(&self) -> HeaderValue {
        let text = Zeroizing::new(format!("Bearer {}", self.expose()));
        let mut value = HeaderValue::from_str(&text).expect("a secret is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// `text` with every occurrence of the token replaced: a server may echo what it was sent.
    pub(crate) fn scrub(&self, text: &str) -> String {
        text.replace(self.expose(), "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("HF_TOKEN", " hf_canary\n").unwrap();
        assert_eq!(
            format!("{secret} {secret:?} {:?} {:?}", Some(&secret), secret.bearer()),
            "*** *** Some(***) Sensitive"
        );
        assert_eq!(secret.scrub("bad token hf_canary!"), "bad token ***!");
    }

    #[test]
    fn a_text_that_is_no_token_is_refused_without_being_shown() {
        for text in ["", "  ", "two words", "line\nbreak", "ümlaut", "nul\0"] {
            let error = Secret::new("HF_TOKEN", text).unwrap_err();
            assert!(text.trim().is_empty() || !format!("{error} {error:?}").contains(text), "{error:?}");
        }
    }
}
