//! `valetkey exec` and the ways beyond it: proxies of every kind for hosts that are not granted, and none for those that
//! are; what single tools were told; what outlives a run.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::exec::exec;
use super::harness::{Run, Sandbox};
use super::registry_daemon::RegistryDaemon;

/// A proxy that notes what it was asked for, and makes the way.
struct Proxy {
    port: u16,
    told: Receiver<String>,
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

fn byte(stream: &mut dyn Both) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    byte[0]
}

fn bytes(stream: &mut dyn Both, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// One request in HTTP: where to, and what was said with it.
fn http(stream: &mut dyn Both) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(stream));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let head = String::from_utf8(head).unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), head)
}

/// RFC 1928, with the user name of RFC 1929 where one is offered.
fn socks5(stream: &mut dyn Both) -> (String, String) {
    let count = bytes(stream, 2)[1];
    let methods = bytes(stream, count.into());
    let mut user = String::new();
    if methods.contains(&2) {
        stream.write_all(&[5, 2]).unwrap();
        let length = bytes(stream, 2)[1];
        user = String::from_utf8(bytes(stream, length.into())).unwrap();
        let length = byte(stream);
        user += &format!(":{}", String::from_utf8(bytes(stream, length.into())).unwrap());
        stream.write_all(&[1, 0]).unwrap();
    } else {
        stream.write_all(&[5, 0]).unwrap();
    }
    let kind = bytes(stream, 4)[3];
    let host = match kind {
        1 => bytes(stream, 4).iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
        3 => {
            let length = byte(stream);
            String::from_utf8(bytes(stream, length.into())).unwrap()
        }
        _ => "[::1]".to_owned(),
    };
    if kind == 4 {
        bytes(stream, 16);
    }
    let port = bytes(stream, 2);
    stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).unwrap();
    (format!("{host}:{}", u16::from_be_bytes([port[0], port[1]])), format!("type {kind} user {user}"))
}

impl Proxy {
    fn start(greet: fn(&mut dyn Both) -> (String, String), tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (tell, tls) = (tell.clone(), tls.clone());
                std::thread::spawn(move || serve(stream.unwrap(), greet, tls, &tell));
            }
        });
        Self { port, told }
    }

    fn told(&self) -> Vec<String> {
        self.told.try_iter().collect()
    }
}

fn serve(
    stream: TcpStream,
    greet: fn(&mut dyn Both) -> (String, String),
    tls: Option<Arc<rustls::ServerConfig>>,
    tell: &Sender<String>,
) {
    // Reading gives way from time to time: one stream is used from two sides.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let raw = stream.try_clone().unwrap();
    let mut stream: Box<dyn Both> = match tls {
        None => Box::new(stream),
        Some(config) => {
            Box::new(rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream))
        }
    };
    // Somebody who only looks whether there is a listener says nothing.
    let mut first = [0];
    if raw.peek(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let (to, said) = greet(stream.as_mut());
    tell.send(format!("{to} {said}")).unwrap();
    let beyond = TcpStream::connect(to.replace("localhost", "127.0.0.1")).unwrap();
    raw.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let stream = Arc::new(Mutex::new(stream));
    let (mut back, forth) = (beyond.try_clone().unwrap(), Arc::clone(&stream));
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = back.read(&mut buffer) {
            if forth.lock().unwrap().write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    });
    let (mut beyond, mut buffer) = (beyond, [0; 16 << 10]);
    loop {
        let read = stream.lock().unwrap().read(&mut buffer);
        match read {
            Ok(0) => break,
            Ok(length) => beyond.write_all(&buffer[..length]).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}

/// The stand-in's own certificate, for a proxy by the name of localhost.
fn certificate(sandbox: &Sandbox) -> Arc<rustls::ServerConfig> {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = fs::read_to_string(sandbox.path("ca.pem")).unwrap() + &key.cert.pem();
    fs::write(sandbox.path("ca.pem"), pem).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(key.cert.pem().as_bytes()).unwrap()];
    let own = PrivateKeyDer::from_pem_slice(key.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, own)
        .unwrap();
    Arc::new(config)
}

