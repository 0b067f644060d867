//! The one way to connect to a controller.
//!
//! All controllers are equal, so several URLs are tried in turn, and the first whose controller serves is taken: it is asked
//! for its health, since one that is stopped, or has lost its database, still accepts connections. Where none serves, one
//! that at least answers is taken, and its refusals say why.
//!
//! A connection whose other end is gone is noticed by HTTP/2 pings within about 10 seconds, also while nothing is said. A
//! channel connects again by itself, but only to the URL it was made for: who loses a stream calls [`choose`] again, with
//! [`Order::Random`], so that the clients of a controller that is gone spread over those that are left.

use std::error::Error as _;
use std::time::Duration;

use rand::seq::SliceRandom;
use tonic::Code;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::MESSAGE_LIMIT;
use crate::fit::WORK_LIMIT;
use crate::foreign;
use crate::v1::agent_service_client::AgentServiceClient;
use crate::v1::fleet_service_client::FleetServiceClient;
use crate::v1::registry_service_client::RegistryServiceClient;
use crate::v1::run_service_client::RunServiceClient;

/// Where a controller listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7440";

/// The longest list of headers or trailers that is accepted: errors carry long lists of problems there.
const HEADERS_LIMIT: u32 = 1024 * 1024;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each URL may take.
    pub timeout: Duration,
    /// How often the other end is asked for a sign of life.
    pub keepalive: Duration,
    /// How long it may take to give one.
    pub keepalive_timeout: Duration,
    /// In which order the URLs are tried.
    pub order: Order,
    /// What the client calls itself, such as "dunlin-agent/0.1.0".
    pub user_agent: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            keepalive: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            order: Order::AsNamed,
            user_agent: concat!("dunlin/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// In which order URLs are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were named.
    #[default]
    AsNamed,
    /// In a random one.
    Random {
        /// What comes last all the same: the URL that has just failed.
        last: Option<String>,
    },
}

impl Order {
    fn arrange<T>(&self, urls: &mut [T], url: impl Fn(&T) -> &str) {
        match self {
            Self::AsNamed => {}
            Self::Random { last } => {
                urls.shuffle(&mut rand::rng());
                urls.sort_by_key(|one| last.as_deref() == Some(url(one)));
            }
        }
    }
}

/// A controller that answers.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its URL, as it was named.
    pub url: String,
    /// The connection.
    pub channel: Channel,
    /// Whether it says that it serves. Otherwise no other one does, and it will refuse with a reason.
    pub serves: bool,
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No URL was given.
    #[error("no controller is named; give its URL, such as {DEFAULT_URL}")]
    NoUrl,
    /// A URL cannot be used.
    #[error("{url:?} is not the URL of a controller: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No URL answered.
    #[error("no controller answers: {}", tried(.0))]
    Unreachable(Vec<Attempt>),
}

/// A URL that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The URL.
    pub url: String,
    /// What happened.
    pub reason: String,
}

fn tried(attempts: &[Attempt]) -> String {
    let list: Vec<String> = attempts.iter().map(|attempt| format!("{}: {}", attempt.url, attempt.reason)).collect();
    list.join("; ")
}

/// Whether texts are URLs of controllers, separated by commas. Nothing is connected.
///
/// # Errors
/// A URL cannot be used, or there is none.
pub fn validate(urls: &str) -> Result<(), Error> {
    endpoints(urls, &Options::default()).map(drop)
}

fn endpoints(urls: &str, options: &Options) -> Result<Vec<(String, Endpoint)>, Error> {
    let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
    let endpoints = urls.map(|url| endpoint(url, options)).collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() { Err(Error::NoUrl) } else { Ok(endpoints) }
}

/// Connects to the first controller that serves, or else to one that answers. The URLs are separated by commas; `https` trusts
/// the system's roots.
///
/// # Errors
/// A URL cannot be used, or none answers.
pub async fn connect(urls: &str, options: &Options) -> Result<Channel, Error> {
    choose(urls, options).await.map(|choice| choice.channel)
}

/// As [`connect`], and tells which controller it is.
///
/// # Errors
/// A URL cannot be used, or none answers.
pub async fn choose(urls: &str, options: &Options) -> Result<Choice, Error> {
    let mut endpoints = endpoints(urls, options)?;
    let named: Vec<String> = endpoints.iter().map(|(url, _)| url.clone()).collect();
    options.order.arrange(&mut endpoints, |(url, _)| url);
    let mut attempts = Vec::new();
    let mut answering = None;
    for (url, endpoint) in endpoints {
        // The time limit of the endpoint is that of TCP; this one holds for TLS and for the first answer too.
        let reason = match tokio::time::timeout(options.timeout, ask(&url, &endpoint)).await {
            Ok(Ok((channel, true))) => return Ok(Choice { url, channel, serves: true }),
            Ok(Ok((channel, false))) => {
                answering.get_or_insert(Choice { url, channel, serves: false });
                continue;
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} s", options.timeout.as_secs_f32()),
        };
        attempts.push(Attempt { url, reason });
    }
    // In one order, whatever the order in which they were tried: who has told an error once knows it again.
    attempts.sort_by_key(|attempt| named.iter().position(|url| *url == attempt.url));
    answering.ok_or(Error::Unreachable(attempts))
}

