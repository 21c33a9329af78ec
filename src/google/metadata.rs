//! The metadata server of Google's machines: plain http on a link-local address, no secret in the question.
//!
//! Whether there is one is found out quickly where nothing hints at Google, and patiently where something does:
//! clients have no time-out of their own, and a black hole must not cost a laptop twelve seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::source::{Request, SourceFault, World};
use crate::environment::Environment;
use crate::error::Fault;
use crate::http::client::Answer;
use crate::secret::{AccessToken, Secret};

/// Asks the metadata server at `host`, or at Google's own address.
///
/// # Errors
/// Absent where nothing answers and nobody named it.
pub async fn mint(world: &World, host: Option<&str>, request: Request) -> Result<AccessToken, SourceFault> {
    let named = host.is_some();
    let address = host.unwrap_or(ADDRESS);
    let patient = named || suggests_google(&world.environment);
    let probe_until = (Instant::now() + if patient { PATIENT } else { IMPATIENT }).min(request.at_most);
    let account = format!("http://{address}/computeMetadata/v1/instance/service-accounts/default");
    // Compute Engine ignores the scopes, Cloud Run and GKE honour them.
    let scope: String = url::form_urlencoded::byte_serialize(request.access.scope().as_bytes()).collect();
    let answer = ask(world, &format!("{account}/token?scopes={scope}"), probe_until, patient).await;
    let answer = match answer {
        Ok(answer) => answer,
        // Only a probe that had its time says that nobody is there.
        Err(_) if !patient && request.at_most > probe_until => {
            return Err(SourceFault::Absent(
                "no metadata server answers, so this is no Google machine".to_owned(),
            ));
        }
        Err(fault) => return Err(fault),
    };
    if !is_google(&answer) {
        if named {
            let problem = "an answer that is not a metadata server's".to_owned();
            return Err(SourceFault::Nonsense { what: address.to_owned(), problem });
        }
        return Err(SourceFault::Absent(format!("what answers at {address} is no metadata server")));
    }
    let token = read(world, &answer)?;
    // For display only: nobody waits long for it.
    let soon = request.at_most.min(Instant::now() + IMPATIENT);
    let email = ask(world, &format!("{account}/email"), soon, false).await.ok();
    let identity = email
        .filter(|answer| answer.status == StatusCode::OK && is_google(answer))
        .and_then(|answer| String::from_utf8(answer.body.to_vec()).ok())
        .map(|text| text.trim().to_owned());
    Ok(token.with_identity(identity))
}

/// Asks until something complete comes back; a machine that is starting may need more than one try.
async fn ask(world: &World, url: &str, until: Instant, patient: bool) -> Result<Answer, SourceFault> {
    let mut pause = Duration::from_millis(100);
    loop {
        let fault = match world.http.get_metadata(url, until).await {
            Ok(answer) if !retryable(answer.status) => return Ok(answer),
            Ok(answer) => SourceFault::Status {
                what: "the metadata server".to_owned(),
                status: answer.status.as_u16(),
                retry_after: answer.retry_after(),
            },
            Err(fault) => fault.into(),
        };
        if !patient || !fault.is_transient() || Instant::now() + pause >= until {
            return Err(fault);
        }
        sleep(pause).await;
        pause *= 2;
    }
}

fn retryable(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

fn read(world: &World, answer: &Answer) -> Result<AccessToken, SourceFault> {
    let what = || "the metadata server".to_owned();
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(SourceFault::Failed {
                what: what(),
                problem: "this machine has no service account".to_owned(),
                remedy: Some("give the machine a service account, or sign in".to_owned()),
            });
        }
        status => {
            let problem = format!("it answered with status {}", status.as_u16());
            return Err(SourceFault::Failed { what: what(), problem, remedy: None });
        }
    }
    let nonsense = |problem: &str| SourceFault::Nonsense { what: what(), problem: problem.to_owned() };
    let parsed: TokenAnswer =
        serde_json::from_slice(&answer.body).map_err(|_| nonsense("something that is not a token"))?;
    let now = world.clock.now();
    let expires = now + Duration::from_secs(parsed.expires_in.min(86_400));
    AccessToken::new(Secret::new(parsed.access_token), now, expires)
        .ok_or_else(|| nonsense("a token that has expired already, or that is none"))
}

