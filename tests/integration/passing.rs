//! Requests that the daemon passes on to a registry: what a client of the Unix socket sees, and what the registry does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::harness::{Daemon, Sandbox};
use super::stand_in::{Authorization, Fault, RegistryRequest};

/// An answer, as far as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the body is as long as the head says.
    pub(super) whole: bool,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The document of RFC 9457 that a failure is told with.
    #[track_caller]
    pub(super) fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn read(bytes: &[u8], to_head: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no head in {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(400)]))
        });
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers = lines.map(pair).collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec(), whole: true };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.whole) = unchunk(&answer.body);
        } else if let Some(length) = answer.header("content-length").filter(|_| !to_head) {
            answer.whole = answer.body.len() == length.parse::<usize>().unwrap();
        }
        answer
    }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let Some(piece) = rest.get(end + 2..end + 2 + size) else { return (body, false) };
        body.extend_from_slice(piece);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
}

/// Sends bytes and reads what comes until the end.
pub(super) fn exchange(sandbox: &Sandbox, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    sandbox.hear(&reply);
    reply
}

/// The path of the daemon for a path of the stand-in's registry.
fn at(sandbox: &Sandbox, path: &str) -> String {
    format!("/registry/localhost:{}{path}", sandbox.google.port())
}

fn call(sandbox: &Sandbox, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = format!("{method} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", at(sandbox, path));
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    Answer::read(&exchange(sandbox, &[request.as_bytes(), body].concat()), method == "HEAD")
}

fn get(sandbox: &Sandbox, path: &str) -> Answer {
    call(sandbox, "GET", path, &[], b"")
}

/// A sandbox with a sign-in and a daemon.
pub(super) fn setting(sandbox: &Sandbox) -> Daemon<'_> {
    sandbox.sign_in();
    sandbox.serve()
}

fn requests(sandbox: &Sandbox) -> Vec<RegistryRequest> {
    sandbox.google.registry_requests()
}

/// The audit lines about requests that were passed on.
pub(super) fn lines(daemon: &Daemon<'_>, count: usize) -> Vec<Value> {
    let lines = || -> Vec<Value> {
        let log = daemon.log();
        let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["form"] == "proxy").collect()
    };
    Sandbox::wait_until("the log has the lines", || lines().len() >= count);
    assert_eq!(lines().len(), count, "{}", daemon.log());
    lines()
}

/// How many connections lead to the stand-in's registry, by the kernel's word.
fn connections(sandbox: &Sandbox) -> usize {
    let port = format!(":{:04X}", sandbox.google.port());
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(&port) && fields[3] == "01"
    };
    tables.iter().flat_map(|table| table.lines()).filter(established).count()
}

fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

const PAGE: &str = "/acme/private/simple/acme-hello/";
const WHEEL: &str = "/acme/private/acme-hello/acme_hello-1.0.0-py3-none-any.whl";

fn wheel(sandbox: &Sandbox) -> Vec<u8> {
    sandbox.google.file("acme", "private", "acme-hello", "acme_hello-1.0.0-py3-none-any.whl").unwrap()
}

#[test]
fn a_page_and_a_file_come_as_they_are_and_the_token_stays_behind() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let page = get(&sandbox, PAGE);
    assert_eq!((page.status, page.whole), (200, true), "{page:?}");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("../../acme-hello/acme_hello-1.0.0"), "{page:?}");
    let file = get(&sandbox, WHEEL);
    assert_eq!((file.status, &file.body), (200, &wheel(&sandbox)));
    let seen = requests(&sandbox);
    assert!(seen.iter().all(|request| request.authorization == Authorization::Bearer), "{seen:?}");
    assert_eq!(seen.len(), 3, "the page, the file, and where the file is sent on to");
    assert!(seen[2].path.starts_with("/artifacts-downloads/"));
    assert_eq!(seen[0].header("host"), Some(format!("localhost:{}", sandbox.google.port()).as_str()));
    assert_eq!(sandbox.google.token_requests().len(), 1);
    let lines = lines(&daemon, 2);
    let line = &lines[1];
    assert_eq!((&line["verdict"], &line["access"]), (&"passed".into(), &"read".into()), "{line}");
    assert_eq!(line["repository"], "acme/private");
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(file.body.len() as u64)));
    assert_eq!(line["token"].as_str().map(str::len), Some(8), "{line}");
    assert!(line["listener"].is_string() && line["uid"].is_u64() && line["pid"].is_u64());
}

