//! The broker's own figures, from its `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::system::Fallible;

/// Figures of one moment, by name; those with labels are added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposition(String);

/// A broker that takes so long to tell its figures is stuck.
const WITHIN: Duration = Duration::from_secs(30);

impl Exposition {
    /// Asks the broker whose HTTP address this is.
    pub(crate) async fn read(address: SocketAddr) -> Fallible<Self> {
        let text = tokio::time::timeout(WITHIN, get(address)).await;
        let text = text.context("no answer").flatten().context("cannot read /metrics")?;
        let (head, body) = text.split_once("\r\n\r\n").context("/metrics: not HTTP")?;
        ensure!(head.split(' ').nth(1) == Some("200"), "/metrics: {head}");
        Ok(Self(body.to_owned()))
    }

    /// The metric's value, over all its labels.
    ///
    /// # Errors
    ///
    /// The broker tells no such metric.
    pub(crate) fn value(&self, name: &str) -> Fallible<f64> {
        let values: Vec<f64> = self.0.lines().filter_map(|line| value_of(line, name)).collect();
        ensure!(!values.is_empty(), "/metrics has no {name}");
        Ok(values.iter().sum())
    }
}

/// A line is `name value` or `name{labels} value`.
fn value_of(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let rest = match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once('}')?.1,
        None => rest,
    };
    rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()
}

/// HTTP/1.0: the answer is not in chunks, and ends with the connection.
async fn get(address: SocketAddr) -> Fallible<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_up_and_names_are_whole() {
        let text = "# TYPE a gauge\na{queue=\"x{}\"} 2\na{queue=\"y\"} 3.5\na_total 9\n# EOF\n";
        let exposition = Exposition(text.to_owned());
        assert_eq!(exposition.value("a").unwrap(), 5.5);
        assert_eq!(exposition.value("a_total").unwrap(), 9.0);
        exposition.value("b").unwrap_err();
    }
}