/// Connects, and asks whether the controller serves.
async fn ask(url: &str, endpoint: &Endpoint) -> Result<(Channel, bool), String> {
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            return Err(foreign::heard(url).await.map_or_else(|| cause(&error), |foreign| foreign.to_string()));
        }
    };
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    match health {
        Ok(answer) => Ok((channel, answer.get_ref().status() == ServingStatus::Serving)),
        Err(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                let foreign = foreign::heard(url).await;
                Err(foreign.map_or_else(|| status.message().to_owned(), |foreign| foreign.to_string()))
            }
            // Whoever has no health answers all the same.
            _ => Ok((channel, true)),
        },
    }
}

fn endpoint(url: &str, options: &Options) -> Result<(String, Endpoint), Error> {
    let refused = |reason: String| Error::Url { url: url.to_owned(), reason };
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        return Err(refused("it must begin with http:// or https://".to_owned()));
    }
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .and_then(|endpoint| endpoint.user_agent(options.user_agent.clone()))
        .map_err(|error| refused(cause(&error)))?
        .connect_timeout(options.timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADERS_LIMIT);
    if secure {
        endpoint =
            endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(|error| refused(cause(&error)))?;
    }
    Ok((url.to_owned(), endpoint))
}

/// The innermost cause: what the system said, or what TLS means.
fn cause(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        if let Some(told) = foreign::of_tls(error) {
            return told;
        }
        text = error.to_string();
        inner = error.source();
    }
    // The number that the system has for it stands behind its words.
    text.split_once(" (os error ").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// The client of the registry, with the limits of this protocol.
#[must_use]
pub fn registry(channel: Channel) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

/// The client for runs, with the limits of this protocol.
#[must_use]
pub fn runs(channel: Channel) -> RunServiceClient<Channel> {
    RunServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}

/// The client for agents and targets, with the limits of this protocol.
#[must_use]
pub fn fleet(channel: Channel) -> FleetServiceClient<Channel> {
    FleetServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}