/// A host that is not granted, and one that is, asked by curl with these variables in force before the run.
fn ask(sandbox: &Sandbox, daemon: &RegistryDaemon, pairs: &[(&str, String)]) -> Run {
    let other = format!("https://127.0.0.1:{}/acme/private/simple/x/", sandbox.google.port());
    let granted = format!("https://{}/acme/private/simple/acme-hello/", daemon.host());
    let script = format!(
        "NO_PROXY= no_proxy= curl -sS -o /dev/null -w '%{{http_code}} ' {other}; curl -sS -o /dev/null -w '%{{http_code}}' {granted}"
    );
    let mut command = exec(sandbox, daemon, ["--", "sh", "-c", &script]);
    sandbox.run(command.envs(pairs.iter().map(|(name, value)| (*name, value.as_str()))))
}

#[test]
fn every_kind_of_proxy_goes_on_to_be_used_for_what_is_not_granted() {
    for variable in ["HTTPS_PROXY", "all_proxy"] {
        for (scheme, user, said) in [
            ("http", "", "CONNECT"),
            ("http", "me:a%20b@", "Basic bWU6YSBi"),
            ("socks5", "", "type 1 user "),
            ("socks5h", "", "type 1 user "),
            ("socks5h", "me:a%20b@", "type 1 user me:a b"),
            ("https", "me:word@", "Basic bWU6d29yZA=="),
        ] {
            let sandbox = Sandbox::new();
            let daemon = RegistryDaemon::start(&sandbox);
            let proxy = match scheme {
                "http" => Proxy::start(http, None),
                "https" => Proxy::start(http, Some(certificate(&sandbox))),
                _ => Proxy::start(socks5, None),
            };
            let run =
                ask(&sandbox, &daemon, &[(variable, format!("{scheme}://{user}localhost:{}", proxy.port))]);
            assert_eq!(run.stdout, "401 200", "{scheme} {user} {run:?}");
            let told = proxy.told();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("127.0.0.1:{} ", sandbox.google.port())), "{told:?}");
            assert!(told[0].contains(said), "{scheme}: {told:?}");
        }
    }
}

/// The two forms of SOCKS 5: who looks a name up.
#[test]
fn a_name_is_looked_up_by_the_proxy_only_where_that_is_asked() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    for (scheme, said) in [("socks5", "type 1"), ("socks5h", "localhost:")] {
        let proxy = Proxy::start(socks5, None);
        // A port that is not granted.
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let script = format!("curl -sS --proxy $HTTPS_PROXY --noproxy '' -m 3 https://localhost:{port}/");
        let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
        sandbox.run(command.env("ALL_PROXY", format!("{scheme}://127.0.0.1:{}", proxy.port)));
        let told = proxy.told();
        assert!(told.len() == 1 && told[0].contains(said), "{scheme}: {told:?}");
    }
}

#[test]
fn a_proxy_behind_tls_that_nobody_trusts_gets_nothing() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let trusted = fs::read(sandbox.path("ca.pem")).unwrap();
    let proxy = Proxy::start(http, Some(certificate(&sandbox)));
    fs::write(sandbox.path("ca.pem"), trusted).unwrap();
    let run = ask(&sandbox, &daemon, &[("HTTPS_PROXY", format!("https://me:word@localhost:{}", proxy.port))]);
    assert_eq!(run.stdout, "000 200", "{run:?}");
    assert!(proxy.told().is_empty());
}

#[test]
fn a_proxy_that_cannot_be_spoken_to_is_refused_before_the_command_runs() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let marker = sandbox.path("home/started");
    for (name, value, said) in [
        ("HTTPS_PROXY", "quic://u:hunter2@p.test", "HTTPS_PROXY names a proxy by quic:"),
        ("all_proxy", "socks://u:hunter2@p.test:1", "all_proxy names a proxy by socks:"),
        ("https_proxy", "http://u:hunter 2@p.test:1", "https_proxy is no address of a proxy"),
        ("PIP_PROXY", "ftp://u:hunter2@p.test", "PIP_PROXY names a proxy by ftp:"),
    ] {
        let mut command = exec(&sandbox, &daemon, ["--", "touch", marker.to_str().unwrap()]);
        let run = sandbox.run(command.env(name, value));
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(said) && !run.stderr.contains("hunter"), "{run:?}");
        assert!(!marker.exists());
    }
}

