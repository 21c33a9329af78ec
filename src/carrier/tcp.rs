//! Loopback TCP: whose process is on the other end of a connection.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, SocketAddrV4};

use tokio::net::TcpStream;

/// The uid behind the other end of a connection between two ends of this machine, by the kernel's table.
#[must_use]
#[cfg(target_os = "linux")]
pub fn peer_uid(stream: &TcpStream) -> Option<u32> {
    let (Ok(SocketAddr::V4(ours)), Ok(SocketAddr::V4(theirs))) = (stream.local_addr(), stream.peer_addr())
    else {
        return None;
    };
    // A program that asks for IPv6 sockets only, as Java's do, has its end of such a connection in the other table.
    let found = |table: &str, written: fn(SocketAddrV4) -> String| {
        let lines = BufReader::new(fs::File::open(table).ok()?).lines();
        let (theirs, ours) = (written(theirs), written(ours));
        lines.map_while(Result::ok).find_map(|line| uid_in(&line, &theirs, &ours))
    };
    found("/proc/net/tcp", written).or_else(|| found("/proc/net/tcp6", written_mapped))
}

/// The uid in a line of the table, if the line is that socket's: `sl local remote st queues timer retransmits uid`.
fn uid_in(line: &str, local: &str, remote: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let same = fields.next()? == local && fields.next()? == remote;
    let state = fields.next()?;
    // What is not established (01) may be an older connection's, with nobody's uid. One that has sent its end
    // and still waits for ours (04, 05) is the peer's as before.
    if same && matches!(state, "01" | "04" | "05") { fields.nth(3)?.parse().ok() } else { None }
}

/// Address and port as the table writes them: the address as one number in the machine's own order.
fn written(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// The same as an IPv6 address: `::ffff:127.0.0.1`, as four such numbers.
fn written_mapped(address: SocketAddrV4) -> String {
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    format!("{:016X}{prefix:08X}{}", 0, written(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[tokio::test]
    async fn the_peer_of_a_loopback_connection_is_ourselves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(peer_uid(&server), Some(sys::own_uid()));
        assert_eq!(peer_uid(&client), Some(sys::own_uid()));
    }

    #[tokio::test]
    async fn a_peer_with_an_ipv6_socket_is_found_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Where the kernel has no IPv6 there is no such peer.
        let Ok(_client) = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).await else { return };
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(peer_uid(&server), Some(sys::own_uid()));
    }

    #[test]
    fn a_line_of_the_table_is_read_for_its_own_socket_only() {
        let line =
            "  12: 0100007F:8C46 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 7";
        let [one, two] = ["127.0.0.1:35910", "127.0.0.1:8080"].map(|it| written(it.parse().unwrap()));
        assert_eq!(uid_in(line, &one, &two), Some(1000));
        assert_eq!(uid_in(line, &two, &one), None);
        assert_eq!(uid_in(&line.replace(" 01 ", " 06 "), &one, &two), None);
        assert_eq!(uid_in("garbage", &one, &two), None);
    }
}
