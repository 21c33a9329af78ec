//! The uids that the system gave this user for containers: `/etc/subuid`. In a container with remapped users a
//! process has one of these outside.

use std::fs;

/// The ranges of a user, first and last uid.
#[must_use]
pub fn ranges(uid: u32) -> Vec<(u32, u32)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    ranges_in(&read("/etc/subuid"), uid, name_in(&read("/etc/passwd"), uid).as_deref())
}

/// Lines are `NAME-OR-UID:FIRST:COUNT`.
fn ranges_in(table: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let (who, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = who == uid.to_string() || Some(who) == name;
        let (first, count): (u32, u32) = (first.parse().ok()?, count.trim().parse().ok()?);
        (ours && count > 0).then(|| (first, first.saturating_add(count - 1)))
    };
    table.lines().filter_map(line).collect()
}

fn name_in(table: &str, uid: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n";
        let name = name_in(passwd, 1000);
        assert_eq!(name.as_deref(), Some("dev"));
        let table = "other:100000:65536\ndev:165536:65536\n1000:300000:1\ndev:x:1\ndev:9:0\n";
        assert_eq!(ranges_in(table, 1000, name.as_deref()), [(165_536, 231_071), (300_000, 300_000)]);
        assert_eq!(ranges_in(table, 1001, None), []);
    }
}
