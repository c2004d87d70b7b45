//! One engine for all connections: it takes jobs in as they come, steps, and hands every token to whoever waits for it.

use infer::{Draw, Drawn, FinishReason, Limits, Placed, Request};
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

    /// Takes no more jobs, and gives up those that wait: whoever offered them hears nothing more.
    fn abandon(&self) {
        let mut state = self.state();
        state.closed = true;
        state.jobs.clear();
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
///
/// # Errors
/// What computes has failed: nothing more can be answered, and all jobs are given up.
pub(crate) fn work(model: &Placed, limits: Limits, stop: &[u32], queue: &Queue) -> Result<(), infer::Error> {
    model.within_engine(limits, stop, |engine| answer(engine, queue))
}

fn answer(engine: &mut dyn Draw, queue: &Queue) -> Result<(), infer::Error> {
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
            Err(infer::Error::NotFinite { request, generated }) => {
                if let Some(job) = waiting.remove(&request) {
                    let _ = job.reply.send((job.choice, Err(infer::Error::NotFinite { request, generated })));
                    queue.state().open -= 1;
                }
            }
            Err(e) => {
                queue.abandon();
                return Err(e);
            }
        }
    }
    Ok(())
}

/// Whether a token is the last of its answer, and no text.
pub(crate) fn is_stop(drawn: &Drawn) -> bool {
    drawn.finish == Some(FinishReason::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use infer::{Error, Sampling};
    use std::sync::mpsc::channel;

    /// Computes on a device that fails at the first step.
    struct Broken;

    impl Draw for Broken {
        fn submit(&mut self, _: usize, _: Request) -> Result<(), Error> {
            Ok(())
        }
        fn cancel(&mut self, _: usize) {}
        fn is_idle(&self) -> bool {
            true
        }
        fn step(&mut self) -> Result<Vec<Drawn>, Error> {
            Err(Error::Mismatch { what: "the device has failed".into() })
        }
    }

    #[test]
    fn a_device_that_fails_ends_the_work_and_leaves_nobody_waiting() {
        let queue = Queue::new(4);
        let (reply, news) = channel();
        let job = |choice| Job { request: Request::new(vec![1], 4, Sampling::GREEDY), choice, reply: reply.clone() };
        queue.offer(vec![job(0), job(1)]).unwrap();
        drop(reply);
        assert_eq!(answer(&mut Broken, &queue).unwrap_err().to_string(), "the device has failed");
        assert!(news.recv().is_err(), "nothing was answered, and nobody waits");
        let (reply, _news) = channel();
        let late = Job { request: Request::new(vec![1], 4, Sampling::GREEDY), choice: 0, reply };
        assert_eq!(queue.offer(vec![late]).err(), Some(Refused::Closed));
    }
}
