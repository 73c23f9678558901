//! `des`: packs old files into few immutable shards, and proves that none was lost.

mod cli;
mod commands;
mod config;
mod demo;
mod http;
mod job_threads;
mod lifecycle;
mod output;
#[cfg(test)]
mod papers;
mod progress;
mod telemetry;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // `des ls | head` is to end quietly, and clap exits with 2 on its own for bad usage.
    backends::crash::point(if cfg!(feature = "sabotage") { "start_sabotage" } else { "start" });
    let cli = cli::Cli::parse();
    let output = output::Output::new(cli.output);
    telemetry::start(&cli);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failed(&anyhow::Error::from(error).into()),
    };
    let done = runtime.block_on(commands::run(cli, &output));
    // What is still running on blocking threads by now is not waited for.
    runtime.shutdown_background();
    match done {
        Ok(code) => code.into(),
        Err(failure) => output.failed(&failure),
    }
}
