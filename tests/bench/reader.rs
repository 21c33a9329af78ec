//! The one reader of large files, whatever carries them: it takes what comes in large pieces and forgets it. Everybody
//! is read by the same code in the same thread, in turns.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use valetkey::carrier::agent::{AgentChannel, AgentStream};

use super::process::processor_time;

/// Where somebody serves.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp(u16),
    /// The agent carrier, by this crate's own end of it.
    Agent(PathBuf),
    /// A forward proxy on this port, and TLS by what vouches for the host behind it.
    Forward {
        port: u16,
        host: String,
        trust: Arc<ClientConfig>,
    },
}

/// One way to a file.
#[derive(Debug)]
pub(crate) struct Way {
    pub name: String,
    pub place: Place,
    pub target: String,
    pub times: Vec<Duration>,
    /// Whose processor time is looked at, and how much of it all counted rounds took together.
    watched: Vec<(&'static str, u32, Duration)>,
}

/// Both directions.
pub(crate) trait Duplex: Read + Write + Send {}

impl<S: Read + Write + Send> Duplex for S {}

impl Way {
    pub(crate) fn new(name: &str, place: Place, target: impl Into<String>) -> Self {
        Self { name: name.to_owned(), place, target: target.into(), times: Vec::new(), watched: Vec::new() }
    }

    pub(crate) fn watching(mut self, processes: &[(&'static str, u32)]) -> Self {
        let watched = processes.iter().map(|(name, pid)| (*name, *pid, Duration::ZERO));
        self.watched = watched.collect();
        self
    }

    /// Processor time for each file, in milliseconds.
    pub(crate) fn used(&self) -> String {
        let each = |(name, _, all): &(&str, u32, Duration)| {
            format!("{name} {:.0}", all.as_secs_f64() * 1e3 / self.times.len() as f64)
        };
        self.watched.iter().map(each).collect::<Vec<_>>().join(", ")
    }

    /// Asks for the file. What comes next is the head of the answer.
    pub(crate) fn ask(&self) -> Box<dyn Duplex> {
        let unreachable = |error| panic!("{}: {:?}: {error}", self.name, self.place);
        let mut stream = self.place.connect().unwrap_or_else(unreachable);
        let host = self.place.host();
        let head = format!("GET {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n", self.target);
        stream.write_all(head.as_bytes()).expect("a request");
        stream
    }

    /// Reads the large file once.
    pub(crate) fn fetch(&self) -> Duration {
        let mut buffer = vec![0; 256 << 10];
        let start = Instant::now();
        let mut stream = self.ask();
        let mut read = 0;
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(more) => {
                    let begins = buffer.starts_with(b"HTTP/1.1 200 ") || buffer.starts_with(b"HTTP/1.0 200 ");
                    assert!(
                        read > 0 || begins,
                        "{}: {}",
                        self.name,
                        String::from_utf8_lossy(&buffer[..more])
                    );
                    read += more;
                }
                // Servers end a connection without taking leave in TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && read > SIZE => break,
                Err(error) => panic!("{}: {error} after {read} bytes", self.name),
            }
        }
        assert!((SIZE..SIZE + 4096).contains(&read), "{}: {read} bytes", self.name);
        start.elapsed()
    }

    /// In MiB a second.
    pub(crate) fn rate(&self) -> f64 {
        SIZE as f64 / MIB / median(&self.times)
    }
}

/// Reads the file by each of the ways once a round, in an order drawn anew. One round before that is not counted.
pub(crate) fn in_turns(ways: &mut [Way], rounds: usize) {
    let mut order: Vec<usize> = (0..ways.len()).collect();
    for round in 0..=rounds {
        order.shuffle(&mut rand::thread_rng());
        for &index in &order {
            let way = &mut ways[index];
            let before: Vec<_> = way.watched.iter().map(|(_, pid, _)| processor_time(*pid)).collect();
            let took = way.fetch();
            if round > 0 {
                way.times.push(took);
                for ((_, pid, all), before) in way.watched.iter_mut().zip(before) {
                    *all += processor_time(*pid).saturating_sub(before);
                }
            }
        }
    }
}

impl Place {
    pub(crate) fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Self::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Self::Agent(path) => Box::new(Carried::open(path)?),
            Self::Forward { port, host, trust } => {
                let mut stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                write!(stream, "CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
                Box::new(secure(stream, trust))
            }
        })
    }

    fn host(&self) -> String {
        match self {
            Self::Unix(_) | Self::Agent(_) => "localhost".to_owned(),
            Self::Tcp(port) => format!("127.0.0.1:{port}"),
            Self::Forward { host, .. } => host.clone(),
        }
    }
}

/// TLS with `localhost`. Reads are wide: rustls by itself asks the kernel for four kilobytes at a time, which is no
/// client's way.
pub(crate) fn secure(stream: TcpStream, trust: &Arc<ClientConfig>) -> impl Duplex + use<> {
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::clone(trust), name).expect("a session");
    StreamOwned::new(session, Wide { stream, buffer: vec![0; 64 << 10], range: 0..0 })
}

/// What trusts these certificates and no others.
pub(crate) fn trusting(pem: &str) -> Arc<ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        // A system's bundle may hold one that rustls does not read.
        let _ = roots.add(certificate.expect("a certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

/// In seconds.
pub(crate) fn median(times: &[Duration]) -> f64 {
    let mut sorted: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// Reads ahead.
struct Wide {
    stream: TcpStream,
    buffer: Vec<u8>,
    range: std::ops::Range<usize>,
}

impl Read for Wide {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.range.is_empty() {
            self.range = 0..self.stream.read(&mut self.buffer)?;
        }
        let length = into.len().min(self.range.len());
        into[..length].copy_from_slice(&self.buffer[self.range.start..][..length]);
        self.range.start += length;
        Ok(length)
    }
}

impl Write for Wide {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A carried stream for a thread that waits; two others move its frames, as in `exec`.
struct Carried {
    stream: AgentStream,
    runtime: Runtime,
}

impl Carried {
    fn open(path: &Path) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build()?;
        let entered = runtime.enter();
        let stream = AgentChannel::at(path.to_owned()).open().map_err(io::Error::other)?;
        drop(entered);
        Ok(Self { stream, runtime })
    }
}

impl Read for Carried {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.read(into))
    }
}

impl Write for Carried {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.stream.flush())
    }
}

pub(crate) const MIB: f64 = 1_048_576.0;
/// Of the large file.
pub(crate) const SIZE: usize = 200 << 20;
/// How long anybody may be silent, or take to start, before that is the end of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
