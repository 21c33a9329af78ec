//! A large file through the registry proxy, against nginx's `proxy_pass` to the same TLS upstream, and the memory that
//! many downloads at once cost.
//!
//! The upstream is an nginx of its own with a file on disk, so that it takes as little of the processor as a server can.
//! Everybody is asked on a Unix socket, by one reader, in turn.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use super::process::peak_resident;
use super::race::median;
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

/// All of it, for each build.
pub(crate) fn against_nginx(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let Some(nginx) = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists())
    else {
        super::say("no nginx on this machine; on Debian: apt-get install nginx-light");
        return;
    };
    let upstream = Upstream::start(nginx, &sandboxes[0].path("upstream"));
    let peers = Peers::start(nginx, sandboxes[0].path("nginx"), upstream.port);
    let mut ways: Vec<Way> = vec![
        Way::new("nginx, as Debian ships it", peers.socket("plain"), "/wheel".into()),
        Way::new("nginx with buffers of 64 KiB", peers.socket("wide"), "/wheel".into()),
        // Else it writes to disk what its reader has not taken yet, and that is not what a proxy is slow at.
        Way::new("the same without temporary files", peers.socket("bare"), "/wheel".into()),
    ];
    let others = ways.len();
    let mut daemons = Vec::new();
    for sandbox in sandboxes {
        sandbox.stop();
        let ca = sandbox.write("both.pem", &(sandbox.google.ca_pem() + &upstream.certificate));
        let (origin, port) = (sandbox.google.origin(), upstream.port);
        let config = format!(
            "extra_ca = \"{}\"\n[endpoints]\ntoken = \"{origin}/token\"\n[[registry]]\nhost = \"localhost:{port}\"\n",
            ca.display()
        );
        sandbox.write("home/.config/valetkey/config.toml", &config);
        daemons.push(sandbox.serve());
        let target = format!("/registry/localhost:{port}/acme/private/wheel");
        ways.push(Way::new(sandbox.build.name, sandbox.socket(), target));
    }
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..ways.len()).collect();
        order.shuffle(&mut rand::thread_rng());
        for index in order {
            let took = ways[index].fetch();
            if round > 0 {
                ways[index].times.push(took);
            }
        }
    }
    let rate = |way: &Way| SIZE as f64 / super::MIB / median(&way.times);
    for own in &ways[others..] {
        for (peer, target) in ways.iter().zip([Target::AtLeast(0.9), Target::AtLeast(0.9), Target::None]) {
            let note = format!("{:.0} against {:.0} MiB/s, {rounds} rounds", rate(own), rate(peer));
            let measure = format!("200 MiB through the proxy, {}, against {}", own.name, peer.name);
            table.row(measure, target, rate(own) / rate(peer), Unit::Times, &note);
        }
    }
    for ((sandbox, daemon), way) in sandboxes.iter().zip(&mut daemons).zip(&ways[others..]) {
        let moved = crowd(way);
        let note = format!("peak; {:.0} MiB moved, half of the readers slow", moved as f64 / super::MIB);
        let measure = format!("memory with {CROWD} downloads at once, {}", sandbox.build.name);
        table.row(measure, Target::LessThan(24.0), peak_resident(daemon.id()), Unit::Mebibytes, &note);
        sandbox.stop();
        let _ = daemon.wait();
    }
}

/// One way to the file.
struct Way {
    name: String,
    socket: PathBuf,
    target: String,
    times: Vec<Duration>,
}

impl Way {
    fn new(name: &str, socket: PathBuf, target: String) -> Self {
        Self { name: name.to_owned(), socket, target, times: Vec::new() }
    }

    fn ask(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("a connection");
        let head = format!("GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", self.target);
        stream.write_all(head.as_bytes()).expect("a request");
        stream
    }

    /// Reads the file once.
    fn fetch(&self) -> Duration {
        let mut buffer = vec![0; 256 << 10];
        let start = Instant::now();
        let mut stream = self.ask();
        let mut read = 0;
        loop {
            match stream.read(&mut buffer).expect("an answer") {
                0 => break,
                more => {
                    assert!(read > 0 || buffer.starts_with(b"HTTP/1.1 200 "), "{}: no file", self.name);
                    read += more;
                }
            }
        }
        assert!((SIZE..SIZE + 4096).contains(&read), "{}: {read} bytes", self.name);
        start.elapsed()
    }
}

