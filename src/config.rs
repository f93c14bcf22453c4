//! `bygone.toml`: the settings of `bygone run`, and so of other commands about a capture, for one capture or several.
//!
//! Each long flag of `run` is a key, with the same values: `commit-interval = "5s"`. Keys at the top hold for all captures, those of
//! `[capture.NAME]` for one. Whatever a flag or the environment says comes before the file, and the file before the defaults. So a
//! capture of the file is nothing but a command line, and is read by the same parser.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::pattern::Patterns;
use bygone_replication::publication::Names;
use bygone_replication::slot;
use bygone_sink::store::{Location, Store, StoreOptions};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command as ClapCommand, CommandFactory as _, Parser as _};
use toml::{Table, Value};

use crate::cli::{Cli, Command, Config, LogFormat, Run};
use crate::error::{Error, Result};
use crate::query::lookup::did_you_mean;
use crate::screen::tell;

/// Flags of `run` that are no settings of a capture.
const NOT_IN_FILES: [&str; 7] = ["config", "help", "version", "verbose", "quiet", "log-format", "discard"];

/// Commands that a file has settings for. What one of them has no flag for is nothing to it.
const COMMANDS: [&str; 4] = ["run", "doctor", "status", "detach"];
/// Those that are about one capture.
const OF_ONE: [&str; 2] = ["status", "detach"];
/// What `status` calls a setting of `run`: where the capture answers, and how far behind it may be.
const OF_STATUS: [(&str, &str); 2] = [("listen", "at"), ("ready-within", "max-lag")];

/// What a file says of one capture: keys with the values that flags would have.
type Settings = BTreeMap<String, Vec<String>>;

/// The command lines that come to the captures which a command with `--config` asks for; none where it does not.
///
/// # Errors
/// Where the file cannot be read or makes no sense, or has no capture of a name that was asked for.
pub(crate) fn captures(arguments: &[String]) -> Result<Option<Vec<Cli>>> {
    // Help, versions and wrong arguments are the ordinary parser's.
    let Ok(given) = lenient(arguments) else { return Ok(None) };
    let Some((command, given)) = given.subcommand().filter(|(name, _)| COMMANDS.contains(name)) else {
        return Ok(None);
    };
    let Some(path) = given.get_one::<PathBuf>("config") else { return Ok(None) };
    let wanted: Vec<&String> = given.get_many("captures").into_iter().flatten().collect();
    let captures = read(path)?;
    if let Some(name) = wanted.iter().find(|name| !captures.contains_key(**name)) {
        let near = did_you_mean(name, captures.keys().cloned());
        return Err(Error::other(format!("{} has no [capture.{name}]{near}", path.display())));
    }
    if OF_ONE.contains(&command) && wanted.is_empty() && captures.len() > 1 {
        let names = captures.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Error::other(format!("{} has several captures: name one of {names}", path.display())));
    }
    let wanted = captures.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    let effective: Vec<(&str, Cli)> = wanted
        .map(|(name, settings)| {
            let (mut cli, _) = effective(path, name, settings, command, arguments)?;
            if let Command::Doctor(doctor) = &mut cli.command {
                doctor.capture = Some(name.clone());
            }
            Ok((name.as_str(), cli))
        })
        .collect::<Result<_>>()?;
    let runs = effective.iter().filter_map(|(name, cli)| Some((*name, as_run(cli)?)));
    check(path, runs)?;
    Ok(Some(effective.into_iter().map(|(_, cli)| cli).collect()))
}

fn as_run(cli: &Cli) -> Option<&Run> {
    match &cli.command {
        Command::Run(run) => Some(run),
        _ => None,
    }
}

