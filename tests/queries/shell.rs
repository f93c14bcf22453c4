//! `bygone sql` on a terminal is a shell.

use super::Shop;
use crate::support::terminal::{shown, terminal};

/// What a terminal shows of a shell into which these lines are typed. It must end well.
#[track_caller]
fn typed(shop: &Shop, lines: &[&str], more: &[&str]) -> String {
    let mut shell = terminal(100, 60, lines);
    shell.args([env!("CARGO_BIN_EXE_bygone"), "sql", "--history"]).arg(shop.scratch.join("history"));
    shown(shell.args(more)).replace("\r\n", "\n")
}

#[test]
fn statements_are_answered_one_after_another_until_it_is_left() {
    let shop = Shop::orders();
    let shown = typed(
        &shop,
        &[
            "select id, total from orders order by id;",
            "select count(*) as facts,",
            "  ';' as mark",
            "from orders_history; select 'a' as first; select",
            "'b' as second;",
            "selec 1;",
            "select * from oders;",
            "select nope from orders;",
            "select 7 as still_here;",
            "\\d",
            "\\q",
        ],
        &[],
    );
    let parts: Vec<&str> = shown.split("bygone> ").collect();
    assert!(parts[0].contains("known until") && parts[0].contains("\\q ends"), "{shown}");
    let says = |part: usize, words: &[&str]| {
        let mut rest = parts[part];
        for word in words {
            rest = rest
                .split_once(word)
                .unwrap_or_else(|| panic!("no {word:?} in {:?} of {shown}", parts[part]))
                .1;
        }
    };
    says(1, &["id total", "--------", " 1 13.50", " 2", "2 rows"]);
    // A statement goes on over lines, and a line may end several.
    says(
        2,
        &[
            "     -> ",
            "     -> ",
            "facts mark",
            "6 ;",
            "1 row",
            "first",
            "a",
            "1 row",
            "     -> ",
            "second",
            "b",
            "1 row",
        ],
    );
    // What goes wrong is said, and the next is answered.
    says(3, &["bygone: ", "selec"]);
    says(4, &["bygone: there is no relation oders", "did you mean orders"]);
    says(5, &["bygone: ", "nope"]);
    says(6, &["still_here", "7"]);
    says(7, &["\nnotes\nnotes_history\nnotes_as_of(moment)\norders\n"]);
    assert_eq!(parts.len(), 9, "{shown}");
    for ends in ["exit", "quit", "^D"] {
        let shown = typed(&shop, &["select 1 as one;", ends], &["--format", "csv"]);
        assert!(shown.contains("\none\n1\nbygone> "), "{shown}");
    }
}