/// A shell that outlived a run, and an exec in an exec.
#[test]
fn a_proxy_that_is_the_run_itself_is_passed_over_and_another_run_is_used() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let other = format!("https://127.0.0.1:{}/acme/private/simple/x/", sandbox.google.port());
    let script = format!("NO_PROXY= no_proxy= curl -sS -m 20 -o /dev/null -w '%{{http_code}}' {other}");
    for own in ["127.0.0.1", "localhost"] {
        let mut command = exec(&sandbox, &daemon, ["--port", &port, "--", "sh", "-c", &script]);
        let run = sandbox.run(command.env("HTTPS_PROXY", format!("http://{own}:{port}")));
        assert_eq!(run.stdout, "401", "{run:?}");
        assert!(run.stderr.contains("where this run listens itself"), "{run:?}");
    }
    // By a name that only a look-up shows.
    let mut command = exec(&sandbox, &daemon, ["--port", &port, "--", "sh", "-c", &script]);
    let run = sandbox.run(command.env("HTTPS_PROXY", format!("http://{}:{port}", "localhost.")));
    assert_eq!(run.stdout, "000", "{run:?}");
    let valetkey = sandbox.path("bin/valetkey");
    let inner = format!(
        "NO_PROXY= no_proxy= {} exec -- sh -c '{}; curl -sS -o /dev/null -w \" %{{http_code}}\" https://{}/acme/private/simple/acme-hello/'",
        valetkey.display(),
        script.replace('\'', "\""),
        daemon.host()
    );
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &inner]));
    assert_eq!(run.stdout, "401 200", "{run:?}");
}

/// One that listens where a run did finds nobody who takes anything from it.
#[test]
fn what_outlives_a_run_takes_nothing_from_the_next_one_on_its_port() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script = "echo $HTTPS_PROXY; (read go <fifo; curl -sS -m 10 $PIP_INDEX_URL/acme-hello/ >out 2>err; \
        echo $? >code) >/dev/null 2>&1 </dev/null &";
    let fifo = sandbox.path("home/fifo");
    assert!(sandbox.command("/usr/bin/mkfifo").arg(&fifo).status().unwrap().success());
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--index", "--", "sh", "-c", script]));
    let port = run.stdout.trim().rsplit_once(':').unwrap().1.to_owned();
    assert_ne!(port, "18417");
    let squatter = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut stream = squatter.accept().unwrap().0;
        let mut head = [0; 4096];
        let length = stream.read(&mut head).unwrap();
        tell.send(String::from_utf8_lossy(&head[..length]).into_owned()).unwrap();
        let page = "<a href=\"acme_hello-9.0-py3-none-any.whl\">acme_hello-9.0-py3-none-any.whl</a>";
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
    });
    fs::write(&fifo, "go\n").unwrap();
    Sandbox::wait_until("the survivor has asked", || sandbox.path("home/code").exists());
    Sandbox::wait_until("its code is there", || {
        fs::read_to_string(sandbox.path("home/code")).is_ok_and(|code| !code.is_empty())
    });
    let asked = told.try_recv().unwrap();
    assert!(asked.starts_with("CONNECT index.valetkey.invalid:443"), "{asked}");
    assert_eq!(fs::read_to_string(sandbox.path("home/out")).unwrap(), "");
    assert_ne!(fs::read_to_string(sandbox.path("home/code")).unwrap(), "0\n");
}

/// What outlives a run reads its certificates by their old names, and nobody else can put others there.
#[test]
fn nobody_takes_over_the_directory_of_a_run_that_is_over() {
    if !rustix::process::geteuid().is_root() {
        assert!(!super::harness::is_ci(), "CI runs this as root");
        println!("skipped: it takes root to be another user");
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", "dirname $SSL_CERT_FILE"]));
    let place = std::path::PathBuf::from(run.stdout.trim());
    assert!(place.is_absolute() && !place.exists(), "{run:?}");
    let mut other = sandbox.command("/usr/bin/mkdir");
    let made = sandbox.run(other.arg("-p").arg(&place).current_dir("/").uid(65_534).gid(65_534));
    assert_ne!(made.code, Some(0), "{made:?}");
    assert!(!place.exists());
}

/// A proxy that a file of one tool names is that tool's, and nobody else's.
#[test]
fn what_a_file_tells_one_tool_counts_for_that_tool_alone() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let (of_npm, of_wget) = (Proxy::start(http, None), Proxy::start(http, None));
    sandbox.write("home/app/package.json", "{}");
    sandbox.write("home/app/.npmrc", &format!("proxy=http://127.0.0.1:{}\n", of_npm.port));
    sandbox.write(
        "home/.wgetrc",
        &format!(
            "https_proxy = http://127.0.0.1:{}\nno_proxy = x.test,localhost\nca_certificate = {}\n",
            of_wget.port,
            sandbox.path("ca.pem").display()
        ),
    );
    let other = format!("https://127.0.0.1:{}/acme/private/simple/x/", sandbox.google.port());
    let granted = format!("https://{}/acme/private/simple/acme-hello/", daemon.host());
    let script = format!(
        "NO_PROXY= no_proxy= curl -sS -o /dev/null -w '%{{http_code}} ' {other}; \
         wget -e no_proxy= -e no_proxy=x.test -qO /dev/null --tries=1 {other}; echo $?; wget -qO - --tries=1 {granted}; echo $npm_config_https_proxy"
    );
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let run = sandbox.run(command.current_dir(sandbox.path("home/app")));
    let lines: Vec<&str> = run.stdout.lines().collect();
    // wget: "authentication failed".
    assert_eq!(lines[0], "401 6", "{run:?}");
    assert!(run.stdout.contains("Links for acme-hello"), "{run:?}");
    assert!(lines.last().unwrap().starts_with("http://127.0.0.1:"), "{run:?}");
    assert!(of_npm.told().is_empty());
    let told = of_wget.told();
    assert!(
        told.len() == 1 && told[0].starts_with(&format!("127.0.0.1:{} ", sandbox.google.port())),
        "{told:?}"
    );
}

