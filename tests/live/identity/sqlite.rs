//! Work for SQLite: some thousand statements on a database in a file. What they answer is the text, and the file itself.

use super::functions::Loaded;
use crate::support::emulator;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, *const c_char) -> c_int;
type Row = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char, *const *const c_char) -> c_int;
type Execute =
    unsafe extern "C" fn(*mut c_void, *const c_char, Option<Row>, *mut c_void, *mut *mut c_char) -> c_int;
type Prepare =
    unsafe extern "C" fn(*mut c_void, *const c_char, c_int, *mut *mut c_void, *mut *const c_char) -> c_int;
type BindText =
    unsafe extern "C" fn(*mut c_void, c_int, *const c_char, c_int, Option<unsafe extern "C" fn()>) -> c_int;
type One = unsafe extern "C" fn(*mut c_void) -> c_int;

/// `SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE` (sqlite3.h).
const CREATE: c_int = 6;
const DONE: c_int = 101;

/// How many rows are put in, one statement each.
fn rows() -> i64 {
    if emulator::is_there() { 400 } else { 2000 }
}

struct Database<'l> {
    sqlite: &'l Loaded,
    handle: *mut c_void,
}

pub fn work(sqlite: &Loaded, path: &Path) -> String {
    let path = path.with_extension("db");
    let _ = std::fs::remove_file(&path);
    let mut text = String::new();
    let database = Database::open(sqlite, &path);
    database.fill(&mut text);
    database.ask(&mut text);
    database.change(&mut text);
    database.ask(&mut text);
    database.run("VACUUM", &mut text);
    database.run("PRAGMA integrity_check", &mut text);
    database.close();
    let file = std::fs::read(&path).unwrap();
    assert!(file.len() > 30_000, "a file of {} bytes", file.len());
    writeln!(text, "a file of {} bytes", file.len()).unwrap();
    // One character a byte.
    text.extend(file.chunks(64).flat_map(|line| line.iter().map(|byte| char::from(*byte)).chain(['\n'])));
    text
}

impl<'l> Database<'l> {
    fn open(sqlite: &'l Loaded, path: &Path) -> Self {
        let (name, mut handle) = (CString::new(path.as_os_str().as_bytes()).unwrap(), null_mut());
        // SAFETY: its type (sqlite3.h).
        let open: Open = unsafe { sqlite.symbol("sqlite3_open_v2") };
        // SAFETY: a string and a place for the answer.
        assert_eq!(unsafe { open(name.as_ptr(), &raw mut handle, CREATE, null()) }, 0);
        Self { sqlite, handle }
    }

    fn fill(&self, text: &mut String) {
        // How it is kept does not hang on how the machine's library was built.
        for setting in ["page_size = 4096", "auto_vacuum = 0", "secure_delete = 1", "synchronous = 0"] {
            self.run(&format!("PRAGMA {setting}"), text);
        }
        self.run("BEGIN", text);
        self.run("CREATE TABLE town (id INTEGER PRIMARY KEY, name TEXT UNIQUE, people INT)", text);
        self.run(
            "CREATE TABLE house (id INTEGER PRIMARY KEY, town INT REFERENCES town, street TEXT, height REAL)",
            text,
        );
        self.run("CREATE INDEX by_street ON house (street, town)", text);
        self.run("CREATE VIEW tall AS SELECT * FROM house WHERE height > 40", text);
        self.run("CREATE TRIGGER built AFTER INSERT ON house BEGIN UPDATE town SET people = people + 3 WHERE id = NEW.town; END", text);
        for town in 0..40 {
            self.run(
                &format!("INSERT INTO town VALUES ({town}, 'Town {}', {})", town * 7 % 40, town * 100),
                text,
            );
        }
        self.insert_houses();
        self.run("COMMIT", text);
    }

    /// By one prepared statement with values bound to it.
    fn insert_houses(&self) {
        type BindNumber = unsafe extern "C" fn(*mut c_void, c_int, i64) -> c_int;
        type BindReal = unsafe extern "C" fn(*mut c_void, c_int, f64) -> c_int;
        // SAFETY: their types.
        let (prepare, step, reset, finalize): (Prepare, One, One, One) = unsafe {
            let of = |name| self.sqlite.symbol(name);
            (
                self.sqlite.symbol("sqlite3_prepare_v2"),
                of("sqlite3_step"),
                of("sqlite3_reset"),
                of("sqlite3_finalize"),
            )
        };
        // SAFETY: their types.
        let (number, real, words): (BindNumber, BindReal, BindText) = unsafe {
            let sqlite = self.sqlite;
            (
                sqlite.symbol("sqlite3_bind_int64"),
                sqlite.symbol("sqlite3_bind_double"),
                sqlite.symbol("sqlite3_bind_text"),
            )
        };
        let (sql, mut statement) = (c"INSERT INTO house VALUES (?1, ?2, ?3, ?4)", null_mut());
        // SAFETY: an open database, a string, and a place for the answer.
        let answer = unsafe { prepare(self.handle, sql.as_ptr(), -1, &raw mut statement, null_mut()) };
        assert_eq!(answer, 0);
        let rows = rows();
        for house in 0..rows {
            let street =
                CString::new(format!("{} Street {}", "Long ".repeat(house as usize % 5), house % 97))
                    .unwrap();
            // SAFETY: a statement that is ready; the string lives until it is reset.
            unsafe {
                assert_eq!(number(statement, 1, house * 31 % rows), 0);
                assert_eq!(number(statement, 2, house % 40), 0);
                assert_eq!(words(statement, 3, street.as_ptr(), -1, None), 0);
                assert_eq!(real(statement, 4, (house % 113) as f64 / 2.0), 0);
                assert_eq!(step(statement), DONE);
                assert_eq!(reset(statement), 0);
            }
        }
        // SAFETY: a statement.
        assert_eq!(unsafe { finalize(statement) }, 0);
    }

