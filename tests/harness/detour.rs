//! A proxy by which every name on the internet leads to one port of this machine: so the daemon asks Google's hosts
//! under their own names, and a stand-in answers. `localhost` stays what it is.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "each test target uses a part, and a test fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// See the module. Lives as long as the process.
pub struct Detour {
    /// For `HTTPS_PROXY`.
    pub url: String,
}

impl Detour {
    pub fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || lead(stream, port));
            }
        });
        Self { url }
    }
}

fn lead(mut client: TcpStream, port: u16) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let port = target.strip_prefix("localhost:").map_or(port, |own| own.parse().unwrap());
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
}
