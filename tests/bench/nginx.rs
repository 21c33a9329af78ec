//! nginx, twice: as the registry behind TLS, with files on disk so that it takes as little of the processor as a server
//! can, and as the proxy that ours is measured against.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::program;
use super::reader::SIZE;

/// The program, or why nothing is measured with it.
pub(crate) fn find() -> Result<PathBuf, String> {
    program("nginx").map_err(|reason| reason + "; on Debian: apt-get install nginx-light")
}

/// A port of loopback that was free a moment ago; nobody else asks for one meanwhile.
pub(crate) fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").port()
}

/// One nginx.
struct Nginx(Child);

impl Nginx {
    fn start(program: &Path, directory: &Path, http: &str, answers: impl Fn() -> bool) -> Self {
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

/// A registry with one repository, `acme/private`, behind TLS. Whoever shows no token gets nothing from it.
pub(crate) struct Upstream {
    pub port: u16,
    pub certificate: String,
    files: PathBuf,
    _nginx: Nginx,
}

impl Upstream {
    /// It has the large file, as `wheel`.
    pub(crate) fn start(program: &Path, directory: &Path) -> Self {
        let files = directory.join("files/acme/private");
        fs::create_dir_all(&files).expect("a directory");
        let file = fs::File::create(files.join("wheel")).expect("a file");
        file.set_len(SIZE as u64).expect("room");
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let certificate = own.cert.pem();
        fs::write(directory.join("certificate.pem"), &certificate).expect("a file");
        fs::write(directory.join("key.pem"), own.signing_key.serialize_pem()).expect("a file");
        let port = free_port();
        let types = "types { text/html html; application/vnd.pypi.simple.v1+json json; } \
                     default_type application/octet-stream; index index.html index.json;";
        let http = format!(
            "{types} server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {0}/certificate.pem; \
             ssl_certificate_key {0}/key.pem; root {0}/files; keepalive_requests 100000; \
             location / {{ if ($http_authorization = \"\") {{ return 401; }} }} location /acme/public/ {{ }} }}",
            directory.display()
        );
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        Self { port, certificate, files, _nginx: Nginx::start(program, directory, &http, answers) }
    }

    /// Its name, as it stands in URLs.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What a configuration says of it.
    pub(crate) fn configuration(&self) -> String {
        format!("[[registry]]\nhost = \"{}\"\n", self.host())
    }

    /// Publishes something in the repository.
    pub(crate) fn write(&self, below: &str, text: &str) {
        write(&self.files.join(below), text);
    }

    /// Publishes something for which nobody has to show anything.
    pub(crate) fn write_public(&self, below: &str, text: &str) {
        write(&self.public().join(below), text);
    }

    /// Publishes the large file there, under another name.
    pub(crate) fn link_public(&self, below: &str) {
        let link = self.public().join(below);
        fs::create_dir_all(link.parent().expect("a parent")).expect("directories");
        fs::hard_link(self.files.join("wheel"), link).expect("a link");
    }

    /// The SHA-256 of the large file, as pages give it.
    pub(crate) fn sum(&self) -> String {
        let file = fs::read(self.files.join("wheel")).expect("the large file");
        let sum = ring::digest::digest(&ring::digest::SHA256, &file);
        sum.as_ref().iter().fold(String::new(), |sum, byte| sum + &format!("{byte:02x}"))
    }

    fn public(&self) -> PathBuf {
        self.files.with_file_name("public")
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, text).expect("a file");
}

/// What we are measured against: `proxy_pass` to the large file, on sockets and on a port.
pub(crate) struct Peers {
    directory: PathBuf,
    pub port: u16,
    _nginx: Nginx,
}

impl Peers {
    pub(crate) fn start(program: &Path, directory: PathBuf, upstream: u16) -> Self {
        fs::create_dir_all(&directory).expect("a directory");
        let port = free_port();
        let place = |name: &str, more: &str| {
            format!(
                "location = /{name} {{ {more} proxy_set_header Authorization \"Bearer x\"; \
                 proxy_pass https://localhost:{upstream}/acme/private/wheel; }} "
            )
        };
        let wide = "proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k;";
        // Else it writes to disk what its reader has not taken yet, and that is not what a proxy is slow at.
        let bare = format!("{wide} proxy_max_temp_file_size 0;");
        let places = place("plain", "") + &place("wide", wide) + &place("bare", &bare);
        let http = format!(
            "server {{ listen unix:{}/socket; listen 127.0.0.1:{port}; {places} }}",
            directory.display()
        );
        let answers = || UnixStream::connect(directory.join("socket")).is_ok();
        let nginx = Nginx::start(program, &directory, &http, answers);
        Self { directory, port, _nginx: nginx }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
}