    fn ask(&self, text: &mut String) {
        for sql in [
            "SELECT count(*), sum(height), avg(height), min(street), max(id), total(town) FROM house",
            "SELECT t.name, count(*), group_concat(h.id) FROM town t JOIN house h ON h.town = t.id \
             WHERE h.street LIKE '%Street 1_' GROUP BY t.id HAVING count(*) > 1 ORDER BY 2 DESC, 1",
            "SELECT upper(name) || lower(substr(name, 2, 3)) || replace(name, 'o', '0') || trim('  x ') || hex(name) \
             || length(name) || instr(name, 'w') || quote(name) || printf('%08.3f %5d %x', people, people, people) \
             FROM town ORDER BY name DESC",
            "SELECT street, town FROM house WHERE street BETWEEN 'Long' AND 'Long M' ORDER BY street, town, id LIMIT 50",
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300) \
             SELECT sum(x), sum(x * x % 7), max(x / 3.0), group_concat(char(65 + x % 26), '') FROM n",
            "SELECT town, sum(height) OVER (PARTITION BY town ORDER BY id), rank() OVER (ORDER BY height, id) \
             FROM tall ORDER BY id LIMIT 60",
            "SELECT id FROM house WHERE id IN (SELECT id FROM tall EXCEPT SELECT id FROM house WHERE town < 20) ORDER BY id",
            "SELECT t.id, h.id FROM town t LEFT JOIN house h ON h.town = t.id AND h.height > 55.5 ORDER BY 1, 2",
            "SELECT CAST('12.5abc' AS REAL), typeof(1e300 * 1e10), abs(-7), round(2.567, 2), coalesce(NULL, 3), \
             date('2024-02-29', '+1 year'), strftime('%j', '2024-12-31'), 7 & 5 | 8, 1 << 40, 'a' < 'B' COLLATE NOCASE",
        ] {
            self.run(sql, text);
        }
    }

    fn change(&self, text: &mut String) {
        for number in 0..rows() / 10 {
            // Most of them without a journal file each, which would be most of the time.
            match number {
                10 => self.run("PRAGMA journal_mode = MEMORY", text),
                30 => self.run("PRAGMA journal_mode = PERSIST", text),
                _ => {}
            }
            let place = number * 9;
            self.run(&format!("UPDATE house SET height = height * 1.5, street = street || ' {number}' WHERE id = {place}"), text);
            self.run(&format!("DELETE FROM house WHERE id = {}", place + 4), text);
        }
        self.run("BEGIN", text);
        self.run("DELETE FROM house WHERE town = 3", text);
        self.run("SAVEPOINT middle", text);
        self.run("INSERT INTO house (town, street) SELECT id, name FROM town", text);
        self.run("ROLLBACK TO middle", text);
        self.run("COMMIT", text);
        self.run("BEGIN", text);
        self.run("DROP TABLE town", text);
        self.run("ROLLBACK", text);
        self.run("INSERT INTO town VALUES (1, 'another', 0)", text);
        self.run("SELECT nonsense FROM nowhere", text);
        self.run("ALTER TABLE house ADD COLUMN colour TEXT DEFAULT 'red'", text);
        self.run("REINDEX", text);
        self.run("ANALYZE", text);
    }

    /// Runs `sql`; its rows, or its error, are added to `text`.
    fn run(&self, sql: &str, text: &mut String) {
        unsafe extern "C" fn row(
            text: *mut c_void,
            count: c_int,
            values: *const *const c_char,
            _: *const *const c_char,
        ) -> c_int {
            // SAFETY: what was handed over below.
            let text = unsafe { &mut *text.cast::<String>() };
            for number in 0..count as usize {
                // SAFETY: so many strings, or nulls.
                let value = unsafe { *values.add(number) };
                // SAFETY: as above.
                let value = if value.is_null() { c"null" } else { unsafe { CStr::from_ptr(value) } };
                text.push_str(&value.to_string_lossy());
                text.push('|');
            }
            text.push('\n');
            0
        }
        // SAFETY: their types.
        let (execute, free): (Execute, unsafe extern "C" fn(*mut c_char)) =
            unsafe { (self.sqlite.symbol("sqlite3_exec"), self.sqlite.symbol("sqlite3_free")) };
        let (statement, mut message) = (CString::new(sql).unwrap(), null_mut());
        let to = std::ptr::from_mut(text).cast();
        // SAFETY: an open database; `row` gets the text.
        let answer = unsafe { execute(self.handle, statement.as_ptr(), Some(row), to, &raw mut message) };
        if answer != 0 {
            // SAFETY: the message that belongs to the answer.
            writeln!(text, "{answer}: {:?}", unsafe { CStr::from_ptr(message) }).unwrap();
            // SAFETY: SQLite's own.
            unsafe { free(message) };
        }
    }

    fn close(self) {
        // SAFETY: its type, and an open database.
        assert_eq!(unsafe { self.sqlite.symbol::<One>("sqlite3_close")(self.handle) }, 0);
    }
}
