//! Who asks, as this command states it: `user@host`.
//!
//! It is a help for those who read the history, and no proof of anything: whoever can reach a controller can state
//! another name.

/// The longest that is stated, in characters: as much as controllers take.
const LONGEST: usize = 200;

/// The user and the host, as the system tells them.
pub(crate) fn stated() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("uid {}", nix::unistd::Uid::current()));
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let host = host.unwrap_or_else(|| "an unnamed host".to_owned());
    format!("{user}@{host}").chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}
