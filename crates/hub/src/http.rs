//! Requests with our own redirects and retries, so that the token, the waiting and the offline rule are in one place.

use crate::address::Address;
use crate::clock::{Clock, SystemClock, rate_limit_reset, retry_after};
use crate::error::At;
use crate::settings::Settings;
use crate::watch::{Event, Watch};
use crate::{Error, Secret};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request, StatusCode, header};
use ureq::{Agent, Body, Proxy, SendBody, tls};

const REDIRECTS: usize = 8;
/// The longest JSON answer that is read: a page of a listing has at most a few MB.
const LONGEST_JSON: u64 = 64 << 20;
/// How long the Hub may think about a POST (a commit of many files).
const POST_ANSWER: Duration = Duration::from_secs(180);

/// A connection to the Hub; cheap to share between threads.
pub struct Client {
    pub(crate) settings: Settings,
    pub(crate) endpoint: Address,
    pub(crate) clock: Arc<dyn Clock>,
    /// `None` offline: then there is nothing that could open a socket.
    agent: Option<Agent>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) address: Address,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Payload<'a>,
    /// Whether a redirect to another server is followed, or is itself the answer.
    pub(crate) leave: bool,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes { content_type: &'static str, bytes: &'a [u8] },
    Range { path: &'a Path, from: u64, length: u64 },
}

/// An answer with status 2xx, 416, or a redirect that was not to be followed.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) address: Address,
}

/// A failed attempt: whether another one makes sense, and after what pause.
pub(crate) struct Failure {
    pub(crate) error: Error,
    again: Option<Option<Duration>>,
}

impl Failure {
    pub(crate) fn again(error: Error) -> Failure {
        Failure { error, again: Some(None) }
    }

    pub(crate) fn may_pass(&self) -> bool {
        self.again.is_some()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, again: None }
    }
}

/// How many attempts in a row have failed.
#[derive(Default)]
pub(crate) struct Patience(u32);

impl<'a> Call<'a> {
    pub(crate) fn get(address: Address) -> Call<'a> {
        Call { method: Method::GET, address, headers: Vec::new(), body: Payload::None, leave: true }
    }

    pub(crate) fn post(address: Address, content_type: &'static str, bytes: &'a [u8]) -> Call<'a> {
        let body = Payload::Bytes { content_type, bytes };
        Call { method: Method::POST, address, headers: Vec::new(), body, leave: false }
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the bytes are those of the file, not compressed on the way; compressed ones were not asked for, and
    /// could grow without bound.
    pub(crate) fn is_plain(&self) -> bool {
        self.header("content-encoding").is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
    }

    pub(crate) fn protocol(&self, why: impl Into<String>) -> Error {
        Error::Protocol { url: self.address.to_string(), why: why.into() }
    }

    /// Reads a JSON answer.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(mut self) -> Result<T, Failure> {
        if !self.is_plain() {
            return Err(self.protocol("it is compressed, which was not asked for").into());
        }
        let bytes = self.body.with_config().limit(LONGEST_JSON).read_to_vec();
        let bytes = bytes.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => self.protocol(format!("it is longer than {limit} bytes")).into(),
            error => broken(&self.address, &error),
        })?;
        serde_json::from_slice(&bytes).map_err(|error| self.protocol(format!("not the expected JSON: {error}")).into())
    }
}

impl Client {
    /// A client with the machine's clock.
    ///
    /// # Errors
    /// An endpoint, proxy or certificate file that cannot be used.
    pub fn new(settings: Settings) -> Result<Client, Error> {
        Client::with_clock(settings, Arc::new(SystemClock::default()))
    }

