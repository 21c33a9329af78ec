//! What lies between a container and the host: agents that pass messages on as BuildKit's client and buildah do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use valetkey::carrier::agent::wire;

/// An agent in a container. Ends with the value.
pub(crate) struct Between {
    pub(crate) counts: Arc<Counts>,
    path: PathBuf,
    task: AbortHandle,
    _top: TempDir,
}

#[derive(Default)]
pub(crate) struct Counts {
    /// Connections inside the container.
    pub(crate) connections: AtomicUsize,
    pub(crate) messages: AtomicUsize,
    /// Connections that were cut while a message was on its way.
    pub(crate) cuts: AtomicUsize,
}

/// Who stands between.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Who {
    /// Dials the host for each connection.
    Buildkit,
    /// Dials the host once, and passes one message at a time.
    Buildah,
}

impl Between {
    /// Cuts each connection so long after it was accepted.
    pub(crate) async fn start(who: Who, host: &Path, cut: Option<Duration>) -> Self {
        let top = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        let path = top.path().join("ssh_agent.0");
        let socket = UnixListener::bind(&path).unwrap();
        let counts = Arc::new(Counts::default());
        let way = match who {
            Who::Buildkit => Way::Dial(host.to_owned()),
            Who::Buildah => Way::Shared(Arc::new(Mutex::new(UnixStream::connect(host).await.ok()))),
        };
        let shared = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                let (line, _) = socket.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                tasks.spawn(serve(line, way.clone(), cut, Arc::clone(&shared)));
                while tasks.try_join_next().is_some() {}
            }
        });
        Self { counts, path, task: task.abort_handle(), _top: top }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn messages(&self) -> usize {
        self.counts.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn cuts(&self) -> usize {
        self.counts.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
enum Way {
    Dial(PathBuf),
    /// Gone for good once it has broken.
    Shared(Arc<Mutex<Option<UnixStream>>>),
}

async fn serve(mut line: UnixStream, way: Way, cut: Option<Duration>, counts: Arc<Counts>) {
    let way = match way {
        Way::Dial(path) => Arc::new(Mutex::new(UnixStream::connect(path).await.ok())),
        Way::Shared(way) => way,
    };
    let is_busy = AtomicUsize::new(0);
    let messages = async {
        while let Ok(mut message) = read(&mut line).await {
            is_busy.store(1, Ordering::Relaxed);
            counts.messages.fetch_add(1, Ordering::Relaxed);
            // Who is in between zeroes the flags of a Sign request.
            let length = message.len();
            if message[4] == wire::SIGN_REQUEST && length >= 9 {
                message[length - 4..].fill(0);
            }
            // Not given up with our connection: the host's stays in step.
            let answer = tokio::spawn(pass_on(Arc::clone(&way), message)).await.unwrap();
            if line.write_all(&answer).await.is_err() {
                break;
            }
            is_busy.store(0, Ordering::Relaxed);
        }
    };
    match cut {
        None => messages.await,
        Some(cut) => {
            if tokio::time::timeout(cut, messages).await.is_err() {
                counts.cuts.fetch_add(is_busy.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

/// The host's answer, or that of an agent without a host.
async fn pass_on(way: Arc<Mutex<Option<UnixStream>>>, message: Vec<u8>) -> Vec<u8> {
    let mut host = way.lock().await;
    let mut answer = None;
    if let Some(host) = host.as_mut()
        && host.write_all(&message).await.is_ok()
    {
        answer = read(host).await.ok();
    }
    answer.unwrap_or_else(|| {
        *host = None;
        wire::failure().to_vec()
    })
}

async fn read(line: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 4];
    line.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(*message.first_chunk().unwrap());
    message.resize(4 + length as usize, 0);
    line.read_exact(&mut message[4..]).await?;
    Ok(message)
}
