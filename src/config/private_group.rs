//! Whether a group is one user's own: Debian, Ubuntu and Fedora give each user a group of the same number of members,
//! and a umask of 002, so that what such a user writes can be written by that group.
//!
//! The system's tables are read as files. The C library's look-ups could run any module and reach over a network, which
//! a helper cannot wait for; so a user or a group that only such a service knows has no private group here.

use std::path::Path;

use crate::paths::read_regular;

/// Whether a group is the primary one of this user, and nobody else is in it.
pub(super) fn is_private(uid: u32, gid: u32) -> bool {
    let table = |path: &str| read_regular(Path::new(path), LARGEST).ok();
    let (Some(users), Some(groups)) = (table("/etc/passwd"), table("/etc/group")) else { return false };
    is_private_in(&users, &groups, uid, gid)
}

/// The same, by the text of both tables. What cannot be read in one way says no.
fn is_private_in(users: &str, groups: &str, uid: u32, gid: u32) -> bool {
    // Root's group is not private: systems put others into it, and containers run any uid with it.
    if uid == 0 || gid == 0 {
        return false;
    }
    // An entry of the form `+NAME` or `-NAME` says that another service knows more.
    let mut names = Vec::new();
    for line in lines(users) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, user, group, ..] = fields.as_slice() else { return false };
        let (Ok(user), Ok(group)) = (user.parse::<u32>(), group.parse::<u32>()) else { return false };
        match (user == uid, group == gid) {
            (true, true) => names.push(*name),
            // The same uid under two names, one of them elsewhere; or another user of this group.
            (true, false) | (false, true) => return false,
            (false, false) => {}
        }
    }
    let mut is_there = false;
    for line in lines(groups) {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, password, group, members] = fields.as_slice() else { return false };
        let Ok(group) = group.parse::<u32>() else { return false };
        if group != gid {
            continue;
        }
        is_there = true;
        let others = members.split(',').map(str::trim).any(|name| !name.is_empty() && !names.contains(&name));
        // Whoever knows the group's password can join it.
        if others || !NO_PASSWORD.contains(password) {
            return false;
        }
    }
    is_there && !names.is_empty()
}

fn lines(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

/// None, one that is elsewhere (which only root may read, and which nobody sets for such a group), or one that is locked.
const NO_PASSWORD: [&str; 4] = ["", "x", "*", "!"];
const LARGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/sbin/nologin\n\
        dev:x:1000:1000:,,,:/home/dev:/bin/bash\nanna:x:1001:1001::/home/anna:/bin/sh\n";
    const GROUPS: &str = "root:x:0:\ndaemon:x:1:\nstaff:x:50:dev,anna\ndev:x:1000:\nanna:x:1001:\n";

    #[test]
    fn a_user_s_own_group_is_private() {
        assert!(is_private_in(USERS, GROUPS, 1000, 1000));
        assert!(is_private_in(USERS, &GROUPS.replace("dev:x:1000:", "dev:x:1000:dev"), 1000, 1000));
        assert!(is_private_in(USERS, &GROUPS.replace("dev:x:1000:", "other:!:1000:"), 1000, 1000));
        let number = (USERS.replace("1000:1000", "1000:777"), GROUPS.replace("dev:x:1000:", "dev:x:777:"));
        assert!(is_private_in(&number.0, &number.1, 1000, 777));
    }

    #[test]
    fn a_group_that_anybody_else_is_in_is_not() {
        for (users, groups, uid, gid, why) in [
            (USERS, GROUPS, 1000, 50, "not the primary group"),
            (USERS, GROUPS, 1000, 1001, "another user's"),
            (USERS, GROUPS, 1000, 0, "root's"),
            (USERS, GROUPS, 0, 0, "root in its own"),
            (USERS, GROUPS, 1002, 1002, "nobody knows the user"),
            (USERS, "root:x:0:\n", 1000, 1000, "nobody knows the group"),
            (USERS, &GROUPS.replace("dev:x:1000:", "dev:x:1000:anna"), 1000, 1000, "a member"),
            (USERS, &GROUPS.replace("dev:x:1000:", "dev:x:1000:dev,anna"), 1000, 1000, "a member more"),
            (USERS, &format!("{GROUPS}again:x:1000:anna\n"), 1000, 1000, "the same number under two names"),
            (&USERS.replace("1001:1001", "1001:1000"), GROUPS, 1000, 1000, "the primary group of another"),
            (&format!("{USERS}twin:x:1000:100::/:/bin/sh\n"), GROUPS, 1000, 1000, "the same uid elsewhere"),
            (USERS, &GROUPS.replace("dev:x:1000:", "dev:$6$salt$hash:1000:"), 1000, 1000, "a password"),
            (&format!("{USERS}+::::::\n"), GROUPS, 1000, 1000, "a service knows more users"),
            (USERS, &format!("{GROUPS}+:::\n"), 1000, 1000, "a service knows more groups"),
            (USERS, &format!("{GROUPS}broken\n"), 1000, 1000, "a line that cannot be read"),
            ("", "", 1000, 1000, "no tables"),
        ] {
            assert!(!is_private_in(users, groups, uid, gid), "{why}");
        }
    }
}
