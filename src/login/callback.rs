//! The loopback redirect: one port on 127.0.0.1, for one answer.
//!
//! Only a top-level navigation in a browser of this user gets anywhere: the kernel says whose connection it is,
//! `Host` has to be exactly ours (a page that rebinds its own name to 127.0.0.1 has another), and a request that
//! a page's script made says so itself. An answer with a wrong state changes nothing. The browser is led away
//! from the address with the code before it shows anything.
//!
//! A browser whose user is another, or cannot be told (Windows' in WSL, one behind a container's port), gets a page that
//! says what to do, whatever it brings, and is told of once: nothing of its request counts.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HOST, HeaderValue, LOCATION, ORIGIN};
use hyper::{Method, Request, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::exchange::CALLBACK;
use super::page::{Page, page, plain};
use crate::error::printable;
use crate::http::server::{Line, Reply, serve_connection};
use crate::secret::Secret;
use crate::sys::loopback_peer::loopback_peer_of;
use crate::sys::users::{is_anybody, is_own};

/// An answer to this attempt.
#[derive(Debug)]
pub enum Callback {
    Code(Secret),
    /// OAuth's word for it: `access_denied`, mostly.
    Refused(String),
}

/// What happens at the port.
#[derive(Debug)]
pub enum Event {
    Answered(Callback),
    /// A browser came back, of the user with this uid or of one whom nobody can tell, and was not heard.
    Refused(Option<u32>),
}

/// Why something is no answer to this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It belongs to another attempt, or nobody's.
    State,
    /// It is not an answer at all.
    Shape,
}

/// Reads the address that a browser ended at, as a person pastes it.
///
/// # Errors
/// When it is not the answer.
pub fn from_address(text: &str, redirect: &str, state: &Secret) -> Result<Callback, Wrong> {
    // Browsers show an address without its scheme, and some copy it so.
    let text = match text.trim() {
        bare if bare.starts_with("127.0.0.1:") => format!("http://{bare}"),
        text => text.to_owned(),
    };
    let (address, query) = text.split_once('?').ok_or(Wrong::Shape)?;
    // Another port is another attempt.
    let path = |address: &str| {
        url::Url::parse(address).ok().map(|url| (url.host_str() == Some("127.0.0.1"), url.path() == CALLBACK))
    };
    if address != redirect && path(address) != Some((true, true)) {
        return Err(Wrong::Shape);
    }
    from_query(query.split('#').next().unwrap_or_default(), state)
}

/// Reads the query of a redirect: exactly one state, which is ours, and exactly one code or error.
///
/// # Errors
/// When it is not the answer.
pub fn from_query(query: &str, state: &Secret) -> Result<Callback, Wrong> {
    let mut found: [Option<String>; 3] = [None, None, None];
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let Some(at) = ["state", "code", "error"].iter().position(|known| *known == name) else { continue };
        if found[at].replace(value.into_owned()).is_some() {
            return Err(Wrong::Shape);
        }
    }
    let [given, code, error] = found;
    // Compared in constant time, as every secret.
    match given.map(Secret::new) {
        Some(given) if given == *state => {}
        Some(_) => return Err(Wrong::State),
        None => return Err(Wrong::Shape),
    }
    match (code, error) {
        (Some(code), None) if !code.is_empty() => Ok(Callback::Code(Secret::new(code))),
        (None, Some(error)) => Ok(Callback::Refused(printable(&error).chars().take(60).collect())),
        _ => Err(Wrong::Shape),
    }
}

/// A port that is bound, and not served yet.
#[derive(Debug)]
pub struct Loopback {
    listener: std::net::TcpListener,
    port: u16,
}

impl Loopback {
    /// Takes a free port. No other process can share it.
    ///
    /// # Errors
    /// When there is none.
    pub fn bind() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Begins to serve.
    #[must_use]
    pub fn open(self, state: Secret) -> Open {
        let (answer, received) = mpsc::channel(1);
        let (stranger, strangers) = mpsc::channel(1);
        let (outcome, known) = watch::channel(None);
        let (tabs, waiting) = watch::channel(0);
        let door = Arc::new(Door {
            host: format!("127.0.0.1:{}", self.port),
            state,
            answer: Mutex::new(Some(answer)),
            stranger: Mutex::new(Some(stranger)),
            known,
            tabs,
        });
        let (close, closed) = oneshot::channel();
        let serving = tokio::spawn(serve(self.listener, door, closed));
        Open { received, strangers, outcome, waiting, close, serving }
    }
}

/// A port that is served.
#[derive(Debug)]
pub struct Open {
    received: mpsc::Receiver<Callback>,
    strangers: mpsc::Receiver<Option<u32>>,
    outcome: watch::Sender<Option<Page>>,
    /// How many tabs have not seen the outcome that they wait for.
    waiting: watch::Receiver<usize>,
    close: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Open {
    /// The first answer to this attempt, or, once and before it, a browser that was refused.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            Some(callback) = self.received.recv() => Event::Answered(callback),
            Some(uid) = self.strangers.recv() => Event::Refused(uid),
            else => std::future::pending().await,
        }
    }

    /// Shows the outcome to every tab that waits for it, and closes. After a paste there is none.
    pub async fn show(mut self, page: Page) {
        self.outcome.send_replace(Some(page));
        let _ = timeout(LAST_LOOK, self.waiting.wait_for(|tabs| *tabs == 0)).await;
        let _ = self.close.send(());
        let _ = timeout(LAST_LOOK, self.serving).await;
    }
}

