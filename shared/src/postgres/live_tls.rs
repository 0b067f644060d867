//! TLS, passwords and the files that they stand in, against a real server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::throwaway::{self, Server};
use super::*;

/// A certificate for `localhost` and one for the role `certified`, and the authority that issued both.
fn certificates(dir: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();
    let own_key = rcgen::KeyPair::generate().unwrap();
    let mut own = rcgen::CertificateParams::new(Vec::new()).unwrap();
    own.distinguished_name.push(rcgen::DnType::CommonName, "certified");
    let own = own.signed_by(&own_key, &issuer).unwrap();
    let owner = fs::metadata(dir).unwrap();
    for (name, text) in [
        ("root.pem", root.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("own.pem", own.pem()),
        ("own.key", own_key.serialize_pem()),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

/// A server that speaks TLS with a certificate for `localhost`, and the file with the root that signed it. `rules` stand at the beginning
/// of `pg_hba.conf`.
pub(super) async fn with_tls(rules: &str) -> (Server, PathBuf) {
    let server = Server::start().await.unwrap();
    let dir = server.directory();
    certificates(dir);
    let hba = dir.join("data/pg_hba.conf");
    fs::write(&hba, format!("{rules}\n{}", fs::read_to_string(&hba).unwrap())).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    for (name, value) in [
        ("ssl_cert_file", file("cert.pem")),
        ("ssl_key_file", file("key.pem")),
        ("ssl_ca_file", file("root.pem")),
        ("ssl", "on".to_owned()),
    ] {
        server.command(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    server.command("SELECT pg_reload_conf()").await.unwrap();
    let root = dir.join("root.pem");
    // The server reads its new settings a moment after it was told to.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while encrypted(&(server.url("postgres") + "?sslmode=require")).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the server does not speak TLS");
    }
    (server, root)
}

/// Whether a connection is encrypted, or why there is none.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let (client, _task) = connect(url, "test").await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await.unwrap().get(0))
}

#[tokio::test]
async fn each_sslmode_asks_for_as_much_as_in_libpq() {
    let rules =
        "hostssl all only_tls all trust\nhostnossl all only_plain all trust\nhost all only_tls,only_plain all reject";
    let (server, root) = with_tls(rules).await;
    server.command("CREATE ROLE only_tls LOGIN; CREATE ROLE only_plain LOGIN").await.unwrap();
    let url = |host: &str, parameters: &str| server.url("postgres").replace("127.0.0.1", host) + parameters;
    let root = root.display().to_string();
    let named = |mode: &str| format!("?sslmode={mode}&sslrootcert={root}");
    for (host, parameters, tls) in [
        ("127.0.0.1", String::new(), true),
        ("127.0.0.1", "?sslmode=disable".to_owned(), false),
        ("127.0.0.1", "?sslmode=allow".to_owned(), false),
        ("127.0.0.1", named("require"), true),
        ("127.0.0.1", named("verify-ca"), true),
        ("localhost", named("verify-full"), true),
        ("localhost", format!("?sslrootcert={root}"), true),
    ] {
        assert_eq!(encrypted(&url(host, &parameters)).await.unwrap(), tls, "{host} {parameters}");
    }
    // A second way is tried where the first is refused, and only where the mode lets it.
    let of = |role: &str, mode: &str| format!("postgres://{role}@127.0.0.1:{}/postgres?sslmode={mode}", server.port());
    assert!(encrypted(&of("only_tls", "allow")).await.unwrap());
    assert!(!encrypted(&of("only_plain", "prefer")).await.unwrap());
    assert!(encrypted(&of("only_tls", "disable")).await.unwrap_err().denied());
    assert!(encrypted(&of("only_plain", "require")).await.unwrap_err().denied());

    for (host, parameters, why) in [
        (
            "localhost",
            "?sslmode=verify-full".to_owned(),
            Insecurity::UnknownIssuer("that this system trusts".to_owned()),
        ),
        ("localhost", "?sslmode=verify-ca".to_owned(), Insecurity::UnknownIssuer("that this system trusts".to_owned())),
        (
            "127.0.0.1",
            named("verify-full"),
            Insecurity::OtherName { host: "127.0.0.1".to_owned(), names: vec!["localhost".to_owned()] },
        ),
    ] {
        match encrypted(&url(host, &parameters)).await.unwrap_err() {
            Error::Insecure { why: found, .. } => assert_eq!(found, why),
            // A system can be without any roots.
            Error::Tls(error) => assert!(error.contains("sslrootcert"), "{error}"),
            error => panic!("{host} {parameters}: {error}"),
        }
    }
    let missing = encrypted(&url("localhost", "?sslmode=verify-full&sslrootcert=/none.pem")).await.unwrap_err();
    assert!(matches!(missing, Error::File { parameter: "sslrootcert", .. }), "{missing}");
    // Whoever is asked to cancel is asked as safely.
    let connector = Connector::new(&url("localhost", &named("verify-full")), "test").unwrap();
    let session = connector.session().await.unwrap();
    connector.cancel(&session.canceller()).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_is_not_the_issuers_is_named_and_final() {
    let (server, _) = with_tls("").await;
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let root = other.path().join("root.pem");
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = server.url("postgres").replace("127.0.0.1", "localhost");
        let error = encrypted(&format!("{url}?sslmode={mode}&sslrootcert={}", root.display())).await.unwrap_err();
        assert!(!error.retryable(), "{error}");
        let told = error.to_string();
        assert!(told.contains(&root.display().to_string()) && told.contains("sslrootcert=FILE"), "{told}");
    }
}

#[tokio::test]
async fn a_server_without_tls_serves_prefer_and_not_require() {
    let url = throwaway::shared().await.database("tls").await.unwrap();
    assert!(!encrypted(&url).await.unwrap());
    // 0.0.0.0 is this machine on Linux, and no address of the loopback interface.
    let elsewhere = url.replace("127.0.0.1", "0.0.0.0");
    for (url, mode) in [(format!("{url}?sslmode=require"), "require"), (elsewhere.clone(), "verify-full")] {
        let error = encrypted(&url).await.unwrap_err();
        assert!(matches!(error, Error::Insecure { why: Insecurity::NoTls, .. }), "{error}");
        let told = error.to_string();
        assert!(!error.retryable() && told.contains("sslmode=disable") && told.contains(mode), "{told}");
    }
    assert!(!encrypted(&format!("{elsewhere}?sslmode=disable")).await.unwrap());
}

#[tokio::test]
async fn a_role_proves_itself_by_a_certificate() {
    let (server, root) = with_tls("hostssl all certified all cert").await;
    server.command("CREATE ROLE certified LOGIN").await.unwrap();
    let file = |name: &str| server.directory().join(name);
    let base = format!("postgres://certified@localhost:{}/postgres?sslrootcert={}", server.port(), root.display());
    let own = format!("{base}&sslcert={}&sslkey={}", file("own.pem").display(), file("own.key").display());
    assert!(encrypted(&own).await.unwrap());
    assert!(encrypted(&base).await.is_err());

    let foreign = format!("{base}&sslcert={}&sslkey={}", file("own.pem").display(), file("key.pem").display());
    let error = encrypted(&foreign).await.unwrap_err();
    assert!(matches!(error, Error::File { parameter: "sslkey", .. }), "{error}");
    fs::set_permissions(file("own.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = encrypted(&own).await.unwrap_err();
    assert!(error.to_string().contains("chmod"), "{error}");
}

#[tokio::test]
async fn a_passfile_has_the_password_and_nobody_else_may_read_it() {
    let url = throwaway::shared().await.database("passfile").await.unwrap();
    let (_, rest) = url.split_once("postgres://postgres:").unwrap();
    let (password, place) = rest.split_once('@').unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgpass");
    let write = |text: &str, mode: u32| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let url = format!("postgres://postgres@{place}?passfile={}", file.display());
    write(&format!("127.0.0.1:*:*:postgres:{password}"), 0o600);
    assert!(connect(&url, "test").await.is_ok());
    write(&format!("127.0.0.1:*:*:postgres:{password}"), 0o640);
    let open = connect(&url, "test").await.unwrap_err();
    assert!(open.to_string().contains("chmod 0600"), "{open}");
    write("elsewhere:*:*:postgres:hunter2", 0o600);
    let unfit = connect(&url, "test").await.unwrap_err();
    assert!(matches!(unfit, Error::File { parameter: "passfile", .. }), "{unfit}");
    assert!(!format!("{unfit} {unfit:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_url_in_a_file_is_read_again_when_it_changes_and_pools_take_the_new_one() {
    let server = throwaway::shared().await;
    let url = server.database("file").await.unwrap();
    let (client, _task) = connect(&url, "test").await.unwrap();
    client.batch_execute("CREATE ROLE rotated LOGIN PASSWORD 'first'").await.unwrap();
    let of = |password: &str| url.replace(url.split('@').next().unwrap(), &format!("postgres://rotated:{password}"));
    let dir = tempfile::tempdir().unwrap();
    // As Kubernetes mounts a Secret: a link to a file of a folder that is a link itself.
    fs::create_dir(dir.path().join("1")).unwrap();
    fs::write(dir.path().join("1/main"), of("first") + "\n").unwrap();
    std::os::unix::fs::symlink("1", dir.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/main", dir.path().join("main")).unwrap();
    let connector = Connector::new(&format!("@{}", dir.path().join("main").display()), "test").unwrap();
    let (sessions, clients) = (connector.sessions(1).unwrap(), connector.pool(1).unwrap());
    let pid = "SELECT pg_backend_pid()";
    let session = sessions.get().await.unwrap();
    let before: i32 = session.query_one(pid, &[]).await.unwrap().get(0);
    drop(session);
    drop(clients.get().await.unwrap());

    client.batch_execute("ALTER ROLE rotated PASSWORD 'second'").await.unwrap();
    assert!(connector.session().await.unwrap_err().denied());
    fs::create_dir(dir.path().join("2")).unwrap();
    fs::write(dir.path().join("2/main"), of("second")).unwrap();
    std::os::unix::fs::symlink("2", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    assert!(connector.changed());
    connector.session().await.unwrap();
    assert!(!connector.changed());
    let session = sessions.get().await.unwrap();
    assert_ne!(
        session.query_one(pid, &[]).await.unwrap().get::<_, i32>(0),
        before,
        "it was made with the old password"
    );
    drop(clients.get().await.unwrap());
}

#[tokio::test]
async fn a_file_that_holds_no_url_is_named_and_its_content_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("words"), "postgres://u:hunter@h/d postgres://u:hunter@h/e").unwrap();
    fs::write(path("parameter"), "postgres://u:hunter@2@h/d?hunter=1").unwrap();
    fs::write(path("other"), "mysql://u:hunter@h/d").unwrap();
    fs::write(path("again"), "@/hunter").unwrap();
    fs::write(path("empty"), "\n").unwrap();
    fs::write(path("binary"), [0xff, 0xfe]).unwrap();
    fs::write(path("large"), vec![b'h'; (1 << 20) + 1]).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    for name in ["words", "parameter", "other", "again", "empty", "binary", "large", "pipe", "none", "."] {
        let error = Connector::new(&format!("@{}", path(name).display()), "test").unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(told.contains(&path(name).display().to_string()) && !told.contains("hunter"), "{told}");
    }
}