#[test]
fn ranges_conditions_methods_and_statuses_pass() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let whole = wheel(&sandbox);
    let part = call(&sandbox, "GET", WHEEL, &[("Range", "bytes=10-19")], b"");
    assert_eq!((part.status, part.body.as_slice()), (206, &whole[10..20]));
    let range = format!("bytes 10-19/{}", whole.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    let beyond = call(&sandbox, "GET", WHEEL, &[("Range", "bytes=99999999-")], b"");
    assert_eq!(beyond.status, 416);

    let head = call(&sandbox, "HEAD", WHEEL, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(whole.len().to_string().as_str()));
    assert_eq!(requests(&sandbox).last().unwrap().method, "HEAD");

    let unchanged =
        Fault::Status { code: 304, retry_after: None, body: String::new(), content_type: "a/b".into() };
    sandbox.google.registry_fault(PAGE, unchanged);
    let conditional = [("If-None-Match", "\"a\""), ("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT")];
    assert_eq!(call(&sandbox, "GET", PAGE, &conditional, b"").status, 304);
    let seen = requests(&sandbox).pop().unwrap();
    assert_eq!(seen.header("if-none-match"), Some("\"a\""));
    assert!(seen.header("if-modified-since").is_some());

    assert_eq!(get(&sandbox, "/acme/private/simple/none-such/").status, 404);
    assert_eq!(get(&sandbox, "/acme/none-such/simple/x/").status, 403);
    for code in [400, 403, 404, 410, 429, 500, 503] {
        sandbox.google.registry_fault(PAGE, Fault::retry_after(code, 7));
        let answer = get(&sandbox, PAGE);
        assert_eq!((answer.status, answer.header("retry-after")), (code, Some("7")));
        assert_eq!(answer.text(), format!("the stand-in was told to answer {code}"));
    }
    let query = format!("{PAGE}?a=%2e%2e%2f&b=c+d;e");
    assert_eq!(get(&sandbox, &query).status, 200);
    assert_eq!(requests(&sandbox).pop().unwrap().target, query);
}

#[test]
fn an_upload_goes_through_and_is_never_sent_on() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let content = vec![b'x'; 3 << 20];
    let form = |name: &str, file: &str| {
        let fields = format!(
            "--b\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n{name}\r\n--b\r\nContent-Disposition: \
             form-data; name=\"content\"; filename=\"{file}\"\r\n\r\n"
        );
        [fields.as_bytes(), &content, b"\r\n--b--\r\n"].concat()
    };
    let kind = ("Content-Type", "multipart/form-data; boundary=b");
    let body = form("acme-new", "acme_new-1.0.0.tar.gz");
    let answer = call(&sandbox, "POST", "/acme/private/", &[kind, ("Expect", "100-continue")], &body);
    // The interim answer comes first.
    assert_eq!(answer.status, 100, "{answer:?}");
    assert_eq!(Answer::read(&answer.body, false).status, 200, "{answer:?}");
    let stored = sandbox.google.file("acme", "private", "acme-new", "acme_new-1.0.0.tar.gz");
    assert_eq!(stored, Some(content.clone()));
    assert_eq!(requests(&sandbox).pop().unwrap().body, body.len());

    sandbox
        .google
        .registry_fault("/acme/private/", Fault::Redirect { code: 308, location: "/acme/other/".into() });
    let answer = call(&sandbox, "POST", "/acme/private/", &[kind], &form("a", "a-1.tar.gz"));
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some(at(&sandbox, "/acme/other/").as_str()))
    );
    assert_eq!(requests(&sandbox).len(), 2);
    let line = &lines(&daemon, 2)[0];
    assert_eq!(
        (&line["access"], line["uploaded"].as_u64()),
        (&"write".into(), Some(body.len() as u64)),
        "{line}"
    );
}

