//! `bygone views`: the views and functions of a history, as SQL of another engine.
//!
//! For a table `T` they are `T` (its rows now), `T_history` (every fact, with `_valid_to`) and `T_as_of(t)`. They stand on
//! the list of live files that the log gives: a glob would also find files that no commit names [39].

use std::collections::{BTreeMap, BTreeSet};

use bygone_replication::Lsn;
use bygone_sink::log::{EventKind, EventLsn, LiveFile};
use bygone_sink::read::{Archive, Doubt, TableHistory, Version};
use bygone_sink::schema::{SYSTEM_COLUMNS, SchemaColumn, TableSchema};
use bygone_sink::slabs::{Slab, SlabSet};
use bygone_sink::store::Location;
use bygone_sink::timestamp::Timestamp;
use bygone_sink::value::{Cast, Kind};

use super::arguments::{Engine, Views};
use super::dialect::Dialect;
use super::moment::unseen;
use super::sheet::print_sql;
use super::value::moment;
use super::{lookup, open};
use crate::error::{Error, Result};

/// What stands on fact tables.
fn postgres(arguments: &Views, archive: &Archive) -> Result<()> {
    let mut sql = format!(
        "-- Views and functions over the fact tables in schema {:?}; `bygone run --facts` and `bygone backfill-facts` make them.\n",
        arguments.history.facts_schema
    );
    let wanted: Vec<String> = arguments
        .tables
        .iter()
        .map(|name| lookup::table(archive, name).map(|table| table.log_name))
        .collect::<Result<_>>()?;
    for (log_name, objects) in bygone_sink::fact_tables::objects(archive, &arguments.history.facts_schema)? {
        if wanted.is_empty() || wanted.contains(&log_name) {
            if archive.table(&log_name)?.are_updates_unseen() {
                eprintln!(
                    "bygone: {log_name} {UNSEEN}: its view and functions show them, and say so in their comments"
                );
            }
            sql.push_str(&format!("\n-- {}\n{}", log_name.replace(['\n', '\r'], " "), objects.statements()));
        }
    }
    print_sql(&sql, arguments.format)
}

/// What is to be said of a table whose updates and deletes cannot be seen.
const UNSEEN: &str = "has no primary key and no replica identity, so that its updates and deletes cannot be seen: what is known are \
                      the rows that were there at first and those that were inserted since";

pub(super) async fn views(arguments: &Views) -> Result<()> {
    let archive = open(&arguments.history).await?;
    if arguments.engine == Engine::Postgres {
        return postgres(arguments, &archive);
    }
    let dialect = Dialect::of(arguments.engine)?;
    // Of rows there is nothing that these engines could open.
    archive.store()?;
    let location = Location::parse(&arguments.history.history)?;
    if let (Dialect::DuckDb, Location::Local(root)) = (dialect, &location)
        && root.to_string_lossy().contains(['*', '?', '[', ']'])
    {
        return Err(Error::other(format!(
            "DuckDB takes {} for a pattern, because of *, ?, [ or ] in it: reach the history by another path, such as a \
             symbolic link",
            root.display()
        )));
    }
    let all = archive.tables()?;
    let names = relation_names(&all);
    let wanted: Vec<String> = arguments
        .tables
        .iter()
        .map(|name| lookup::table(&archive, name).map(|table| table.log_name))
        .collect::<Result<_>>()?;
    let (last, until) = archive.known_until();
    let mut sql = format!(
        "-- Views over the history of {} as commit {} left it: known until {} ({last}).\n-- After new commits: bygone views {} again.\n",
        archive.manifest().source.database.replace(['\n', '\r'], " "),
        archive.log().last_seq().map_or_else(|| "none".to_owned(), |seq| seq.to_string()),
        until.map_or_else(|| "its beginning".to_owned(), moment),
        dialect.name()
    );
    sql.push_str(dialect.bucket_hint(&location));
    for table in all.iter().filter(|table| wanted.is_empty() || wanted.contains(&table.log_name)) {
        let Some(name) = names.get(&table.log_name) else { continue };
        if table.known.is_empty() {
            eprintln!("bygone: {} is left out: its snapshot is not in the history yet", table.log_name);
            continue;
        }
        let relations = Relations::new(&archive, table, name, dialect, &location, arguments.inexact).await?;
        for remark in &relations.remarks {
            eprintln!("bygone: {remark}");
        }
        sql.push_str(&relations.sql());
    }
    print_sql(&sql, arguments.format)
}

