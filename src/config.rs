//! `bygone.toml`: the settings of `bygone run` for one capture or several.
//!
//! Each long flag of `run` is a key, with the same values: `commit-interval = "5s"`. Keys at the top hold for all captures, those of
//! `[capture.NAME]` for one. Whatever a flag or the environment says comes before the file, and the file before the defaults. So a
//! capture of the file is nothing but a command line, and is read by the same parser.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::publication::Names;
use bygone_replication::slot;
use bygone_sink::store::Location;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command as ClapCommand, CommandFactory as _, Parser as _};
use toml::{Table, Value};

use crate::cli::{Cli, Command, Config, LogFormat, Run};
use crate::error::{Error, Result};
use crate::query::lookup::did_you_mean;
use crate::screen::tell;

/// Flags of `run` that are no settings of a capture.
const NOT_IN_FILES: [&str; 7] = ["config", "help", "version", "verbose", "quiet", "log-format", "discard"];
/// Settings that hold addresses with passwords in them.
const SECRETS: [&str; 2] = ["source", "facts"];

/// What a file says of one capture: keys with the values that flags would have.
type Settings = BTreeMap<String, Vec<String>>;

/// The command line that a capture of a file comes to.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) cli: Cli,
    pub(crate) run: Run,
}

/// The captures that a command line asks for by `run --config`; none where it does not.
///
/// # Errors
/// Where the file cannot be read or makes no sense, or has no capture of a name that was asked for.
pub(crate) fn captures(arguments: &[String]) -> Result<Option<Vec<Capture>>> {
    // Help, versions and wrong arguments are the ordinary parser's.
    let Ok(given) = lenient(arguments) else { return Ok(None) };
    let Some(given) = given.subcommand_matches("run") else { return Ok(None) };
    let Some(path) = given.get_one::<PathBuf>("config") else { return Ok(None) };
    let wanted: Vec<&String> = given.get_many("captures").into_iter().flatten().collect();
    let captures = read(path)?;
    if let Some(name) = wanted.iter().find(|name| !captures.contains_key(**name)) {
        let near = did_you_mean(name, captures.keys().cloned());
        return Err(Error::other(format!("{} has no [capture.{name}]{near}", path.display())));
    }
    let wanted = captures.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    let effective: Vec<(&str, Capture)> = wanted
        .map(|(name, settings)| {
            let (capture, _) = effective(path, name, settings, arguments)?;
            Ok((name.as_str(), capture))
        })
        .collect::<Result<_>>()?;
    check(path, effective.iter().map(|(name, capture)| (*name, &capture.run)))?;
    Ok(Some(effective.into_iter().map(|(_, capture)| capture).collect()))
}

/// Fails where a capture cannot be as the file has it, or two would be in each other's way.
fn check<'a>(path: &Path, captures: impl Iterator<Item = (&'a str, &'a Run)>) -> Result<()> {
    let mut taken: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (capture, run) in captures {
        let wrong = |key: &str, error: String| {
            Error::other(format!("{}, capture {capture}: {key}: {error}", path.display()))
        };
        ConnectOptions::parse(&run.source).map_err(|error| wrong("source", error.to_string()))?;
        let slot = run.slot.as_ref().unwrap_or(&run.name);
        slot::check_name(slot).map_err(|error| wrong("name", error.to_string()))?;
        Names::new(&run.name).map_err(|error| wrong("name", error.to_string()))?;
        if let Some(history) = &run.history {
            Location::parse(history).map_err(|error| wrong("history", error.to_string()))?;
        }
        let facts =
            run.facts.place.facts.as_ref().map(|facts| format!("{facts} {}", run.facts.place.facts_schema));
        // However it is written: `./state/` is `state`.
        let state = run.state.as_ref().map(|state| state.components().collect::<PathBuf>());
        let state = state.map(|state| state.strip_prefix(".").unwrap_or(&state).display().to_string());
        let own = [
            ("state directory", state),
            ("slot", Some(format!("{} {slot}", run.source))),
            ("history", run.history.clone()),
            ("fact tables", facts),
            ("listen", run.listen.filter(|address| address.port() != 0).map(|address| address.to_string())),
        ];
        for (what, value) in own.into_iter().filter_map(|(what, value)| Some((what, value?))) {
            if let Some(other) = taken.insert((what, value), capture) {
                let text = format!("captures {other} and {capture} would share one {what}");
                return Err(Error::other(format!("{}: {text}", path.display())));
            }
        }
    }
    Ok(())
}

/// How log lines are to be written, as far as a command line tells that is otherwise wrong.
pub(crate) fn log_format(arguments: &[String]) -> LogFormat {
    let given = lenient(arguments).ok();
    given.and_then(|given| given.get_one("log_format").copied()).unwrap_or(LogFormat::Text)
}

/// What flags and environment say, whether or not that is enough.
fn lenient(arguments: &[String]) -> Result<ArgMatches> {
    let command =
        Cli::command().mut_subcommand("run", |run| run.mut_args(|argument| argument.required(false)));
    command
        .ignore_errors(true)
        .try_get_matches_from(arguments)
        .map_err(|error| Error::other(error.to_string()))
}

/// `bygone config`: says what a file comes to.
pub(crate) fn config(arguments: &Config) -> Result<()> {
    let captures = read(&arguments.config)?;
    let mut runs = Vec::new();
    for (name, settings) in &captures {
        let line = ["bygone".to_owned(), "run".to_owned()];
        let (capture, matches) = effective(&arguments.config, name, settings, &line)?;
        if arguments.print {
            print(name, settings, &matches);
        }
        runs.push((name.as_str(), capture.run));
    }
    check(&arguments.config, runs.iter().map(|(name, run)| (*name, run)))?;
    if arguments.check || !arguments.print {
        let names: Vec<&str> = captures.keys().map(String::as_str).collect();
        eprintln!("bygone: {} is well: {}", arguments.config.display(), names.join(", "));
    }
    Ok(())
}

