//! `bygone reconcile`: prints what [`trial`] found.

use std::process::ExitCode;

use bygone_sink::store::{Location, Store, StoreOptions};

use bygone_sink::read::Archive;

use crate::capture::trial::{self, Outcome};
use crate::cli::{Format, Reconcile};
use crate::error::Result;
use crate::query::sheet::{Cell, Sheet, left, right};

/// Compares, prints, and fails where the two differ.
pub(crate) async fn reconcile(arguments: &Reconcile) -> Result<ExitCode> {
    let location = Location::parse(&arguments.history.history)?;
    let store = Store::open(&location, &StoreOptions::default())?;
    let mut archive = Archive::open_whole(&store, None).await?;
    let outcome = trial::reconcile(arguments, &mut archive).await?;
    tables(arguments.format, &outcome)?;
    differing(&outcome);
    let differences: u64 = outcome.verdicts.iter().map(trial::Verdict::differences).sum();
    let kept = outcome.recorded.map_or_else(String::new, |seq| format!("; recorded in commit {seq}"));
    if differences == 0 {
        eprintln!("bygone: verified through {}: the history holds what the source holds{kept}", outcome.at);
        return Ok(ExitCode::SUCCESS);
    }
    let remedy = match (arguments.repair, arguments.no_record) {
        (true, false) => "bygone run makes facts of the differences",
        _ => "with --repair, bygone run makes facts of them",
    };
    eprintln!("bygone: {differences} rows differ at {}{kept}; {remedy}", outcome.at);
    Ok(ExitCode::FAILURE)
}

fn tables(format: Format, outcome: &Outcome) -> Result<()> {
    let headings = vec![
        left("table"),
        right("rows"),
        right("missing"),
        right("changed"),
        right("extra"),
        left("verdict"),
    ];
    let mut sheet = Sheet::new(format, headings)?;
    for verdict in &outcome.verdicts {
        let found = verdict.found;
        sheet.row(vec![
            Cell::Text(verdict.table.clone()),
            Cell::number(found.rows),
            Cell::number(found.added),
            Cell::number(found.changed),
            Cell::number(found.removed),
            Cell::Text(if verdict.differences() == 0 { "verified" } else { "differs" }.to_owned()),
        ])?;
    }
    sheet.finish()?;
    Ok(())
}

/// Row by row, on stderr: keys and names of columns, never values.
fn differing(outcome: &Outcome) {
    for verdict in &outcome.verdicts {
        for finding in &verdict.findings {
            let columns: Vec<&str> = finding
                .columns
                .iter()
                .filter_map(|at| verdict.columns.get(usize::from(*at)))
                .map(String::as_str)
                .collect();
            let columns =
                if columns.is_empty() { String::new() } else { format!(": {}", columns.join(", ")) };
            eprintln!(
                "bygone: {} {} {}{columns}",
                verdict.table,
                finding.entity_id,
                trial::told(finding.kind)
            );
        }
        let told = verdict.findings.len() as u64;
        if verdict.differences() > told {
            eprintln!("bygone: {} has {} more that differ", verdict.table, verdict.differences() - told);
        }
    }
}