/// The suffixes of a table's relations.
const SUFFIXES: [&str; 4] = ["", "_history", "_as_of", "_files"];

/// What each table's relations are called: its bare name; schema and name where a table of another schema has that name, or
/// another table's relations are called so; and a number behind where that is taken, too. Engines do not tell upper from
/// lower case.
pub(super) fn relation_names(tables: &[TableHistory]) -> BTreeMap<String, String> {
    let relations = |name: &str| SUFFIXES.map(|suffix| format!("{name}{suffix}").to_lowercase());
    let is_shared = |table: &TableHistory| {
        let same = |other: &&TableHistory| other.name.name.to_lowercase() == table.name.name.to_lowercase();
        tables.iter().filter(same).count() > 1
    };
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    // `orders` comes before `orders_history`, and keeps its name.
    let mut in_order: Vec<&TableHistory> = tables.iter().collect();
    in_order.sort_by_key(|table| (table.name.name.len(), &table.log_name));
    for table in in_order {
        let bare = &table.name.name;
        let long = format!("{}_{bare}", table.name.schema);
        let first = (!is_shared(table)).then(|| bare.clone());
        let numbered = (2..).map(|number| format!("{long}_{number}"));
        let mut candidates = first.into_iter().chain([long.clone()]).chain(numbered);
        let is_free = |name: &String| relations(name).iter().all(|relation| !taken.contains(relation));
        if let Some(name) = candidates.find(is_free) {
            taken.extend(relations(&name));
            names.insert(table.log_name.clone(), name);
        }
    }
    names
}

/// A column of the views.
struct Column {
    /// What it is called.
    name: String,
    kind: Kind,
    /// It is a column of the table now.
    live: bool,
    /// It had another type in some of the files.
    had_other_type: bool,
    /// Its value in `T_history`: what the fact says.
    written: String,
    /// Its value in `T` and `T_as_of`: what the source returned.
    read: Read,
}

/// What a column of a row reads as.
struct Read {
    /// Where the row is not older than the column.
    value: String,
    /// Rows of schemas before this one read as this since that time [23].
    missing: Option<(i32, String, Option<Timestamp>)>,
}

impl Read {
    /// As of now, or of a moment.
    fn expression(&self, dialect: Dialect, as_of: Option<&str>) -> String {
        let Some((version, literal, since)) = &self.missing else { return self.value.clone() };
        let since = as_of.zip(*since);
        let since = since.map_or_else(String::new, |(moment, since)| {
            format!(" and {moment} >= {}", dialect.instant(since))
        });
        format!("case when _schema < {version}{since} then {literal} else {} end", self.value)
    }
}

/// Stands in the newest branches for "the moment is not in a slab any more".
const SINCE: &str = "/*since*/";
/// Stands in the newest branches for "facts up to the moment".
const UNTIL: &str = "/*until*/";

/// What the views make of a table's slabs: as of a moment in one, its rows are filtered; behind the last, its rows stand but for
/// those with facts since.
struct Slabs {
    /// Their files by schema version, with what the live columns are there.
    files: Vec<(Vec<String>, String)>,
    /// The files of the last.
    last: Vec<(Vec<String>, String)>,
    /// Until when they answer.
    ends: Timestamp,
    /// Files with facts since, with what the live columns are there.
    since: Option<(Vec<String>, String)>,
    to: Lsn,
}

