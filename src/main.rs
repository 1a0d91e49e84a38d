//! The `vm-accel` binary: logging, errors in words, and the exit status; nothing else.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use vm_accel::accel::{AccelKind, probe};
use vm_accel::cli::{self, Command, RunArgs};
use vm_accel::{loader, vm};

/// The status of vm-accel's own failures.
const FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return ExitCode::from(status),
    };
    cli.start_logging();
    let result = match cli.command {
        Command::Run(args) => run(&args),
        Command::Probe { accel, json } => print_probe(accel, json),
        Command::Inspect { file, json } => print_inspection(&file, json),
        Command::Completions { shell } => cli::write_completions(shell, &mut std::io::stdout())
            .context("cannot write to stdout")
            .map(|()| 0),
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        // stderr may be closed; there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "vm-accel: error: {error:#}");
        FAILURE
    }))
}

fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let config = args.config()?;
    let ended = vm::run(&config)?;
    let status = ended.outcome.status(config.debug_exit);
    let _ = writeln!(std::io::stderr(), "vm-accel: {} ({}, status {status})", ended.outcome, ended.accel);
    Ok(status)
}

fn print_probe(accel: AccelKind, json: bool) -> anyhow::Result<u8> {
    let findings = probe::probe(accel);
    let usable = findings.iter().any(|finding| finding.usable);
    let mut text = String::new();
    if json {
        text = serde_json::to_string_pretty(&findings)? + "\n";
    } else {
        text += &format!("{}\n", probe::heading());
        for finding in &findings {
            text += &format!("{finding}\n");
        }
    }
    print(&text)?;
    Ok(if usable { 0 } else { FAILURE })
}

fn print_inspection(file: &std::path::Path, json: bool) -> anyhow::Result<u8> {
    let inspection = loader::inspect(file)?;
    print(&if json { serde_json::to_string_pretty(&inspection)? + "\n" } else { inspection.to_string() })?;
    Ok(0)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}