#[test]
fn an_upload_in_chunks_is_counted_and_arrives() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let path = at(&sandbox, "/acme/private/");
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    let reply = exchange(&sandbox, format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").as_bytes());
    assert_eq!(Answer::read(&reply, false).status, 400, "no form, says the registry");
    let seen = requests(&sandbox).pop().unwrap();
    assert_eq!((seen.body, seen.header("transfer-encoding")), (11, Some("chunked")));
}

#[test]
fn a_refused_token_is_renewed_once_and_the_request_repeated() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    assert_eq!(get(&sandbox, PAGE).status, 200);
    sandbox.google.revoke_access_tokens();
    assert_eq!(get(&sandbox, WHEEL).status, 200);
    let statuses: Vec<_> = requests(&sandbox).iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 401, 302, 200]);
    assert_eq!(sandbox.google.token_requests().len(), 2);
}

#[test]
fn a_crowd_with_a_refused_token_costs_one_new_one() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    assert_eq!(get(&sandbox, PAGE).status, 200);
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_millis(300))));
    sandbox.google.revoke_access_tokens();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..16).map(|_| scope.spawn(|| get(&sandbox, PAGE).status)).collect();
        crowd.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 16]);
    assert_eq!(sandbox.google.token_requests().len(), 2);
}

#[test]
fn a_token_that_is_refused_for_ever_is_told_without_a_challenge() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    sandbox.google.registry_fault_always("/acme/", Fault::status(401));
    let answer = get(&sandbox, PAGE);
    assert_eq!((answer.status, answer.header("www-authenticate")), (502, None));
    let problem = answer.problem();
    assert!(problem["detail"].as_str().unwrap().contains("refuses the token"), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("valetkey doctor"), "{problem}");
    assert_eq!(requests(&sandbox).len(), 2);
    // Every further one is asked once, with no storm of new tokens.
    assert_eq!(get(&sandbox, PAGE).status, 502);
    assert_eq!((requests(&sandbox).len(), sandbox.google.token_requests().len()), (3, 2));
    assert!(lines(&daemon, 2)[0]["verdict"].as_str().unwrap().contains("refuses the token"));
}

#[test]
fn an_upload_whose_token_is_refused_is_not_repeated_but_the_next_one_succeeds() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let post = || call(&sandbox, "POST", "/acme/private/", &[("Content-Type", "a/b")], b"body");
    assert_eq!(post().status, 400);
    sandbox.google.revoke_access_tokens();
    let answer = post();
    assert_eq!(answer.status, 502);
    assert!(answer.problem()["hint"].as_str().unwrap().contains("upload again"));
    assert_eq!(requests(&sandbox).len(), 2);
    assert_eq!(post().status, 400);
}

#[test]
fn a_sign_in_that_is_over_is_told_as_such() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    assert_eq!(get(&sandbox, PAGE).status, 200);
    sandbox.google.revoke_access_tokens();
    sandbox.google.revoke_refresh_tokens();
    let answer = get(&sandbox, PAGE);
    assert_eq!(answer.status, 409, "{answer:?}");
    answer.problem();
}