impl Slabs {
    /// Those of a table; none where they do not answer for all of its past.
    async fn new(
        archive: &Archive,
        table: &TableHistory,
        names: &[&str],
        dialect: Dialect,
        location: &Location,
    ) -> Result<Option<Self>> {
        let set = SlabSet::load(archive.store()?, &table.log_name).await?.up_to(archive.known_until().0);
        let (Some(last), all) = (set.all().last(), set.all()) else { return Ok(None) };
        let begins = all.first().is_some_and(|first| first.from == Lsn::ZERO);
        let whole = all.iter().zip(all.iter().skip(1)).all(|(one, next)| one.to == next.from);
        // A directory that is called like a partition would be taken for one.
        if names.is_empty() || !begins || !whole || location.to_string().contains('=') {
            return Ok(None);
        }
        let named = |schemas: &BTreeSet<i32>| {
            let live = columns_ever(table).into_iter().filter(|(_, _, live)| *live);
            let columns = live.zip(names).map(|((schema, column, _), name)| {
                let forms = forms(table, schemas, schema, column);
                let value = written(&forms, column, dialect, was_cidr(table, schema, column));
                format!("{value} as {}", dialect.identifier(name))
            });
            columns.collect::<Vec<_>>().join(", ")
        };
        let of = |slabs: &[Slab]| {
            let mut files: BTreeMap<i32, Vec<String>> = BTreeMap::new();
            for file in slabs.iter().flat_map(|slab| &slab.files) {
                files.entry(file.schema).or_default().push(dialect.address(location, &file.path));
            }
            let files = files.into_iter();
            files.map(|(schema, files)| (files, named(&BTreeSet::from([schema])))).collect::<Vec<_>>()
        };
        let newer: Vec<&LiveFile> = table.files.iter().filter(|file| file.add.lsn[1] > last.to).collect();
        let since = (!newer.is_empty()).then(|| {
            let addresses = newer.iter().map(|file| dialect.address(location, &file.add.path)).collect();
            (addresses, named(&schemas_of(newer.iter().copied())))
        });
        let (files, ends, to) = (of(all), last.times[1], last.to);
        Ok(Some(Self { files, last: of(std::slice::from_ref(last)), ends, since, to }))
    }

    /// What has to come first; branches for the rows of a moment in a slab; and branches for those of a moment behind, in which
    /// [`SINCE`] and [`UNTIL`] stand for conditions.
    fn branches(
        &self,
        dialect: Dialect,
        name: &str,
        columns: &[String],
        t: &str,
        bound: &str,
    ) -> (String, Vec<String>, Vec<String>) {
        let (mut before, mut in_slabs, mut newest) = (String::new(), Vec::new(), Vec::new());
        let mut source = |suffix: String, files: &[String], slab: bool| {
            let view = dialect.identifier(&format!("{name}{suffix}"));
            let (first, source) =
                if slab { dialect.slab_files(&view, files) } else { dialect.files(&view, files) };
            before.push_str(&first);
            source
        };
        let of = |relation: &str| {
            let columns = columns.iter().map(|column| format!("{relation}.{column}, "));
            format!("{}{relation}._schema, {relation}._raw", columns.collect::<String>())
        };
        let since = self
            .since
            .as_ref()
            .map(|(files, values)| (source("_files_since".to_owned(), files, false), values));
        let micros = dialect.micros(t);
        for (at, (files, values)) in self.files.iter().enumerate() {
            let source = source(format!("_files_slabs_{at}"), files, true);
            in_slabs.push(format!(
                "select {values}, _schema, _raw from {source}\nwhere _slab_from <= {micros} and {micros} < _slab_to\n  \
                 and (_began is null or _began <= {t}) and (_ended is null or {t} < _ended) and {bound} is not null"
            ));
        }
        let behind = format!("_lsn > {}{UNTIL}", self.to.as_i64());
        for (at, (files, values)) in self.last.iter().enumerate() {
            let source = source(format!("_files_last_{at}"), files, true);
            newest.push(match &since {
                Some((newer, _)) => format!(
                    "select {} from (\n  select {values}, _schema, _raw, _entity_id from {source} where _ended is null{SINCE}\n\
                     ) as carried left join (\n  select distinct _entity_id as _newer from {newer} where {behind}\n) as newer on carried._entity_id = newer._newer\nwhere newer._newer is null",
                    of("carried")
                ),
                None => format!("select {values}, _schema, _raw from {source} where _ended is null{SINCE}"),
            });
        }
        if let Some((newer, values)) = &since {
            newest.push(format!(
                "select {} from (\n  select {values}, _schema, _raw, _entity_id, _version, _deleted_at from {newer} where {behind}{SINCE}\n\
                 ) as newer join (\n  select _entity_id, max(_version) as _version from {newer} where {behind} group by _entity_id\n\
                 ) as latest using (_entity_id, _version)\nwhere newer._deleted_at is null",
                of("newer")
            ));
        }
        (before, in_slabs, newest)
    }
}

