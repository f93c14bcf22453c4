//! The rows: an orders table of 14 columns, encoded as state keeps them, and as text for Postgres.

use std::io::Write;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The table in Postgres, for the size of its heap.
pub const DDL: &str = "create table orders (id bigint primary key, customer_id bigint, product_id bigint, \
quantity int, price numeric(12,2), discount numeric(12,2), status text, created_at timestamptz, updated_at timestamptz, \
email text, name text, address text, city text, note text)";

const FIRST: [&str; 24] = [
    "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Katja", "Liam",
    "Mina", "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sami", "Tara", "Umar", "Vera", "Will", "Yuki",
];
const LAST: [&str; 20] = [
    "Albrecht",
    "Bergmann",
    "Castillo",
    "Dubois",
    "Eriksson",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ivanova",
    "Jensen",
    "Kowalski",
    "Lindgren",
    "Moreau",
    "Nakamura",
    "Okafor",
    "Petrov",
    "Romano",
    "Schneider",
    "Tanaka",
    "Weber",
];
const STREET: [&str; 12] = [
    "Hauptstrasse",
    "Rue de la Paix",
    "Main Street",
    "Via Roma",
    "Calle Mayor",
    "Lindenallee",
    "High Street",
    "Kungsgatan",
    "Avenue Foch",
    "Gartenweg",
    "Station Road",
    "Bahnhofplatz",
];
const CITY: [&str; 16] = [
    "Berlin",
    "Paris",
    "Madrid",
    "Rome",
    "Vienna",
    "Stockholm",
    "Lisbon",
    "Dublin",
    "Prague",
    "Warsaw",
    "Athens",
    "Oslo",
    "Zurich",
    "Brussels",
    "Copenhagen",
    "Amsterdam",
];
const STATUS: [&str; 6] = ["pending", "paid", "packed", "shipped", "delivered", "returned"];
const WORD: [&str; 32] = [
    "please", "leave", "at", "the", "front", "door", "gift", "wrap", "call", "before", "delivery", "fragile",
    "handle", "with", "care", "second", "floor", "ring", "bell", "twice", "no", "invoice", "in", "parcel",
    "customer", "asked", "for", "early", "morning", "slot", "thank", "you",
];

/// One row, made from its id and version alone.
pub struct Row {
    id: u64,
    customer: u64,
    product: u64,
    quantity: u32,
    price: u64,
    discount: u64,
    status: &'static str,
    created: u64,
    updated: u64,
    email: String,
    name: String,
    address: String,
    city: &'static str,
    note: String,
}

const EPOCH_US: u64 = 1_700_000_000_000_000;

impl Row {
    pub fn new(id: u64, version: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version);
        let mut pick = |from: &[&'static str]| from[rng.random_range(0..from.len())];
        let (first, last) = (pick(&FIRST), pick(&LAST));
        let (status, city, street) = (pick(&STATUS), pick(&CITY), pick(&STREET));
        let note: Vec<_> = (0..18).map(|_| pick(&WORD)).collect();
        let created = EPOCH_US + id * 1_000_000 + rng.random_range(0..1_000_000);
        Self {
            id,
            customer: rng.random_range(1..400_000),
            product: rng.random_range(1..20_000),
            quantity: rng.random_range(1..12),
            price: rng.random_range(100..500_000),
            discount: rng.random_range(0..20) * 50,
            status,
            created,
            updated: created + version * 86_400_000_000 + rng.random_range(0..86_400_000_000),
            email: format!(
                "{}.{}{}@example.com",
                first.to_lowercase(),
                last.to_lowercase(),
                rng.random_range(1..2000)
            ),
            name: format!("{first} {last}"),
            address: format!("{street} {}, {:05}", rng.random_range(1..200), rng.random_range(1000..99_999)),
            city,
            note: note.join(" "),
        }
    }

    /// As state keeps it: a few numbers, two status bits a column, then the values.
    pub fn encode(&self, version: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[1, (version & 0x7F) as u8, 0, 1]);
        out.extend_from_slice(&[0x55, 0x55, 0x55, 0x05]);
        for number in [self.id, self.customer, self.product] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.quantity.to_le_bytes());
        for number in [self.price, self.discount] {
            let bytes = number.to_be_bytes();
            let used = &bytes[bytes.len() - 1 - (64 - number.leading_zeros() as usize) / 8..];
            out.push(used.len() as u8);
            out.extend_from_slice(used);
        }
        let text = |out: &mut Vec<u8>, text: &str| {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        };
        text(out, self.status);
        out.extend_from_slice(&self.created.to_le_bytes());
        out.extend_from_slice(&self.updated.to_le_bytes());
        for value in [&self.email, &self.name, &self.address, self.city, &self.note] {
            text(out, value);
        }
    }

    /// As `COPY … FROM` takes it.
    pub fn copy_text(&self, out: &mut impl Write) -> std::io::Result<()> {
        let time = |us: u64| {
            let seconds = us / 1_000_000;
            let (day, rest) = (seconds / 86_400, seconds % 86_400);
            // Days are counted from 2023-11-01 on, in months of 28 days: valid dates in the right order, no calendar.
            let day = day - 19_662;
            let (year, month, day) = (2023 + day / 336, day / 28 % 12 + 1, day % 28 + 1);
            format!(
                "{year}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}+00",
                rest / 3600,
                rest / 60 % 60,
                rest % 60,
                us % 1_000_000
            )
        };
        writeln!(
            out,
            "{}\t{}\t{}\t{}\t{}.{:02}\t{}.{:02}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.id,
            self.customer,
            self.product,
            self.quantity,
            self.price / 100,
            self.price % 100,
            self.discount / 100,
            self.discount % 100,
            self.status,
            time(self.created),
            time(self.updated),
            self.email,
            self.name,
            self.address,
            self.city,
            self.note
        )
    }
}

/// The key of an id, as state has whole numbers.
pub fn key(id: u64) -> [u8; 9] {
    let mut key = [1; 9];
    key[1..].copy_from_slice(&(id ^ 1 << 63).to_be_bytes());
    key
}

/// A permutation of `0..count`, without a table: a Feistel network, walked until it stays below.
pub fn shuffled(mut n: u64, count: u64) -> u64 {
    let half = (64 - (count - 1).leading_zeros()).div_ceil(2);
    let mask = (1 << half) - 1;
    loop {
        let (mut left, mut right) = (n >> half, n & mask);
        for round in 0..4_u64 {
            let mixed =
                (right ^ round.wrapping_mul(0x9E37_79B9)).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 20 & mask;
            (left, right) = (right, left ^ mixed);
        }
        n = left << half | right;
        if n < count {
            return n;
        }
    }
}
