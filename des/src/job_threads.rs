//! Threads of their own for each job of a process that serves several. What happens on them is the
//! job's: log lines and metrics say so, without anybody below having to know of other jobs.

use std::cell::RefCell;

use protocol::Job;
use tokio::runtime::{Handle, Runtime};
use tracing::span::EnteredSpan;

/// Threads of a job that move bytes between processes; whatever takes long has threads of its own.
const THREADS: usize = 2;

thread_local! {
    static JOB: RefCell<Option<(Job, EnteredSpan)>> = const { RefCell::new(None) };
}

fn enter(job: Job) -> Option<(Job, EnteredSpan)> {
    // An error, since it must be there however few lines are logged.
    let span = tracing::error_span!(target: "des::job", "job", %job);
    JOB.replace(Some((job, span.entered())))
}

/// The job that this thread works for, where there are several.
pub(crate) fn current() -> Option<Job> {
    JOB.with_borrow(|it| it.as_ref().map(|(job, _)| job.clone()))
}

/// Does something on behalf of a job on a thread that is not the job's; `None`: of no job.
pub(crate) fn within<T>(job: Option<&Job>, work: impl FnOnce() -> T) -> T {
    let Some(job) = job else { return work() };
    let before = enter(job.clone());
    let done = work();
    drop(JOB.replace(before));
    done
}

/// A job's threads. Dropping them lets go of what still runs there.
pub(crate) struct JobThreads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl JobThreads {
    /// # Errors
    /// When the system has no more threads.
    pub(crate) fn start(job: &Job) -> std::io::Result<Self> {
        let (name, job) = (format!("des-{job}"), job.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(name)
            .enable_all()
            .on_thread_start(move || drop(enter(job.clone())))
            .on_thread_stop(|| drop(JOB.replace(None)))
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for JobThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_a_jobs_threads_is_the_jobs() {
        let job = |name: &str| name.parse::<Job>().expect(name);
        let (a, b) = (job("a"), job("b"));
        let (of_a, of_b) =
            (JobThreads::start(&a).expect("threads"), JobThreads::start(&b).expect("threads"));
        let (on_a, on_b) = (of_a.handle(), of_b.handle());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            assert_eq!(current(), None);
            assert_eq!(on_a.spawn(async { current() }).await.expect("done"), Some(a.clone()));
            assert_eq!(on_b.spawn_blocking(current).await.expect("done"), Some(b.clone()));
            let nested = on_a.spawn(async { tokio::task::spawn_blocking(current).await });
            assert_eq!(nested.await.expect("done").expect("done"), Some(a.clone()));
        });
        let seen = within(Some(&a), || (current(), within(Some(&b), current), current()));
        assert_eq!(seen, (Some(a.clone()), Some(b), Some(a)));
        assert_eq!(current(), None);
    }
}
