//! The memory of processes, for the hunt: what a step holds while it runs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::harness::hunt::Hunt;

/// Searches the memory of all processes that have this mark in their arguments, and of all that share a container with
/// one of them. Comes back with how many there were, and what was found.
pub(crate) fn search_marked(mark: &str, secrets: &[String]) -> (usize, Vec<String>) {
    let own = namespace(std::process::id());
    let processes: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let is_marked = |process: &u32| {
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(mark)
    };
    let marked: Vec<u32> = processes.iter().copied().filter(is_marked).collect();
    let spaces: Vec<_> = marked
        .iter()
        .filter_map(|process| namespace(*process))
        .filter(|it| Some(it) != own.as_ref())
        .collect();
    let inside = processes.into_iter().filter(|process| {
        marked.contains(process) || namespace(*process).is_some_and(|it| spaces.contains(&it))
    });
    let (mut count, mut found) = (0, Vec::new());
    for process in inside {
        let (read, what) = search(process, secrets);
        count += usize::from(read > 0);
        found.extend(what);
    }
    (count, found)
}

/// Searches the memory of one process. Comes back with how many bytes were read, and what was found.
pub(crate) fn search(process: u32, secrets: &[String]) -> (u64, Vec<String>) {
    let mut hunt = Hunt::new(secrets);
    let directory = Path::new("/proc").join(process.to_string());
    let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
    let (Ok(maps), Ok(memory)) =
        (fs::read_to_string(directory.join("maps")), fs::File::open(directory.join("mem")))
    else {
        return (0, Vec::new());
    };
    let mut read = 0;
    for line in maps.lines() {
        let Some((start, end)) = readable(line) else { continue };
        // A piece overlaps the one before it by more than a secret is long.
        let mut place = start;
        while place < end {
            let length = usize::try_from((end - place).min(PIECE)).unwrap();
            let mut piece = vec![0; length];
            // The kernel's own pages are in the list and cannot be read.
            let Ok(length) = memory.read_at(&mut piece, place) else { break };
            hunt.match_bytes(&format!("the memory of {}", name.trim()), &piece[..length]);
            read += length as u64;
            place += if length as u64 > OVERLAP { length as u64 - OVERLAP } else { length as u64 };
            if place + OVERLAP >= end {
                break;
            }
        }
    }
    (read, hunt.found)
}

fn readable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let parse = |text: &str| u64::from_str_radix(text, 16).ok();
    rest.starts_with('r').then_some((parse(start)?, parse(end)?))
}

fn namespace(process: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

const PIECE: u64 = 8 << 20;
const OVERLAP: u64 = 16 << 10;