/// The relations of one table.
struct Relations {
    dialect: Dialect,
    name: String,
    title: String,
    files: Vec<String>,
    columns: Vec<Column>,
    /// What the function's parameter is called: `t`, unless a column is.
    parameter: String,
    slabs: Option<Slabs>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Times at which its rows are not known.
    unknown: Vec<Unknown>,
    /// What is to be said of it beside.
    remarks: Vec<String>,
}

impl Relations {
    async fn new(
        archive: &Archive,
        table: &TableHistory,
        name: &str,
        dialect: Dialect,
        location: &Location,
        inexact: bool,
    ) -> Result<Self> {
        let from = match table.known.first() {
            Some(extent) => archive.time_of_place(extent.from).await?,
            None => None,
        };
        let in_files = schemas_of(&table.files);
        let mut columns = Vec::new();
        let mut used: BTreeSet<String> = SYSTEM_COLUMNS.iter().map(|name| (*name).to_owned()).collect();
        used.insert("_valid_to".to_owned());
        for (schema, column, live) in columns_ever(table) {
            let candidates = [
                column.column.name.clone(),
                column.physical.clone(),
                format!("{}__{}", column.column.name, column.column.attnum),
            ];
            let name = candidates.into_iter().find(|name| used.insert(name.to_lowercase()));
            let Some(name) = name else {
                return Err(Error::other(format!(
                    "{}: two columns are called {:?}",
                    table.log_name, column.column.name
                )));
            };
            let forms = forms(table, &in_files, schema, column);
            columns.push(Column {
                had_other_type: forms.iter().any(|form| form.kind != column.kind),
                written: written(&forms, column, dialect, was_cidr(table, schema, column)),
                read: read(archive, table, schema, column, &name, dialect).await?,
                name,
                kind: column.kind.clone(),
                live,
            });
        }
        let names: Vec<&str> =
            columns.iter().filter(|column| column.live).map(|column| column.name.as_str()).collect();
        let slabs = Slabs::new(archive, table, &names, dialect, location).await?;
        let mut parameter = "t".to_owned();
        let physical = columns_ever(table).into_iter().map(|(_, column, _)| column.physical.to_lowercase());
        used.extend(physical);
        while used.contains(&parameter) {
            parameter.insert(0, '_');
        }
        Ok(Self {
            dialect,
            name: name.to_owned(),
            title: table.log_name.replace(['\n', '\r'], " "),
            files: table.files.iter().map(|file| dialect.address(location, &file.add.path)).collect(),
            columns,
            parameter,
            slabs,
            from,
            until: archive.known_until().1,
            unknown: unknown(archive, table, name, inexact).await?,
            remarks: remarks(archive, table, name, inexact).await?,
        })
    }