/// Fails where a capture cannot be as the file has it, or two would be in each other's way.
fn check<'a>(path: &Path, captures: impl Iterator<Item = (&'a str, &'a Run)>) -> Result<()> {
    let mut taken: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (capture, run) in captures {
        check_alone(run)
            .map_err(|error| Error::other(format!("{}, capture {capture}: {error}", path.display())))?;
        let facts =
            run.facts.place.facts.as_ref().map(|facts| format!("{facts} {}", run.facts.place.facts_schema));
        // However it is written: `./state/` is `state`.
        let state = run.state.as_ref().map(|state| state.components().collect::<PathBuf>());
        let state = state.map(|state| state.strip_prefix(".").unwrap_or(&state).display().to_string());
        let own = [
            ("state directory", state),
            ("slot", Some(format!("{} {}", run.source, run.captured.slot()))),
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

/// Fails where `bygone run` would refuse before it connects.
fn check_alone(run: &Run) -> Result<()> {
    let wrong = |key: &str, error: &dyn Display| Error::other(format!("{key}: {error}"));
    let source = ConnectOptions::parse(&run.source).map_err(|error| wrong("source", &error))?;
    source.check_certificates().map_err(|error| wrong("source", &error))?;
    let captured = &run.captured;
    slot::check_name(captured.slot()).map_err(|error| wrong("name", &error))?;
    Names::new(&captured.name).map_err(|error| wrong("name", &error))?;
    Patterns::parse(&captured.tables).map_err(|error| wrong("table", &error))?;
    let options = crate::options(run.clone())?;
    match &options.history {
        Some(history) => {
            let location = Location::parse(history).map_err(|error| wrong("history", &error))?;
            Store::open(&location, &StoreOptions::default()).map_err(|error| wrong("history", &error))?;
        }
        None if options.facts.is_none() => {
            return Err(Error::other("give history, facts, or both: where is the history to be kept?"));
        }
        None => {}
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
    let optional = |command: ClapCommand| command.mut_args(|argument| argument.required(false));
    let all = COMMANDS.into_iter().fold(Cli::command(), |all, name| all.mut_subcommand(name, optional));
    all.ignore_errors(true).try_get_matches_from(arguments).map_err(|error| Error::other(error.to_string()))
}

/// `bygone config`: says what a file comes to.
pub(crate) fn config(arguments: &Config) -> Result<()> {
    let captures = read(&arguments.config)?;
    let mut runs = Vec::new();
    for (name, settings) in &captures {
        let line = ["bygone".to_owned(), "run".to_owned()];
        let (cli, matches) = effective(&arguments.config, name, settings, "run", &line)?;
        if arguments.print {
            print(name, settings, &matches);
        }
        runs.push((name.as_str(), cli));
    }
    check(&arguments.config, runs.iter().filter_map(|(name, cli)| Some((*name, as_run(cli)?))))?;
    if arguments.check || !arguments.print {
        let names: Vec<&str> = captures.keys().map(String::as_str).collect();
        eprintln!("bygone: {} is well: {}", arguments.config.display(), names.join(", "));
    }
    Ok(())
}

/// The captures of a file, each with all its settings.
fn read(path: &Path) -> Result<BTreeMap<String, Settings>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let remedy = "give --config a file of settings that there is (docs/configuration.md has an example)";
        Error::other(format!("cannot read {}: {error}; {remedy}", path.display()))
    })?;
    let file: Table = text.parse().map_err(|error: toml::de::Error| {
        // Without the line itself: there may be a password in it.
        let at = error.span().map(|span| place(&text, span.start)).unwrap_or_default();
        Error::other(format!("{}{at}: {}", path.display(), error.message().trim_end()))
    })?;
    let command = command_named("run");
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

fn command_named(name: &str) -> ClapCommand {
    let mut all = Cli::command();
    all.build();
    all.find_subcommand(name).cloned().unwrap_or(all)
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

/// The command line of a command with what the file adds to it.
fn effective(
    path: &Path,
    name: &str,
    settings: &Settings,
    command: &str,
    arguments: &[String],
) -> Result<(Cli, ArgMatches)> {
    let given = lenient(arguments)?;
    let given = given.subcommand_matches(command);
    let flags = command_named(command);
    let mut line = arguments.to_vec();
    for (key, values) in settings {
        let key = OF_STATUS
            .iter()
            .find(|(of_run, _)| command == "status" && of_run == key)
            .map_or(key.as_str(), |(_, own)| own);
        let Some(flag) = flags.get_arguments().find(|flag| flag.get_long() == Some(key)) else { continue };
        let said = given.and_then(|given| given.value_source(flag.get_id().as_str()));
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
    let own = matches.subcommand_matches(command).cloned().unwrap_or_default();
    Ok((cli, own))
}

fn print(name: &str, settings: &Settings, matches: &ArgMatches) {
    tell!("[capture.{name}]");
    let command = command_named("run");
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
    let value = match key {
        "source" | "facts" => {
            ConnectOptions::parse(value).map_or_else(|_| "…".to_owned(), |options| options.redacted())
        }
        "password-command" => program(value),
        _ => value.to_owned(),
    };
    Value::String(value).to_string()
}

/// The program of a shell command, without its arguments: a token may be among them, or before it.
fn program(command: &str) -> String {
    let harmless = |char: char| char.is_ascii_alphanumeric() || matches!(char, '/' | '.' | '_' | '-');
    match command.trim().split_once(char::is_whitespace) {
        None if command.trim().chars().all(harmless) => command.trim().to_owned(),
        Some((program, _)) if program.chars().all(harmless) => format!("{program} …"),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_nothing_is_shown_but_its_program() {
        for (command, shown) in [
            ("pass show db/bygone", "pass …"),
            (" /usr/local/bin/secret ", "/usr/local/bin/secret"),
            ("VAULT_TOKEN=hunter2 vault read db", "…"),
            ("echo\thunter2", "echo …"),
            ("$(cat hunter2)", "…"),
            ("", ""),
        ] {
            assert_eq!(program(command), shown, "{command}");
        }
    }
}
