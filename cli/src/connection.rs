//! The way to a controller: any of those that were named.
//!
//! Each command connects once. What follows runs connects again whenever the stream breaks, to any of the other controllers,
//! so that one that answers but cannot serve does not hold it up.

use dunlin_proto::client::{self, Choice, Order};
use dunlin_proto::v1::fleet_service_client::FleetServiceClient;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use tonic::transport::Channel;

use crate::error::Error;

/// The controllers that were named.
#[derive(Debug, Clone)]
pub(crate) struct Controllers {
    urls: String,
}

impl Controllers {
    pub(crate) fn new(urls: impl Into<String>) -> Self {
        Self { urls: urls.into() }
    }

    /// As they were named.
    pub(crate) fn urls(&self) -> &str {
        &self.urls
    }

    /// Connects to the first that serves.
    pub(crate) async fn connect(&self) -> Result<Channel, Error> {
        self.choose(&Order::AsNamed).await.map(|choice| choice.channel)
    }

    /// Connects to the first that serves, in an order.
    pub(crate) async fn choose(&self, order: &Order) -> Result<Choice, Error> {
        let options = client::Options { order: order.clone(), ..client::Options::default() };
        client::choose(&self.urls, &options).await.map_err(|error| match error {
            client::Error::NoUrl | client::Error::Url { .. } => {
                Error::Usage(format!("{error}\nSet --controller or DUNLIN_CONTROLLER."))
            }
            client::Error::Unreachable(_) => Error::Unreachable(format!(
                "{error}\nStart a controller (`dunlin dev` starts everything on this machine), or say where one is with \
                 --controller or DUNLIN_CONTROLLER."
            )),
        })
    }

    pub(crate) async fn registry(&self) -> Result<RegistryServiceClient<Channel>, Error> {
        Ok(client::registry(self.connect().await?))
    }

    pub(crate) async fn runs(&self) -> Result<RunServiceClient<Channel>, Error> {
        Ok(client::runs(self.connect().await?))
    }

    pub(crate) async fn fleet(&self) -> Result<FleetServiceClient<Channel>, Error> {
        Ok(client::fleet(self.connect().await?))
    }
}
