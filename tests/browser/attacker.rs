//! Another web site: an address of its own, pages without content, and a memory of who came and from where.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Serves until the test process ends; it holds nothing but a port.
pub(crate) struct Site {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"))
    }

    /// Takes a port that somebody else had.
    pub(crate) fn squat(port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self::on(TcpListener::bind(address).expect("a port that is free again"))
    }

    fn on(listener: TcpListener) -> Self {
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let memory = Arc::clone(&memory);
                // A browser opens connections that it does not use.
                std::thread::spawn(move || answer(&stream, &memory));
            }
        });
        Self { port, heads }
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.port)
    }

    /// The heads of all requests so far, in lower case but for the request line.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: &TcpStream, memory: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let rest: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let head = format!("{first}\n{}", rest.join("\n").to_lowercase());
    memory.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    let page = "<!doctype html><title>another site</title><p>hello";
    let _ = (&*stream).write_all(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
            page.len()
        )
        .as_bytes(),
    );
}
