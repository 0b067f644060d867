//! The program `dunlin-controller`.

use std::process::ExitCode;

use clap::Parser;
use dunlin_controller::{Config, serve};
use dunlin_shared::open_files;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    dunlin_shared::telemetry::init("dunlin-controller");
    let _faults = dunlin_shared::failpoint::Scenario::from_environment();
    match open_files::raise_limit() {
        Ok(limit) => tracing::debug!(limit, "so many connections and files may be open"),
        Err(error) => {
            tracing::info!(%error, "the limit of open files could not be raised; it limits how many agents can connect")
        }
    }
    let stop = CancellationToken::new();
    let (interrupted, terminated) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupted), Ok(terminated)) => (interrupted, terminated),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    tokio::spawn(stop_on_signal(interrupted, terminated, stop.clone()));
    match serve(&config, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "dunlin-controller cannot serve");
            ExitCode::FAILURE
        }
    }
}

async fn stop_on_signal(
    mut interrupted: tokio::signal::unix::Signal,
    mut terminated: tokio::signal::unix::Signal,
    stop: CancellationToken,
) {
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("told to stop");
    stop.cancel();
}
