//! The host: listeners that serve the agent, and an application behind them that does what the first line of a
//! stream says.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::task::{AbortHandle, JoinSet};
use valetkey::carrier::agent::{AgentServer, Budget, CarriedStream, Limits};

/// See the module.
pub(crate) struct Outside {
    pub(crate) budget: Arc<Budget>,
    top: TempDir,
    daemons: Vec<Daemon>,
}

/// One daemon with one listener. Ends, with all its connections, with the value.
pub(crate) struct Daemon {
    pub(crate) server: AgentServer<&'static str>,
    task: AbortHandle,
}

impl Outside {
    /// A daemon that listens for uid 1000.
    pub(crate) fn start() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        // It takes a while to make, which is not to happen in the middle.
        pattern(0, 0);
        let top = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        let mut outside = Self { budget: Budget::new(limits), top, daemons: Vec::new() };
        outside.listen("build.sock", &[("build.sock", 1000)]);
        outside
    }

    /// One more listener. Whoever connects to a name here has that uid.
    pub(crate) fn listen(&mut self, first: &str, names: &[(&str, u32)]) -> PathBuf {
        let sockets =
            names.iter().map(|(name, uid)| (UnixListener::bind(self.path(name)).unwrap(), *uid)).collect();
        self.daemons.push(Daemon::start(&self.budget, sockets));
        self.path(first)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("build.sock")
    }

    pub(crate) fn server(&self) -> &AgentServer<&'static str> {
        &self.daemons[0].server
    }

    /// Ends the daemon as a crash would, and leaves its socket behind.
    pub(crate) fn kill(&mut self) {
        self.daemons.clear();
    }

    /// A new daemon in the place of the one that was.
    pub(crate) fn restart(&mut self) {
        self.kill();
        std::fs::remove_file(self.socket()).unwrap();
        self.listen("build.sock", &[("build.sock", 1000)]);
    }
}

impl Daemon {
    fn start(budget: &Arc<Budget>, sockets: Vec<(UnixListener, u32)>) -> Self {
        let (server, mut incoming) = AgentServer::new(budget);
        let clerk = server.clone();
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            for (socket, uid) in sockets {
                let server = clerk.clone();
                tasks.spawn(async move {
                    let mut lines = JoinSet::new();
                    loop {
                        let (line, _) = socket.accept().await.unwrap();
                        let server = server.clone();
                        lines.spawn(async move { server.serve_connection(line, uid, "peer").await });
                    }
                });
            }
            while let Some((stream, peer)) = incoming.accept().await {
                assert_eq!(peer, "peer");
                // Not ended with the daemon: what has crashed says no end.
                tokio::spawn(serve(stream));
            }
        });
        Self { server, task: task.abort_handle() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does what the first line says. That the other side breaks off is none of our business.
async fn serve(stream: CarriedStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |place: usize| words[place].parse::<usize>().unwrap();
    match words[0] {
        "give" => give(&mut stream, number(1)).await,
        "later" => {
            tokio::time::sleep(Duration::from_millis(number(1) as u64)).await;
            give(&mut stream, number(2)).await;
        }
        "echo" => {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        }
        "count" => {
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received).await;
            assert!(received == pattern(0, received.len()), "what was sent is not what arrived");
            let _ = stream.write_all(received.len().to_string().as_bytes()).await;
        }
        // Until the stream is dropped from the other side.
        "hang" => {
            let _ = stream.read_u8().await;
        }
        other => panic!("no such command: {other}"),
    }
}

async fn give(stream: &mut BufReader<CarriedStream>, length: usize) {
    for piece in pattern(0, length).chunks(16 << 10) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
    }
}

/// A part of many bytes that are different everywhere.
pub(crate) fn pattern(offset: usize, length: usize) -> &'static [u8] {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let word = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        (0..LONGEST / 8).flat_map(word).collect()
    });
    &all[offset..offset + length]
}

const LONGEST: u64 = 50_000_000;

/// That bytes are the first ones of the pattern, all of them.
#[track_caller]
pub(crate) fn assert_given(bytes: &[u8], length: usize) {
    assert_eq!(bytes.len(), length);
    assert!(bytes == pattern(0, length), "a byte is wrong");
}

/// A path as a channel.
pub(crate) fn channel(path: &Path) -> valetkey::carrier::agent::AgentChannel {
    valetkey::carrier::agent::AgentChannel::at(path.to_owned())
}
