//! `bygone verify`: is the history whole and unaltered?

use std::process::ExitCode;

use bygone_sink::log::Event;
use bygone_sink::store::{Location, Store, StoreOptions};
use bygone_sink::verify;

use crate::cli::{Format, Verify};
use crate::error::{Error, Result};
use crate::screen::{print_wrapped, tell};

/// Recomputes the chain and every file's hash, and prints what is wrong.
pub(crate) async fn verify(arguments: &Verify) -> Result<ExitCode> {
    let location = Location::parse(&arguments.history.history)?;
    let store = Store::open(&location, &StoreOptions::default())?;
    let report = verify::verify(&store, arguments.head, |_progress| {}).await?;
    match arguments.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&report)
                .map_err(|error| Error::other(format!("the report has no JSON: {error}")))?;
            tell!("{text}");
        }
        Format::Csv => {
            tell!("severity,kind,path,message");
            let all = report
                .problems
                .iter()
                .map(|p| ("problem", p))
                .chain(report.warnings.iter().map(|p| ("warning", p)));
            for (severity, problem) in all {
                let kind = serde_json::to_value(problem.kind).unwrap_or_default();
                tell!(
                    "{severity},{},{},{}",
                    kind.as_str().unwrap_or_default(),
                    quote(&problem.path),
                    quote(&problem.message)
                );
            }
        }
        Format::Table => {
            for problem in &report.problems {
                print_wrapped("PROBLEM  ", &described(problem));
            }
            for gap in &report.gaps {
                print_wrapped(&format!("{:7}  ", gap.kind.as_str()), &not_known(gap));
            }
            for warning in &report.warnings {
                print_wrapped("warning  ", &described(warning));
            }
            let some =
                |count: u64, what: &str| if count == 0 { String::new() } else { format!(", {count} {what}") };
            let counts = format!(
                "{} commits, {} files, {} rows, {} bytes{}{}{}{}",
                report.commits,
                report.files,
                report.rows,
                report.bytes,
                some(report.checkpoints, "checkpoints"),
                some(report.slabs, "slabs"),
                some(report.indexes, "indexes"),
                report
                    .head
                    .as_ref()
                    .map_or_else(String::new, |head| format!("; head {}:{}", head.seq, head.sha256)),
            );
            let verdict = if report.is_ok() { "whole: " } else { "NOT WHOLE: " };
            print_wrapped(verdict, &counts);
        }
    }
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where a gap lies, and why.
fn not_known(gap: &Event) -> String {
    let of = gap.table.as_deref().unwrap_or("all tables");
    let at = gap.lsn.map_or_else(String::new, |lsn| format!(", {} to {}", lsn.earliest(), lsn.latest()));
    let why = gap.detail.get("reason").and_then(serde_json::Value::as_str);
    format!("{of}{at}{}", why.map_or_else(String::new, |why| format!(": {why}")))
}

/// What is wrong, where, and how it differs from what should be there.
fn described(problem: &verify::Problem) -> String {
    let mut text = format!("{}: {}", problem.path, problem.message);
    if let Some(expected) = &problem.expected {
        text.push_str(&format!("; expected {expected}"));
    }
    if let Some(found) = &problem.found {
        text.push_str(&format!(", found {found}"));
    }
    text
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