    fn sql(&self) -> String {
        let dialect = self.dialect;
        let quoted = |suffix: &str| dialect.identifier(&format!("{}{suffix}", self.name));
        let (now, history, as_of) = (quoted(""), quoted("_history"), quoted("_as_of"));
        let live: Vec<&Column> = self.columns.iter().filter(|column| column.live).collect();
        let t = &dialect.parameter(&self.parameter);
        let list = |as_of: Option<&str>| {
            let columns = live.iter().map(|column| {
                format!("{} as {}", column.read.expression(dialect, as_of), dialect.identifier(&column.name))
            });
            columns.collect::<Vec<_>>().join(",\n    ")
        };
        let mut all: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} as {}", column.written, dialect.identifier(&column.name)))
            .collect();
        all.extend(SYSTEM_COLUMNS.iter().map(|name| (*name).to_owned()));
        all.push(
            "lead(_valid_from) over (partition by _entity_id order by _version) as _valid_to".to_owned(),
        );
        let (before, source) = if self.files.is_empty() {
            (String::new(), dialect.nothing())
        } else {
            dialect.files(&quoted("_files"), &self.files)
        };
        let last = |filter: &str| {
            format!(
                "from {history} join (\n  select _entity_id, max(_version) as _version from {history}{filter} group by _entity_id\n\
                 ) using (_entity_id, _version)\nwhere _deleted_at is null"
            )
        };
        let bound = self.bound();
        let nulls = || {
            let nulls = live.iter().map(|column| {
                format!("{} as {}", dialect.cast("null", &column.kind), dialect.identifier(&column.name))
            });
            nulls.collect::<Vec<_>>().join(", ")
        };
        // A query without rows would not ask whether the moment is known.
        let ask = || format!("select {}\nwhere {bound} is null", nulls());
        let (mut before, mut now_is) = (before, format!("select {}\n{}", list(None), last("")));
        let then = match &self.slabs {
            _ if self.files.is_empty() => ask(),
            None => format!("select {}\n{}", list(Some(t)), last(&format!(" where _valid_from <= {bound}"))),
            Some(slabs) => {
                let columns: Vec<String> =
                    live.iter().map(|column| dialect.identifier(&column.name)).collect();
                let (sources, in_slabs, newest) = slabs.branches(dialect, &self.name, &columns, t, &bound);
                before.push_str(&sources);
                let since = format!(" and {bound} >= {}", dialect.instant(slabs.ends));
                let until = format!(" and _valid_from <= {t}");
                let rows = |branches: Vec<String>| branches.join("\nunion all\n");
                let newest = |since: &str, until: &str| {
                    newest
                        .iter()
                        .map(|branch| branch.replace(SINCE, since).replace(UNTIL, until))
                        .collect::<Vec<_>>()
                };
                now_is = format!("select {}\nfrom (\n{}\n) as known", list(None), rows(newest("", "")));
                let all = [in_slabs, newest(&since, &until)].concat();
                format!("select {}\nfrom (\n{}\n) as known\nunion all\n{}", list(Some(t)), rows(all), ask())
            }
        };
        // Made all the same, so that no view of an earlier time stands in its place.
        if let Some(unknown) = self.unknown.iter().find(|unknown| unknown.is_now()) {
            now_is = format!("select {}\nwhere {} is null", nulls(), dialect.error(&unknown.why));
        }
        let changed = self.columns.iter().filter(|column| column.had_other_type);
        let changed = changed.map(|column| {
            format!("{} had another type: what does not read as one of now is null here, and bygone history shows it", column.name)
        });
        let remarks = changed.chain(self.remarks.iter().cloned());
        let remarks = remarks.map(|remark| format!("-- {}\n", remark.replace(['\n', '\r'], " ")));
        let mut sql = format!(
            "\n-- {}\n{}{before}{} {history} as\nselect {}\nfrom {source};\n",
            self.title,
            remarks.collect::<String>(),
            dialect.create_view(),
            all.join(",\n    "),
        );
        // Of no columns these engines have no rows.
        if !live.is_empty() {
            sql.push_str(&format!(
                "\n{} {now} as\n{now_is};\n\n{}\n",
                dialect.create_view(),
                dialect.table_function(&as_of, &self.parameter, &then)
            ));
        }
        sql
    }

    /// The parameter, which must lie where the table is known: an answer without rows would be a wrong one [50].
    fn bound(&self) -> String {
        let t = self.dialect.parameter(&self.parameter);
        let mut cases = String::new();
        for (limit, operator, said) in
            [(self.from, "<", "its history begins at"), (self.until, ">", "these views know until")]
        {
            if let Some(limit) = limit {
                let text =
                    format!("nothing is known of {} at this moment: {said} {}", self.title, moment(limit));
                let error = self.dialect.error(&text);
                cases.push_str(&format!(" when {t} {operator} {} then {error}", self.dialect.instant(limit)));
            }
        }
        for Unknown { from, to, why, .. } in &self.unknown {
            let error = self.dialect.error(why);
            let from = self.dialect.instant(*from);
            let to = to.map_or_else(String::new, |to| format!(" and {t} < {}", self.dialect.instant(to)));
            cases.push_str(&format!(" when {t} >= {from}{to} then {error}"));
        }
        if cases.is_empty() { t } else { format!("case{cases} else {t} end") }
    }
}

