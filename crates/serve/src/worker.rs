//! One engine for all connections: it takes jobs in as they come, steps, and hands every token to whoever waits for it.

use infer::{Drawn, FinishReason, Limits, Model, Request};
use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard};

/// What a connection hears of a job: its choice, and a token or what went wrong.
pub(crate) type News = (usize, Result<Drawn, infer::Error>);

/// An answer to be made.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// The number that the connection knows it by.
    pub(crate) choice: usize,
    pub(crate) reply: Sender<News>,
}

/// A job with its number.
type Numbered = (usize, Job);

#[derive(Default)]
struct State {
    jobs: Vec<Numbered>,
    cancelled: Vec<usize>,
    /// Jobs that were taken and are not finished.
    open: usize,
    next: usize,
    closed: bool,
}

/// Jobs on their way to the worker: no more than a number of unfinished ones.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    most: usize,
}

/// Why jobs are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are enough.
    Full,
    /// The server is stopping.
    Closed,
}

impl Queue {
    pub(crate) fn new(most: usize) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), most }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values, right at every moment.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes all of `jobs` or none; returns their numbers.
    pub(crate) fn offer(&self, jobs: Vec<Job>) -> Result<Vec<usize>, Refused> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        // A request of more answers than the queue holds is served when nothing else is.
        if state.open > 0 && state.open + jobs.len() > self.most {
            return Err(Refused::Full);
        }
        state.open += jobs.len();
        let first = state.next;
        state.next += jobs.len();
        let numbers: Vec<usize> = (first..state.next).collect();
        state.jobs.extend(numbers.iter().copied().zip(jobs));
        self.changed.notify_one();
        Ok(numbers)
    }

    /// Tells the worker that nobody waits for these any more.
    pub(crate) fn cancel(&self, numbers: &[usize]) {
        self.state().cancelled.extend_from_slice(numbers);
    }

    /// No more jobs; the worker ends when it has finished what there is.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Unfinished jobs.
    pub(crate) fn open(&self) -> usize {
        self.state().open
    }

    /// New jobs and cancelled ones; waits for some when `idle`. `None`: closed, and there are none.
    fn take(&self, idle: bool) -> Option<(Vec<Numbered>, Vec<usize>)> {
        let mut state = self.state();
        while idle && state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        Some((std::mem::take(&mut state.jobs), std::mem::take(&mut state.cancelled)))
    }
}

/// Answers jobs until the queue is closed and empty.
pub(crate) fn work(model: &Model, limits: Limits, stop: &[u32], queue: &Queue) {
    let ctx = model.generation();
    model.install(|| {
        let mut engine = infer::Engine::new(&ctx, &model.decoder, limits, stop);
        let mut waiting: HashMap<usize, Job> = HashMap::new();
        while let Some((jobs, cancelled)) = queue.take(engine.is_idle()) {
            for (number, job) in jobs {
                match engine.submit(number, job.request.clone()) {
                    Ok(()) => {
                        waiting.insert(number, job);
                    }
                    Err(e) => {
                        // A connection that has gone needs no answer.
                        let _ = job.reply.send((job.choice, Err(e)));
                        queue.state().open -= 1;
                    }
                }
            }
            let mut finish = |number: usize| {
                if waiting.remove(&number).is_some() {
                    queue.state().open -= 1;
                }
            };
            for number in cancelled {
                engine.cancel(number);
                finish(number);
            }
            match engine.step() {
                Ok(all) => {
                    for drawn in all {
                        let (number, last) = (drawn.request, drawn.finish.is_some());
                        let Some(job) = waiting.get(&number) else { continue };
                        let gone = job.reply.send((job.choice, Ok(drawn))).is_err();
                        if gone {
                            engine.cancel(number);
                        }
                        if gone || last {
                            waiting.remove(&number);
                            queue.state().open -= 1;
                        }
                    }
                }
                Err(e) => {
                    let infer::Error::NotFinite { request, .. } = e else { continue };
                    if let Some(job) = waiting.remove(&request) {
                        let _ = job.reply.send((job.choice, Err(e)));
                        queue.state().open -= 1;
                    }
                }
            }
        }
    });
}

/// Whether a token is the last of its answer, and no text.
pub(crate) fn is_stop(drawn: &Drawn) -> bool {
    drawn.finish == Some(FinishReason::Stop)
}
