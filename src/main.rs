//! The `vm-accel` binary: logging, errors in words, and the exit status; nothing else.

use std::io::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use vm_accel::accel::{AccelKind, probe};
use vm_accel::cli::{self, Command, ExecArgs, RunArgs, STATUS_FAILURE, TestArgs};
use vm_accel::console::say;
use vm_accel::exec::{self, ExecError};
use vm_accel::report::{self, Reports};
use vm_accel::{loader, suite, vm};

fn main() -> ExitCode {
    report::process_start();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return ExitCode::from(status),
    };
    cli.start_logging();
    let result = match cli.command {
        Command::Run(args) => run(&args),
        Command::Exec(args) => Ok(exec(&args).unwrap_or_else(|error| {
            say(&format!("vm-accel: {error}\n"));
            error.status()
        })),
        Command::Test(args) => test(&args),
        Command::Probe { accel, json } => print_probe(accel, json),
        Command::Inspect { file, json } => print_inspection(&file, json),
        Command::Completions { shell } => {
            cli::write_completions(shell, &mut std::io::stdout()).map(|()| 0).map_err(lost)
        }
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        say(&format!("vm-accel: {error}\n"));
        STATUS_FAILURE
    }))
}

fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let config = args.config()?;
    let reports = Reports::open(&config)?;
    let end = vm::run(&config);
    let status = end
        .as_ref()
        .map_or(STATUS_FAILURE, |ended| config.reactions.status(&ended.outcome, config.debug_exit));
    let reported = reports.write(&config, end.as_ref(), status);
    let ended = end?;
    if let Some(unfinished) = &ended.unfinished {
        say(&unfinished.to_string());
    }
    say(&format!("vm-accel: {} ({}, status {status})\n", ended.outcome, ended.accel));
    reported?;
    Ok(status)
}

fn exec(args: &ExecArgs) -> Result<u8, ExecError> {
    exec::run(&args.request()?)
}

fn test(args: &TestArgs) -> anyhow::Result<u8> {
    Ok(suite::run(&args.suite()?)?)
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
    Ok(if usable { 0 } else { STATUS_FAILURE })
}

fn print_inspection(file: &std::path::Path, json: bool) -> anyhow::Result<u8> {
    let inspection = loader::inspect(file)?;
    print(&if json { serde_json::to_string_pretty(&inspection)? + "\n" } else { inspection.to_string() })?;
    Ok(if inspection.problem.is_none() { 0 } else { STATUS_FAILURE })
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(lost)
}

fn lost(error: std::io::Error) -> anyhow::Error {
    anyhow!("cannot write to stdout: {error}. Free some space or write it elsewhere")
}
