//! An eye on chat templates that run in this process: memory and time are watched from outside.
//!
//! Fuel counts instructions, and a string doubled forty times takes few. But rows are tokenised in chunks of bounded size: between
//! two words of progress neither memory nor processor time grows far, and where they do the template is to blame. It cannot be
//! stopped alone, so the process ends, before a result stands anywhere.

use crate::screen::Screen;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes by which memory may grow between two words: a chunk of 16 MiB of rows with its tokens takes a fifth.
const BYTES: u64 = 1 << 30;
/// Processor time between two words.
const TIME: Duration = Duration::from_secs(120);
/// How often it looks: at five gigabytes a second a string gets this much longer in between, in megabytes: 25.
const EVERY: Duration = Duration::from_millis(5);
/// The exit code: the template is data.
const CODE: u8 = 3;

/// Watches until it is dropped.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    words: AtomicU64,
    over: AtomicBool,
}

impl Watchdog {
    /// Begins to watch.
    pub(crate) fn new(screen: &Screen) -> Watchdog {
        let shared = Arc::new(Shared::default());
        let (theirs, screen) = (Arc::clone(&shared), *screen);
        let thread = std::thread::spawn(move || watch(&theirs, &screen));
        Watchdog { shared, thread: Some(thread) }
    }

    /// A chunk is done: what is taken counts from here.
    pub(crate) fn word(&self) {
        self.shared.words.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends the process or returns; it does not panic.
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared, screen: &Screen) {
    let (mut words, mut since) = (0, taken());
    while !shared.over.load(Ordering::SeqCst) {
        std::thread::park_timeout(EVERY);
        let now = taken();
        if words != shared.words.load(Ordering::SeqCst) {
            (words, since) = (shared.words.load(Ordering::SeqCst), now);
        } else if let Some(what) = too_much(since, now) {
            screen.error(&format!(
                "the chat template was stopped: it took more than {what} for a few rows; `prospect data render` \
                 shows which. Use a template that can be trusted"
            ));
            std::process::exit(CODE.into());
        }
    }
}

/// What was passed between two looks, each bytes of memory and processor time.
fn too_much(since: (u64, Duration), now: (u64, Duration)) -> Option<String> {
    if now.0.saturating_sub(since.0) > BYTES {
        return Some(format!("{} MiB of memory", BYTES >> 20));
    }
    (now.1.saturating_sub(since.1) > TIME).then(|| format!("{} s of processor time", TIME.as_secs()))
}

/// Bytes of memory of this process's own, where the system says so, and processor time.
fn taken() -> (u64, Duration) {
    // Pages in memory, and those of them that are files'.
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = pages.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    let own = pages.next().unwrap_or(0).saturating_sub(pages.next().unwrap_or(0));
    (own * page_size(), processor_time())
}

#[cfg(unix)]
fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn page_size() -> u64 {
    4096
}

/// Without the processor's clock there is the one on the wall.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gibibyte_or_two_minutes_are_too_much() {
        let since = (500, Duration::from_secs(7));
        assert_eq!(too_much(since, (500 + BYTES, since.1 + TIME)), None);
        assert!(too_much(since, (501 + BYTES, since.1)).is_some_and(|what| what == "1024 MiB of memory"));
        assert!(too_much(since, (0, since.1 + TIME * 2)).is_some_and(|what| what == "120 s of processor time"));
    }

    #[test]
    fn what_this_process_takes_is_known() {
        let before = taken();
        let block = vec![1u8; 64 << 20];
        let after = taken();
        assert!(block.iter().map(|&b| u64::from(b)).sum::<u64>() == 64 << 20);
        if cfg!(target_os = "linux") {
            assert!(after.0 - before.0 > 60 << 20, "{before:?} {after:?}");
        }
        assert!(after.1 >= before.1);
    }
}