#[test]
fn git_comes_here_for_granted_hosts_whatever_its_configuration_says() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let proxy = Proxy::start(http, None);
    sandbox.write("home/.gitconfig", &format!("[http]\n\tproxy = http://127.0.0.1:{}\n", proxy.port));
    let url = format!("https://{}/acme/tree.git", daemon.host());
    let script = format!("export GIT_TERMINAL_PROMPT=0 GIT_SSL_CAINFO=$SSL_CERT_FILE; git ls-remote {url}");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &script]));
    assert!(
        daemon.seen().iter().any(|request| request.target.contains("/acme/tree.git/info/refs")),
        "{run:?}"
    );
    assert!(proxy.told().is_empty());
}

/// apt as it is, but for the user of its methods, who is none of this test's business.
#[test]
fn apt_comes_here_for_granted_hosts() {
    if !std::path::Path::new("/usr/bin/apt-get").exists() {
        println!("skipped: there is no apt-get");
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    for directory in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(sandbox.path("home").join(directory)).unwrap();
    }
    let list = sandbox.write(
        "home/sources.list",
        &format!("deb [trusted=yes] https://{}/acme/debian stable main\n", daemon.host()),
    );
    let home = sandbox.path("home");
    let options = [
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={}/lists", home.display()),
        format!("Dir::Cache={}", home.display()),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=0".to_owned(),
        "Acquire::https::Proxy=http://127.0.0.1:9".to_owned(),
    ];
    let mut command = exec(&sandbox, &daemon, ["--", "/usr/bin/apt-get", "update"]);
    command.args(options.iter().flat_map(|option| ["-o", option])).env_remove("SSL_CERT_FILE");
    let run = sandbox.run(&mut command);
    let seen = daemon.seen();
    assert!(
        seen.iter().any(|request| request.target.contains("/acme/debian/dists/stable/InRelease")),
        "{run:?}"
    );
    let mut dnf = exec(&sandbox, &daemon, ["--", "sh", "-c", "true dnf install acme"]);
    let run = sandbox.run(dnf.arg0("valetkey"));
    assert!(run.stderr.contains("--setopt=sslcacert="), "{run:?}");
}

/// curl has no variable that wins over its file, and a stranger's file of another tool stops nobody.
#[test]
fn what_cannot_be_led_here_is_told_before_the_command_runs() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.write("home/.curlrc", "silent\nproxy = \"http://u:hunter2@x.test\"\n");
    sandbox.write("home/.npmrc", "proxy=quic://u:hunter2@x.test\n");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", "echo curl; true"]));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("/.curlrc:2 wins over") && !run.stderr.contains("hunter2"), "{run:?}");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "npm", "ping"]));
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("npm's configuration names a proxy by quic:"), "{run:?}");
}

#[test]
fn yarn_and_wget_trust_the_run_without_a_setting() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let granted = format!("https://{}/acme/private/simple/acme-hello/", daemon.host());
    let script = format!("wget -qO - --tries=1 {granted}; echo $YARN_HTTPS_PROXY; echo $HTTPS_PROXY");
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let run = sandbox.run(command.stdin(Stdio::null()));
    assert!(run.stdout.contains("Links for acme-hello"), "{run:?}");
    let lines: Vec<&str> = run.stdout.lines().rev().take(2).collect();
    assert!(lines[0] == lines[1] && lines[0].starts_with("http://127.0.0.1:"), "{run:?}");
}
