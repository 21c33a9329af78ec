//! The bare channel: one request, one answer of a mebibyte.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use valetkey::carrier::agent::wire;
use valetkey::carrier::frame::{Reply, Request, Status, StreamId};

/// Answers every message on a connection with the same bytes.
pub(crate) async fn serve(mut line: UnixStream) -> io::Result<()> {
    let reply = Reply { status: Status::Ok, end: false, more: false, offset: 0, accepted: 0 };
    let mut answer = wire::sign_answer(&reply, FRAME);
    answer.resize(answer.len() + FRAME, 7);
    let mut message = Vec::new();
    loop {
        read(&mut line, &mut message).await?;
        line.write_all(&answer).await?;
    }
}

/// Fetches so many bytes on so many connections. A connection that is cut is made again.
pub(crate) async fn fetch(path: &Path, bytes: u64, connections: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let path = path.to_owned();
        tasks.spawn(async move {
            let mut rest = (bytes / connections).div_ceil(FRAME as u64);
            let mut message = Vec::new();
            while rest > 0 {
                let mut line = UnixStream::connect(&path).await.expect("a connection");
                // As the carrier does: replaced before buildah cuts it.
                let born = tokio::time::Instant::now();
                while rest > 0 && born.elapsed() < Duration::from_millis(1200) {
                    line.write_all(&request()).await.expect("a request is sent");
                    read(&mut line, &mut message).await.expect("an answer");
                    assert!(message.len() > FRAME, "the answer is short");
                    rest -= 1;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a connection");
    }
}

fn request() -> Vec<u8> {
    let request = Request {
        stream: StreamId::new([1; 16]),
        open: true,
        finish: false,
        close: false,
        fresh: false,
        wait: Duration::ZERO,
        want: 1 << 20,
        offset: 0,
        acknowledged: 0,
    };
    wire::sign_request(&request, b"")
}

async fn read(line: &mut UnixStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = line.read_u32().await? as usize;
    message.resize(length, 0);
    line.read_exact(message).await?;
    Ok(())
}

const FRAME: usize = 1 << 20;
