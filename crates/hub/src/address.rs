//! Addresses: which server they belong to, how they are joined, and how they are shown.

use crate::Error;
use std::fmt;
use ureq::http::Uri;

/// An `http` or `https` address without credentials; `Display` leaves out the query, which may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    uri: Uri,
}

impl Address {
    /// Reads an absolute address.
    ///
    /// # Errors
    /// The reason, without the address: it could hold a password.
    pub(crate) fn parse(text: &str) -> Result<Address, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "it is not an address")?;
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user name or a password");
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("it is neither http:// nor https://");
        }
        match authority.host().is_empty() {
            true => Err("it has no host"),
            false => Ok(Address { uri }),
        }
    }

    /// Reads `HF_ENDPOINT`.
    pub(crate) fn endpoint(text: &str) -> Result<Address, Error> {
        let why = match Address::parse(text.trim().trim_end_matches('/')) {
            Ok(address) if address.uri.query().is_none() => return Ok(address),
            Ok(_) => "it has a query",
            Err(why) => why,
        };
        Err(Error::invalid("HF_ENDPOINT", "", format!("{why}; expected an address like https://huggingface.co")))
    }

    /// This address with `path`, which begins with `/`, added to its own.
    pub(crate) fn with(&self, path: &str) -> Address {
        let text = format!("{self}{path}");
        Address { uri: text.parse().expect("a path of checked and encoded parts") }
    }

    /// Where a `Location` leads from here.
    pub(crate) fn join(&self, location: &str) -> Result<Address, &'static str> {
        let origin = format!("{}://{}", self.scheme(), self.uri.authority().expect("checked on reading"));
        if location.starts_with("//") {
            return Address::parse(&format!("{}:{location}", self.scheme()));
        }
        if location.starts_with('/') {
            return Address::parse(&format!("{origin}{location}"));
        }
        // Before a `:` that comes ahead of any `/`, `?` or `#` stands a scheme.
        let scheme_end = location.find([':', '/', '?', '#']);
        if scheme_end.is_some_and(|at| location.as_bytes()[at] == b':') {
            return Address::parse(location);
        }
        let folder = self.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        Address::parse(&format!("{origin}{folder}/{location}"))
    }

    /// Scheme, host and port agree.
    pub(crate) fn same_server(&self, other: &Address) -> bool {
        let server = |address: &Address| {
            let host = address.host().to_ascii_lowercase();
            (address.scheme().to_owned(), host, address.port())
        };
        server(self) == server(other)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme() == "https"
    }

    /// On this very machine, so that plain HTTP shows a token to nobody.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    fn scheme(&self) -> &str {
        self.uri.scheme_str().unwrap_or_default()
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}{}", self.scheme(), self.uri.path().trim_end_matches('/'))
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters, and `/` if `keep_slash`.
pub(crate) fn encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b'/' if keep_slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn a_location_is_joined_as_a_browser_does() {
        let from = at("https://h:8443/a/b?q=1");
        let to = |location: &str| from.join(location).map(|address| address.uri().to_string());
        assert_eq!(to("/x?y=1").unwrap(), "https://h:8443/x?y=1");
        assert_eq!(to("c").unwrap(), "https://h:8443/a/c");
        assert_eq!(to("//cdn/x").unwrap(), "https://cdn/x");
        assert_eq!(to("http://cdn/x").unwrap(), "http://cdn/x");
        for refused in ["file:///etc/passwd", "javascript:x", "https://user:pw@h/", "http://", "/a b"] {
            assert!(to(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_server_is_scheme_host_and_port() {
        let hub = at("https://Huggingface.co/api");
        assert!(hub.same_server(&at("https://huggingface.co:443/x")));
        for other in
            ["http://huggingface.co/", "https://huggingface.co:8443/", "https://huggingface.co.evil/", "https://cdn"]
        {
            assert!(!hub.same_server(&at(other)), "{other}");
        }
        assert!(at("http://127.0.0.1:1/").is_loopback() && at("http://[::1]/").is_loopback());
        assert!(!at("http://127.0.0.1.evil/").is_loopback());
    }

    #[test]
    fn a_query_is_not_shown_and_names_are_encoded() {
        assert_eq!(at("https://cdn/x/?X-Amz-Signature=s").to_string(), "https://cdn/x");
        assert_eq!(encode("a b/ü#?%", true), "a%20b/%C3%BC%23%3F%25");
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(at("https://h/hf").with("/api/x?a=b").uri().to_string(), "https://h/hf/api/x?a=b");
    }
}
