//! Users and groups from the texts of /etc/passwd and /etc/group, read by ourselves: the guest programs are static and
//! have no name-service switch.
//!
//! Formats: passwd(5), group(5). Malformed lines are skipped.

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

    /// Looks `name` up in the texts of /etc/passwd and /etc/group.
    pub fn find(passwd: &str, group: &str, name: &str) -> Option<Self> {
        let fields =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name))?;
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
        Some(Self { name: name.to_owned(), uid, gid, groups, home: home.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1001::/home/user:/bin/bash\nuser2:x:bad:1:::\n";
    const GROUP: &str = "root:x:0:\nuser:x:1001:user\nvideo:x:44:other,user\nuser2:x:7:user22\n";

    #[test]
    fn finds_ids_and_groups() {
        let user = Account::find(PASSWD, GROUP, "user").unwrap();
        assert_eq!((user.uid, user.gid, user.groups, user.home.as_str()), (1000, 1001, vec![1001, 44], "/home/user"));
        assert_eq!(Account::find(PASSWD, GROUP, "user2"), None);
        assert_eq!(Account::find(PASSWD, GROUP, "nobody"), None);
    }
}
