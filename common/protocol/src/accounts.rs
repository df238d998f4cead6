//! Users and groups from the texts of /etc/passwd and /etc/group, read by ourselves: the guest programs are static and
//! have no name-service switch.
//!
//! Formats: passwd(5), group(5). Malformed lines are skipped.

/// The file of users.
pub const PASSWD: &str = "/etc/passwd";
/// The file of groups.
pub const GROUP: &str = "/etc/group";

/// The name is no user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no user {name} in {PASSWD}")]
pub struct NoSuchUser {
    /// The name.
    pub name: String,
}

impl From<NoSuchUser> for std::io::Error {
    fn from(error: NoSuchUser) -> Self {
        Self::new(std::io::ErrorKind::NotFound, error)
    }
}

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

    /// Looks `name` up with the caller's `read`, which gives the text of a file. The superuser needs no file, and without a
    /// group file a user has the primary group alone.
    pub fn look_up<E: From<NoSuchUser>>(name: &str, read: impl Fn(&str) -> Result<String, E>) -> Result<Self, E> {
        if name == "root" {
            return Ok(Self::root());
        }
        // A number needs no file either: an application's image may have none.
        let passwd = match numbers(name) {
            Some(_) => read(PASSWD).unwrap_or_default(),
            None => read(PASSWD)?,
        };
        let group = read(GROUP).unwrap_or_default();
        if let Some((uid, gid)) = numbers(name) {
            return Ok(Self::numbered(&passwd, &group, uid, gid));
        }
        Self::find(&passwd, &group, name).ok_or_else(|| NoSuchUser { name: name.to_owned() }.into())
    }

    /// Whoever has this number, or nobody in particular with it.
    fn numbered(passwd: &str, group: &str, uid: u32, gid: Option<u32>) -> Self {
        let of_uid = |line: &&str| line.split(':').nth(2).is_some_and(|field| field.parse() == Ok(uid));
        let named = passwd.lines().find(of_uid).and_then(|line| line.split(':').next());
        let found = named.and_then(|name| Self::find(passwd, group, name));
        let unknown = Self {
            name: uid.to_string(),
            uid,
            gid: gid.unwrap_or(0),
            groups: vec![gid.unwrap_or(0)],
            home: "/".to_owned(),
        };
        match (found, gid) {
            (Some(account), None) => account,
            // A group that is given stands for all others.
            (Some(account), Some(gid)) => Self { gid, groups: vec![gid], ..account },
            (None, _) => unknown,
        }
    }

    /// Looks `name` up in the texts of /etc/passwd and /etc/group.
    fn find(passwd: &str, group: &str, name: &str) -> Option<Self> {
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

/// The numbers of `<uid>[:<gid>]`.
fn numbers(user: &str) -> Option<(u32, Option<u32>)> {
    match user.split_once(':') {
        None => Some((user.parse().ok()?, None)),
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1001::/home/user:/bin/bash\nuser2:x:bad:1:::\n";
    const GROUPS: &str = "root:x:0:\nuser:x:1001:user\nvideo:x:44:other,user\nuser2:x:7:user22\n";

    #[test]
    fn finds_ids_and_groups() {
        let user = Account::find(USERS, GROUPS, "user").unwrap();
        assert_eq!((user.uid, user.gid, user.groups, user.home.as_str()), (1000, 1001, vec![1001, 44], "/home/user"));
        assert_eq!(Account::find(USERS, GROUPS, "user2"), None);
        assert_eq!(Account::find(USERS, GROUPS, "nobody"), None);
    }

    #[test]
    fn a_number_is_a_user_with_or_without_a_name() {
        let of = |user: &str, passwd: Option<&str>| {
            Account::look_up(user, |path| match (path, passwd) {
                (PASSWD, Some(text)) => Ok(text.to_owned()),
                (GROUP, _) => Ok(GROUPS.to_owned()),
                _ => Err(NoSuchUser { name: path.to_owned() }),
            })
        };
        let user = of("1000", Some(USERS)).unwrap();
        assert_eq!((user.name.as_str(), user.gid, user.groups), ("user", 1001, vec![1001, 44]));
        let other = of("1000:7", Some(USERS)).unwrap();
        assert_eq!((other.name.as_str(), other.uid, other.groups), ("user", 1000, vec![7]));
        let unknown = of("65532:65532", None).unwrap();
        assert_eq!((unknown.name.as_str(), unknown.uid, unknown.gid), ("65532", 65532, 65532));
        assert!(of("nobody", None).is_err() && of("1000:x", Some(USERS)).is_err());
    }

    #[derive(Debug, PartialEq)]
    enum Denied {
        File(String),
        User(NoSuchUser),
    }

    impl From<NoSuchUser> for Denied {
        fn from(error: NoSuchUser) -> Self {
            Self::User(error)
        }
    }

    #[test]
    fn looks_up_with_the_caller_s_files() {
        let unreadable = |path: &str| Err(Denied::File(path.to_owned()));
        assert_eq!(Account::look_up("root", unreadable), Ok(Account::root()));
        assert_eq!(Account::look_up("user", unreadable), Err(Denied::File(PASSWD.to_owned())));

        let no_groups = |path: &str| if path == PASSWD { Ok(USERS.to_owned()) } else { unreadable(path) };
        assert_eq!(Account::look_up("user", no_groups).unwrap().groups, vec![1001]);
        assert_eq!(Account::look_up("nobody", no_groups), Err(Denied::User(NoSuchUser { name: "nobody".to_owned() })));

        let both = |path: &str| Ok::<_, Denied>(if path == PASSWD { USERS } else { GROUPS }.to_owned());
        assert_eq!(Account::look_up("user", both).unwrap().groups, vec![1001, 44]);
    }

    #[test]
    fn an_unknown_user_is_not_found_for_the_system_too() {
        let error = std::io::Error::from(NoSuchUser { name: "ann".to_owned() });
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (std::io::ErrorKind::NotFound, "no user ann in /etc/passwd")
        );
    }
}
