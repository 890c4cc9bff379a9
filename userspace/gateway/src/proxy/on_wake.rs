//! A future beside a busy one: it is polled only when something that it waits for happened.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls a future only after it was woken. A task whose other future is woken for each request pays one load for it then.
pub(super) struct OnWake<F> {
    future: F,
    signal: Option<Arc<Signal>>,
}

/// The future's own waker: it marks the future and wakes the task.
struct Signal {
    is_woken: AtomicBool,
    task: Waker,
}

impl<F: Future + Unpin> OnWake<F> {
    pub(super) fn new(future: F) -> OnWake<F> {
        OnWake { future, signal: None }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let of_task = self.signal.take().filter(|signal| signal.task.will_wake(context.waker()));
        let signal = of_task.unwrap_or_else(|| {
            Arc::new(Signal { is_woken: AtomicBool::new(true), task: context.waker().clone() })
        });
        // The exchange comes second: it costs more than a look.
        let is_woken =
            signal.is_woken.load(Ordering::Relaxed) && signal.is_woken.swap(false, Ordering::AcqRel);
        let polled = match is_woken {
            true => {
                let waker = Waker::from(signal.clone());
                Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
            }
            false => Poll::Pending,
        };
        self.signal = Some(signal);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_future_is_polled_when_it_was_woken_or_its_task_changed() {
        let (mut polls, waker) = (0, Mutex::new(Waker::noop().clone()));
        let mut future = OnWake::new(poll_fn(|context: &mut Context<'_>| {
            polls += 1;
            *waker.lock().unwrap() = context.waker().clone();
            if polls < 4 { Poll::Pending } else { Poll::Ready(polls) }
        }));
        let tasks = [(); 2].map(|()| Waker::from(Arc::new(Signal::of_test())));
        let mut poll = |task: &Waker| Pin::new(&mut future).poll(&mut Context::from_waker(task));
        // Its first poll, and those without a cause.
        assert!((0..3).all(|_| poll(&tasks[0]).is_pending()));
        waker.lock().unwrap().wake_by_ref();
        assert!((0..3).all(|_| poll(&tasks[0]).is_pending()));
        assert!((0..3).all(|_| poll(&tasks[1]).is_pending()), "another task is one more poll");
        waker.lock().unwrap().wake_by_ref();
        assert_eq!(poll(&tasks[1]), Poll::Ready(4));
    }

    #[test]
    fn a_future_that_is_woken_wakes_its_task() {
        let task = Arc::new(Signal::of_test());
        let waker = Mutex::new(Waker::noop().clone());
        let mut future = OnWake::new(poll_fn(|context: &mut Context<'_>| {
            *waker.lock().unwrap() = context.waker().clone();
            Poll::<()>::Pending
        }));
        let of_task = Waker::from(task.clone());
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&of_task)).is_pending());
        assert!(!task.is_woken.load(Ordering::Acquire));
        waker.lock().unwrap().wake_by_ref();
        assert!(task.is_woken.load(Ordering::Acquire));
    }

    impl Signal {
        /// A task that notes its wakes.
        fn of_test() -> Signal {
            Signal { is_woken: AtomicBool::new(false), task: Waker::noop().clone() }
        }
    }
}
