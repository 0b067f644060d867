//! Calls to whichever controller answers, again and again until one does.

use std::time::Duration;

use dunlin_proto::client::{self, Options, Order};
use dunlin_proto::status::Details;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The controllers.
#[derive(Debug)]
pub(crate) struct Api {
    urls: String,
    channel: Mutex<Option<Channel>>,
}

impl Api {
    /// The controllers at URLs with commas between.
    pub(crate) fn new(urls: String) -> Self {
        Self { urls, channel: Mutex::new(None) }
    }

    /// Connects to any controller that answers.
    pub(crate) async fn connect(&self) -> Option<Channel> {
        let options = Options { order: Order::Random { last: None }, ..Options::default() };
        client::connect(&self.urls, &options).await.ok()
    }

    /// Calls until a controller has answered: with a response, or with an error that a repetition does not change.
    ///
    /// # Errors
    /// The controllers refuse.
    pub(crate) async fn call<Q: Clone, T, F>(
        &self,
        request: Q,
        send: impl Fn(Channel, Q) -> F,
    ) -> Result<T, Box<Status>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let known = self.channel.lock().await.clone();
            let channel = match known {
                Some(channel) => Some(channel),
                None => self.connect().await,
            };
            if let Some(channel) = channel {
                match timeout(LIMIT, send(channel.clone(), request.clone())).await {
                    Ok(Ok(response)) => {
                        *self.channel.lock().await = Some(channel);
                        return Ok(response.into_inner());
                    }
                    Ok(Err(status)) if !passes(&status) => return Err(Box::new(status)),
                    Ok(Err(_)) | Err(_) => *self.channel.lock().await = None,
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// True for an error that a fault explains: the way to the controller broke, or the controller cannot work just now.
pub(crate) fn passes(status: &Status) -> bool {
    // What a controller says itself has a reason; what the transport says has none.
    matches!(
        Details::of(status).reason.as_str(),
        "" | "DATABASE_UNAVAILABLE" | "STOPPING" | "CONFLICT" | "TARGET_UNREACHED"
    )
}
