//! A place for one test: a folder, a clock that never waits, a client with a canary for a token, and an ear.

use crate::server::HostileServer;
use hub::{Client, Clock, Destination, Error, Event, Limits, Pull, Pulled, Repo, RepoKind, Secret, Settings, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const CANARY: &str = "hf_CANARY7f3a";

/// Time goes on only by sleeping, and by `tick` whenever somebody looks.
#[derive(Default)]
pub(crate) struct FakeClock {
    millis: AtomicU64,
    pub(crate) tick: AtomicU64,
    pub(crate) slept: Mutex<Duration>,
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.fetch_add(self.tick.load(Ordering::SeqCst), Ordering::SeqCst))
    }

    fn sleep(&self, pause: Duration) {
        *self.slept.lock().unwrap() += pause;
        self.millis.fetch_add(pause.as_millis() as u64, Ordering::SeqCst);
    }

    fn unix_seconds(&self) -> u64 {
        1_000_000_000
    }

    fn chance(&self) -> f64 {
        0.5
    }
}

/// Writes down what it hears, and stops after so many bytes of any file.
pub(crate) struct Ear {
    pub(crate) heard: Mutex<Vec<String>>,
    pub(crate) stop_after: AtomicU64,
    stop: AtomicBool,
}

impl Ear {
    /// Goes on after a stop.
    pub(crate) fn go_on(&self) {
        self.stop_after.store(u64::MAX, Ordering::SeqCst);
        self.stop.store(false, Ordering::SeqCst);
    }

    pub(crate) fn count(&self, word: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|line| line.starts_with(word)).count()
    }
}

impl Watch for Ear {
    fn event(&self, event: Event<'_>) {
        if let Event::Progress { done, .. } = event
            && done >= self.stop_after.load(Ordering::SeqCst)
        {
            self.stop.store(true, Ordering::SeqCst);
        }
        self.heard.lock().unwrap().push(format!("{event:?}"));
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) ear: Ear,
    pub(crate) settings: Settings,
}

impl Lab {
    pub(crate) fn new(endpoint: &str) -> Lab {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("hub-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let home = folder.join("home").display().to_string();
        let endpoint = endpoint.to_owned();
        let variables = |name: &str| match name {
            "HF_ENDPOINT" => Some(endpoint.clone()),
            "HF_HOME" => Some(home.clone()),
            "HF_TOKEN" => Some(CANARY.to_owned()),
            _ => None,
        };
        let limits = Limits { parallel: 3, ..Limits::default() };
        let settings = Settings { limits, ..Settings::from_env(variables).unwrap() };
        let stop_after = AtomicU64::new(u64::MAX);
        let ear = Ear { heard: Mutex::default(), stop_after, stop: AtomicBool::new(false) };
        Lab { folder, clock: Arc::default(), ear, settings }
    }

    pub(crate) fn at(server: &HostileServer) -> Lab {
        Lab::new(&server.url())
    }

    pub(crate) fn client(&self) -> Client {
        Client::with_clock(self.settings.clone(), self.clock.clone()).unwrap()
    }

    pub(crate) fn pull(&self, request: &Pull) -> Result<Pulled, Error> {
        hub::pull(&self.client(), request, None, &self.ear)
    }

    /// All of `org/tiny`, into the folder `out`.
    pub(crate) fn to_folder(&self) -> Pull {
        Pull { to: Destination::Folder(self.out()), ..Pull::new(tiny()) }
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// Every file below the lab's folder with what is in it; links are not followed.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        collect(&self.folder, &mut files);
        files
    }

    pub(crate) fn slept(&self) -> Duration {
        *self.clock.slept.lock().unwrap()
    }
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => collect(&entry.path(), files),
            kind if kind.is_file() => files.push((entry.path(), fs::read(entry.path()).unwrap())),
            _ => {}
        }
    }
}

/// The token is in no file and in nothing that was said, whatever the test was about.
impl Drop for Lab {
    fn drop(&mut self) {
        let has = |bytes: &[u8]| bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        let leaked = self.files().into_iter().find(|(_, bytes)| has(bytes));
        let said = self.ear.heard.lock().unwrap().iter().any(|line| line.contains(CANARY));
        let shown = format!("{:?} {:?}", self.settings, self.client()).contains(CANARY);
        let _ = fs::remove_dir_all(&self.folder);
        if !std::thread::panicking() {
            assert!(leaked.is_none() && !said && !shown, "the token leaked: {leaked:?} {said} {shown}");
        }
    }
}

/// What an error says, by all its ways of saying it; never the token.
pub(crate) fn said(error: &Error) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(CANARY), "{text}");
    text
}

pub(crate) fn tiny() -> Repo {
    Repo::new(RepoKind::Model, "org/tiny").unwrap()
}

/// A token file is not written by tests; a secret is.
pub(crate) fn secret(text: &str) -> Secret {
    Secret::new("a test", text).unwrap()
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}
