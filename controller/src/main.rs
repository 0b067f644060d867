//! The program `dunlin-controller`.

use std::process::ExitCode;

use clap::Parser;
use dunlin_controller::{Config, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    dunlin_shared::telemetry::init("dunlin-controller");
    let _faults = dunlin_shared::failpoint::Scenario::from_environment();
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