#[test]
fn an_upstream_that_breaks_before_the_head_is_told_and_after_it_breaks_the_connection() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    sandbox.google.registry_fault_always(PAGE, Fault::CloseAtOnce);
    assert_eq!(get(&sandbox, PAGE).status, 502);
    sandbox.google.clear_registry_faults();
    sandbox.google.registry_fault(PAGE, Fault::HalfBody);
    let half = get(&sandbox, PAGE);
    assert_eq!((half.status, half.whole), (200, false), "{half:?}");
    assert!(!half.body.is_empty());
    let lines = lines(&daemon, 2);
    assert_eq!(lines[1]["verdict"], "broken off");
    // Nobody else is hurt.
    assert_eq!(get(&sandbox, PAGE).status, 200);
}

#[test]
fn an_upstream_that_is_not_there_or_not_itself_is_unreachable() {
    let sandbox = Sandbox::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    sandbox.configure(&format!("[[registry]]\nhost = \"localhost:{port}\"\n"));
    let _daemon = setting(&sandbox);
    let ask = || {
        let head = format!(
            "GET /registry/localhost:{port}/acme/private/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        Answer::read(&exchange(&sandbox, head.as_bytes()), false)
    };
    let answer = ask();
    assert_eq!(answer.status, 503);
    assert!(answer.problem()["detail"].as_str().unwrap().starts_with("cannot reach localhost:"));
    // One that is there, and does not speak TLS.
    let clear = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let speaker = std::thread::spawn(move || {
        let (mut stream, _) = clear.accept().unwrap();
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let answer = ask();
    speaker.join().unwrap();
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    assert!(answer.status == 503 && detail.ends_with("answers, but not with TLS as it should"), "{answer:?}");
    // Another authority's certificate.
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let options = super::stand_in::Options { listen, ..Default::default() };
    let impostor = super::stand_in::StandIn::start(options);
    let answer = ask();
    assert_eq!(answer.status, 503);
    assert!(answer.problem()["detail"].as_str().unwrap().contains("does not trust"), "{answer:?}");
    assert!(impostor.registry_requests().is_empty());
}

#[test]
fn a_slow_upstream_is_waited_for() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    sandbox.google.registry_fault(PAGE, Fault::Delay(Duration::from_secs(2)));
    assert_eq!(get(&sandbox, PAGE).status, 200);
}

#[test]
fn a_client_that_goes_away_cuts_the_way_to_the_registry() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let begin = || {
        let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
        let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", at(&sandbox, PAGE));
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    // In the middle of a body.
    sandbox.google.registry_fault(PAGE, Fault::HugeBody(1 << 40));
    let mut stream = begin();
    stream.read_exact(&mut vec![0; 1 << 16]).unwrap();
    assert_eq!(connections(&sandbox), 1);
    drop(stream);
    Sandbox::wait_until("the connection is cut", || connections(&sandbox) == 0);
    assert_eq!(lines(&daemon, 1)[0]["verdict"], "broken off");
    // Before the head.
    sandbox.google.registry_fault(PAGE, Fault::Hang);
    let stream = begin();
    Sandbox::wait_until("the registry is asked", || requests(&sandbox).len() == 2);
    drop(stream);
    Sandbox::wait_until("the connection is cut", || connections(&sandbox) == 0);
    assert!(lines(&daemon, 2)[1]["verdict"].as_str().unwrap().contains("went away"));
}

#[test]
fn slow_readers_cost_little_memory_and_hold_nobody_up() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    assert_eq!(get(&sandbox, PAGE).status, 200);
    let before = resident(daemon.pid());
    sandbox.google.registry_fault_always("/acme/private/large/", Fault::HugeBody(20 << 20));
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", at(&sandbox, "/acme/private/large/x"));
    let mut readers: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for stream in &mut readers {
        stream.read_exact(&mut [0; 4096]).unwrap();
    }
    // All have begun and stand still; the next one is served at once, and they have not filled the daemon.
    assert_eq!(get(&sandbox, PAGE).status, 200);
    let more = resident(daemon.pid()) - before;
    assert!(more < 24.0, "{more:.1} MiB more with 64 slow readers");
}

#[test]
fn headers_that_are_nobody_elses_business_end_here() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let extra = [
        ("set-cookie", "a=b"),
        ("www-authenticate", "Basic realm=\"x\""),
        ("strict-transport-security", "max-age=1"),
        ("alt-svc", "h3=\":443\""),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-kept", "1"),
        ("content-encoding", "gzip"),
    ];
    sandbox.google.registry_fault(PAGE, Fault::Headers(extra.to_vec()));
    let sent = [
        ("Authorization", "Basic dXNlcjpodW50ZXIy"),
        ("Cookie", "a=b"),
        ("Proxy-Authorization", "Basic dXNlcjpodW50ZXIy"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Goog-User-Project", "other"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Connection", "X-Private"),
        ("X-Private", "1"),
        ("TE", "trailers"),
        ("Accept-Encoding", "gzip, br"),
        ("User-Agent", "pip/1"),
        ("X-Anything", "1"),
    ];
    let answer = call(&sandbox, "GET", PAGE, &sent, b"");
    assert_eq!((answer.status, answer.header("x-kept")), (200, Some("1")));
    assert_eq!(answer.header("content-encoding"), Some("gzip"), "a body is not decoded");
    for (name, _) in &extra[..6] {
        let own = (*name == "connection").then_some("close");
        assert_eq!(answer.header(name), own, "{name}");
    }
    let seen = requests(&sandbox).pop().unwrap();
    let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["accept-encoding", "authorization", "host", "user-agent", "x-anything"]);
    assert_eq!(seen.authorization, Authorization::Bearer, "ours, and only ours");
}