    /// A client with another clock, for tests.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_clock(settings: Settings, clock: Arc<dyn Clock>) -> Result<Client, Error> {
        let endpoint = Address::endpoint(&settings.endpoint)?;
        let agent = if settings.offline { None } else { Some(agent(&settings)?) };
        Ok(Client { settings, endpoint, clock, agent })
    }

    /// Whether the client never opens a socket.
    pub fn is_offline(&self) -> bool {
        self.agent.is_none()
    }

    /// Makes a request and reads its answer, as often as the limits allow.
    pub(crate) fn send<T>(
        &self,
        call: &Call<'_>,
        watch: &dyn Watch,
        read: impl Fn(Reply) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut patience = Patience::default();
        loop {
            match self.once(call).and_then(&read) {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.wait(failure, &mut patience, watch)?,
            }
        }
    }

    /// One attempt, with its redirects.
    ///
    /// The token goes along only while every address so far is on the endpoint's own server.
    pub(crate) fn once(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let mut address = call.address.clone();
        let mut at_home = true;
        for _ in 0..=REDIRECTS {
            at_home &= address.same_server(&self.endpoint);
            let reply = self.exchange(call, &address, at_home)?;
            if reply.status.is_success() || reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(reply);
            }
            if !matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Err(self.refusal(reply, at_home));
            }
            let location = reply.header("location").ok_or_else(|| reply.protocol("a redirect without a Location"))?;
            let next = address.join(location).map_err(|why| reply.protocol(format!("a redirect, but {why}")))?;
            if !call.leave && call.method == Method::HEAD && !next.same_server(&self.endpoint) {
                return Ok(reply);
            }
            self.check_redirect(call, &reply, &next)?;
            address = next;
        }
        Err(Error::Protocol { url: call.address.to_string(), why: format!("more than {REDIRECTS} redirects") }.into())
    }

    fn check_redirect(&self, call: &Call<'_>, reply: &Reply, next: &Address) -> Result<(), Error> {
        if reply.address.is_https() && !next.is_https() {
            return Err(reply.protocol("a redirect from https:// to http://"));
        }
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let keeps_method = matches!(reply.status.as_u16(), 307 | 308) && next.same_server(&reply.address);
        match reads || keeps_method {
            true => Ok(()),
            false => Err(reply.protocol(format!("a redirect of a {} to {next}", call.method))),
        }
    }

    /// The token if it may go to `address`: over TLS, or without leaving the machine.
    fn token_for(&self, address: &Address, at_home: bool) -> Option<&Secret> {
        let may_go = at_home && (address.is_https() || address.is_loopback());
        self.settings.token.as_ref().filter(|_| may_go)
    }

    fn exchange(&self, call: &Call<'_>, address: &Address, at_home: bool) -> Result<Reply, Failure> {
        let Some(agent) = &self.agent else {
            return Err(Error::Offline { needed: format!("{address} is needed") }.into());
        };
        let mut request = Request::builder().method(call.method.clone()).uri(address.uri().clone());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(token) = self.token_for(address, at_home) {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let (body, length, content_type) = open(call.body)?;
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| Error::Protocol {
            url: address.to_string(),
            why: format!("it asks for a request that cannot be made: {error}"),
        })?;
        let mut request = agent.configure_request(request);
        if call.method == Method::POST {
            request = request.timeout_recv_response(Some(POST_ANSWER)).timeout_per_read(Some(POST_ANSWER));
        }
        let response = agent.run(request.build()).map_err(|error| broken(address, &error))?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body, address: address.clone() })
    }

    /// What an error status means.
    fn refusal(&self, mut reply: Reply, at_home: bool) -> Failure {
        let answer = self.words(&mut reply);
        let url = reply.address.to_string();
        let status = reply.status.as_u16();
        match status {
            401 | 403 => {
                let hint = match (&self.settings.token, self.token_for(&reply.address, at_home)) {
                    (None, _) => "it needs a token: set HF_TOKEN, give --token-file or log in",
                    (Some(_), None) if at_home => "the token is not sent over http://; use an https:// endpoint",
                    (Some(_), None) => "the signed address has expired or is wrong; run the command again",
                    _ => "check the token's rights, and accept the conditions on the repository's page if it has any",
                };
                Error::Denied { what: url, answer, hint }.into()
            }
            404 | 410 => Error::NotFound { what: url, answer }.into(),
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                let header = |name| reply.header(name);
                let pause = header("retry-after").and_then(|value| retry_after(value, self.clock.unix_seconds()));
                let pause = pause.or_else(|| header("ratelimit").filter(|_| status == 429).and_then(rate_limit_reset));
                Failure { error: Error::Refused { url, status, answer }, again: Some(pause) }
            }
            _ => Error::Refused { url, status, answer }.into(),
        }
    }

    /// The server's words, cleaned: one short line without control characters and without the token.
    fn words(&self, reply: &mut Reply) -> String {
        let header = reply.header("x-error-message").map(str::to_owned);
        let text = header.unwrap_or_else(|| {
            let mut bytes = Vec::new();
            // An answer that breaks off says nothing; the status does.
            let _ = reply.body.as_reader().take(8 << 10).read_to_end(&mut bytes);
            let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
            let said = json.as_ref().and_then(|json| json["error"].as_str().or(json["message"].as_str()));
            said.unwrap_or_else(|| reply.status.canonical_reason().unwrap_or("no reason given")).to_owned()
        });
        let text = self.settings.token.as_ref().map_or(text.clone(), |token| token.scrub(&text));
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        format!("{}: {}", reply.status.as_u16(), line.trim())
    }

    /// Waits before another attempt, or gives up with the error.
    pub(crate) fn wait(&self, failure: Failure, patience: &mut Patience, watch: &dyn Watch) -> Result<(), Error> {
        let limits = &self.settings.limits;
        let Some(asked) = failure.again else { return Err(failure.error) };
        patience.0 += 1;
        if patience.0 >= limits.attempts {
            return Err(failure.error);
        }
        let doubled = limits.first_pause.saturating_mul(1 << (patience.0 - 1).min(16)).min(limits.longest_pause);
        let jittered = doubled.mul_f64(0.5 + 0.5 * self.clock.chance());
        let pause = match asked {
            Some(asked) if asked > limits.longest_retry_after => {
                let url = match failure.error {
                    Error::Refused { url, .. } => url,
                    _ => self.endpoint.to_string(),
                };
                return Err(Error::Wait { url, pause: asked });
            }
            Some(asked) => asked + jittered.min(Duration::from_secs(1)),
            None => jittered,
        };
        watch.event(Event::Retry { why: failure.error.what_happened(), pause });
        self.sleep(pause, watch)
    }

    /// Sleeps in short pieces, so that a stop is heard soon.
    pub(crate) fn sleep(&self, pause: Duration, watch: &dyn Watch) -> Result<(), Error> {
        let mut left = pause;
        loop {
            if watch.stop() {
                return Err(Error::Stopped);
            }
            if left.is_zero() {
                return Ok(());
            }
            let piece = left.min(Duration::from_millis(200));
            self.clock.sleep(piece);
            left -= piece;
        }
    }
}

