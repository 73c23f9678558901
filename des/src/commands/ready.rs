//! `des ready`: whether a service on this machine does its work, for those who cannot ask over HTTP
//! themselves, such as a container without a shell.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::ReadyArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output};

/// What is read of an answer. A service says a line, for each of several jobs.
const ANSWER_BYTES: u64 = 16 * 1024;

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Readiness {
    ready: bool,
    /// What the service does, or why it does not do its work.
    says: String,
}

pub(super) async fn run(args: ReadyArgs, output: Output) -> Result<Exit, Failure> {
    // One process has one address, however many jobs it serves.
    let config = &Config::load_all(&args.config.config)?[0];
    let listens = config.http.listen.filter(|address| address.port() != 0);
    let address = near(listens.ok_or_else(|| {
        Failure::usage(format!(
            "{}: `http.listen` names no address that a service could be asked at",
            config.path.display()
        ))
    })?);
    let answer = timeout(args.timeout, ask(address)).await;
    let answer = answer.with_context(|| format!("{address} did not answer in time"))??;
    let readiness = parse(&answer).with_context(|| format!("{address} answers something else"))?;
    output.result(&readiness, |it| it.says.clone())?;
    Ok(if readiness.ready { Exit::Done } else { Exit::Failed })
}

/// Where a service that listens at `address` is reached from its own machine.
pub(super) fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let nobody = || format!("nobody answers at {address}: does a service run there?");
    let mut stream = TcpStream::connect(address).await.with_context(nobody)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.with_context(nobody)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await.with_context(nobody)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// 200 and 503 are what `/readyz` answers; `None` for anything else.
fn parse(answer: &str) -> Option<Readiness> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (version, status) = head.lines().next()?.split_once(' ')?;
    let ready = match status.split(' ').next()? {
        "200" => true,
        "503" => false,
        _ => return None,
    };
    let says = body.trim_end().to_owned();
    version.starts_with("HTTP/1.").then_some(Readiness { ready, says })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.7:9090", "10.0.0.7:9090"),
        ] {
            assert_eq!(near(listens.parse().expect(listens)).to_string(), asked);
        }
    }

    #[test]
    fn only_answers_of_readyz_count() {
        let said = |answer| parse(answer).map(|it| (it.ready, it.says));
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nleading\n";
        assert_eq!(said(ok), Some((true, "leading".to_owned())));
        let not = "HTTP/1.1 503 Service Unavailable\r\n\r\nno broker";
        assert_eq!(said(not), Some((false, "no broker".to_owned())));
        for other in ["HTTP/1.1 404 Not Found\r\n\r\n", "SSH-2.0-x 200\r\n\r\n", "HTTP/1.1 200", ""]
        {
            assert_eq!(said(other), None, "{other}");
        }
    }
}