#[test]
fn redirects_are_followed_only_where_they_may_lead() {
    let sandbox = Sandbox::new();
    let other = super::stand_in::StandIn::start(super::stand_in::Options::default());
    let daemon = setting(&sandbox);
    let sent_to = |code: u16, location: &str| {
        let before = requests(&sandbox).len();
        sandbox.google.registry_fault(PAGE, Fault::Redirect { code, location: location.to_owned() });
        let answer = get(&sandbox, PAGE);
        (answer.status, requests(&sandbox).len() - before, answer)
    };
    let own = sandbox.google.port();
    for code in [301, 302, 303, 307, 308] {
        assert_eq!(sent_to(code, WHEEL).0, 200, "{code}");
    }
    assert_eq!(sent_to(302, &format!("https://localhost:{own}{WHEEL}")).0, 200);
    for location in [
        format!("https://localhost:{}{WHEEL}", other.port()),
        format!("http://localhost:{own}{WHEEL}"),
        format!("https://127.0.0.1:{own}{WHEEL}"),
        format!("https://127.0.0.1:{}{WHEEL}", other.port()),
        format!("//localhost:{}/x", other.port()),
        format!("https://user@localhost:{own}{WHEEL}"),
        format!("https://localhost/{WHEEL}"),
        "https://evil.test/".to_owned(),
        "ftp://storage.googleapis.com/".to_owned(),
    ] {
        let (status, asked, answer) = sent_to(302, &location);
        assert_eq!((status, asked), (502, 1), "{location}");
        assert!(!answer.text().contains("acme_hello"), "no path of a redirect is told: {answer:?}");
    }
    assert!(other.registry_requests().is_empty());
    // Five are followed, a sixth is not.
    let around = || Fault::Redirect { code: 302, location: PAGE.to_owned() };
    (0..5).for_each(|_| sandbox.google.registry_fault(PAGE, around()));
    assert_eq!(get(&sandbox, PAGE).status, 200);
    (0..6).for_each(|_| sandbox.google.registry_fault(PAGE, around()));
    assert_eq!(get(&sandbox, PAGE).status, 502);
    Sandbox::wait_until("the log says why", || daemon.log().contains("redirects more than 5 times"));
}

