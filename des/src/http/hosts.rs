//! Under which names the page and its API are asked for. A browser that was sent to a name of
//! somebody else's, which then leads here (DNS rebinding), would take this page for that one's own:
//! it says which name it means, and is refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::{Answers, problem};

/// Lets a request pass that names an address, localhost, or a name of `http.allowed_hosts`.
pub(super) async fn only_known(
    State(answers): State<Arc<Answers>>,
    request: Request,
    next: Next,
) -> Response {
    if is_known(request.headers(), &answers.allowed_hosts) {
        return next.run(request).await;
    }
    let why = "this name is not one of this coordinator's: ask by address or localhost, or add the \
               name to http.allowed_hosts";
    problem(StatusCode::FORBIDDEN, why)
}

fn is_known(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|it| it.parse::<Authority>().ok()) else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn addresses_localhost_and_what_is_configured() {
        let asked = |hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            is_known(&headers, &["des.example.org".to_owned()])
        };
        for known in [
            "127.0.0.1:8080",
            "10.1.2.3",
            "[::1]:8080",
            "localhost",
            "LOCALHOST:8080",
            "a.localhost:80",
            "des.example.org",
            "DES.example.org.:443",
        ] {
            assert!(asked(&[known]), "{known}");
        }
        for other in [
            "evil.example",
            "127.0.0.1.evil.example:8080",
            "des.example.org.evil",
            "a@127.0.0.1",
            "",
        ] {
            assert!(!asked(&[other]), "{other}");
        }
        assert!(!asked(&[]) && !asked(&["127.0.0.1", "127.0.0.1"]));
    }
}