/// What the connections share.
struct Door {
    host: String,
    state: Secret,
    /// Taken by the first answer.
    answer: Mutex<Option<mpsc::Sender<Callback>>>,
    /// Taken by the first browser that is refused.
    stranger: Mutex<Option<mpsc::Sender<Option<u32>>>>,
    known: watch::Receiver<Option<Page>>,
    tabs: watch::Sender<usize>,
}

/// A tab that brought the answer and waits for what becomes of it.
struct Tab<'a>(&'a watch::Sender<usize>);

impl<'a> Tab<'a> {
    fn new(tabs: &'a watch::Sender<usize>) -> Self {
        tabs.send_modify(|tabs| *tabs += 1);
        Self(tabs)
    }

    /// It is sent to the page, and counts until that is asked for.
    fn lead_on(self) {
        std::mem::forget(self);
    }
}

impl Drop for Tab<'_> {
    /// Closed before there was anything to see.
    fn drop(&mut self) {
        seen(self.0);
    }
}

fn seen(tabs: &watch::Sender<usize>) {
    tabs.send_modify(|tabs| *tabs = tabs.saturating_sub(1));
}

async fn serve(listener: std::net::TcpListener, door: Arc<Door>, mut closed: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut tasks = JoinSet::new();
    let (mut lines, mut strangers) = (VecDeque::new(), VecDeque::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // Whose connection it is, the kernel says. Root may do what it likes anyway.
                Ok((stream, _)) => {
                    let peer = loopback_peer_of(&stream).map(|peer| peer.uid).ok();
                    let ours = peer.is_some_and(is_ours);
                    // Strangers crowd out each other, and nobody else.
                    let (lines, most) =
                        if ours { (&mut lines, MOST_CONNECTIONS) } else { (&mut strangers, MOST_STRANGERS) };
                    if make_room(lines, most) {
                        let line = Arc::new(Line::default());
                        lines.push_back(Arc::clone(&line));
                        let from = if ours { From::Us } else { From::Stranger(peer) };
                        tasks.spawn(connection(Arc::clone(&door), stream, line, from));
                    }
                }
                // No descriptor is left, mostly; one will be.
                Err(_) => sleep(BREATH).await,
            },
            Some(_) = tasks.join_next() => {}
            // Also when whoever waited gave up.
            _ = &mut closed => break,
        }
    }
    drop(listener);
    // The page that has just been asked for still goes out.
    let rest = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(GOODBYE, rest).await;
}

/// Whether the browser is this user's, or root's, and nobody else's by any chance.
fn is_ours(uid: u32) -> bool {
    is_own(uid) || (uid == 0 && !is_anybody(uid))
}

/// Hangs up the line that has been silent for longest where there are too many: whoever holds lines open without
/// a word does not keep the answer out.
fn make_room(lines: &mut VecDeque<Arc<Line>>, most: usize) -> bool {
    lines.retain(|line| Arc::strong_count(line) > 1);
    if lines.len() < most {
        return true;
    }
    let silent = lines.iter().position(|line| !line.is_busy()).and_then(|at| lines.remove(at));
    silent.is_some_and(|line| {
        line.hang_up();
        true
    })
}

/// Whose connection it is.
#[derive(Clone, Copy)]
enum From {
    Us,
    Stranger(Option<u32>),
}