type Opened = (SendBody<'static>, Option<u64>, Option<&'static str>);

fn open(payload: Payload<'_>) -> Result<Opened, Error> {
    match payload {
        Payload::None => Ok((SendBody::none(), None, None)),
        Payload::Bytes { content_type, bytes } => {
            let reader = std::io::Cursor::new(bytes.to_vec());
            Ok((SendBody::from_owned_reader(reader), Some(bytes.len() as u64), Some(content_type)))
        }
        Payload::Range { path, from, length } => {
            let mut file = File::open(path).at("open", path)?;
            file.seek(SeekFrom::Start(from)).at("read", path)?;
            Ok((SendBody::from_owned_reader(file.take(length)), Some(length), None))
        }
    }
}

/// A connection that failed: worth another attempt, unless the certificate is at fault.
pub(crate) fn broken(address: &Address, error: &ureq::Error) -> Failure {
    let (url, why) = (address.to_string(), error.to_string());
    match error {
        // The TLS library's errors come inside of those of the connection, and only their text tells them apart.
        ureq::Error::Io(inner) if inner.kind() == io::ErrorKind::InvalidData && why.contains("certificate") => {
            let why = format!("{why}; behind a company's proxy, set SSL_CERT_FILE to its certificates");
            Error::invalid("TLS certificate", url, why).into()
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Error::Network { url, why }.into(),
        _ => Failure::again(Error::Network { url, why }),
    }
}

fn agent(settings: &Settings) -> Result<Agent, Error> {
    let limits = &settings.limits;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(settings.user_agent.as_str())
        .accept_encoding("identity")
        .proxy(proxy(settings)?)
        .tls_config(tls_config(settings.certificates.as_deref())?)
        .timeout_connect(Some(limits.connect))
        .timeout_recv_response(Some(limits.idle))
        .timeout_per_read(Some(limits.idle))
        .timeout_per_write(Some(limits.idle))
        .max_idle_connections_per_host(limits.parallel.max(1));
    Ok(config.build().into())
}

/// The proxy; always set by us, because the HTTP library would otherwise read the environment.
fn proxy(settings: &Settings) -> Result<Option<Proxy>, Error> {
    let Some(text) = &settings.proxy else { return Ok(None) };
    let wrong = |_| Error::invalid("HTTPS_PROXY", "", "expected an address like http://user:password@host:3128");
    let given = Proxy::new(text.expose()).map_err(wrong)?;
    let mut builder = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(user) = given.username() {
        builder = builder.username(user);
    }
    if let Some(password) = given.password() {
        builder = builder.password(password);
    }
    for host in settings.no_proxy.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        builder = builder.no_proxy(host);
    }
    builder.build().map(Some).map_err(wrong)
}

fn tls_config(certificates: Option<&Path>) -> Result<tls::TlsConfig, Error> {
    let Some(path) = certificates else { return Ok(tls::TlsConfig::default()) };
    let pem = std::fs::read(path).at("read the certificates in", path)?;
    let items: Vec<_> = tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if items.is_empty() {
        let why = "it holds no PEM certificate";
        return Err(Error::invalid("SSL_CERT_FILE", path.display().to_string(), why));
    }
    Ok(tls::TlsConfig::builder().root_certs(tls::RootCerts::new_with_certs(&items)).build())
}
