//! What this is installed and watched with, held to what it is for: compose/, the Dockerfile, docs/ on
//! alerts, man pages and completions. Each file is read by the program that it is written for, where
//! that can be had, and the fleet of compose.yaml is run without containers.

mod command_line;
mod compose;
mod fleet;
mod image;
mod kubernetes;
mod kustomize;
mod programs;
mod queries;
mod systemd;

#[path = "../support/process.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod process;

#[path = "../support/otlp.rs"]
#[expect(dead_code, reason = "the tests of tracing look at more of a span")]
mod otlp;

#[path = "../support/scrape.rs"]
#[expect(dead_code, reason = "only the table of the paper is read here")]
mod scrape;

#[path = "../../../backends/tests/support/s3_server.rs"]
#[expect(dead_code, reason = "nobody looks into the bucket here")]
mod s3_server;
