//! Watches over an answer of the daemon's until it is whole, and says what a client will not: that it was broken off,
//! and why, or that the daemon does not answer any more.
//!
//! Silence alone says nothing, since a registry may take its time. So a daemon that owes something for a while is asked
//! for something that it knows by itself.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::timeout;

use super::intercept::{BoxError, Courier};
use crate::client::resume::Answer;
use crate::client::stream::WayFault;
use crate::error::Failure;
use crate::error::shown::shown_path;
use crate::http::patience::Patience;

/// What is watched: one request, under the name that its client knows.
pub(super) struct Watch {
    courier: Arc<Courier>,
    shown: String,
}

impl Watch {
    pub(super) fn new(courier: &Arc<Courier>, shown: &str) -> Self {
        Self { courier: Arc::clone(courier), shown: shown.to_owned() }
    }

    /// Waits for something that the daemon owes.
    pub(super) async fn over<T>(&self, owed: impl Future<Output = T>) -> T {
        let mut owed = pin!(owed);
        if let Ok(done) = timeout(QUIET, owed.as_mut()).await {
            return done;
        }
        let mut asking = pin!(ask(Arc::clone(&self.courier), self.shown.clone()));
        tokio::select! {
            done = owed.as_mut() => return done,
            () = asking.as_mut() => {}
        }
        owed.await
    }

    /// Says that an upload may or may not have arrived.
    pub(super) fn lost_upload(&self, failure: &Failure) {
        let cause = cause(failure);
        self.courier.tell_once(&format!(
            "the upload to {} was broken off: {cause}; see in the repository whether it arrived before you try again",
            self.shown
        ));
    }

    fn lost(&self, failure: &Failure) {
        let cause = cause(failure);
        self.courier.tell_once(&format!(
            "{} was broken off in the middle: {cause}; see that the daemon runs where this was started, and run it again",
            self.shown
        ));
    }
}

/// Says that the daemon does not answer, if so.
async fn ask(courier: Arc<Courier>, shown: String) {
    let silent = match courier.way().ask("/v1/grant", PULSE).await {
        Ok(_) => return,
        Err(fault @ WayFault::Stopped(_)) => {
            let failure = Failure::from(fault);
            let hint = failure.hint.as_deref().unwrap_or_default();
            format!("{}, and {shown} waits for it; {hint}", failure.message)
        }
        Err(_) => {
            let path = shown_path(courier.way().path());
            format!(
                "the daemon at {path} does not answer, and {shown} waits for it; it may be stopped, or its machine too busy"
            )
        }
    };
    courier.tell_once(&silent);
}

fn cause(failure: &Failure) -> String {
    Failure { hint: None, ..failure.clone() }.one_line()
}

/// The body of an answer that is watched.
pub(super) struct Watched {
    body: Answer,
    watch: Watch,
    waiting: Patience,
    asking: Option<Asking>,
    /// Asked in this wait whether the daemon is there.
    asked: bool,
}

type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Watched {
    pub(super) fn new(body: Answer, watch: Watch) -> Self {
        Self { body, watch, waiting: Patience::default(), asking: None, asked: false }
    }

    /// Nothing has come yet.
    fn wait(&mut self, context: &mut Context<'_>) {
        if !self.asked && self.waiting.poll(QUIET, context).is_ready() {
            self.asked = true;
            let asking = ask(Arc::clone(&self.watch.courier), self.watch.shown.clone());
            self.asking = Some(Box::pin(asking));
        }
        if self.asking.as_mut().is_some_and(|asking| asking.as_mut().poll(context).is_ready()) {
            self.asking = None;
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let poll: Poll<Option<Result<_, WayFault>>> = Pin::new(&mut this.body).poll_frame(context);
        match poll {
            Poll::Pending => {
                this.wait(context);
                Poll::Pending
            }
            Poll::Ready(Some(Err(fault))) => {
                let failure = Failure::from(fault);
                this.watch.lost(&failure);
                Poll::Ready(Some(Err(failure.one_line().into())))
            }
            Poll::Ready(other) => {
                this.waiting.met();
                (this.asking, this.asked) = (None, false);
                Poll::Ready(other.map(|frame| frame.map_err(BoxError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a daemon may owe something before it is asked whether it is there.
const QUIET: Duration = Duration::from_secs(6);
/// What it knows by itself it says within this.
const PULSE: Duration = Duration::from_secs(5);
