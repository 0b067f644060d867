//! Connections against a real server.

use std::time::Duration;

use tokio::net::TcpListener;

use super::live_tls::with_tls;
use super::throwaway;
use super::*;

#[tokio::test]
async fn a_connection_to_a_server_itself_was_told_the_number_of_its_process() {
    let (server, _root) = with_tls("").await;
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
    assert!(matches!(
        pool.get().await,
        Err(deadpool::managed::PoolError::Timeout(_) | deadpool::managed::PoolError::Backend(Error::Timeout { .. }))
    ));
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
    let (server, _root) = with_tls("").await;
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