#[test]
fn another_origin_that_is_named_is_followed_and_gets_no_token() {
    let sandbox = Sandbox::new();
    let ca = |google: &super::stand_in::StandIn| google.ca_pem();
    let other = super::stand_in::StandIn::start(super::stand_in::Options::default());
    std::fs::write(sandbox.path("ca.pem"), ca(&sandbox.google) + &ca(&other)).unwrap();
    let config = std::fs::read_to_string(sandbox.path("home/.config/valetkey/config.toml")).unwrap();
    let config = format!("redirect_hosts = [\"localhost:{}\"]\n{config}", other.port());
    sandbox.write("home/.config/valetkey/config.toml", &config);
    let _daemon = setting(&sandbox);
    let location = format!("https://localhost:{}/bucket/object?signature=x", other.port());
    other.registry_fault_always("/bucket/", Fault::Body { status: 206, text: "a piece".into() });
    sandbox.google.registry_fault(WHEEL, Fault::Redirect { code: 302, location });
    let answer = call(&sandbox, "GET", WHEEL, &[("Range", "bytes=0-6"), ("If-Range", "\"a\"")], b"");
    assert_eq!((answer.status, answer.text().as_str()), (206, "a piece"));
    let seen = other.registry_requests();
    assert_eq!((seen.len(), &seen[0].authorization), (1, &Authorization::None));
    assert_eq!(seen[0].target, "/bucket/object?signature=x");
    // Its 401 is no question to a person for a password.
    other.registry_fault("/closed", Fault::status(401));
    let location = format!("https://localhost:{}/closed", other.port());
    sandbox.google.registry_fault(WHEEL, Fault::Redirect { code: 302, location });
    let closed = get(&sandbox, WHEEL);
    assert_eq!(closed.status, 502, "{closed:?}");
    assert!(closed.problem()["detail"].as_str().unwrap().contains("asks for a credential"), "{closed:?}");
    assert_eq!((seen[0].header("range"), seen[0].header("if-range")), (Some("bytes=0-6"), Some("\"a\"")));
    // And from there nothing leads back to where the token was.
    let back = format!("https://localhost:{}{PAGE}", sandbox.google.port());
    other.registry_fault("/back", Fault::Redirect { code: 302, location: back });
    let location = format!("https://localhost:{}/back", other.port());
    sandbox.google.registry_fault(WHEEL, Fault::Redirect { code: 302, location });
    let before = requests(&sandbox).len();
    assert_eq!(get(&sandbox, WHEEL).status, 502);
    assert_eq!(requests(&sandbox).len(), before + 1);
}

#[test]
fn hostile_targets_reach_nobody() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let port = sandbox.google.port();
    for target in [
        format!("/registry/localhost:{port}/acme/private/../other/simple/x/"),
        format!("/registry/localhost:{port}/acme/private/%2e%2e/other/simple/x/"),
        format!("/registry/localhost:{port}/acme/private/a%2fb"),
        format!("/registry/localhost:{port}/acme/private/a%5cb"),
        format!("/registry/localhost:{port}/acme/private/a%00b"),
        format!("/registry/localhost:{port}/acme/private/a%252fb"),
        format!("/registry/localhost:{port}/acme/private/a\\b"),
        format!("/registry/localhost:{port}/acme/private/a;b"),
        format!("/registry/localhost:{port}/acme//private/"),
        format!("/registry/localhost:{port}//acme/private/"),
        format!("/registry/localhost:{port}/"),
        format!("/registry/localhost:{port}/acme"),
        format!("/registry/localhost:{port}"),
        format!("/registry/user@localhost:{port}/acme/private/"),
        format!("/registry/LOCALHOST:{port}/acme/private/"),
        format!("/registry/localhost:0{port}/acme/private/"),
        format!("/registry/127.0.0.1:{port}/acme/private/"),
        "/registry/localhost/acme/private/".to_owned(),
        "/registry/evilpkg.dev/acme/private/".to_owned(),
        "/registry/https://us-python.pkg.dev/acme/private/".to_owned(),
        format!("http://x/registry/localhost:{port}/acme/private/"),
        format!("https://localhost:{port}/acme/private/"),
        format!("localhost:{port}"),
        format!("//registry/localhost:{port}/acme/private/"),
        format!("/x/../registry/localhost:{port}/acme/private/"),
    ] {
        for method in ["GET", "POST", "CONNECT"] {
            let head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = Answer::read(&exchange(&sandbox, head.as_bytes()), false);
            assert!((400..405).contains(&answer.status), "{method} {target}: {answer:?}");
        }
    }
    for method in ["OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"] {
        let answer = call(&sandbox, method, PAGE, &[], b"");
        assert!((400..405).contains(&answer.status), "{method}: {answer:?}");
    }
    assert_eq!(call(&sandbox, "GET", PAGE, &[], b"a body").status, 400);
    assert!(requests(&sandbox).is_empty(), "{:?}", requests(&sandbox));
    assert!(sandbox.google.token_requests().is_empty(), "no token was even asked for");
}

