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
    let table = BufReader::new(fs::File::open("/proc/net/tcp").ok()?);
    table.lines().map_while(Result::ok).find_map(|line| uid_in(&line, theirs, ours))
}

/// The uid in a line of the table, if the line is that socket's: `sl local remote st queues timer retransmits uid`.
fn uid_in(line: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let same = fields.next()? == written(local) && fields.next()? == written(remote);
    let state = fields.next()?;
    // What is not established (01) may be an older connection's, with nobody's uid. One that has sent its end
    // and still waits for ours (04, 05) is the peer's as before.
    if same && matches!(state, "01" | "04" | "05") { fields.nth(3)?.parse().ok() } else { None }
}

/// Address and port as the table writes them: the address as one number in the machine's own order.
fn written(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
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

    #[test]
    fn a_line_of_the_table_is_read_for_its_own_socket_only() {
        let line =
            "  12: 0100007F:8C46 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 7";
        let [one, two]: [SocketAddrV4; 2] =
            ["127.0.0.1:35910", "127.0.0.1:8080"].map(|it| it.parse().unwrap());
        assert_eq!(uid_in(line, one, two), Some(1000));
        assert_eq!(uid_in(line, two, one), None);
        assert_eq!(uid_in(&line.replace(" 01 ", " 06 "), one, two), None);
        assert_eq!(uid_in("garbage", one, two), None);
    }
}
