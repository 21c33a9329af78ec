//! What lies between this machine and Google: proxies that work, refuse, or lie.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::harness::Sandbox;
use super::{assert_given, assert_refused};

/// A proxy that answers CONNECT with the given status line and, where that says 200, connects.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || tunnel(stream, answer, &seen));
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, answer: &str, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(head);
    let _ = client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
    let Ok(mut server) = TcpStream::connect(target) else { return };
    if !answer.starts_with("200") {
        return;
    }
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
}

fn ask(sandbox: &Sandbox, variables: &[(&str, &str)]) -> super::Run {
    let mut command = sandbox.get();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", sandbox.path("home/key.json"));
    sandbox.run(command.envs(variables.iter().copied()))
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.service_account();
    sandbox
}

#[test]
fn the_environments_proxy_is_used_and_sees_host_and_port_only() {
    let sandbox = sandbox();
    let proxy = Proxy::start("200 Connection established");
    let url = format!("http://alice:hunter2-hunter2@{}", proxy.address);
    assert_given(&ask(&sandbox, &[("HTTPS_PROXY", &url)]));
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", sandbox.google.port())),
        "{heads:?}"
    );
    let credentials = "proxy-authorization: basic ywxpy2u6ahvudgvymi1odw50zxiy";
    assert!(heads[0].to_lowercase().contains(credentials), "{heads:?}");
}

#[test]
fn no_proxy_and_other_schemes_go_directly() {
    let sandbox = sandbox();
    let proxy = Proxy::start("200 Connection established");
    let url = format!("http://{}", proxy.address);
    assert_given(&ask(&sandbox, &[("HTTPS_PROXY", &url), ("NO_PROXY", "localhost")]));
    assert_given(&ask(&sandbox, &[("HTTP_PROXY", &url)]));
    assert!(proxy.heads().is_empty());
    assert_given(&ask(&sandbox, &[("all_proxy", &url)]));
    assert_eq!(proxy.heads().len(), 1);
}

#[test]
fn a_proxy_that_refuses_is_told_without_its_password() {
    let sandbox = sandbox();
    for answer in ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"] {
        let proxy = Proxy::start(answer);
        let url = format!("http://alice:hunter2@{}", proxy.address);
        let run = ask(&sandbox, &[("HTTPS_PROXY", &url)]);
        assert_refused(&run, "cannot reach localhost");
        assert!(run.stderr.contains("HTTPS_PROXY") && !run.stderr.contains("hunter2"), "{run:?}");
    }
}

#[test]
fn a_proxy_that_is_not_there_is_told() {
    let sandbox = sandbox();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_refused(&ask(&sandbox, &[("HTTPS_PROXY", &format!("http://127.0.0.1:{port}"))]), "cannot reach");
    assert!(sandbox.google.token_requests().is_empty(), "no way around the proxy is taken");
}

#[test]
fn a_proxy_that_answers_in_googles_place_is_not_believed() {
    let sandbox = sandbox();
    let impostor = super::stand_in::StandIn::start(super::stand_in::Options::default());
    // The proxy leads to another server with a certificate of another authority.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, port) = (listener.local_addr().unwrap(), impostor.port());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    assert_refused(&ask(&sandbox, &[("HTTPS_PROXY", &format!("http://{address}"))]), "does not trust");
    assert!(impostor.token_requests().is_empty());
}

#[test]
fn an_extra_ca_that_is_none_is_told() {
    let sandbox = sandbox();
    sandbox.write("ca.pem", "no certificate\n");
    assert_refused(&ask(&sandbox, &[]), "holds no PEM certificate");
    std::fs::remove_file(sandbox.path("ca.pem")).unwrap();
    assert_refused(&ask(&sandbox, &[]), "cannot read extra_ca");
}

#[test]
fn a_proxy_that_would_have_to_be_spoken_to_in_another_way_is_never_spoken_to() {
    let sandbox = sandbox();
    let proxy = Proxy::start("200 Connection established");
    for scheme in ["https", "socks5", "socks5h"] {
        let url = format!("{scheme}://alice:hunter2@{}", proxy.address);
        let run = ask(&sandbox, &[("HTTPS_PROXY", &url)]);
        assert_refused(&run, "a scheme that is not http");
        assert!(!run.stderr.contains("hunter2"), "{run:?}");
    }
    assert!(proxy.heads().is_empty());
}
