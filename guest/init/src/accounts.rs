//! Users and groups from /etc/passwd and /etc/group, read by ourselves: a static program has no name-service switch.
//!
//! Formats: passwd(5), group(5). Malformed lines are skipped.

use std::fs;
use std::io;
use std::path::Path;

/// What running as a user takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Primary and supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

impl Account {
    /// The superuser, known without any file.
    pub fn root() -> Self {
        Self { name: "root".to_owned(), uid: 0, gid: 0, groups: vec![0], home: "/root".to_owned() }
    }

    /// Looks `name` up below `root` (`/` in the running guest).
    pub fn find(root: &Path, name: &str) -> io::Result<Self> {
        if name == "root" {
            return Ok(Self::root());
        }
        let passwd = fs::read_to_string(root.join("etc/passwd"))?;
        let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        parse(&passwd, &group, name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user {name} in /etc/passwd")))
    }
}

fn parse(passwd: &str, group: &str, name: &str) -> Option<Account> {
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f.first() == Some(&name))?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let home = fields.get(5).copied().filter(|home| !home.is_empty()).unwrap_or("/");
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members] = fields[..] else { continue };
        if let Ok(id) = id.parse()
            && members.split(',').any(|member| member == name)
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    Some(Account { name: name.to_owned(), uid, gid, groups, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1001::/home/user:/bin/bash\nuser2:x:bad:1:::\n";
    const GROUP: &str = "root:x:0:\nuser:x:1001:user\nvideo:x:44:other,user\nuser2:x:7:user22\n";

    #[test]
    fn finds_ids_and_groups() {
        let user = parse(PASSWD, GROUP, "user").unwrap();
        assert_eq!((user.uid, user.gid, user.groups, user.home.as_str()), (1000, 1001, vec![1001, 44], "/home/user"));
        assert_eq!(parse(PASSWD, GROUP, "user2"), None);
        assert_eq!(parse(PASSWD, GROUP, "nobody"), None);
    }
}