/// A time in which a table's rows are not known.
struct Unknown {
    from: Timestamp,
    /// None: to this day.
    to: Option<Timestamp>,
    /// The sentence in place of rows.
    why: String,
    /// It was dropped, so that it has no rows.
    dropped: bool,
}

impl Unknown {
    /// It lasts, and there would be rows to show.
    const fn is_now(&self) -> bool {
        self.to.is_none() && !self.dropped
    }
}

/// When a table's rows were not known, or not exactly, between its beginning and now: it was dropped, changes are missing, or what the WAL does
/// not carry was noticed later. With `inexact` what is known is shown, but for the time in which it was dropped.
async fn unknown(archive: &Archive, table: &TableHistory, name: &str, inexact: bool) -> Result<Vec<Unknown>> {
    let title = table.log_name.replace(['\n', '\r'], " ");
    let nothing = |why: String| format!("nothing is known of {title} at this moment: {why}");
    let mut unknown = Vec::new();
    for (at, extent) in table.known.iter().enumerate() {
        let Some(to) = extent.to else { continue };
        let Some(from) = archive.time_of_place(to).await? else { continue };
        let again = match table.known.get(at + 1) {
            Some(next) => archive.time_of_place(next.from).await?,
            None => None,
        };
        let what = if extent.dropped { "it was dropped at" } else { "it went out of capture at" };
        let why = nothing(format!("{what} {}", moment(from)));
        unknown.push(Unknown { from, to: again, why, dropped: extent.dropped });
    }
    if inexact {
        return Ok(unknown);
    }
    for (doubt, from, to) in doubts(archive, &table.log_name).await? {
        let kind = &doubt.event.kind;
        let why = if doubt.whole {
            nothing(format!("a {kind} lies there; it is known until {}", moment(from)))
        } else {
            format!(
                "the rows of {title} are not known exactly at this moment: {}; they are known until {}, bygone views --inexact shows them \
                 all the same, and {name}_history has what is known",
                unseen(&doubt),
                moment(from)
            )
        };
        let from = Timestamp(from.0.saturating_add(1));
        unknown.push(Unknown { from, to, why, dropped: false });
    }
    for &(from, to) in &table.updates_unseen {
        // As with doubts, all times of which it is not certain that they lie before.
        let known = archive.place_known_until(Lsn(from.0.saturating_sub(1))).await?;
        let from = match known {
            Some(known) => Some(Timestamp(known.0.saturating_add(1))),
            None => archive.time_of_place(from).await?,
        };
        let Some(from) = from else { continue };
        let to = match to {
            Some(to) => archive.time_of_place(to).await?,
            None => None,
        };
        let why = format!("{title} {UNSEEN}; bygone views --inexact shows them, and {name}_history has them");
        unknown.push(Unknown { from, to, why, dropped: false });
    }
    Ok(unknown)
}