async fn connection(door: Arc<Door>, stream: TcpStream, line: Arc<Line>, from: From) {
    match from {
        From::Us => serve_connection(stream, &line, |request| door.answer(request)).await,
        From::Stranger(uid) => {
            serve_connection(stream, &line, |request| std::future::ready(door.refuse(&request, uid))).await;
        }
    }
}

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        if let Err(reply) = self.check(&request) {
            return *reply;
        }
        match request.uri().path() {
            CALLBACK => self.callback(request.uri().query().unwrap_or_default()).await,
            DONE | FAILED => self.outcome(),
            _ => plain(StatusCode::NOT_FOUND),
        }
    }

    /// Tells whoever is no user of ours what to do, and the terminal that somebody was here. What the request brings is
    /// not looked at: no word of the answer says whether it would have been right.
    fn refuse(&self, request: &Request<Incoming>, uid: Option<u32>) -> Reply {
        if let Err(reply) = self.check(request) {
            return *reply;
        }
        if request.uri().path() != CALLBACK {
            return plain(StatusCode::NOT_FOUND);
        }
        let first = self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            let _ = first.try_send(uid);
        }
        page(StatusCode::FORBIDDEN, &Page::Stranger)
    }

    /// Whether a request is a person's browser that goes to our address.
    fn check(&self, request: &Request<Incoming>) -> Result<(), Box<Reply>> {
        let headers = request.headers();
        let mut hosts = headers.get_all(HOST).iter();
        let own = matches!((hosts.next(), hosts.next()), (Some(host), None) if host.as_bytes() == self.host.as_bytes());
        // A target with a host of its own is what a proxy is asked for.
        if !own || request.uri().authority().is_some() {
            return Err(Box::new(plain(StatusCode::BAD_REQUEST)));
        }
        let says = |name: &str, wanted: &str| headers.get(name).is_none_or(|value| value == wanted);
        let navigation = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
        if headers.contains_key(ORIGIN) || !navigation {
            return Err(Box::new(plain(StatusCode::FORBIDDEN)));
        }
        if request.method() != Method::GET {
            let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED);
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return Err(Box::new(reply));
        }
        Ok(())
    }

    async fn callback(&self, query: &str) -> Reply {
        match from_query(query, &self.state) {
            Err(Wrong::State) => page(StatusCode::BAD_REQUEST, &Page::OtherAttempt),
            Err(Wrong::Shape) => page(StatusCode::BAD_REQUEST, &Page::NoAnswer),
            Ok(callback) => {
                let tab = Tab::new(&self.tabs);
                let first = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
                // A second tab waits for what becomes of the first; its code is not looked at.
                if let Some(first) = first {
                    let _ = first.try_send(callback);
                }
                let mut known = self.known.clone();
                let outcome = timeout(OUTCOME, known.wait_for(Option::is_some)).await;
                let to = match outcome {
                    Ok(Ok(outcome)) if matches!(*outcome, Some(Page::SignedIn { .. })) => DONE,
                    Ok(Ok(_)) => FAILED,
                    _ => return plain(StatusCode::SERVICE_UNAVAILABLE),
                };
                let mut reply = plain(StatusCode::SEE_OTHER);
                reply.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
                tab.lead_on();
                reply
            }
        }
    }

    fn outcome(&self) -> Reply {
        match &*self.known.borrow() {
            Some(outcome) => {
                seen(&self.tabs);
                page(StatusCode::OK, outcome)
            }
            None => plain(StatusCode::NOT_FOUND),
        }
    }
}

const DONE: &str = "/done";
const FAILED: &str = "/failed";
const MOST_CONNECTIONS: usize = 64;
const MOST_STRANGERS: usize = 4;
/// A browser follows a redirect at once.
const LAST_LOOK: Duration = Duration::from_secs(3);
const GOODBYE: Duration = Duration::from_millis(500);
const BREATH: Duration = Duration::from_millis(50);
/// The exchange, and the vault, which may ask a person for a password.
const OUTCOME: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> Secret {
        Secret::new("s3cr3t-state".to_owned())
    }

    #[test]
    fn only_one_state_with_one_code_or_error_is_an_answer() {
        let read = |query: &str| from_query(query, &state());
        assert!(
            matches!(read("state=s3cr3t-state&code=4%2Fx"), Ok(Callback::Code(code)) if code.expose() == "4/x")
        );
        assert!(matches!(read("code=a&scope=b&state=s3cr3t-state&authuser=0"), Ok(Callback::Code(_))));
        assert!(
            matches!(read("error=access_denied&state=s3cr3t-state"), Ok(Callback::Refused(it)) if it == "access_denied")
        );
        for wrong in ["state=other&code=a", "state=&code=a", "state=S3cr3t-state&error=x"] {
            assert_eq!(read(wrong).unwrap_err(), Wrong::State, "{wrong}");
        }
        for wrong in [
            "",
            "code=a",
            "state=s3cr3t-state",
            "state=s3cr3t-state&code=",
            "state=s3cr3t-state&code=a&code=b",
            "state=s3cr3t-state&state=s3cr3t-state&code=a",
            "state=s3cr3t-state&code=a&error=b",
        ] {
            assert_eq!(read(wrong).unwrap_err(), Wrong::Shape, "{wrong}");
        }
    }

    #[test]
    fn a_pasted_address_has_to_be_the_redirect() {
        let redirect = "http://127.0.0.1:99/callback";
        let read = |text: &str| from_address(text, redirect, &state());
        assert!(read(" http://127.0.0.1:99/callback?state=s3cr3t-state&code=a#x\n").is_ok());
        assert!(read("127.0.0.1:99/callback?state=s3cr3t-state&code=a").is_ok());
        assert_eq!(read("http://127.0.0.1:98/callback?state=old&code=a").unwrap_err(), Wrong::State);
        for wrong in [
            "4/0code",
            "http://127.0.0.1:99/other?state=s3cr3t-state&code=a",
            "127.0.0.1:99@evil.test/callback?state=s3cr3t-state&code=a",
            "https://evil.test/callback?state=s3cr3t-state&code=a",
            "",
        ] {
            assert_eq!(read(wrong).unwrap_err(), Wrong::Shape, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_without_the_state_is_an_answer(query in ".{0,200}") {
            prop_assume!(!query.contains("s3cr3t-state"));
            prop_assert!(from_query(&query, &state()).is_err());
        }
    }
}
