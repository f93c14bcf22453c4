//! Every recipe of `docs/querying.md`, run as it stands there on the history of its shop.
//!
//! Times, positions and transaction ids differ from run to run: what the page writes is replaced by what they are, and in
//! printed output they count as equal. The recipes for Spark are run by the test that starts it (`engines`).

use std::process::Command;

use super::Shop;
use super::engines::duckdb;

const PAGE: &str = include_str!("../../docs/querying.md");
/// What the page calls the moment between morning and afternoon, and the chargeback.
const NOON: [&str; 2] = ["2026-11-24 12:00:00+00", "2026-11-24T12:00:00Z"];
const NOON_LSN: &str = "0/1A2B3C0";
const CHARGEBACK: &str = "4711";
const SOURCE: &str = "postgres://app@db/shop";

/// The fenced blocks of a page: what stands behind the fence, and the lines.
pub(crate) fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The commands of a block, each with what it prints; nothing where the page does not show that.
pub(crate) fn commands(text: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
            }
            (None, None) => panic!("a console block begins with a command: {text}"),
        }
    }
    commands
}

/// The words of an output, in no order: how cells are wrapped depends on how long a time is.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let found = text
        .split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"' | '\''))
        .filter(|word| !word.is_empty() && !word.bytes().all(|byte| byte == b'-'))
        .map(|word| {
            let has_digit = word.contains(|c: char| c.is_ascii_digit());
            let marked = word.contains(['/', ':', '+']) || word.matches('-').count() == 2;
            let large = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_digit());
            if (has_digit && marked) || large { "#".to_owned() } else { word.to_owned() }
        });
    for word in found {
        // How large a file is depends on the times in it.
        if word == "KiB"
            && let Some(size) = words.last_mut()
        {
            "#".clone_into(size);
        }
        words.push(word);
    }
    words.sort();
    words
}

/// The shop of the page, its story played to the end.
pub(super) struct Story {
    pub(super) shop: Shop,
    /// What the page writes, and what it is.
    names: Vec<(&'static str, String)>,
}

impl Story {
    pub(super) fn play() -> Self {
        let blocks = blocks(PAGE);
        let story = blocks.iter().filter(|(info, _)| *info == "sql source").map(|(_, text)| text);
        let story: Vec<&String> = story.collect();
        let [first, morning, afternoon] = story.as_slice() else { panic!("the shop has three parts") };
        let mut shop = Shop::with(first);
        let run = |sql: &str| {
            // Statement by statement, as psql sends them: each a transaction of its own outside of begin and commit.
            let mut client = shop.server.connect();
            sql.split_terminator(";\n").for_each(|statement| client.batch_execute(statement).unwrap());
        };
        run(morning);
        let noon = shop
            .server
            .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
            .unwrap();
        let lsn = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        run(afternoon);
        shop.capture();
        let chargeback = shop.json(&["who", "dana"])[0]["xid"].to_string();
        let names = vec![
            (NOON[0], format!("{noon}+00")),
            (NOON[1], format!("{}Z", noon.replace(' ', "T"))),
            (NOON_LSN, lsn),
            (CHARGEBACK, chargeback),
            (SOURCE, shop.server.url()),
        ];
        Self { shop, names }
    }

    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, meant)| text.replace(name, meant))
    }

    /// The queries of the page's blocks of a kind.
    pub(super) fn recipes(&self, kind: &str) -> Vec<String> {
        let blocks = blocks(PAGE).into_iter().filter(|(info, _)| *info == kind);
        let texts = blocks.map(|(_, text)| self.filled(&text));
        let recipes: Vec<String> = texts
            .flat_map(|text| text.split(";\n").map(str::trim).map(str::to_owned).collect::<Vec<_>>())
            .filter(|query| !query.is_empty())
            .collect();
        assert!(recipes.len() > 2, "the page has no {kind}");
        recipes
    }

    /// What a shell shows of a command.
    fn shell(&self, command: &str) -> (bool, String) {
        let binary = env!("CARGO_BIN_EXE_bygone");
        // timeout runs programs, not functions of the shell.
        let command = self.filled(command).replace("timeout 1 bygone", &format!("timeout 1 {binary}"));
        let script = format!("{{ bygone() {{ {binary} \"$@\"; }}; {command}\n}} 2>&1");
        let done = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.shop.scratch.path())
            .env("BYGONE_HISTORY", "./history")
            .env_remove("USER")
            // Transaction ids of the tests are long.
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

#[test]
fn every_recipe_of_the_page_works() {
    let story = Story::play();
    let (mut ran, mut told) = (0, String::new());
    for (_, text) in blocks(PAGE).iter().filter(|(info, _)| *info == "console") {
        for (command, printed) in commands(text) {
            let (well, output) = story.shell(&command);
            assert!(well, "$ {command}\n{output}");
            told.push_str(&format!("$ {command}\n{output}"));
            if !printed.is_empty() {
                assert_eq!(words(&output), words(&story.filled(&printed)), "$ {command}\n{output}");
            }
            ran += 1;
        }
    }
    assert!(ran > 25, "{ran} commands are not all");
    // For who writes the page: the file keeps what the commands printed.
    if let Some(path) = std::env::var_os("BYGONE_TEST_COOKBOOK") {
        std::fs::write(path, told).unwrap();
    }
    let views = std::fs::read_to_string(story.shop.scratch.join("views.sql")).unwrap();
    let history = format!("'{}/", story.shop.scratch.join("history").display());
    for query in story.recipes("sql duckdb") {
        let rows = duckdb(&views, &query.replace("'history/", &history));
        assert!(!rows.is_empty(), "DuckDB has no rows for {query}");
    }
    for query in story.recipes("sql bygone") {
        // What begins with a comment looks like an option to a command line.
        let rows = story.shop.json(&["sql", &format!("\n{query}")]);
        assert!(!rows.is_empty(), "bygone sql has no rows for {query}");
    }
    for (info, _) in blocks(PAGE) {
        let known = ["console", "sql source", "sql duckdb", "sql bygone", "sql spark", "sql", "sh"];
        assert!(known.contains(&info), "nobody runs blocks of {info:?}");
    }
}