/// The captures of a file, each with all its settings.
fn read(path: &Path) -> Result<BTreeMap<String, Settings>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::other(format!("cannot read {}: {error}", path.display())))?;
    let file: Table = text.parse().map_err(|error: toml::de::Error| {
        // Without the line itself: there may be a password in it.
        let at = error.span().map(|span| place(&text, span.start)).unwrap_or_default();
        Error::other(format!("{}{at}: {}", path.display(), error.message().trim_end()))
    })?;
    let command = run_command();
    let mut shared = Settings::new();
    let mut captures: BTreeMap<String, Settings> = BTreeMap::new();
    for (key, value) in &file {
        match (key.as_str(), value) {
            ("capture", Value::Table(tables)) => {
                for (name, table) in tables {
                    let Value::Table(table) = table else {
                        return Err(Error::other(format!(
                            "{}: capture.{name} has to be a table: [capture.{name}]",
                            path.display()
                        )));
                    };
                    let mut own = Settings::new();
                    for (key, value) in table {
                        own.insert(key.clone(), texts(&command, path, key, value)?);
                    }
                    captures.insert(name.clone(), own);
                }
            }
            (key, value) => {
                shared.insert(key.to_owned(), texts(&command, path, key, value)?);
            }
        }
    }
    let named = !captures.is_empty();
    if !named {
        captures.insert("bygone".to_owned(), Settings::new());
    }
    for (name, settings) in &mut captures {
        for (key, values) in &shared {
            settings.entry(key.clone()).or_insert_with(|| values.clone());
        }
        // The slot and the publications are called as the capture is.
        if named {
            settings.entry("name".to_owned()).or_insert_with(|| vec![name.clone()]);
        }
    }
    Ok(captures)
}

/// Line and column of a byte, for people.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {line}, column {column}")
}

fn run_command() -> ClapCommand {
    let mut all = Cli::command();
    all.build();
    all.find_subcommand("run").cloned().unwrap_or(all)
}

/// The values of a key, as the flag of the name takes them.
fn texts(command: &ClapCommand, path: &Path, key: &str, value: &Value) -> Result<Vec<String>> {
    let wrong = |what: String| Error::other(format!("{}: {what}", path.display()));
    let known = || {
        command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|long| !NOT_IN_FILES.contains(long))
    };
    if !known().any(|long| long == key) {
        return Err(wrong(format!(
            "there is no setting {key:?}{}",
            did_you_mean(key, known().map(str::to_owned))
        )));
    }
    let is_flag = command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(key))
        .is_some_and(|argument| matches!(argument.get_action(), ArgAction::SetTrue));
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err(wrong(format!("{key} takes text or a number"))),
    };
    match value {
        Value::Boolean(on) if is_flag => Ok(if *on { vec![String::new()] } else { Vec::new() }),
        _ if is_flag => Err(wrong(format!("{key} is true or false"))),
        Value::Array(values) => values.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// The command line with what the file adds to it.
fn effective(
    path: &Path,
    name: &str,
    settings: &Settings,
    arguments: &[String],
) -> Result<(Capture, ArgMatches)> {
    let given = lenient(arguments)?;
    let given = given.subcommand_matches("run");
    let command = run_command();
    let mut line = arguments.to_vec();
    for (key, values) in settings {
        let id =
            command.get_arguments().find(|argument| argument.get_long() == Some(key)).map(clap::Arg::get_id);
        let said = id.and_then(|id| given?.value_source(id.as_str()));
        if matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        for value in values {
            line.push(if value.is_empty() { format!("--{key}") } else { format!("--{key}={value}") });
        }
    }
    let wrong = |error: clap::Error| {
        let said = error.to_string();
        let said = said.split("\n\nUsage").next().unwrap_or_default().trim_start_matches("error: ");
        Error::other(format!("{}, capture {name}: {said}", path.display()))
    };
    let matches = Cli::command().try_get_matches_from(&line).map_err(wrong)?;
    let cli = Cli::try_parse_from(&line).map_err(wrong)?;
    let Command::Run(run) = &cli.command else { return Err(Error::other("--config belongs to bygone run")) };
    let run = (**run).clone();
    let own = matches.subcommand_matches("run").cloned().unwrap_or_default();
    Ok((Capture { cli, run }, own))
}

fn print(name: &str, settings: &Settings, matches: &ArgMatches) {
    tell!("[capture.{name}]");
    let command = run_command();
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long().filter(|long| !NOT_IN_FILES.contains(long)) else { continue };
        let id = argument.get_id().as_str();
        let Some(source) = matches.value_source(id) else { continue };
        let origin = match source {
            ValueSource::EnvVariable => "environment",
            ValueSource::DefaultValue => "default",
            _ if settings.contains_key(long) => "file",
            _ => "flag",
        };
        let raw = matches.get_raw(id).into_iter().flatten();
        let values: Vec<String> = raw.map(|value| shown(long, &value.to_string_lossy())).collect();
        let value = match values.as_slice() {
            [one] if !matches!(argument.get_action(), ArgAction::Append) => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        tell!("{long} = {value}  # {origin}");
    }
}

/// A value as the file would have it; passwords are left out.
fn shown(key: &str, value: &str) -> String {
    if matches!(value, "true" | "false") {
        return value.to_owned();
    }
    let value = if SECRETS.contains(&key) {
        ConnectOptions::parse(value).map_or_else(|_| "…".to_owned(), |options| options.redacted())
    } else {
        value.to_owned()
    };
    Value::String(value).to_string()
}