/// Many readers for a while: every other one takes all it can, the rest a little now and then. How much they took.
fn crowd(way: &Way) -> usize {
    let end = Instant::now() + WHILE;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..CROWD)
            .map(|number| {
                scope.spawn(move || {
                    let (mut moved, mut buffer) = (0, vec![0; 64 << 10]);
                    let mut stream = way.ask();
                    while Instant::now() < end {
                        match stream.read(&mut buffer).expect("a piece") {
                            0 => stream = way.ask(),
                            more => moved += more,
                        }
                        if number % 2 == 0 {
                            std::thread::sleep(Duration::from_millis(50));
                        }
                    }
                    moved
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("a reader")).sum()
    })
}

/// An nginx of our own. Ends with the value.
struct Nginx(Child);

impl Nginx {
    /// `http` is what stands in the http block.
    fn start(program: &str, directory: &Path, http: &str, answers: impl Fn() -> bool) -> Self {
        let config = format!(
            "daemon off;\npid {0}/pid;\nerror_log {0}/error.log;\nworker_processes auto;\nuser root;\n\
             events {{ worker_connections 768; }}\nhttp {{\nsendfile on;\ntcp_nopush on;\naccess_log off;\n\
             client_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\nfastcgi_temp_path {0}/fastcgi;\n\
             uwsgi_temp_path {0}/uwsgi;\nscgi_temp_path {0}/scgi;\n{http}\n}}\n",
            directory.display()
        );
        fs::write(directory.join("nginx.conf"), config).expect("a file");
        let mut command = Command::new(program);
        command.arg("-c").arg(directory.join("nginx.conf")).arg("-p").arg(directory);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Self(command.spawn().expect("nginx"));
        let give_up = Instant::now() + Duration::from_secs(10);
        while !answers() {
            let log = || fs::read_to_string(directory.join("error.log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "nginx does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The file behind TLS.
struct Upstream {
    port: u16,
    certificate: String,
    _nginx: Nginx,
}

impl Upstream {
    fn start(program: &str, directory: &Path) -> Self {
        fs::create_dir_all(directory.join("files/acme/private")).expect("a directory");
        let file = fs::File::create(directory.join("files/acme/private/wheel")).expect("a file");
        file.set_len(SIZE as u64).expect("room");
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let certificate = own.cert.pem();
        fs::write(directory.join("certificate.pem"), &certificate).expect("a file");
        fs::write(directory.join("key.pem"), own.signing_key.serialize_pem()).expect("a file");
        // Free a moment ago, and nobody else asks for one meanwhile.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let http = format!(
            "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {0}/certificate.pem; \
             ssl_certificate_key {0}/key.pem; root {0}/files; }}",
            directory.display()
        );
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        Self { port, certificate, _nginx: Nginx::start(program, directory, &http, answers) }
    }
}

/// What we are measured against.
struct Peers {
    directory: PathBuf,
    _nginx: Nginx,
}

impl Peers {
    fn start(program: &str, directory: PathBuf, upstream: u16) -> Self {
        fs::create_dir_all(&directory).expect("a directory");
        let server = |name: &str, more: &str| {
            format!(
                "server {{ listen unix:{}/{name}; location = /wheel {{ {more} proxy_set_header Authorization \
                 \"Bearer x\"; proxy_pass https://localhost:{upstream}/acme/private/wheel; }} }}\n",
                directory.display()
            )
        };
        let wide = "proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k;";
        let bare = format!("{wide} proxy_max_temp_file_size 0;");
        let http = server("plain", "") + &server("wide", wide) + &server("bare", &bare);
        let answers = || UnixStream::connect(directory.join("bare")).is_ok();
        let nginx = Nginx::start(program, &directory, &http, answers);
        Self { directory, _nginx: nginx }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

const SIZE: usize = 200 << 20;
const CROWD: usize = 64;
const WHILE: Duration = Duration::from_secs(8);
