//! Many steps at once on the sockets of builds, and one that means harm.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use valetkey::carrier::agent::{AgentChannel, AgentStream, wire};
use valetkey::carrier::frame::{Request, StreamId};
use valetkey::sys::raise_descriptor_limit;

use super::assert_given;
use super::harness::Sandbox;
use super::listeners::{build, page, repository, unix, with_package};

/// A number of the daemon's metrics.
fn metric(sandbox: &Sandbox, name: &str) -> usize {
    let (_, text) = unix(&sandbox.socket(), "GET", "/metrics", "");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("valetkey_{name} ")));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The beginning of a request: the daemon holds the stream for it.
fn beginning(sandbox: &Sandbox) -> String {
    format!("GET {} HTTP/1.1\r\nhost: x\r\n", page(sandbox, "acme/private"))
}

const REST: &str = "connection: close\r\n\r\n";

/// Streams on which a request has begun.
async fn held(channel: &AgentChannel, beginning: &str, count: usize) -> Vec<AgentStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = channel.open().unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    streams
}

fn terms(sandbox: &Sandbox) -> String {
    format!("[build]\ntokens = true\nrepositories = [\"{}\"]\n", repository(sandbox, "acme/private"))
}

#[test]
fn forty_steps_with_ten_streams_each_are_served_at_once() {
    raise_descriptor_limit();
    let sandbox = with_package();
    sandbox.sign_in();
    sandbox.configure(&terms(&sandbox));
    let _daemon = sandbox.serve();
    // The token is there, and the registry known.
    assert_eq!(unix(&sandbox.socket(), "GET", &page(&sandbox, "acme/private"), "").0, 200);
    let (channel, beginning) = (AgentChannel::at(build(&sandbox)), beginning(&sandbox));
    runtime().block_on(async {
        let mut streams = held(&channel, &beginning, 400).await;
        tokio::task::block_in_place(|| {
            Sandbox::wait_until("all are there", || metric(&sandbox, "streams") == 400);
        });
        for stream in &mut streams {
            stream.write_all(REST.as_bytes()).await.unwrap();
        }
        for mut stream in streams {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
    });
}

#[test]
fn a_thousand_streams_of_one_build_keep_no_other_out() {
    raise_descriptor_limit();
    let sandbox = with_package();
    sandbox.configure(&terms(&sandbox));
    let key = sandbox.service_account();
    let mut command = sandbox.valetkey();
    let _daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let (socket, beginning) = (build(&sandbox), beginning(&sandbox));
    let channel = AgentChannel::at(socket.clone());
    runtime().block_on(async {
        let hostile = held(&channel, &beginning, 1000).await;
        tokio::task::block_in_place(|| {
            Sandbox::wait_until("they have their part", || metric(&sandbox, "streams") > 150);
            // The same socket, and the same user: another process, as another build is.
            let mut other = sandbox.get();
            let run =
                sandbox.run(other.env("SSH_AUTH_SOCK", &socket).env("XDG_RUNTIME_DIR", sandbox.path("tmp")));
            assert_given(&run);
        });
        drop(hostile);
    });
}

/// One exchange of a stream on a connection that stays: what came back.
fn exchange(stream: &mut UnixStream, name: u8, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let request = Request {
        stream: StreamId::new([name; 16]),
        open: offset == 0,
        finish: false,
        close: false,
        fresh: false,
        wait: Duration::from_secs(1),
        want: if offset == 0 { 0 } else { 64 << 10 },
        offset,
        acknowledged: 0,
    };
    stream.write_all(&wire::sign_request(&request, bytes)).unwrap();
    let mut head = [0; wire::MESSAGE_HEAD];
    stream.read_exact(&mut head).unwrap();
    let mut answer = vec![0; wire::message_head(head).unwrap().0];
    stream.read_exact(&mut answer).unwrap();
    let (_, place) = wire::parse_answer(&answer, usize::MAX).unwrap();
    answer[place].to_vec()
}

#[test]
fn a_connection_of_a_build_with_an_open_stream_is_not_idle() {
    raise_descriptor_limit();
    let sandbox = with_package();
    sandbox.configure(&terms(&sandbox));
    let key = sandbox.service_account();
    let mut command = sandbox.valetkey();
    let _daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    assert_eq!(unix(&sandbox.socket(), "GET", &page(&sandbox, "acme/private"), "").0, 200);
    let socket: &Path = &build(&sandbox);
    let beginning = beginning(&sandbox);
    let mut living = UnixStream::connect(socket).unwrap();
    living.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    exchange(&mut living, 7, 0, beginning.as_bytes());
    let crowd: Vec<_> = (0..1100).map(|_| UnixStream::connect(socket).unwrap()).collect();
    Sandbox::wait_until("it is full", || metric(&sandbox, "connections") >= 1024);
    // Somebody else is let in, and not in the place of the first.
    let mut other = sandbox.get();
    let run = sandbox.run(other.env("SSH_AUTH_SOCK", socket).env("XDG_RUNTIME_DIR", sandbox.path("tmp")));
    assert_given(&run);
    let offset = beginning.len() as u64;
    let mut answer = exchange(&mut living, 7, offset, REST.as_bytes());
    while answer.is_empty() {
        answer = exchange(&mut living, 7, offset + REST.len() as u64, b"");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    drop(crowd);
}
