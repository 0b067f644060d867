//! Connections against a real server, with and without TLS.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;

use super::throwaway::{self, Server};
use super::*;

/// A server that speaks TLS with a certificate for `localhost`, and the file with the root that signed it.
async fn with_tls() -> (Server, PathBuf) {
    let server = Server::start().await.unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();

    let dir = server.directory();
    let owner = fs::metadata(dir).unwrap();
    for (name, text) in [("root.pem", root.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())] {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    for (name, value) in [
        ("ssl_cert_file", dir.join("cert.pem").display().to_string()),
        ("ssl_key_file", dir.join("key.pem").display().to_string()),
        ("ssl", "on".to_owned()),
    ] {
        server.command(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    server.command("SELECT pg_reload_conf()").await.unwrap();
    let root = dir.join("root.pem");
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
    let (server, root) = with_tls().await;
    let url = |host: &str, parameters: &str| server.url("postgres").replace("127.0.0.1", host) + parameters;
    let root = root.display().to_string();
    // The server reads its new settings a moment after it was told to.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while encrypted(&url("127.0.0.1", "?sslmode=require")).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the server does not speak TLS");
    }
    assert!(encrypted(&url("127.0.0.1", "")).await.unwrap());
    assert!(!encrypted(&url("127.0.0.1", "?sslmode=disable")).await.unwrap());
    assert!(encrypted(&url("localhost", &format!("?sslmode=verify-full&sslrootcert={root}"))).await.unwrap());
    assert!(encrypted(&url("localhost", &format!("?sslmode=require&sslrootcert={root}"))).await.unwrap());

    let stranger = encrypted(&url("localhost", "?sslmode=verify-full")).await.unwrap_err();
    assert!(matches!(stranger, Error::Connect { .. } | Error::Tls(_)), "{stranger}");
    let misnamed = encrypted(&url("127.0.0.1", &format!("?sslmode=verify-full&sslrootcert={root}"))).await.unwrap_err();
    assert!(matches!(misnamed, Error::Connect { .. }), "{misnamed}");
    assert!(misnamed.to_string().contains("certificate"), "{misnamed}");
    let missing = encrypted(&url("localhost", "?sslmode=verify-full&sslrootcert=/none.pem")).await.unwrap_err();
    assert!(matches!(missing, Error::RootCertificates { .. }), "{missing}");
}

#[tokio::test]
async fn a_server_without_tls_serves_prefer_and_not_require() {
    let url = throwaway::shared().await.database("tls").await.unwrap();
    assert!(!encrypted(&url).await.unwrap());
    let error = encrypted(&format!("{url}?sslmode=require")).await.unwrap_err();
    assert!(error.retryable() && !error.denied() && error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_connection_to_a_server_itself_was_told_the_number_of_its_process() {
    let (server, _root) = with_tls().await;
    let pid = "SELECT pg_backend_pid()";
    let mut last = 0;
    for parameters in ["?sslmode=disable", "?sslmode=prefer", "?sslmode=require"] {
        let url = server.url("postgres") + parameters;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let (client, _task) = loop {
            match connect(&url, "test").await {
                Ok(connected) => break connected,
                // The server reads its new settings a moment after it was told to.
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        };
        let told = told_pid(&client.cancel_token()).await.unwrap();
        assert_eq!(client.query_one(pid, &[]).await.unwrap().get::<_, i32>(0), told, "{parameters}");
        assert_ne!(told, last);
        last = told;
    }
}

#[tokio::test]
async fn a_refused_password_is_told_with_its_sqlstate_and_not_shown() {
    let server = throwaway::shared().await;
    let url = format!("postgres://postgres:hunter@127.0.0.1:{}/postgres", server.port());
    let error = connect(&url, "test").await.unwrap_err();
    assert!(error.denied(), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("28P01") && told.contains("postgres@127.0.0.1"), "{told}");
    assert!(!format!("{told}{error:?}{:?}", Connector::new(&url, "test").unwrap()).contains("hunter"));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = connect(&format!("postgres://u@127.0.0.1:{port}/d?connect_timeout=1"), "test").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let pool = pool(&format!("postgres://u@127.0.0.1:{port}/d?connect_timeout=1"), "test", 1).unwrap();
    assert!(matches!(pool.get().await, Err(deadpool_postgres::PoolError::Timeout(_))));
}

#[tokio::test]
async fn notifications_arrive_until_the_connection_is_lost() {
    let url = throwaway::shared().await.database("listen").await.unwrap();
    let (listener, mut notifications) = listen(&url, "test").await.unwrap();
    listener.batch_execute("LISTEN things").await.unwrap();
    let pool = pool(&url, "test", 2).unwrap();
    pool.get().await.unwrap().batch_execute("NOTIFY things, 'one'").await.unwrap();
    assert_eq!(notifications.recv().await.unwrap().payload(), "one");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                AND datname = current_database() AND query = 'LISTEN things'";
    pool.get().await.unwrap().batch_execute(kill).await.unwrap();
    assert!(notifications.recv().await.is_none());
}

#[tokio::test]
async fn what_a_connection_executes_can_be_cancelled() {
    let url = throwaway::shared().await.database("cancel").await.unwrap();
    let connector = Connector::new(&url, "test").unwrap();
    let session = connector.session().await.unwrap();
    let canceller = session.canceller();
    let work = session.batch_execute("SELECT pg_sleep(60)");
    let cancel = async {
        loop {
            connector.cancel(&canceller).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let error = tokio::select! {
        done = work => done.unwrap_err(),
        () = cancel => unreachable!("it goes on until the work ends"),
    };
    assert!(describe(&error).contains("57014"), "{}", describe(&error));
}

#[tokio::test]
async fn a_session_hears_notices_with_and_without_tls_and_refuses_a_message_that_is_too_long() {
    let (server, _root) = with_tls().await;
    for parameters in ["?sslmode=disable", "?sslmode=prefer", "?sslmode=require"] {
        let connector = Connector::new(&(server.url("postgres") + parameters), "test").unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let pool = connector.sessions(2).unwrap();
        let session = loop {
            match pool.get().await {
                Ok(session) => break session,
                // The server reads its new settings a moment after it was told to.
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        };
        let sql = "SELECT 1; DO $$ BEGIN RAISE WARNING 'look' USING DETAIL = 'twice', HINT = 'now'; END $$;
                   CREATE TEMP TABLE t (n int); CREATE TEMP TABLE IF NOT EXISTS t (n int)";
        session.batch_execute(sql).await.unwrap();
        let heard = session.heard();
        let [notice] = heard.notices.as_slice() else { panic!("{heard:?}") };
        assert_eq!((notice.level, notice.message.as_str(), notice.command), (Level::Warning, "look", 1));
        assert_eq!((notice.detail.as_str(), notice.hint.as_str()), ("twice", "now"));
        assert!(notice.context.contains("inline_code_block"), "{notice:?}");
        let [skip] = heard.skips.as_slice() else { panic!("{heard:?}") };
        assert_eq!((skip.code.as_str(), skip.command), ("42P07", 3));

        let fits = session.simple_query("SELECT repeat('x', 15 * 1024 * 1024)").await.unwrap();
        assert_eq!(fits.len(), 3);
        for sql in ["SELECT repeat('x', 16 * 1024 * 1024)", "DO $$ BEGIN RAISE '%', repeat('x', 17000000); END $$"] {
            let session = connector.session().await.unwrap();
            let error = session.batch_execute(sql).await.unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some(OVERSIZED), "{error:?}");
            assert!(describe(&error).contains("16 MiB"), "{}", describe(&error));
            assert!(session.batch_execute("SELECT 1").await.unwrap_err().is_closed());
        }
        let sql = "DO $$ BEGIN RAISE NOTICE '%', repeat('x', 17000000); END $$";
        session.batch_execute(sql).await.unwrap();
        assert_eq!(session.heard().notices.len(), 1);
    }
}