fn is_google(answer: &Answer) -> bool {
    answer.headers.get("metadata-flavor").is_some_and(|flavor| flavor == "Google")
}

/// Whether a process here that has a network can ask Google's metadata server: firmware says so, or it answers within a
/// moment. Blocks for a third of a second at most.
#[must_use]
pub fn is_here() -> bool {
    let is_reached = || probe(SocketAddr::from((ADDRESS_BYTES, 80)), std::time::Instant::now() + IMPATIENT);
    firmware_is_google() || is_reached().unwrap_or(false)
}

/// Asks for nothing but the header by which a metadata server makes itself known.
fn probe(address: SocketAddr, until: std::time::Instant) -> io::Result<bool> {
    let left = || until.saturating_duration_since(std::time::Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(PROBE)?;
    let mut answer = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    while answer.len() < LARGEST_HEAD && std::time::Instant::now() < until {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        if head.parse(&answer).map_err(io::Error::other)?.is_complete() {
            let is_flavor = |name: &str| name.eq_ignore_ascii_case("metadata-flavor");
            return Ok(head.headers.iter().any(|it| is_flavor(it.name) && it.value == b"Google"));
        }
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(false)
}

fn firmware_is_google() -> bool {
    let product = std::fs::read_to_string(Path::new("/sys/class/dmi/id/product_name")).unwrap_or_default();
    product.contains("Google")
}

/// Whether firmware or environment say that this may be one of Google's machines.
#[must_use]
pub fn suggests_google(environment: &Environment) -> bool {
    firmware_is_google() || HINTS.iter().any(|name| environment.get(name).is_some())
}

/// Variables that Cloud Run, Cloud Functions, App Engine, GKE and Vertex AI set.
const HINTS: [&str; 7] = [
    "K_SERVICE",
    "CLOUD_RUN_JOB",
    "FUNCTION_TARGET",
    "GAE_ENV",
    "KUBERNETES_SERVICE_HOST",
    "CLOUD_ML_PROJECT_ID",
    "AIP_MODE",
];
/// The address, not the name: a name would be looked up with the local resolver, which may take seconds to fail.
const ADDRESS: &str = "169.254.169.254";
const ADDRESS_BYTES: [u8; 4] = [169, 254, 169, 254];
const PROBE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: metadata.google.internal\r\nmetadata-flavor: Google\r\nconnection: close\r\n\r\n";
const LARGEST_HEAD: usize = 8 << 10;
const PATIENT: Duration = Duration::from_secs(5);
const IMPATIENT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a server that says this is taken for, by somebody who waits for it so long.
    fn probed(answer: &'static [u8], patience: Duration) -> bool {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(answer);
            // Until the other end has heard enough.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let found = probe(address, std::time::Instant::now() + patience).unwrap_or(false);
        server.join().unwrap();
        found
    }

    #[test]
    fn a_metadata_server_is_known_by_its_header_and_nothing_else_is_taken_for_one() {
        let long = Duration::from_secs(20);
        assert!(probed(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n", long));
        assert!(probed(b"HTTP/1.0 403 Forbidden\r\nmetadata-flavor: Google\r\n\r\nno", long));
        for other in [
            &b"HTTP/1.1 401 Unauthorized\r\nserver: EC2ws\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Other\r\n\r\n",
            b"SSH-2.0-x\r\n",
        ] {
            assert!(!probed(other, long), "{}", String::from_utf8_lossy(other));
        }
        // One that says nothing costs no more than the patience.
        assert!(!probed(b"", Duration::from_millis(50)));
        assert!(!probed(b"HTTP/1.1 200 OK\r\nMetadata-Fl", Duration::from_millis(50)));
    }
}
