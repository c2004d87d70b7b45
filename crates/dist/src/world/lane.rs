//! Exchanges that go on while their rank computes: one after the other, in a thread of their own.

use super::{Core, World};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is exchanged behind a rank's back, in order.
#[derive(Default)]
pub(super) struct Lane {
    thread: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
    open: Arc<Open>,
}

type Job = Box<dyn FnOnce(&World) + Send>;

/// How many exchanges are not through.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    none: Condvar,
}

impl Open {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one less when it is gone, however that comes.
struct Through(Arc<Open>);

impl Drop for Through {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.none.notify_all();
    }
}

/// What an exchange finds, once it is through.
pub struct Coming<T>(Receiver<T>);

impl<T> Coming<T> {
    pub(super) fn here(found: T) -> Coming<T> {
        let (give, take) = channel();
        give.send(found).expect("the other end is here");
        Coming(take)
    }

    /// Waits for it.
    pub fn take(self) -> T {
        self.0.recv().expect("an exchange that did not panic")
    }
}

impl Lane {
    pub(super) fn push<T: Send + 'static>(
        &self,
        core: &Arc<Core>,
        work: impl FnOnce(&World) -> T + Send + 'static,
    ) -> Coming<T> {
        let (give, take) = channel();
        *self.open.count() += 1;
        let through = Through(Arc::clone(&self.open));
        let job: Job = Box::new(move |world| {
            // Whoever no longer wants to know has let go of the other end.
            let _ = give.send(work(world));
            drop(through);
        });
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let (jobs, _) = thread.get_or_insert_with(|| {
            let (jobs, queue) = channel::<Job>();
            let world = World { lane: None, core: Arc::clone(core) };
            (jobs, std::thread::spawn(move || queue.iter().for_each(|job| job(&world))))
        });
        jobs.send(job).expect("the thread ends with its lane");
        Coming(take)
    }

    /// Returns when all is through.
    pub(super) fn wait(&self) {
        let mut count = self.open.count();
        while *count > 0 {
            count = self.open.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((jobs, thread)) = thread {
            drop(jobs);
            // A panic in it was met by whoever waited for what it was to bring.
            let _ = thread.join();
        }
    }
}
