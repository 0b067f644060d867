//! Who asks, for the history: the user and the machine. It is what this machine says of itself, and proves nothing.

/// `ann@desk`; as much of it as is known.
pub(crate) fn asks() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME")).or_else(|| set("USERNAME"));
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    [user, machine].into_iter().flatten().collect::<Vec<_>>().join("@")
}
