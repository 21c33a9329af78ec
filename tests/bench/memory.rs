//! The memory that many downloads at once cost the daemon, on each carrier, when every other reader is slow.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::nginx::{self, Upstream};
use super::process::peak_resident;
use super::proxy::Served;
use super::reader::Way;
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

/// A fresh daemon for each carrier and build, since what counts is the most that it ever had.
pub(crate) fn of_crowds(table: &mut Table, sandboxes: &[Sandbox<'_>; 2]) {
    let carriers: [(&str, Pick); 3] = [
        ("Unix", |served| served.way(false)),
        ("TCP", |served| served.way(true)),
        ("the agent carrier", |served| served.by_agent()),
    ];
    let start = |program: PathBuf| Upstream::start(&program, &sandboxes[0].path("upstream-of-crowds"));
    let upstream = nginx::find().map(start);
    for sandbox in sandboxes {
        for (carrier, way) in carriers {
            let measure = format!("memory with {CROWD} downloads on {carrier}, {}", sandbox.build.name);
            let upstream = match &upstream {
                Ok(upstream) => upstream,
                Err(reason) => {
                    table.missing(measure, TARGET, Unit::Mebibytes, reason);
                    continue;
                }
            };
            let served = Served::start(sandbox, upstream);
            let (moved, most) = crowd(&way(&served));
            let peak = peak_resident(served.daemon.id());
            let note = format!(
                "peak; {:.0} MiB moved, at least {:.1} MiB by each, half of the readers slow",
                moved as f64 / super::MIB,
                most as f64 / super::MIB
            );
            table.row(measure, TARGET, peak, Unit::Mebibytes, &note);
        }
    }
}

/// One of the ways that a daemon serves.
type Pick = fn(&Served<'_>) -> Way;

/// Many readers for a while: every other one takes all it can, the rest a little now and then. How much they took in
/// all, and the least that one of them took.
fn crowd(way: &Way) -> (usize, usize) {
    let end = Instant::now() + WHILE;
    std::thread::scope(|scope| {
        let read = |number: usize| {
            let (mut moved, mut buffer) = (0, vec![0; 64 << 10]);
            let mut stream = way.ask();
            while Instant::now() < end {
                match stream.read(&mut buffer).expect("a piece") {
                    0 => stream = way.ask(),
                    more => moved += more,
                }
                if number.is_multiple_of(2) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            moved
        };
        let readers: Vec<_> = (0..CROWD).map(|number| scope.spawn(move || read(number))).collect();
        let moved: Vec<usize> = readers.into_iter().map(|reader| reader.join().expect("a reader")).collect();
        (moved.iter().sum(), moved.into_iter().min().unwrap_or_default())
    })
}

const TARGET: Target = Target::LessThan(24.0);
const CROWD: usize = 64;
const WHILE: Duration = Duration::from_secs(8);
