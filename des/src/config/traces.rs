//! Where traces go.

/// What counts where the key is empty: OpenTelemetry's own variable.
const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Where traces go, and of which windows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TracingConfig {
    /// Scheme, host and port, and a path if there is one, without a slash at its end.
    pub(crate) endpoint: String,
    /// The part of windows that a coordinator traces, 0 to 1.
    pub(crate) sample_ratio: f64,
}

impl TracingConfig {
    /// `None` where neither key nor variable names an endpoint: nothing is traced.
    ///
    /// # Errors
    /// The key or variable that is wrong, and why; never what stands there, which may be a secret.
    pub(super) fn new(
        configured: Option<String>,
        sample_ratio: f64,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, (&'static str, &'static str)> {
        if !(0.0..=1.0).contains(&sample_ratio) {
            return Err(("tracing.sample_ratio", "it must lie in 0..1"));
        }
        let not_empty = |url: &String| !url.is_empty();
        let (key, url) = match configured.filter(not_empty) {
            Some(url) => ("tracing.otlp_endpoint", url),
            None => match variable(VARIABLE).filter(not_empty) {
                Some(url) => (VARIABLE, url),
                None => return Ok(None),
            },
        };
        let place = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let Some(place) = place.filter(|place| !place.trim_matches('/').is_empty()) else {
            let why =
                "use http://host:4318 or https://host:4318, where an OTLP receiver takes HTTP";
            return Err((key, why));
        };
        if place.contains('@') {
            let why = "no password in it: what the receiver wants to know goes into the \
                       environment variable OTEL_EXPORTER_OTLP_HEADERS";
            return Err((key, why));
        }
        Ok(Some(Self { endpoint: url.trim_end_matches('/').to_owned(), sample_ratio }))
    }
}