#[test]
fn nothing_is_smuggled_past_the_check() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let page = at(&sandbox, "/acme/private/");
    let inner = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", at(&sandbox, "/acme/smuggled/simple/x/"));
    let length = inner.len();
    let post = |headers: &str, body: &str| {
        let text = format!("POST {page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n{body}");
        String::from_utf8_lossy(&exchange(&sandbox, text.as_bytes())).into_owned()
    };
    for headers in [
        format!("content-length: 0\r\ncontent-length: {length}\r\n"),
        format!("content-length: 0, {length}\r\n"),
        "content-length: +5\r\n".to_owned(),
        "content-length: -1\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "x: a\r\n b\r\n".to_owned(),
        "x : a\r\n".to_owned(),
        "x: a\0b\r\n".to_owned(),
        "x: a\rb\r\n".to_owned(),
        "x\r\n".to_owned(),
    ] {
        let reply = post(&headers, &inner);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{headers:?}: {reply}");
    }
    assert!(requests(&sandbox).is_empty(), "{:?}", requests(&sandbox));
    // Both lengths: the chunks count (RFC 9112 6.3), for us and, since the body is framed anew, for the registry.
    let body = format!("0\r\n\r\n{inner}");
    post(&format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", body.len()), &body);
    post(&format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", body.len()), &body);
    let paths: Vec<_> = requests(&sandbox).into_iter().map(|request| (request.path, request.body)).collect();
    assert!(paths.iter().all(|it| *it == ("/acme/private/".to_owned(), 0)), "{paths:?}");
}

#[test]
fn connections_are_kept_for_the_next_request_and_then_closed() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    for _ in 0..5 {
        assert_eq!(get(&sandbox, WHEEL).status, 200);
    }
    assert_eq!(connections(&sandbox), 1, "ten requests, one after the other");
    // A registry that closes it meanwhile costs nothing but a new one.
    sandbox.google.registry_fault(PAGE, Fault::CloseAtOnce);
    assert_eq!(get(&sandbox, PAGE).status, 200);
    drop(daemon);
}

#[test]
fn stop_lets_a_download_end() {
    let sandbox = Sandbox::new();
    let mut daemon = setting(&sandbox);
    sandbox.google.registry_fault(PAGE, Fault::HugeBody(8 << 20));
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.write_all(format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", at(&sandbox, PAGE)).as_bytes()).unwrap();
    let mut bytes = vec![0; 4096];
    stream.read_exact(&mut bytes).unwrap();
    let stop = exchange(&sandbox, b"POST /v1/stop HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(Answer::read(&stop, false).status, 200);
    Sandbox::wait_until("it drains", || !sandbox.socket().exists());
    stream.read_to_end(&mut bytes).unwrap();
    let answer = Answer::read(&bytes, false);
    assert_eq!((answer.whole, answer.body.len()), (true, 8 << 20), "{}", daemon.log());
    assert!(daemon.child.wait().unwrap().success());
}