/// The client with which agents work, with the limits of this protocol.
#[must_use]
pub fn agent(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(WORK_LIMIT)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::status::{Details, invalid};
    use crate::v1::fleet_service_server::{FleetService, FleetServiceServer};
    use crate::v1::{
        Agent, ForgetAgentRequest, ForgetAgentResponse, ForgetTargetRequest, ForgetTargetResponse, ListAgentsRequest,
        ListAgentsResponse, ListTargetsRequest, ListTargetsResponse, RebindTargetRequest, RebindTargetResponse,
    };

    /// Answers `ListAgents` with one agent whose name has 20 MB, and refuses `ListTargets` with 2,000 problems.
    struct Loud;

    #[tonic::async_trait]
    impl FleetService for Loud {
        async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
            let agent = Agent { id: "x".repeat(20_000_000), ..Agent::default() };
            Ok(Response::new(ListAgentsResponse { agents: vec![agent], next_page_token: String::new() }))
        }

        async fn list_targets(&self, _: Request<ListTargetsRequest>) -> Result<Response<ListTargetsResponse>, Status> {
            Err(invalid("LOUD", "too loud", (0..2000).map(|i| (format!("file.toml:{i}:1"), "something is wrong here"))))
        }

        async fn rebind_target(
            &self,
            _: Request<RebindTargetRequest>,
        ) -> Result<Response<RebindTargetResponse>, Status> {
            Err(Status::unimplemented("it is loud, and nothing else"))
        }

        async fn forget_target(
            &self,
            _: Request<ForgetTargetRequest>,
        ) -> Result<Response<ForgetTargetResponse>, Status> {
            Err(Status::unimplemented("it is loud, and nothing else"))
        }

        async fn forget_agent(&self, _: Request<ForgetAgentRequest>) -> Result<Response<ForgetAgentResponse>, Status> {
            Err(Status::unimplemented("it is loud, and nothing else"))
        }
    }

    async fn serve() -> String {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let service = FleetServiceServer::new(Loud).max_encoding_message_size(MESSAGE_LIMIT);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        url
    }

    #[tokio::test]
    async fn the_first_url_that_answers_is_taken() {
        let url = serve().await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let channel = connect(&format!("http://{gone}, {url},"), &Options::default()).await.unwrap();
        let answer = fleet(channel).list_agents(ListAgentsRequest::default()).await.unwrap();
        assert_eq!(answer.get_ref().agents[0].id.len(), 20_000_000);
    }

    /// A controller whose health is this, as a URL.
    async fn healthy(status: tonic_health::ServingStatus) -> String {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", status).await;
        tokio::spawn(Server::builder().add_service(health).serve_with_incoming(incoming));
        url
    }

    #[tokio::test]
    async fn a_controller_that_serves_is_preferred_to_one_that_only_answers() {
        let away = healthy(tonic_health::ServingStatus::NotServing).await;
        let serves = healthy(tonic_health::ServingStatus::Serving).await;
        let choice = choose(&format!("{away},{serves}"), &Options::default()).await.unwrap();
        assert_eq!((choice.url, choice.serves), (serves, true));
        let choice = choose(&away, &Options::default()).await.unwrap();
        assert_eq!((choice.url, choice.serves), (away, false));
    }

    #[tokio::test]
    async fn a_controller_that_accepts_and_says_nothing_is_passed_over() {
        // The kernel accepts for it, as it does for a process that is stopped.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
        let serves = healthy(tonic_health::ServingStatus::Serving).await;
        let options = Options { timeout: Duration::from_millis(300), ..Options::default() };
        let choice = choose(&format!("{},{serves}", silent.0), &options).await.unwrap();
        assert_eq!(choice.url, serves);
    }

    /// Why there is no connection to a port that says this to whoever writes to it.
    async fn refused_by(says: &'static [u8]) -> String {
        refused_by_tls(says, says).await
    }

    /// The same where who begins with TLS hears something else.
    async fn refused_by_tls(says: &'static [u8], to_tls: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                let answer = if preface.starts_with(b"PRI") { says } else { to_tls };
                stream.write_all(answer).await.unwrap();
            }
        });
        connect(&url, &Options::default()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_port_that_speaks_tls_is_named_as_that() {
        let alert = refused_by(&[0x15, 3, 1, 0, 2, 2, 70]).await;
        assert!(alert.ends_with("this port speaks TLS: write https://"), "{alert}");
        let http = refused_by(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert!(http.contains("speaks no HTTP/2"), "{http}");
        let only_tls = refused_by_tls(b"", &[0x16, 3, 3, 0, 122, 2]).await;
        assert!(only_tls.ends_with("this port speaks TLS: write https://"), "{only_tls}");
        let mute = refused_by(b"").await;
        assert!(mute.contains("closes the connection without a word"), "{mute}");
    }

    #[test]
    fn clients_of_a_controller_that_is_gone_spread_over_those_that_are_left() {
        let order = Order::Random { last: Some("b".to_owned()) };
        let mut firsts = std::collections::BTreeMap::<&str, u32>::new();
        for _client in 0..3000 {
            let mut urls = ["a", "b", "c", "d"];
            order.arrange(&mut urls, |url| url);
            *firsts.entry(urls[0]).or_default() += 1;
            assert_eq!(urls[3], "b", "what has just failed comes last");
        }
        // The expected thousand, give or take six times the standard deviation.
        assert!(firsts.len() == 3 && firsts.values().all(|count| (845..=1155).contains(count)), "{firsts:?}");
    }

    #[tokio::test]
    async fn long_lists_of_problems_arrive_whole() {
        let channel = connect(&serve().await, &Options { order: Order::Random { last: None }, ..Options::default() })
            .await
            .unwrap();
        let status = fleet(channel).list_targets(ListTargetsRequest::default()).await.unwrap_err();
        let details = Details::of(&status);
        assert_eq!((details.reason.as_str(), details.fields.len()), ("LOUD", 2000));
    }

    #[tokio::test]
    async fn an_error_is_the_same_whatever_was_tried_first() {
        let gone = || async { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
        let urls = format!("http://{},http://{},http://{}", gone().await, gone().await, gone().await);
        let options = Options { order: Order::Random { last: None }, ..Options::default() };
        let mut told = std::collections::BTreeSet::new();
        for _time in 0..20 {
            told.insert(connect(&urls, &options).await.unwrap_err().to_string());
        }
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!told.first().unwrap().contains("os error"), "{told:?}");
    }

    #[tokio::test]
    async fn the_error_names_every_url_that_was_tried_and_why() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let urls = format!("http://{gone},http://no.such.host.invalid:7440");
        let Err(Error::Unreachable(attempts)) = connect(&urls, &Options::default()).await else {
            panic!("it connected")
        };
        assert_eq!(attempts[0].url, format!("http://{gone}"));
        assert!(attempts[0].reason.contains("refused"), "{attempts:?}");
        assert_eq!(attempts.len(), 2);
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused_before_anything_is_tried() {
        for urls in ["127.0.0.1:7440", "http://h, ftp://h", "http://a b"] {
            assert!(matches!(connect(urls, &Options::default()).await, Err(Error::Url { .. })), "{urls}");
        }
        assert!(matches!(connect(" , ", &Options::default()).await, Err(Error::NoUrl)));
    }
}