/// The times in which a table's rows are not known, or not exactly: the last one before, and the first one after, if that has come.
async fn doubts<'a>(
    archive: &'a Archive,
    table: &'a str,
) -> Result<Vec<(Doubt<'a>, Timestamp, Option<Timestamp>)>> {
    let mut doubts = Vec::new();
    for doubt in archive.doubts(table) {
        let Some(from) = archive.place_known_until(doubt.after).await? else { continue };
        let to = match doubt.until {
            Some(until) => archive.time_of_place(until).await?,
            None => None,
        };
        if to.is_none_or(|to| from < to) {
            doubts.push((doubt, from, to));
        }
    }
    Ok(doubts)
}

/// What is to be said of a table beside its relations.
async fn remarks(archive: &Archive, table: &TableHistory, name: &str, inexact: bool) -> Result<Vec<String>> {
    let title = &table.log_name;
    let mut remarks = Vec::new();
    if table.newest().columns.is_empty() {
        remarks.push(format!("{title} has no columns: of its relations there is {name}_history alone"));
    }
    let shown = if table.newest().columns.is_empty() {
        String::new()
    } else if inexact {
        format!(". {name} and {name}_as_of show them")
    } else {
        format!(
            ". {name} and {name}_as_of refuse them where that is so, unless --inexact is given; {name}_history has them"
        )
    };
    if table.are_updates_unseen() {
        remarks.push(format!("{title} {UNSEEN}{shown}"));
    } else if !table.updates_unseen.is_empty() {
        remarks.push(format!("{title} had no primary key and no replica identity for a time, so that its updates and deletes were not seen{shown}"));
    }
    if inexact && archive.doubts(title).any(|doubt| doubt.whole) {
        remarks
            .push(format!("changes of {title} are lost: what was known before is shown inside of the gap"));
    }
    let does =
        if inexact { "show what is known" } else { "refuse to answer there, unless --inexact is given" };
    for (doubt, from, to) in doubts(archive, title).await?.into_iter().filter(|(doubt, ..)| !doubt.whole) {
        let to = to.map_or_else(|| "this day".to_owned(), moment);
        let what = unseen(&doubt);
        remarks.push(format!(
            "the rows of {title} are not known exactly from {} to {to}: {what}. {name} and {name}_as_of {does}",
            moment(from)
        ));
    }
    for (_, event) in archive.events(title).filter(|(_, event)| event.kind == EventKind::Partial) {
        let reason = event.detail.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default();
        remarks.push(format!("{title} is known in part: {reason}"));
    }
    Ok(remarks)
}

/// The columns of the newest schema, then those that are gone, as they were last; each with its schema.
pub(super) fn columns_ever(table: &TableHistory) -> Vec<(&TableSchema, &SchemaColumn, bool)> {
    let newest = table.newest();
    let mut columns: Vec<(&TableSchema, &SchemaColumn, bool)> =
        newest.columns.iter().map(|column| (&**newest, column, true)).collect();
    for version in table.versions.iter().rev() {
        for column in &version.schema.columns {
            let is_it = |(schema, known, _): &(&TableSchema, &SchemaColumn, bool)| {
                version
                    .schema
                    .counterpart(schema, known)
                    .and_then(|at| version.schema.columns.get(at))
                    .is_some_and(|it| it.column.attnum == column.column.attnum)
            };
            if !columns.iter().any(is_it) {
                columns.push((&version.schema, column, false));
            }
        }
    }
    columns
}

/// The schema versions that files were written under.
fn schemas_of<'a>(files: impl IntoIterator<Item = &'a LiveFile>) -> BTreeSet<i32> {
    files.into_iter().map(|file| file.add.schema).collect()
}

