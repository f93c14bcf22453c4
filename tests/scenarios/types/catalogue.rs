//! Every type that a column can have, with the values that are easily lost.

/// A type, and values of it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As a column declares it.
    pub(crate) sql: &'static str,
    /// What stands between quotes in SQL, before `::type`; what begins with `=` is an expression of its own.
    pub(crate) values: &'static [&'static str],
    /// Where values have no text that PostgreSQL reads, their texts are compared.
    pub(crate) readable: bool,
    /// The oldest major version that has it.
    pub(crate) since: u32,
}

const fn of(sql: &'static str, values: &'static [&'static str]) -> Entry {
    Entry { sql, values, readable: true, since: 14 }
}

/// `cannot accept a value of type …`, says its input function. It has no arrays either.
const fn unreadable(sql: &'static str, values: &'static [&'static str]) -> Entry {
    Entry { sql, values, readable: false, since: 14 }
}

/// The types of which every value comes in binary form, the same as from text; arrays of them likewise.
#[rustfmt::skip]
pub(crate) const BINARY: &[&str] = &[
    "boolean", "smallint", "integer", "bigint", "real", "double precision", "numeric", "text", "varchar", "char", "bpchar", "name",
    "bytea", "date", "timestamp", "timestamptz", "uuid", "json", "jsonb", "oid", "xid", "citext", "mood", "cents", "price", "when_told",
    "\"char\"", "time", "timetz", "money", "xid8", "cid", "tid", "pg_lsn", "macaddr", "macaddr8", "inet", "cidr", "bit", "bit varying",
    "jsonpath", "point", "line", "lseg", "box", "path", "polygon", "circle", "int4range", "int8range", "numrange", "daterange",
    "tsrange", "tstzrange", "int4multirange", "int8multirange", "nummultirange", "datemultirange", "tsmultirange", "tstzmultirange",
    "words",
];

/// What [`MADE`] and the statistics types need.
pub(crate) const DDL: &str = r#"
create extension hstore; create extension citext; create extension ltree; create extension cube;
create type mood as enum ('sad', 'fair', 'très bien', 'it''s "ok"', 'a,b', 'NULL', '{}', '\');
create domain cents as numeric(12,2);
create domain price as cents check (value >= 0 or value = 'NaN');
create domain words as text[];
create domain when_told as timestamptz(3);
create type pair as (n int, t text);
create type nest as (id bigint, p pair, ps pair[], m mood, d price, r int4range, w words, at timestamptz);
create domain two as pair check ((value).n is null or (value).n >= 0);
create type span as range (subtype = float8);
create type word_range as range (subtype = text);
create type empty_pair as ();
create table correlated (a int default 5, b int default 6);
insert into correlated select n % 3, n % 3 from generate_series(1, 100) n;
create statistics told on a, b from correlated;
analyze correlated;
"#;

const DATES: &[&str] = &[
    "2026-11-24",
    "4713-01-01 BC",
    "4714-11-24 BC",
    "0001-12-31 BC",
    "0001-01-01",
    "1969-12-31",
    "1970-01-01",
    "2000-02-29",
    "9999-12-31",
    "10000-01-01",
    "5874897-12-31",
    "infinity",
    "-infinity",
];

const TIMESTAMPS: &[&str] = &[
    "2026-11-24 02:55:58.123456",
    "4714-11-24 00:00:00 BC",
    "0044-03-15 12:00:00.5 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00",
    "2000-01-01 00:00:00.000001",
    "10000-01-01 00:00:00",
    "294247-01-10 04:00:54.775807",
    "294247-01-10 04:00:54.775808",
    "294276-12-31 23:59:59.999999",
    "infinity",
    "-infinity",
];

const TIMESTAMPTZS: &[&str] = &[
    "2026-11-24 02:55:58.12+05:30",
    "4714-11-24 00:00:00+00 BC",
    "0044-03-15 12:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "1883-11-18 12:00:00-04:56:02",
    "1969-12-31 23:59:59.999999+00",
    "2024-06-30 23:59:60+00",
    "294247-01-10 04:00:54.775807+00",
    "294247-01-10 04:00:54.775808+00",
    "294276-12-31 23:59:59.999999+00",
    "infinity",
    "-infinity",
];

const NUMERICS: &[&str] = &[
    "0",
    "0.00",
    "1",
    "1.0",
    "1.00",
    "-0.5",
    "NaN",
    "Infinity",
    "-Infinity",
    "10000",
    "99999999",
    "0.0001",
    "0.00010000",
    "1e-16383",
    "12345678901234567890123456789012345678901234567890.12345678901234567890",
    "=('-' || repeat('9', 1000))::numeric",
    "=(repeat('1234567890', 50) || '.' || repeat('0987654321', 50))::numeric",
    "=('1' || repeat('0', 131071))::numeric",
];

const FLOATS: &[&str] = &[
    "0",
    "-0",
    "NaN",
    "Infinity",
    "-Infinity",
    "1",
    "-1.5",
    "0.1",
    "123456",
    "1234567",
    "1e-5",
    "0.0001",
    "16777217",
    "1e15",
    "1e16",
    "1.17549435e-38",
    "1.4e-45",
    "3.4028235e38",
    "8388608.5",
];

const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "it''s \"quoted\"",
    "back\\slash",
    "{a,b}",
    "a, b",
    "  both sides  ",
    "=E'tab\\tline\\nreturn\\rvertical\\x0bform\\x0c'",
    "=E'\\x01\\x02\\x1b\\x7f\\u0080\\u009f\\u00a0'",
    "=(select string_agg(chr(n), '') from generate_series(1, 1200) n)",
    "=(select string_agg(chr(n), '') from generate_series(8190, 8310) n)",
    "=chr(65533) || chr(65534) || chr(65535) || chr(65279)",
    "=chr(65536) || chr(128512) || chr(129408) || chr(1114109) || chr(1114111)",
    "=chr(55295) || chr(57344)",
    "=E'e\\u0301\\u200d\\u202e\\u0644'",
    "日本語 ﬀ ß İ ı",
];

const JSONS: &[&str] = &[
    "null",
    "\"\"",
    "{}",
    "[]",
    "0",
    "-0",
    "-0.0",
    "1.10",
    "1e400",
    "123456789012345678901234567890.123456789",
    "1e-400",
    "\"\\u00e9 \\ud83e\\udd80 \\\" \\\\ \\/ \\b\\f\\n\\r\\t\"",
    "{\"b\" : 1,  \"a\":[1, 2.50, null], \"b\": \"twice\"}",
    "  [ 1 ,\t2 ]  ",
    "{\"\": {\"\": [[], {}, \"é\", true, false]}}",
];

/// The types of `pg_catalog`.
#[rustfmt::skip]
pub(crate) const BUILT_IN: &[Entry] = &[
    of("boolean", &["t", "f"]),
    of("smallint", &["-32768", "-1", "0", "32767"]),
    of("integer", &["-2147483648", "-1", "0", "2147483647"]),
    of("bigint", &["-9223372036854775808", "-1", "0", "9223372036854775807"]),
    of("real", FLOATS),
    of("double precision", FLOATS),
    of("double precision", &["5e-324", "2.2250738585072014e-308", "2.225073858507201e-308", "1.7976931348623157e308", "-4.9e-324",
        "0.30000000000000004", "9007199254740993", "5.684341886080801e-14", "1e22", "1e23", "123456789012345680"]),
    of("numeric", NUMERICS),
    of("numeric(12,2)", &["0", "-0.01", "9999999999.99", "-9999999999.99", "NaN"]),
    of("numeric(38,10)", &["0", "0.0000000001", "9999999999999999999999999999.9999999999", "-1234567890123456789012345678.0123456789", "NaN"]),
    of("numeric(38,38)", &["0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"]),
    of("numeric(39,1)", &["99999999999999999999999999999999999999.9", "NaN", "0"]),
    of("numeric(1000,500)", &["=(repeat('9', 500) || '.' || repeat('9', 500))::numeric(1000,500)", "1"]),
    Entry { sql: "numeric(3,-2)", values: &["99900", "-100", "0", "NaN"], readable: true, since: 15 },
    Entry { sql: "numeric(2,5)", values: &["0.00099", "-0.00001", "0", "NaN"], readable: true, since: 15 },
    of("text", TEXTS),
    of("varchar", TEXTS),
    of("varchar(5)", &["", "a    ", "12345", "ééééé"]),
    of("char(5)", &["", "a", "  b", "12345", "ééééé", "🦀"]),
    of("char", &["", "x", "é"]),
    of("bpchar", &["", "a ", "  b"]),
    of("\"char\"", &["", "a", "\\\\", " ", "\"", "=1::\"char\"", "=0::\"char\""]),
    // Version 14 prints the bare byte, which is no text in any other encoding.
    Entry { sql: "\"char\"", values: &["=(-1)::\"char\"", "=(-128)::\"char\""], readable: true, since: 15 },
    of("name", &["", "pg_class", "a \"b\" c", "éééééééééééééééééééééééééééééé"]),
    of("bytea", &["", "\\x00", "\\x00ff5c78", "=decode(repeat('00ff5c27', 250000), 'hex')",
        "=(select decode(string_agg(lpad(to_hex(n), 2, '0'), ''), 'hex') from generate_series(0, 255) n)"]),
    of("date", DATES),
    of("time", &["00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.1", "00:00:00.000001"]),
    of("time(2)", &["12:34:56.78", "24:00:00"]),
    of("timetz", &["00:00:00+00", "24:00:00-15:59:59", "23:59:59.999999+15:59:59", "12:00:00.5-03:30", "12:00:00+05:30:10"]),
    of("timestamp", TIMESTAMPS),
    of("timestamp(0)", &["2026-11-24 02:55:58", "infinity"]),
    of("timestamptz", TIMESTAMPTZS),
    of("timestamptz(3)", &["2026-11-24 02:55:58.123+00", "-infinity"]),
    of("interval", &["0", "1 year 2 mons -3 days 04:05:06.789", "-1 year", "-2 mons +1 day -00:00:00.000001", "178000000 years",
        "-178000000 years", "2147483647 days", "-2147483648 days", "1 mon -1 day", "-1 day 01:00", "00:00:00.1", "11 mons", "12 mons", "-13 mons"]),
    // Version 14 does not read all that it prints.
    Entry { sql: "interval", values: &["9223372036854775807 microseconds", "-9223372036854775807 microseconds",
        "178956970 years 7 mons 2147483647 days 2562047788:00:54.775806"], readable: true, since: 15 },
    Entry { sql: "interval", values: &["infinity", "-infinity"], readable: true, since: 17 },
    of("interval year to month", &["1 year 1 mon", "-1 mon"]),
    of("interval second(2)", &["00:00:01.25", "-00:00:59.99"]),
    of("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"]),
    of("json", JSONS),
    of("jsonb", JSONS),
    of("jsonpath", &["$", "strict $.a[*] ? (@.b == \"x\\\"y\" && @.c > 1.50)", "lax $.\"a b\".**{2 to last}.size()", "$.x like_regex \"^a\" flag \"i\""]),
    of("xml", &["", "text", "<a b=\"1\">t &amp; é</a>", "<a/><b/>", "<!-- c --><a><![CDATA[<x>]]></a>",
        "=xmlparse(document '<?xml version=\"1.0\" standalone=\"yes\"?><a>é</a>')"]),
    of("money", &["0", "12.34", "-0.01", "1234567.89", "-92233720368547758.08", "92233720368547758.07"]),
    of("oid", &["0", "4294967295", "2147483648"]),
    of("xid", &["0", "3", "4294967295"]),
    of("cid", &["0", "4294967295"]),
    of("xid8", &["0", "18446744073709551615", "9223372036854775808"]),
    of("tid", &["(0,0)", "(4294967295,65535)", "(17,1)"]),
    of("regclass", &["pg_class", "public.correlated", "4294967295", "-"]),
    of("regcollation", &["pg_catalog.\"C\"", "4294967295", "-"]),
    of("regconfig", &["english", "4294967295"]),
    of("regdictionary", &["simple", "4294967295"]),
    of("regnamespace", &["pg_catalog", "public", "4294967295"]),
    of("regoper", &["||/", "4294967295", "0"]),
    of("regoperator", &["+(integer,integer)", "-(NONE,integer)", "4294967295"]),
    of("regproc", &["now", "4294967295", "-"]),
    of("regprocedure", &["sum(integer)", "now()", "4294967295"]),
    of("regrole", &["postgres", "4294967295"]),
    of("regtype", &["integer", "timestamp without time zone", "public.mood", "integer[]", "4294967295"]),
    of("refcursor", &["", "cursor 1"]),
    of("int2vector", &["", "1 -2 32767", "7"]),
    of("oidvector", &["", "1 4294967295"]),
    of("inet", &["10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "0.0.0.0/0", "255.255.255.255", "::", "::1", "::/0", "2001:db8::/32", "2001:db8::1",
        "::ffff:1.2.3.4", "::1.2.3.4", "::ffff:0:0", "1:0:0:2:0:0:0:3", "1:2:3:4:5:6:7:8/127", "fe80::1/64", "0:0:1::", "1::8:0"]),
    of("cidr", &["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "::ffff:1.2.3.0/120", "2001:db8::1"]),
    of("macaddr", &["08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"]),
    of("macaddr8", &["08:00:2b:01:02:03:04:05", "ff:ff:ff:ff:ff:ff:ff:ff"]),
    of("bit", &["0", "1"]),
    of("bit(5)", &["10101", "00000"]),
    of("bit(64)", &["=(-2)::bigint::bit(64)"]),
    of("bit varying", &["", "1", "01", "1010101010", "=repeat('10', 500)::varbit"]),
    of("bit varying(9)", &["", "101010101"]),
    of("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"]),
    of("pg_snapshot", &["10:20:10,14,15", "1:1:"]),
    of("txid_snapshot", &["10:20:10,14,15", "1:1:"]),
    of("point", &["(0,-0)", "(1.5,-2e300)", "(NaN,Infinity)", "(0.1,1e-5)"]),
    of("line", &["{1,-1,0}", "{-1,0,0.1}"]),
    of("lseg", &["[(0,0),(1.5,-1)]"]),
    of("box", &["(1.5,2),(0,-1)", "(0,0),(0,0)"]),
    of("path", &["((0,0),(1,1))", "[(0,0),(1e100,1),(2,0)]"]),
    of("polygon", &["((0,0),(1,1),(1,0))"]),
    of("circle", &["<(0,0),1.5>", "<(1e-7,2),0>"]),
    of("tsvector", &["", "''a'':1A ''b c'':2,3B", "''it''''s '':7 ''back\\\\slash'':16383", "a fat cat"]),
    of("tsquery", &["", "fat & (rat | !cat)", "''a b'':*AB <-> c <3> d", "!a & !!b"]),
    of("int4range", &["empty", "(,)", "(,5)", "[1,10)", "[2147483646,)"]),
    of("int8range", &["empty", "[-9223372036854775808,9223372036854775807)"]),
    of("numrange", &["empty", "(1.50,NaN]", "[-Infinity,Infinity]", "(,0.000]"]),
    of("daterange", &["empty", "[4713-01-01 BC,5874897-12-31)", "[2024-02-29,infinity)", "(-infinity,)"]),
    of("tsrange", &["empty", "[\"2026-01-01 00:00:00\",infinity]", "(,\"0044-03-15 12:00:00 BC\"]"]),
    of("tstzrange", &["empty", "[\"2026-01-01 00:00:00.5+05:30\",)", "(-infinity,infinity)"]),
    of("int4multirange", &["{}", "{[1,2),[5,9)}", "{(,3)}"]),
    of("int8multirange", &["{}", "{[1,2),[5,9)}"]),
    of("nummultirange", &["{}", "{[1.0,2.00),(5,9]}"]),
    of("datemultirange", &["{}", "{[2024-02-29,2024-03-01),[2025-01-01,)}"]),
    of("tsmultirange", &["{}", "{[\"2026-01-01 00:00:00\",\"2026-01-02 00:00:00\"]}"]),
    of("tstzmultirange", &["{}", "{(,\"2026-01-02 00:00:00.25+00\")}"]),
    of("aclitem", &["postgres=arwdDxt/postgres", "='=r/postgres'"]),
    unreadable("pg_node_tree", &["=(select adbin from pg_attrdef where adrelid = 'correlated'::regclass order by adnum limit 1)"]),
    unreadable("pg_ndistinct", &["=(select stxdndistinct from pg_statistic_ext_data limit 1)"]),
    unreadable("pg_dependencies", &["=(select stxddependencies from pg_statistic_ext_data limit 1)"]),
    unreadable("pg_mcv_list", &["=(select stxdmcv from pg_statistic_ext_data limit 1)"]),
    // No statement makes a value of these: they live inside indexes.
    of("gtsvector", &[]),
    unreadable("pg_brin_bloom_summary", &[]),
    unreadable("pg_brin_minmax_multi_summary", &[]),
];

/// Types of extensions, and types that [`DDL`] makes.
#[rustfmt::skip]
pub(crate) const MADE: &[Entry] = &[
    of("hstore", &["", "a=>1", "\"a b\"=>\"x\\\"y\", c=>NULL, \"\"=>\"\"", "\"NULL\"=>\"NULL\""]),
    of("citext", TEXTS),
    of("ltree", &["", "Top.Science.Astronomy", "a_b.C1"]),
    of("lquery", &["*.Astro*@{1,3}.!b|c"]),
    of("ltxtquery", &["Europe & Russia*@ & !Transport"]),
    of("cube", &["(1)", "(1,2.5),(3,-4)", "(NaN,Infinity)"]),
    of("mood", &["sad", "très bien", "it''s \"ok\"", "a,b", "NULL", "{}", "\\"]),
    of("cents", &["0", "-0.01", "9999999999.99", "NaN"]),
    of("price", &["0", "0.01", "9999999999.99", "NaN"]),
    of("when_told", &["2026-11-24 02:55:58.123+00", "infinity", "294276-12-31 23:59:59.999+00"]),
    of("words", &["{}", "{a,NULL,\"b c\"}", "{{a,b},{c,d}}"]),
    of("pair", &["(,)", "(1,)", "(-1,\"\")", "(7,\"a,b \\\"\\\" (x) \\\\ \\\\\")", "(7,\" \")"]),
    of("two", &["(,)", "(1,x)"]),
    of("nest", &["(,,,,,,,)", "=row(1, row(2, 'a\"b\\c(,)'), array[row(3, null), row(null, '')]::pair[], 'it''s \"ok\"', 1.50, '[1,5)',
        array['x y', null], '2026-11-24 10:00+05:30')::nest"]),
    of("span", &["empty", "[0.1,1e300)", "(-Infinity,NaN]", "[-0,0]"]),
    of("word_range", &["[a,b)", "[\"\",\"a b\")", "[\"(\",\"\\\\\"]", "=word_range('a\"b', 'c,d', '()')"]),
    of("empty_pair", &["()"]),
];
