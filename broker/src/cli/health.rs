//! `qbroker health`: what a container's health check and a script ask.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use qbroker::exit::Exit;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Outcome;
use super::failure::{Failure, say, unreached};
use super::globals::Globals;
use super::output::write_out;

/// The longest answer that is read from an HTTP probe.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Exits with 0 where the broker is ready, else with 1.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Ask /readyz on this HTTP address instead of gRPC; needs no certificate and no token.
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:7651")]
    http: Option<SocketAddr>,
}

impl HealthArgs {
    /// Asks once.
    pub(super) fn run(&self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let patience = globals.timeout.min(Duration::from_secs(10));
            let asked = match self.http {
                Some(address) => tokio::time::timeout(patience, ask_http(address)).await,
                None => tokio::time::timeout(patience, ask_grpc(globals)).await,
            };
            let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")));
            match answer {
                Ok(answer) => {
                    if !globals.quiet {
                        write_out(&format!("{answer}\n"))?;
                    }
                    Ok(Exit::Ok)
                }
                Err(reason) => {
                    say(&reason);
                    Ok(Exit::Negative)
                }
            }
        })
    }
}

/// Asks `grpc.health.v1`, as any gRPC probe would.
async fn ask_grpc(globals: &Globals) -> Result<String, String> {
    let endpoint = endpoint(globals).map_err(|failure| failure.to_string())?;
    let channel =
        endpoint.connect().await.map_err(|error| nobody(&globals.url, &causes(&error)))?;
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.map_err(|status| match std::error::Error::source(&status) {
        // The transport's own, which says less than what it was caused by.
        Some(cause) => nobody(&globals.url, &causes(cause)),
        None => format!("{}: {}", globals.url, status.message()),
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok("ready".to_owned()),
        other => Err(format!("the broker is {}", other.as_str_name())),
    }
}

fn nobody(url: &str, why: &str) -> String {
    format!("nobody answers at {url}: {why}; {}", unreached(url))
}

fn endpoint(globals: &Globals) -> Result<Endpoint, Failure> {
    let bad = |error: tonic::transport::Error| {
        Failure::new(Exit::Usage, format!("url {:?}: {}", globals.url, causes(&error)))
    };
    let endpoint = Endpoint::from_shared(globals.url.clone()).map_err(bad)?;
    // As every other command: it would be left out.
    if !matches!(endpoint.uri().path(), "" | "/") {
        let why = format!("url {:?}: a broker is not found below a path", globals.url);
        return Err(Failure::new(Exit::Usage, why));
    }
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let tls = match globals.ca()? {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    endpoint.tls_config(tls).map_err(bad)
}

fn causes(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.map(ToString::to_string).fold(error.to_string(), |text, cause| match text.as_str() {
        // It says nothing that is not plain.
        "transport error" => cause,
        // Many an error repeats its cause in its own words.
        told if told.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

/// Asks `/readyz` with the least HTTP there is.
async fn ask_http(address: SocketAddr) -> Result<String, String> {
    let unreachable = |error| format!("nobody answers at {address}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.map_err(unreachable)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.map_err(unreachable)?;
    let status = answer.split(' ').nth(1);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    match status {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("the broker is not ready: {body}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// An address that gives `answer` to one caller.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 24];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn only_a_200_is_ready() {
        let ready = answering("HTTP/1.0 200 OK\r\n\r\nready\n").await;
        assert_eq!(ask_http(ready).await, Ok("ready".to_owned()));
        let stopping = answering("HTTP/1.0 503 Service Unavailable\r\n\r\nstopping\n").await;
        let expected = Err("the broker is not ready: stopping".to_owned());
        assert_eq!(ask_http(stopping).await, expected);
        assert!(ask_http(answering("").await).await.is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = ask_http(address).await.expect_err("nobody listens");
        assert!(error.starts_with("nobody answers at "), "{error}");
    }
}