/// The forms that a column has had in the files, the newest first: the same column under other names or types.
fn forms<'a>(
    table: &'a TableHistory,
    in_files: &BTreeSet<i32>,
    schema: &TableSchema,
    column: &SchemaColumn,
) -> Vec<&'a SchemaColumn> {
    let mut forms: Vec<&SchemaColumn> = Vec::new();
    // What no file was written under is in no file.
    for version in table.versions.iter().rev().filter(|version| in_files.contains(&version.schema.version)) {
        let position = version.schema.counterpart(schema, column);
        if let Some(form) = position.and_then(|at| version.schema.columns.get(at))
            && form.is_form_of(column)
            && !forms.iter().any(|known| known.physical == form.physical)
        {
            forms.push(form);
        }
    }
    forms
}

/// The column is an `inet` that was a `cidr`: files have the text of either under one name.
fn was_cidr(table: &TableHistory, schema: &TableSchema, column: &SchemaColumn) -> bool {
    table.versions.iter().any(|version| {
        let form = version.schema.counterpart(schema, column).and_then(|at| version.schema.columns.get(at));
        form.is_some_and(|form| form.cast_to(column) == Cast::Host)
    })
}

/// A column's value, whichever of these forms it has in a file.
fn written(forms: &[&SchemaColumn], column: &SchemaColumn, dialect: Dialect, was_cidr: bool) -> String {
    let forms: Vec<String> = forms
        .iter()
        .map(|form| {
            let name = dialect.identifier(&form.physical);
            // An application may have made anything of its values when it changed their type.
            match form.kind == column.kind {
                true if was_cidr => dialect.host(&name),
                true => name,
                false => dialect.convert(&name, &form.kind, &column.kind),
            }
        })
        .collect();
    match forms.as_slice() {
        [] => dialect.cast("null", &column.kind),
        [one] => one.clone(),
        several => format!("coalesce({})", several.join(", ")),
    }
}

async fn read(
    archive: &Archive,
    table: &TableHistory,
    schema: &TableSchema,
    column: &SchemaColumn,
    name: &str,
    dialect: Dialect,
) -> Result<Read> {
    let mut value = dialect.identifier(name);
    // Infinity and the like stand in _raw; these types have them in the engine, too.
    if matches!(column.kind, Kind::Date | Kind::Timestamp | Kind::Timestamptz) {
        let raw = forms(table, &schemas_of(&table.files), schema, column).into_iter().filter_map(|form| {
            let raw = dialect.raw(&form.physical, &form.kind)?;
            let is_same = form.kind == column.kind;
            Some(if is_same { raw } else { dialect.convert(&raw, &form.kind, &column.kind) })
        });
        let all: Vec<String> = std::iter::once(value.clone()).chain(raw).collect();
        if all.len() > 1 {
            value = format!("coalesce({})", all.join(", "));
        }
    }
    // Of a table that was dropped and made again, the rows of before are gone.
    let mut own = table.versions.iter().filter(|version| version.schema.oid == schema.oid);
    let first = own.next().map_or(0, |version| version.schema.version);
    let added = table
        .added_after(column.column.attnum, first - 1)
        .filter(|(version, _)| version.schema.version > first);
    let Some((version, form)) = added.filter(|(_, form)| form.is_form_of(column)) else {
        return Ok(Read { value, missing: None });
    };
    let literal = form.column.missing.as_ref().and_then(|text| dialect.literal(&form.kind, text));
    let Some(literal) = literal else { return Ok(Read { value, missing: None }) };
    let literal =
        if form.kind == column.kind { literal } else { dialect.convert(&literal, &form.kind, &column.kind) };
    let since = archive.time_of_place(begins_at(version)).await?;
    Ok(Read { value, missing: Some((version.schema.version, literal, since)) })
}

/// The first position at which a version is in force.
fn begins_at(version: &Version) -> Lsn {
    match version.from {
        EventLsn::Within([after, seen]) if after == seen => Lsn(after.0.saturating_add(1)),
        from => from.latest(),
    }
}
